"""Tests of rostral_gcs, and the servers that they share."""
