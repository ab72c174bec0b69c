"""The archive: finished tasks and old events in files, found by key and by query."""
