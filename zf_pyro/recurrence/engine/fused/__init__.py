"""Machines for GPUs: the operations of a step or of a whole loop, fused into kernels that Triton compiles."""
