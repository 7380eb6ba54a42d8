"""Sequential Monte Carlo over the latents of many sequences at once."""

from .filter import Filtered, FilterSettings, known_sequences, random_numbers, run_filter, start_states
from .forms import steps_of
from .particle_filter import FilterResult, ParticleFilter
from .resampling import SCHEMES, effective_sample_size

__all__ = [
    "SCHEMES",
    "FilterResult",
    "FilterSettings",
    "Filtered",
    "ParticleFilter",
    "effective_sample_size",
    "known_sequences",
    "random_numbers",
    "run_filter",
    "start_states",
    "steps_of",
]
