"""Names of dimensions and their coordinates: sequence ids, times, feature and latent names, labels."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ..checks import require_array
from ..models import StochasticRNN

SEQUENCE, STEP = "sequence", "step"
_LAST = {"z": "latent", "h": "unit", "x": "feature"}
"""Default name of the dimension after the step, by variable."""
_TAKEN = {"chain", "draw", SEQUENCE, STEP, "labels", "lengths", "mask", "log_evidence"}
"""Names that no other dimension or constant may have."""


class Names(NamedTuple):
    """Names of dimensions, their coordinates, and labels of the sequences."""

    dims: dict[str, tuple[str, ...]]
    """Dimensions after (chain, draw) by variable: z, h, x, and constants."""
    coords: dict[str, np.ndarray]
    """Values by dimension, each (size,); those that are missing are numbered from 0."""
    labels: np.ndarray | None
    """Labels of the sequences, (sequence,)."""

    def coordinates(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        """Coordinates of a group with dimensions of these sizes, as xarray takes them."""
        found: dict[str, Any] = {dim: self.coords.get(dim, np.arange(size)) for dim, size in sizes.items()}
        if self.labels is not None and SEQUENCE in sizes:
            found["labels"] = ((SEQUENCE,), self.labels)
        return found


def require_names(
    net: StochasticRNN, x: Tensor, coords: Any, dims: Any, labels: Any, constants: Mapping[str, np.ndarray]
) -> Names:
    """Validate names and coordinates.

    Args:
        net: the model.
        x: (batch, time, frame) floats or (batch, time) integers.
        coords: values by dimension, or None.
        dims: dimensions by variable, or None.
        labels: one per sequence, or None.
        constants: further variables of constant_data; each (sequence, ...).

    Raises:
        TypeError: ``coords`` or ``dims`` are no dictionaries, or hold what is no list.
        ValueError: an unknown variable or dimension, a name that is taken, or values of another number or twice.
    """
    ranks = {"z": 1, "h": 1, "x": x.dim() - 2}
    shapes = {"z": (net.latent_dim,), "h": (net.hidden_dim,), "x": tuple(x.shape[2:])}
    named = {name: (SEQUENCE, STEP, *_default(name, rank)) for name, rank in ranks.items()}
    sizes = {name: (*x.shape[:2], *shape) for name, shape in shapes.items()}
    for name, values in constants.items():
        named[name] = (SEQUENCE, STEP)[: values.ndim] + tuple(f"{name}_dim_{i}" for i in range(values.ndim - 2))
        sizes[name] = values.shape
    for name, given in _mapping("dims", dims).items():
        if name not in named:
            raise ValueError(f"dims must name the dimensions of some of {sorted(named)}, got {name!r}")
        named[name] = _renamed(name, given, named[name])
    known: dict[str, int] = {}
    for name, each in named.items():
        for dim, size in zip(each, sizes[name], strict=True):
            if known.setdefault(dim, size) != size:
                raise ValueError(f"dims must give a dimension one size; {dim!r} has {known[dim]} and {size}")
    found = {str(dim): _values(dim, values, known) for dim, values in _mapping("coords", coords).items()}
    return Names(named, found, None if labels is None else require_labels(labels, len(x)))


def require_labels(labels: Any, num_sequences: int) -> np.ndarray:
    """Labels as an array (sequence,).

    Raises:
        TypeError: they are no array.
        ValueError: they are not one per sequence.
    """
    values = require_array("labels", labels)
    if values.shape != (num_sequences,):
        raise ValueError(f"labels must be one a sequence, ({num_sequences},), got shape {values.shape}")
    return values


def require_constants(constants: Any, x: Tensor, real: Tensor) -> dict[str, np.ndarray]:
    """Further variables of constant_data, with NaN for padding.

    Args:
        constants: by name, values (sequence,), (sequence, step) or (sequence, step, ...); or None.
        x: (batch, time, frame) floats or (batch, time) integers.
        real: True on real frames, (batch, time).

    Raises:
        TypeError: they are no dictionary of arrays by name.
        ValueError: a name that is taken, or an array of another shape.
    """
    found: dict[str, np.ndarray] = {}
    for name, given in _mapping("constant_data", constants).items():
        if not isinstance(name, str) or not name or name in _TAKEN | set(_LAST):
            raise ValueError(f"constant_data must have names other than {sorted(_TAKEN | set(_LAST))}, got {name!r}")
        values = require_array(f"constant_data[{name!r}]", given)
        expected = tuple(x.shape[: max(1, min(values.ndim, 2))])
        if values.shape[:2] != expected:
            raise ValueError(
                f"constant_data[{name!r}] must have a value per sequence or per step, {tuple(x.shape[:1])} or "
                f"{tuple(x.shape[:2])} first, got shape {values.shape}"
            )
        mask = real.cpu().numpy().reshape(*x.shape[:2], *[1] * (values.ndim - 2)) if values.ndim > 1 else None
        if mask is not None and values.dtype.kind in "iuf" and not mask.all():
            values = np.where(mask, values.astype(np.result_type(values.dtype, np.float32)), np.nan)
        found[name] = values
    return found


def _default(name: str, rank: int) -> tuple[str, ...]:
    """Dimensions after the step: ``feature``, or ``feature_0``, ``feature_1``, ... for several."""
    return (_LAST[name],) if rank == 1 else tuple(f"{_LAST[name]}_{i}" for i in range(rank))


def _mapping(argument: str, value: Any) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{argument} must be a dictionary by name, got {type(value).__name__}")
    return value


def _renamed(name: str, given: Any, default: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"dims[{name!r}] must be a list of names, got {type(given).__name__}")
    renamed = tuple(given)
    fixed = default[:2]  # the diagnostics look for these
    if len(renamed) != len(default) or renamed[: len(fixed)] != fixed:
        raise ValueError(
            f"dims[{name!r}] must be {list(fixed)} and {len(default) - len(fixed)} names of your own, got "
            f"{list(renamed)}"
        )
    own = renamed[len(fixed) :]
    if any(not isinstance(dim, str) or not dim or dim in _TAKEN for dim in own) or len(set(own)) < len(own):
        raise ValueError(f"dims[{name!r}] must hold different names that are not {sorted(_TAKEN)}, got {list(renamed)}")
    return renamed


def _values(dim: Any, given: Any, known: Mapping[str, int]) -> np.ndarray:
    if dim not in known:
        raise ValueError(f"coords must give values of some of the dimensions {sorted(known)}, got {dim!r}")
    values = require_array(f"coords[{dim!r}]", given)
    if values.shape != (known[dim],):
        raise ValueError(f"coords[{dim!r}] must have {known[dim]} values, got shape {values.shape}")
    if len(np.unique(values)) < len(values):
        raise ValueError(f"coords[{dim!r}] must hold different values, so that each names one; got some twice")
    return values
