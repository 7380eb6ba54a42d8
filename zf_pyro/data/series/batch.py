"""Items and padded batches of series, with covariates and a mask of what was seen."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...checks import int64, require_count, require_tensor


class SeriesItem(NamedTuple):
    """One sequence of a data set."""

    x: Tensor
    """Frames in scaled units, each missing element at the fill of its feature; (time, frame) float32."""
    covariates: Tensor | None
    """What is known at every step, in scaled units; (time, covariate) float32, or None."""
    observed: Tensor | None
    """True where an element was seen; (time, frame) bool, or None where the data set has no gaps."""


class SeriesBatch(NamedTuple):
    """Batch of padded series."""

    x: Tensor
    """Frames in scaled units, zero beyond each length; (batch, time, frame) float32."""
    lengths: Tensor
    """Number of frames of each sequence; (batch,) int64."""
    covariates: Tensor | None
    """What is known at every step, zero beyond each length; (batch, time, covariate) float32, or None."""
    observed: Tensor | None
    """True where an element was seen, False beyond each length; (batch, time, frame) bool, or None without gaps."""


def collate_series(items: Sequence[SeriesItem]) -> SeriesBatch:
    """Stack items of one data set into a batch, padded to the longest.

    Raises:
        TypeError: an item that is no :class:`SeriesItem`.
        ValueError: no items.
    """
    for i, item in enumerate(items):
        if not isinstance(item, SeriesItem):
            raise TypeError(f"item {i} must be a zf_pyro.data.SeriesItem, got {type(item).__name__}")
    if not len(items):
        raise ValueError("items must hold at least one sequence, got none")
    lengths = torch.tensor([len(item.x) for item in items])
    covariates, observed = _padded("covariates", items), _padded("observed", items)
    return SeriesBatch(pad_sequence([item.x for item in items], batch_first=True), lengths, covariates, observed)


def _padded(field: str, items: Sequence[SeriesItem]) -> Tensor | None:
    """One field of all items, (batch, time, column), padded with zeros; None if they have none."""
    parts = [getattr(item, field) for item in items]
    found = [part for part in parts if part is not None]
    if len(found) not in (0, len(parts)):
        raise ValueError(f"items must all have {field}, or none, got {len(found)} of {len(parts)}: take one data set")
    return pad_sequence(found, batch_first=True) if found else None


def require_horizon(covariates: Tensor | None, lengths: Tensor, horizon: int) -> None:
    """Refuse covariates that end before the last step of a forecast.

    Args:
        covariates: (batch, time, covariate) floats from the first step on, or None.
        lengths: frames before each forecast; (batch,) integers.
        horizon: steps of the forecast.

    Raises:
        ValueError: fewer than ``lengths + horizon`` steps of a sequence.
    """
    horizon, lengths = require_count("horizon", horizon), int64(require_tensor("lengths", lengths))
    if covariates is None:
        return
    needed, known = lengths + horizon, require_tensor("covariates", covariates).shape[1]
    if len(covariates) != len(lengths) or bool((needed > known).any()):
        i = int(needed.argmax())
        raise ValueError(
            f"covariates must reach the end of the forecast, {int(needed[i])} steps for sequence {i} with "
            f"{int(lengths[i])} frames and horizon {horizon}, got shape {tuple(covariates.shape)}: give the covariates "
            "of the future steps too, or a shorter horizon"
        )
