"""The fused operations in plain torch: what the kernels of ``fused`` are held against, and what runs without a GPU."""
