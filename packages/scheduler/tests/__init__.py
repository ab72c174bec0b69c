"""Tests of rostral-scheduler."""
