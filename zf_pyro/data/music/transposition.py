"""Transposition of pieces, another one in every epoch, as augmentation of training data."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...checks import require_count, require_integer

LOW, HIGH = -5, 6
"""Semitones of the default shifts: every key once."""
MOST = 60
"""Largest shift, five octaves."""


class Transposed(Dataset[Tensor]):
    """Pieces shifted by a number of semitones that is sampled for every piece and epoch.

    A shift depends only on (seed, epoch, index), not on the order of access, loader workers or processes. It is sampled
    evenly from those of ``low`` to ``high`` by which no note of the piece leaves the keyboard, so none is lost. A piece
    that none of them fits stays where it is.

    Workers copy the epoch when they start. Set it before iterating over the epoch's loader, and do not use
    ``persistent_workers``.

    Args:
        sequences: a data set of pieces, (time, notes) zeros and ones, with ``lengths``: pieces or windows of them.
        seed: seed of the shifts.
        low: lowest shift in semitones.
        high: highest shift.

    Attributes:
        epoch: the current epoch, from 0; set by :meth:`set_epoch`.
        lengths: steps of each piece; (len(self),) int64.

    Raises:
        TypeError: ``sequences`` has no lengths.
        ValueError: shifts out of order or beyond five octaves.
    """

    def __init__(self, sequences: Any, seed: int = 0, *, low: int = LOW, high: int = HIGH) -> None:
        if not isinstance(getattr(sequences, "lengths", None), Tensor) or not hasattr(sequences, "__getitem__"):
            raise TypeError(f"sequences must be a data set of pieces with lengths, got {type(sequences).__name__}")
        self.low = require_integer("low", low, f"between {-MOST} and {MOST}", -MOST, MOST)
        self.high = require_integer("high", high, f"between low, {self.low}, and {MOST}", self.low, MOST)
        self.sequences, self.seed, self.epoch = sequences, require_count("seed", seed, least=0), 0
        self.lengths: Tensor = sequences.lengths

    def set_epoch(self, epoch: int) -> None:
        """Select the shifts of an epoch, 0 or later."""
        self.epoch = require_count("epoch", epoch, least=0)

    def __len__(self) -> int:
        return len(self.sequences)

    def shift(self, index: int) -> int:
        """Semitones by which the piece at ``index`` is shifted in this epoch."""
        return self._shift(self.sequences[index], index)

    def __getitem__(self, index: int) -> Tensor:
        """The piece at ``index``, shifted; (time, notes) float32."""
        piece = self.sequences[index]
        return torch.roll(piece, self._shift(piece, index), 1)  # no note wraps around

    def _shift(self, piece: Tensor, index: int) -> int:
        sounding = piece.any(0).nonzero()
        low, high = self.low, self.high
        if len(sounding):
            low = max(low, -int(sounding[0]))
            high = min(high, piece.shape[1] - 1 - int(sounding[-1]))
        if low > high:
            return 0
        key = (self.seed, self.epoch, int(index) % len(self))
        return int(np.random.default_rng(key).integers(low, high, endpoint=True))
