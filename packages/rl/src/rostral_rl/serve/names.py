"""What models may be called. Apart, so that a client need not import what serves."""

DEFAULT_MODEL = "default"
"""Answers those who name none."""
NAME_LENGTH_MAX = 64
