"""The global scheduler: the shell around ``core/placement.py``, stateless over the GCS."""
