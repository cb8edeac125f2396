"""Fuzzing of everything that strangers can send: ``python -m scripts.fuzz``; see :mod:`scripts.fuzz.__main__`."""
