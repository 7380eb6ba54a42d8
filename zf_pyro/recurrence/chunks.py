"""Functions of long sequences, a piece of time at a time."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

ROWS_PER_CHUNK = 2048
"""Rows (time x batch) of a piece: enough for the matrix products, few enough for what it computes to stay in cache."""


def in_chunks(function: Callable[..., Tensor], *sequences: Tensor) -> Tensor:
    """``function(*sequences)`` for a function of each step by itself, without keeping its intermediate results.

    A long sequence is cut into pieces of time, and what a piece needs on the way back is computed again there. On a CPU
    that is faster than keeping it: the intermediate results of a whole sequence are hundreds of megabytes of new pages.

    Args:
        function: from sequences (time, ..., features) to one of as many steps, step by step; without random numbers.
        sequences: its arguments.
    """
    rows = max(sequence[..., 0].numel() // len(sequence) for sequence in sequences)
    size = max(1, ROWS_PER_CHUNK // rows)
    if size >= len(sequences[0]):
        return function(*sequences)
    pieces = zip(*(sequence.split(size) for sequence in sequences), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([function(*piece) for piece in pieces])
    return torch.cat([checkpoint(function, *piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces])
