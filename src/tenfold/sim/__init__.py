"""Serving simulated: the scheduler, cache and cost model of the engine, under a clock that only they move."""
