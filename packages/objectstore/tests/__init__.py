"""Tests of the object store, on real processes."""
