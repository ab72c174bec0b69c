"""Faults of a whole cluster."""
