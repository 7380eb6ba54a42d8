"""Paths: per-step sample sites that cost no more than a batch."""

from .inputs import (
    RunInputs,
    check_backward_states,
    check_context,
    check_frames,
    check_latents,
    check_state,
    check_values,
    prepare_inputs,
)
from .lengths import check_lengths, real_frames, with_last_repeated, zero_padding
from .memory import run_bytes, step_width
from .path import LatentPath, align
from .plate import refuse_swapped, sequences
from .posterior import PosteriorPath
from .prior import PriorPath
from .sites import FrameStep, LatentStep, LazyStep

__all__ = [
    "FrameStep",
    "LatentPath",
    "LatentStep",
    "LazyStep",
    "PosteriorPath",
    "PriorPath",
    "RunInputs",
    "align",
    "check_backward_states",
    "check_context",
    "check_frames",
    "check_latents",
    "check_lengths",
    "check_state",
    "check_values",
    "prepare_inputs",
    "real_frames",
    "refuse_swapped",
    "run_bytes",
    "sequences",
    "step_width",
    "with_last_repeated",
    "zero_padding",
]
