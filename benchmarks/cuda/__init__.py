"""Everything that needs a GPU: checks of the kernels on it, and their times beside its measured limits."""
