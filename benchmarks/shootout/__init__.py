"""Tenfold and its peers, measured in turn in one run on the same weights. ``python -m benchmarks.shootout --help``."""
