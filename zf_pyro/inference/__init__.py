"""Inference algorithms that Pyro does not have."""

from .particle_filter import FilterResult, ParticleFilter

__all__ = ["FilterResult", "ParticleFilter"]
