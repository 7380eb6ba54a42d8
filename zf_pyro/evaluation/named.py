"""Arrays with named dimensions and coordinates, as xarray has them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ..checks import require_array
from ..models import StochasticRNN

FEATURE = "feature"
"""Dimension of the elements of a frame; ``feature_0``, ``feature_1``, ... for frames of several dimensions."""


def frame_dims(net: StochasticRNN) -> tuple[str, ...]:
    """Names of the dimensions of a frame: none for symbols."""
    rank = len(net.emission_family.event_shape)
    return (FEATURE,) if rank == 1 else tuple(f"{FEATURE}_{i}" for i in range(rank))


def coordinates(
    coords: Mapping[str, Any] | None, sizes: Mapping[str, int], defaults: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Coordinates by dimension, each (size,): those given, else the defaults, else numbers from 0.

    Args:
        coords: values by dimension, or None.
        sizes: size of each dimension.
        defaults: values by dimension where none are given.

    Raises:
        TypeError: no dictionary, or values that are no list.
        ValueError: an unknown dimension, or another number of values.
    """
    if coords is not None and not isinstance(coords, Mapping):
        raise TypeError(f"coords must be a dictionary of values by dimension, got {type(coords).__name__}")
    found = {dim: np.arange(size) for dim, size in sizes.items()} | {
        dim: np.asarray(values) for dim, values in (defaults or {}).items()
    }
    for dim, given in (coords or {}).items():
        if dim not in sizes:
            raise ValueError(f"coords must give values of some of the dimensions {list(sizes)}, got {dim!r}")
        values = require_array(f"coords[{dim!r}]", given)
        if values.shape != (sizes[dim],):
            raise ValueError(f"coords[{dim!r}] must have {sizes[dim]} values, got shape {values.shape}")
        found[dim] = values
    return found


def numpy_of(values: Tensor) -> np.ndarray:
    """A tensor (...) as an array of the same shape."""
    return values.detach().cpu().numpy()
