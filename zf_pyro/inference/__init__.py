"""Inference algorithms for sequences: a table of all that run on a model, and those that Pyro lacks."""

from ..objectives import FIVO, SIXO, replayed_traces
from ..smc import FilterResult, ParticleFilter, Twist, effective_sample_size
from .algorithm import Algorithm
from .annealing import AnnealedImportanceSampling, AnnealedResult
from .guide_check import check_guide
from .guide_weights import log_weights
from .mcmc import latent_mcmc
from .padding import stack_latents, with_padding_prior
from .pyro_smc import StepwiseGuide, StepwiseModel, smc_filter
from .table import ALGORITHMS
from .wake_sleep import WakeSleepPrograms

__all__ = [
    "ALGORITHMS",
    "FIVO",
    "SIXO",
    "Algorithm",
    "AnnealedImportanceSampling",
    "AnnealedResult",
    "FilterResult",
    "ParticleFilter",
    "StepwiseGuide",
    "StepwiseModel",
    "Twist",
    "WakeSleepPrograms",
    "check_guide",
    "effective_sample_size",
    "latent_mcmc",
    "log_weights",
    "replayed_traces",
    "smc_filter",
    "stack_latents",
    "with_padding_prior",
]
