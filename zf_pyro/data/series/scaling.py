"""Scaling of each feature: standard, robust or none, from the training part alone, and its inverse."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from ...checks import require_array, require_choice

SCALINGS = ("standard", "robust", "none")
"""``standard``: mean 0, standard deviation 1. ``robust``: median 0, interquartile range that of a standard normal.
``none``: original units."""
NORMAL_RANGE = 1.3489795003921634
"""Interquartile range of a standard normal."""
LARGEST = float(np.finfo(np.float32).max)
FAR = 1e100
"""Values beyond it are divided by the largest before they are squared and summed, since squares overflow from 1e154."""
Units = Literal["values", "deviations", "none"]
"""Meaning of an array: values, deviations (standard deviations and widths, without a location), or neither."""


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Affine map of each feature, (value - centre) / scale. Fields have one entry per feature."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    """Each one of :data:`SCALINGS`."""
    centre: tuple[float, ...]
    """Subtracted, in the feature's units."""
    scale: tuple[float, ...]
    """Divisor after that, in the feature's units; 1 for a constant feature."""
    fill: tuple[float, ...]
    """Stands where an element is missing, in the feature's units: the centre, or the lower median where nothing is
    subtracted, so that counts stay counts and positive values positive."""

    @classmethod
    def fit(cls, names: Sequence[str], kinds: Sequence[str], values: np.ndarray) -> "Scaling":
        """Scaling of ``values``, (steps, feature) float64 with NaN where missing.

        Raises:
            ValueError: a feature without a value, with a spread that is no finite number, or with an interquartile
                range of 0 under ``robust``.
        """
        found = [_fit(name, kind, values[:, i]) for i, (name, kind) in enumerate(zip(names, kinds, strict=True))]
        centre, scale, fill = (tuple(column) for column in zip(*found, strict=True)) if found else ((), (), ())
        return cls(tuple(names), tuple(kinds), centre, scale, fill)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Scaled units of ``values``, (..., feature), with the fill where they are NaN; float32."""
        filled = np.where(np.isnan(values), np.array(self.fill), values)
        scaled: np.ndarray = ((filled - np.array(self.centre)) / np.array(self.scale)).astype(np.float32)
        return scaled

    def inverse(self, values: np.ndarray, units: Units = "values") -> np.ndarray:
        """Original units of scaled ``values``, (..., feature); float64.

        Args:
            values: (..., feature).
            units: ``values``, or ``deviations``, which are multiplied by the scale alone.

        Raises:
            ValueError: another number of features.
        """
        require_choice("units", units, ("values", "deviations"))
        if values.shape[-1:] != (len(self.names),):
            raise ValueError(
                f"values must have {len(self.names)} features, {_listed(self.names)}, in the last dimension, got shape "
                f"{values.shape}: they come from other data"
            )
        spread: np.ndarray = values.astype(np.float64) * np.array(self.scale)
        return spread + np.array(self.centre) if units == "values" else spread

    def require_same(self, other: "Scaling", what: str) -> None:
        """Refuse data in other units.

        Args:
            other: scaling of the other data.
            what: noun for the other data.

        Raises:
            ValueError: another feature, centre or scale; the message names the first.
        """
        if self.names != other.names:
            raise ValueError(f"{what} must have the features {_listed(self.names)}, got {_listed(other.names)}")
        for i, name in enumerate(self.names):
            own, theirs = (self.centre[i], self.scale[i]), (other.centre[i], other.scale[i])
            if own != theirs:
                raise ValueError(
                    f"{what} must have the scaling of these data, {name!r} minus {own[0]:.6g} over {own[1]:.6g}, got "
                    f"minus {theirs[0]:.6g} over {theirs[1]:.6g}: prepare it with like= this data set"
                )

    def require_range(self, values: np.ndarray) -> None:
        """Refuse values, (steps, feature), that float32 cannot hold in scaled units.

        Raises:
            ValueError: there is one; the message names its feature.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            far = np.abs((values - np.array(self.centre)) / np.array(self.scale)) > LARGEST
        if far.any():
            step, i = (int(index) for index in np.argwhere(far)[0])
            raise ValueError(
                f"{self.names[i]!r} has {values[step, i]:.6g}, which float32 cannot hold in scaled units: correct it, "
                "or give it in other units"
            )


def array_of(values: Any) -> np.ndarray:
    """An argument ``values``, (...), as an array; tensors of types that NumPy has not as float64.

    Raises:
        TypeError: it is no tensor with data, array or list of values.
    """
    if isinstance(values, Tensor) and values.is_floating_point():
        values = values.double()
    return require_array("values", values)


def kinds_of(scaling: Any, names: Sequence[str], flags: Sequence[bool], own: Sequence[str]) -> tuple[str, ...]:
    """The scaling of each column.

    Args:
        scaling: one of :data:`SCALINGS` for the columns in ``own``, or a dictionary of them by name; columns that it
            does not name are ``standard``.
        names: all columns.
        flags: whether a column holds True and False alone, or categories, which are never scaled unless named.
        own: columns that a single string is for.

    Raises:
        ValueError, TypeError: an unknown scaling or name.
    """
    if isinstance(scaling, Mapping):
        unknown = [name for name in scaling if name not in names]
        if unknown:
            raise ValueError(f"scaling must name columns among {_listed(names)}, got {unknown[0]!r}")
        chosen = {name: require_choice(f"scaling[{name!r}]", kind, SCALINGS) for name, kind in scaling.items()}
    else:
        kind = require_choice("scaling", scaling, SCALINGS)
        chosen = {name: kind for name, flag in zip(names, flags, strict=True) if name in own and not flag}
    default = (("none" if flag else "standard") for flag in flags)
    return tuple(chosen.get(name, kind) for name, kind in zip(names, default, strict=True))


def _fit(name: str, kind: str, values: np.ndarray) -> tuple[float, float, float]:
    """Centre, scale and fill of one feature; values (steps,) float64."""
    seen = values[~np.isnan(values)]
    if not len(seen):
        raise ValueError(
            f"{name!r} has no value in the training part, so it cannot be scaled or learned: leave it out, or split "
            "otherwise"
        )
    if kind == "none":
        return 0.0, 1.0, float(np.quantile(seen, 0.5, method="inverted_cdf"))
    constant = seen.min() == seen.max()
    unit = float(np.abs(seen).max())
    unit = unit if unit > FAR else 1.0
    low, middle, high = (unit * float(part) for part in np.quantile(seen / unit, (0.25, 0.5, 0.75)))
    centre = middle if kind == "robust" else unit * float((seen / unit).mean())
    scale = (high - low) / NORMAL_RANGE if kind == "robust" else unit * float((seen / unit).std())
    if constant:
        return float(seen[0]), 1.0, float(seen[0])
    if kind == "robust" and high == low:
        raise ValueError(
            f"{name!r} cannot be scaled by 'robust': the middle half of its values all equal {low:.6g}. Take "
            "'standard' or 'none' for it, as in scaling={" + repr(name) + ": 'standard'}"
        )
    if not np.isfinite([centre, scale]).all() or scale == 0:
        raise ValueError(
            f"{name!r} has values from {seen.min():.6g} to {seen.max():.6g}, whose spread is no finite number above 0: "
            "give it in other units"
        )
    return centre, scale, centre


def _listed(names: Sequence[str]) -> str:
    """Names for an error, at most six."""
    shown = ", ".join(map(repr, names[:6]))
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")
