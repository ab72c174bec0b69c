"""The tables: what rows each holds, how a row becomes a key and a value, and which rules it has."""
