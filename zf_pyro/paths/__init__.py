"""Paths: per-step sample sites that cost no more than a batch."""

from .dependencies import (
    BATCHES_STEPPED,
    add_in_place,
    chain_arguments,
    chain_diagnostics,
    function_modes,
    handlers,
    has_samples,
    multiply_in_place,
    versions,
)
from .inputs import (
    RunInputs,
    check_backward_states,
    check_context,
    check_frames,
    check_latents,
    check_lengths,
    check_state,
    check_values,
    prepare_inputs,
    real_frames,
    zero_padding,
)
from .memory import run_bytes
from .path import LatentPath, align
from .plate import sequences
from .posterior import PosteriorPath
from .prior import PriorPath
from .sites import FrameStep, LatentStep, LazyStep

__all__ = [
    "BATCHES_STEPPED",
    "FrameStep",
    "LatentPath",
    "LatentStep",
    "LazyStep",
    "PosteriorPath",
    "PriorPath",
    "RunInputs",
    "add_in_place",
    "align",
    "chain_arguments",
    "chain_diagnostics",
    "check_backward_states",
    "check_context",
    "check_frames",
    "check_latents",
    "check_lengths",
    "check_state",
    "check_values",
    "function_modes",
    "handlers",
    "has_samples",
    "multiply_in_place",
    "prepare_inputs",
    "real_frames",
    "run_bytes",
    "sequences",
    "versions",
    "zero_padding",
]
