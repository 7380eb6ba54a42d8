"""Batches of sequences, padded to the longest."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset


class Batch(NamedTuple):
    """Batch of padded sequences."""

    x: Tensor
    """Sequences, zero beyond each length; (batch, time, frame) floats or (batch, time) integers."""
    lengths: Tensor
    """Number of frames of each sequence; (batch,) int64."""


def collate(sequences: Sequence[Any]) -> Batch:
    """Stack sequences into a batch, padded with zeros to the longest.

    Args:
        sequences: tensors, NumPy arrays or lists, each (time, frame) or (time,), of at least one frame. Arrays keep
            their dtype; lists of Python floats become float32.

    Raises:
        TypeError: a sequence that is no tensor, array or list of numbers, for example a pair with a label.
        ValueError: no sequences, one without frames, or different dtypes or frame shapes.
    """
    if has_columns(sequences) or not hasattr(sequences, "__len__"):
        raise TypeError(f"sequences must be a list of sequences, got {type(sequences).__name__}: give a list")
    if not len(sequences):
        raise ValueError("sequences must hold at least one sequence, got none")
    tensors = [_as_tensor(sequence, i) for i, sequence in enumerate(sequences)]
    first = tensors[0]
    for i, sequence in enumerate(tensors):
        if sequence.dim() < 1 or not len(sequence):
            raise ValueError(
                f"sequence {i} must hold frames, (time, frame) or (time,), got shape {tuple(sequence.shape)}"
            )
        if sequence.shape[1:] != first.shape[1:] or sequence.dtype != first.dtype:
            raise ValueError(
                f"sequences must have the same frames: sequence 0 has {first.dtype} of shape {tuple(first.shape)}, "
                f"sequence {i} {sequence.dtype} of shape {tuple(sequence.shape)}"
            )
    lengths = torch.tensor([len(sequence) for sequence in tensors])
    return Batch(pad_sequence(tensors, batch_first=True), lengths)


def has_columns(data: object) -> bool:
    """True for dictionaries and tables, whose items are named columns and not sequences."""
    return isinstance(data, Mapping) or (hasattr(data, "columns") and not isinstance(data, Dataset))


def _as_tensor(sequence: Any, i: int) -> Tensor:
    """Sequence ``i`` of a batch as a tensor, (time, frame) or (time,)."""
    if isinstance(sequence, Tensor):
        return sequence
    got = type(sequence).__name__
    of_arrays = isinstance(sequence, list | tuple) and any(isinstance(part, Tensor | np.ndarray) for part in sequence)
    if isinstance(sequence, tuple) and of_arrays:
        raise TypeError(
            f"sequence {i} must be a tensor, an array or a list of frames, got a tuple of {len(sequence)}: give "
            "sequences alone, without lengths or labels, and keep labels beside the batches"
        )
    if has_columns(sequence) or not isinstance(sequence, list | tuple | np.ndarray):
        raise TypeError(
            f"sequence {i} must be a tensor, an array or a list of frames, got {got}: give its values as an array "
            "(time, frame)" + (", for example data.to_numpy()" if hasattr(sequence, "to_numpy") else "")
        )
    try:
        if of_arrays:
            return torch.stack([torch.as_tensor(frame) for frame in sequence])
        if isinstance(sequence, np.ndarray):
            return torch.from_numpy(np.array(sequence, sequence.dtype.newbyteorder("=")))
        return torch.tensor(sequence)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"sequence {i} must hold numbers, as many in every frame, got {got} ({str(error).splitlines()[0]}): give "
            "an array (time, frame) or (time,)"
        ) from error
