"""Inference algorithms: one table of all that fit, and what Pyro lacks for sequences."""

from ..objectives import FIVO
from .algorithms import ALGORITHMS
from .annealing import AnnealedImportanceSampling, AnnealedResult
from .matching import check_guide
from .mcmc import latent_mcmc
from .padding import stack_latents, with_padding_prior
from .particle_filter import FilterResult, ParticleFilter
from .rows import Algorithm
from .stepwise import StepwiseGuide, StepwiseModel, smc_filter
from .wake_sleep import WakeSleepPrograms
from .weights import effective_sample_size, log_weights

__all__ = [
    "ALGORITHMS",
    "FIVO",
    "Algorithm",
    "AnnealedImportanceSampling",
    "AnnealedResult",
    "FilterResult",
    "ParticleFilter",
    "StepwiseGuide",
    "StepwiseModel",
    "WakeSleepPrograms",
    "check_guide",
    "effective_sample_size",
    "latent_mcmc",
    "log_weights",
    "smc_filter",
    "stack_latents",
    "with_padding_prior",
]
