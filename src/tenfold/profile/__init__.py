"""Where a step's time goes, and what bounds it."""
