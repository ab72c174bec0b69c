"""Attacks on real processes; README.md lists them."""
