"""Loaders of the experiments: batches as the protocol wants them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from ..data import LengthBatches, Loader, collate
from ..evaluation import Protocol


class EpochBatches(LengthBatches):
    """:class:`~zf_pyro.data.LengthBatches` that tell the data set the epoch, for one that is drawn anew in each."""

    def __init__(self, data: Any, batch_size: int, **settings: Any) -> None:
        super().__init__(data.lengths, batch_size, **settings)
        self.data = data

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of another epoch."""
        super().set_epoch(epoch)
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch)


class Chosen(Subset[Tensor]):
    """Some sequences of a data set, with their lengths."""

    def __init__(self, data: Any, indices: Tensor) -> None:
        super().__init__(data, indices.tolist())
        self.lengths: Tensor = data.lengths[indices]


class Scored(Chosen):
    """The sequences that have something to score under a protocol."""

    def __init__(self, data: Any, protocol: Protocol) -> None:
        least = 2 if protocol == "first_frame_given" else 1
        super().__init__(data, (data.lengths >= least).nonzero().flatten())


def spread(data: Any, count: int | None) -> Any:
    """``count`` sequences evenly spread over a data set; all of it if None or if it has no more."""
    if count is None or count >= len(data):
        return data
    return Chosen(data, torch.linspace(0, len(data) - 1, count).round().long())


def given_first(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Sequences padded, the first frame of each apart: (x, lengths, context), the arguments of model and guide."""
    x, lengths = collate(sequences)
    return x[:, 1:], lengths - 1, x[:, 0]


def training_loader(
    data: Any,
    batch_size: int,
    protocol: Protocol = "full_density",
    *,
    seed: int = 0,
    shuffle: bool = True,
    share: tuple[int, int] = (0, 1),
) -> Loader:
    """Batches that a net is trained on, (x, lengths) or, where the first frame is given, (x, lengths, context).

    Args:
        data: a data set with ``lengths``.
        batch_size: sequences of a batch.
        protocol: ``first_frame_given`` leaves out what has a first frame only.
        seed: of the order.
        shuffle: a new order every epoch.
        share: this process's rank, and the number of processes that share the data.
    """
    order: dict[str, Any] = {"seed": seed, "shuffle": shuffle, "rank": share[0], "world_size": share[1]}
    if protocol == "first_frame_given":
        scored = Scored(data, protocol)
        loader = Loader(scored, EpochBatches(scored, batch_size, **order))
        loader.collate_fn = given_first
        return loader
    return Loader(data, EpochBatches(data, batch_size, **order))


def evaluation_loader(data: Any, batch_size: int, count: int | None = None) -> Loader:
    """Batches (x, lengths) of whole sequences, each once; ``count`` of them, evenly spread, or all if None."""
    chosen = spread(data, count)
    return Loader(chosen, LengthBatches(chosen.lengths, batch_size, shuffle=False))
