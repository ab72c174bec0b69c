"""Rostral as services of a real systemd."""
