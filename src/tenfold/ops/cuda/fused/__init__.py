"""The fused operations as Triton kernels, under the names and signatures of ``plain``."""
