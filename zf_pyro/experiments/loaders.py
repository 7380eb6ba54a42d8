"""Data loaders of the experiments, with batches for each protocol."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from ..checks import require_choice, require_count
from ..data import ContextBatch, LengthBatches, Loader, Series, collate, collate_series
from ..evaluation import PROTOCOLS, Protocol


def require_lengths(data: Any) -> Tensor:
    """The lengths of a data set, (sequences,).

    Raises:
        TypeError: it has none.
    """
    lengths = getattr(data, "lengths", None)
    if not isinstance(lengths, Tensor) or not hasattr(data, "__getitem__"):
        raise TypeError(
            "data must be a data set with lengths, such as zf_pyro.data.Sequences or Windows, got "
            f"{type(data).__name__}"
        )
    return lengths


class EpochBatches(LengthBatches):
    """:class:`~zf_pyro.data.LengthBatches` that pass the epoch to the data set, for data resampled in every epoch."""

    def __init__(self, data: Any, batch_size: int, **settings: Any) -> None:
        super().__init__(require_lengths(data), batch_size, **settings)
        self.data = data

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the order and of the data set."""
        super().set_epoch(epoch)
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch)


class Chosen(Subset[Tensor]):
    """Subset of a data set, with the lengths; ``indices`` is (sequences,)."""

    def __init__(self, data: Any, indices: Tensor) -> None:
        super().__init__(data, indices.tolist())
        self.lengths: Tensor = data.lengths[indices]


class Scored(Chosen):
    """Sequences with at least one scored frame under a protocol."""

    def __init__(self, data: Any, protocol: Protocol) -> None:
        least = 2 if protocol == "first_frame_given" else 1
        super().__init__(data, (data.lengths >= least).nonzero().flatten())


def spread(data: Any, count: int | None) -> Any:
    """``count`` sequences evenly spread over a data set; all of it if None or if it has no more."""
    require_lengths(data)
    if count is None or require_count("count", count) >= len(data):
        return data
    return Chosen(data, torch.linspace(0, len(data) - 1, count).round().long())


def given_first(sequences: Sequence[Tensor]) -> ContextBatch:
    """Pad sequences, each (time, frame) or (time,), and split off their first frames.

    Returns:
        x (batch, time, frame) or (batch, time), lengths (batch,) and context (batch, frame) or (batch,): the arguments
        of model and guide.
    """
    x, lengths = collate(sequences)
    return ContextBatch(x[:, 1:], lengths - 1, x[:, 0])


def training_loader(
    data: Any,
    batch_size: int,
    protocol: Protocol = "full_density",
    *,
    seed: int = 0,
    shuffle: bool = True,
    share: tuple[int, int] = (0, 1),
) -> Loader:
    """Training batches (x, lengths), or (x, lengths, context) if the first frame is given.

    Those of a :class:`zf_pyro.data.Series` have covariates and what was observed, too.

    Args:
        data: a data set with ``lengths``.
        batch_size: sequences per batch.
        protocol: ``first_frame_given`` skips sequences of one frame.
        seed: seed of the order.
        shuffle: whether every epoch has a new order.
        share: this process's rank, and the number of processes that share the data.
    """
    require_choice("protocol", protocol, PROTOCOLS)
    require_lengths(data)
    if not isinstance(share, tuple | list) or len(share) != 2:
        raise TypeError(f"share must be a pair, this process's rank and the number of processes, got {share!r}")
    order: dict[str, Any] = {"seed": seed, "shuffle": shuffle, "rank": share[0], "world_size": share[1]}
    if protocol == "first_frame_given":
        scored = Scored(data, protocol)
        loader = Loader(scored, EpochBatches(scored, batch_size, **order))
        loader.collate_fn = given_first
        return loader
    loader = Loader(data, EpochBatches(data, batch_size, **order))
    loader.collate_fn = collation(data)
    return loader


def evaluation_loader(data: Any, batch_size: int, count: int | None = None) -> Loader:
    """Batches (x, lengths) of whole sequences, each once: ``count`` of them, evenly spread, or all if None.

    Those of a :class:`zf_pyro.data.Series` have covariates and what was observed, too.
    """
    chosen = spread(data, count)
    loader = Loader(chosen, LengthBatches(chosen.lengths, batch_size, shuffle=False))
    loader.collate_fn = collation(chosen)
    return loader


def collation(data: Any) -> Callable[[Sequence[Any]], Any]:
    """The function that stacks items of a data set, or of a part of it, into a batch."""
    while isinstance(data, Subset):
        data = data.dataset
    return collate_series if isinstance(data, Series) else collate
