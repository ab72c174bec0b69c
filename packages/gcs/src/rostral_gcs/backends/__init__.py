"""Where a shard's rows lie: one small interface, one conformance suite, one file for each kind."""
