"""Tests of the files that we publish."""
