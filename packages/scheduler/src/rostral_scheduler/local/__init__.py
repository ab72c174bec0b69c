"""The local scheduler of one node: the thin shell around ``core/local.py``."""
