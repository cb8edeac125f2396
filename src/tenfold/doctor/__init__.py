"""What is wrong, if anything, with a machine, an install, a model, or a running server, and what to change."""
