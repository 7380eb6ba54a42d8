"""Japanese Vowels: 640 utterances of /ae/ by nine speakers, each 7 to 29 frames of 12 LPC cepstra.

Kudo, Toyama, Shimbo, "Multidimensional curve classification using passing-through regions", Pattern Recognition
Letters 20, 1999; https://archive.ics.uci.edu/dataset/128/japanese+vowels. The sktime package contains it, so nothing
is downloaded.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import require_count, require_integer

NUM_CEPSTRA = 12
NUM_SPEAKERS = 9


class Utterances(NamedTuple):
    """Batch of padded utterances."""

    x: Tensor
    """Cepstra, zero beyond each length; (batch, time, 12) float32."""
    lengths: Tensor
    """Number of frames of each utterance; (batch,) int64."""
    speakers: Tensor
    """Speaker, 0 to 8; (batch,) int64."""

    def take(self, indices: Tensor) -> "Utterances":
        """Select the utterances at ``indices``, (utterances,) int64, padded to the longest of them."""
        lengths = self.lengths[indices]
        return Utterances(self.x[indices, : int(lengths.max())], lengths, self.speakers[indices])

    def to(self, device: torch.device | str) -> "Utterances":
        """Move the utterances to ``device``."""
        return Utterances(*(field.to(device) for field in self))


class Vowels(NamedTuple):
    """The data set, split and standardised per cepstrum."""

    train: Utterances
    validation: Utterances
    test: Utterances
    """The official test utterances."""
    mean: Tensor
    """Mean of each cepstrum over the frames of ``train``, in the units of the files; (12,)."""
    scale: Tensor
    """Standard deviation of each cepstrum over the frames of ``train``, in the units of the files; (12,)."""

    def to(self, device: torch.device | str) -> "Vowels":
        """Move the data set to ``device``."""
        train, validation, test = (part.to(device) for part in (self.train, self.validation, self.test))
        return Vowels(train, validation, test, self.mean.to(device), self.scale.to(device))


def load(split: str) -> Utterances:
    """Load the official ``"train"`` (270) or ``"test"`` (370) utterances, in the units of the files.

    Raises:
        ImportError: sktime is not installed.
        ValueError: another split.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    try:
        from sktime.datasets import load_japanese_vowels
    except ImportError as error:
        raise ImportError("Japanese Vowels comes with sktime: pip install zf-pyro[examples]") from error
    table, labels = load_japanese_vowels(split=split)
    rows = [np.stack([series.to_numpy() for series in row], axis=-1) for row in table.itertuples(index=False)]
    frames = [torch.as_tensor(row, dtype=torch.float32) for row in rows]
    return Utterances(
        torch.nn.utils.rnn.pad_sequence(frames, batch_first=True),
        torch.tensor([len(utterance) for utterance in frames]),
        torch.as_tensor(labels.astype(np.int64)) - 1,
    )


def load_vowels(seed: int = 0, validation_per_speaker: int = 6) -> Vowels:
    """Load Japanese Vowels with a validation set, every cepstrum standardised.

    The official training utterances, 30 per speaker, are split at random within each speaker. Mean and standard
    deviation are those of the utterances left for training.

    Args:
        seed: seed of the split.
        validation_per_speaker: utterances of each speaker for the validation set, 1 to 29.

    Raises:
        ImportError: sktime is not installed.
        ValueError: ``validation_per_speaker`` is out of range.
    """
    seed = require_count("seed", seed, least=0)
    expected = "between 1 and 29 of the 30 training utterances of a speaker"
    validation_per_speaker = require_integer("validation_per_speaker", validation_per_speaker, expected, 1, 29)
    official, test = load("train"), load("test")
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(official.lengths), dtype=torch.bool)
    for speaker in range(NUM_SPEAKERS):
        own = (official.speakers == speaker).nonzero().squeeze(-1)
        held_out[own[torch.randperm(len(own), generator=generator)[:validation_per_speaker]]] = True
    train, validation = official.take((~held_out).nonzero().squeeze(-1)), official.take(held_out.nonzero().squeeze(-1))
    scale, mean = torch.std_mean(train.x[_real(train)], dim=0)
    train, validation, test = (_standardised(part, mean, scale) for part in (train, validation, test))
    return Vowels(train, validation, test, mean, scale)


def _real(utterances: Utterances) -> Tensor:
    """Mask of frames within each length; (batch, time) bool."""
    return torch.arange(utterances.x.shape[1]) < utterances.lengths.unsqueeze(-1)


def _standardised(utterances: Utterances, mean: Tensor, scale: Tensor) -> Utterances:
    x = torch.where(_real(utterances).unsqueeze(-1), (utterances.x - mean) / scale, 0.0)
    return utterances._replace(x=x)
