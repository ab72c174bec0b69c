"""Tasks between nodes: what one local scheduler asks of another (docs/across-nodes.md)."""
