"""A machine for GPUs: the operations of a step, fused into a few kernels that Triton compiles."""
