"""A simulator: the schedulers' own policies against a virtual clock, at ten thousand nodes."""
