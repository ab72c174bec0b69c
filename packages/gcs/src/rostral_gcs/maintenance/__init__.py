"""Care for a data directory: back it up, put it back, look for damage, flush it."""
