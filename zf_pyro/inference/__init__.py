"""Inference algorithms that Pyro does not have."""

from ..objectives import FIVO
from .particle_filter import FilterResult, ParticleFilter

__all__ = ["FIVO", "FilterResult", "ParticleFilter"]
