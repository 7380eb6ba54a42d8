"""Paths: per-step sample sites that cost no more than a batch."""

from .frame_checks import check_context, check_frames, check_values
from .inputs import (
    RunInputs,
    backward_states_of,
    prepare_inputs,
)
from .known import (
    KnownSteps,
    check_covariates,
    check_observed,
    filled,
    flags_before,
    known_steps,
    observed_of,
    of_context,
    replaced,
    require_finite,
    seen_parts,
)
from .lengths import check_lengths, real_frames, with_last_repeated, zero_padding
from .memory import run_bytes, step_width
from .path import LatentPath, align
from .plate import refuse_swapped, sequences
from .posterior import PosteriorPath
from .prior import PriorPath
from .sites import FrameStep, LatentStep, LazyStep
from .state_checks import check_backward_states, check_latents, check_state

__all__ = [
    "FrameStep",
    "KnownSteps",
    "LatentPath",
    "LatentStep",
    "LazyStep",
    "PosteriorPath",
    "PriorPath",
    "RunInputs",
    "align",
    "backward_states_of",
    "check_backward_states",
    "check_context",
    "check_covariates",
    "check_frames",
    "check_latents",
    "check_lengths",
    "check_observed",
    "check_state",
    "check_values",
    "filled",
    "flags_before",
    "known_steps",
    "observed_of",
    "of_context",
    "prepare_inputs",
    "real_frames",
    "refuse_swapped",
    "replaced",
    "require_finite",
    "run_bytes",
    "seen_parts",
    "sequences",
    "step_width",
    "with_last_repeated",
    "zero_padding",
]
