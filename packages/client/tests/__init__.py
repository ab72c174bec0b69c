"""Tests of rostral."""
