"""Speculation: what may come next, guessed from text that is there, to be checked in the step."""
