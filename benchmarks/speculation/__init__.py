"""Speculation beside no speculation, on five kinds of work."""
