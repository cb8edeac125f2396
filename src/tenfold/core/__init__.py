"""Records, settings, errors and the clock that all parts share; imports nothing of ours."""
