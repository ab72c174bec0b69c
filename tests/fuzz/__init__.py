"""Fuzzing of every parser of bytes that come from outside; README.md says how."""
