"""Inference algorithms that Pyro does not have."""

from ..objectives import FIVO
from .annealing import AnnealedImportanceSampling, AnnealedResult
from .particle_filter import FilterResult, ParticleFilter

__all__ = ["FIVO", "AnnealedImportanceSampling", "AnnealedResult", "FilterResult", "ParticleFilter"]
