"""Tests of what needs two packages or more."""
