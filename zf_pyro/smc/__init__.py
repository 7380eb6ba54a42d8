"""Sequential Monte Carlo over the latents of many sequences at once."""

from .exporting import FilterStep, GenerationStep, export_step
from .filter import (
    Filtered,
    FilterSettings,
    Known,
    gaps_of,
    known_sequences,
    random_numbers,
    run_filter,
    start_states,
)
from .forms import steps_of
from .online import OnlineFilter, OnlineStep
from .online_frames import require_observed
from .particle_filter import FilterResult, ParticleFilter
from .resampling import SCHEMES, effective_sample_size
from .twist import Twist, TwistedRun, require_twist, states_ahead

__all__ = [
    "SCHEMES",
    "FilterResult",
    "FilterSettings",
    "FilterStep",
    "Filtered",
    "GenerationStep",
    "Known",
    "OnlineFilter",
    "OnlineStep",
    "ParticleFilter",
    "Twist",
    "TwistedRun",
    "effective_sample_size",
    "export_step",
    "gaps_of",
    "known_sequences",
    "random_numbers",
    "require_observed",
    "require_twist",
    "run_filter",
    "start_states",
    "states_ahead",
    "steps_of",
]
