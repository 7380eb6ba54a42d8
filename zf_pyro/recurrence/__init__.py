"""The recurrence over whole sequences: plain time loops, and fast ones with explicit backward passes."""

from .chunks import in_chunks
from .configuration import show_config
from .engine.buffers import LoopMemory
from .fast import backward_scan, latent_scan, posterior_scan, prior_scan, recurrence_scan, state_scan
from .precision import in_full_precision
from .reference import reference_posterior_scan, reference_state_scan
from .scans import (
    ScannedNetwork,
    has_fast_form,
    scan_auxiliary,
    scan_backward,
    scan_posterior,
    scan_prior,
    scan_states,
    uses_plain_loop,
)

__all__ = [
    "LoopMemory",
    "ScannedNetwork",
    "backward_scan",
    "has_fast_form",
    "in_chunks",
    "in_full_precision",
    "latent_scan",
    "posterior_scan",
    "prior_scan",
    "recurrence_scan",
    "reference_posterior_scan",
    "reference_state_scan",
    "scan_auxiliary",
    "scan_backward",
    "scan_posterior",
    "scan_prior",
    "scan_states",
    "show_config",
    "state_scan",
    "uses_plain_loop",
]
