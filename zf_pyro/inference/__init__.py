"""Inference algorithms for sequences: a table of all that run on a model, and those that Pyro lacks."""

from ..models import BoundGain, Corrections, RefinedGuide
from ..objectives import FIVO, SIXO, replayed_traces
from ..smc import FilterResult, OnlineFilter, OnlineStep, ParticleFilter, Twist, effective_sample_size
from .algorithm import Algorithm
from .annealing import AnnealedImportanceSampling, AnnealedResult
from .fit_guide import GuideFit, fit_guide
from .guide_check import check_guide
from .guide_weights import log_weights
from .mcmc import latent_mcmc
from .padding_prior import stack_latents, with_padding_prior
from .pyro_smc import StepwiseGuide, StepwiseModel, smc_filter
from .refine import refine
from .table import ALGORITHMS
from .wake_sleep import WakeSleepPrograms

__all__ = [
    "ALGORITHMS",
    "FIVO",
    "SIXO",
    "Algorithm",
    "AnnealedImportanceSampling",
    "AnnealedResult",
    "BoundGain",
    "Corrections",
    "FilterResult",
    "GuideFit",
    "OnlineFilter",
    "OnlineStep",
    "ParticleFilter",
    "RefinedGuide",
    "StepwiseGuide",
    "StepwiseModel",
    "Twist",
    "WakeSleepPrograms",
    "check_guide",
    "effective_sample_size",
    "fit_guide",
    "latent_mcmc",
    "log_weights",
    "refine",
    "replayed_traces",
    "smc_filter",
    "stack_latents",
    "with_padding_prior",
]
