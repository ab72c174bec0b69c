"""Lets ``python -m rostral_gcs`` do what the ``rostral-gcs`` command does."""

from rostral_gcs.cli import main

main(prog_name="rostral-gcs")
