"""The op set on an NVIDIA GPU: torch, Triton kernels and CUDA graphs. Nothing else of the package imports torch."""
