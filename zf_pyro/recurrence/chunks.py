"""Functions of long sequences, evaluated one chunk of time after the other."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

ROWS_PER_CHUNK = 2048
"""Rows (time x batch) of a chunk: enough for fast products, few enough for intermediate results to stay in cache."""


def in_chunks(function: Callable[..., Tensor], *sequences: Tensor) -> Tensor:
    """Evaluate ``function(*sequences)`` in chunks of time, without keeping its intermediate results.

    The backward pass computes those of each chunk again. On a CPU that is faster than keeping them: for a whole
    sequence they are hundreds of megabytes of new pages.

    Args:
        function: from sequences (time, ..., features) to one of as many steps. It treats each step independently and
            draws no random numbers.
        sequences: its arguments, each (time, ..., features).
    """
    rows = max(sequence.shape[1:-1].numel() for sequence in sequences)
    size = max(1, ROWS_PER_CHUNK // rows)
    if size >= len(sequences[0]):
        return function(*sequences)
    pieces = zip(*(sequence.split(size) for sequence in sequences), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([function(*piece) for piece in pieces])
    return torch.cat([checkpoint(function, *piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces])
