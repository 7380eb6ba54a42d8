"""Series from lists of arrays, without a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...checks import require_array
from ..padding import has_columns
from .assembly import GivenRows, Settings, assemble
from .layout import Covariate
from .series import Series
from .times import TimeAxis


def from_arrays(
    values: Any,
    *,
    covariates: Any = None,
    static: Any = None,
    times: Any = None,
    names: Sequence[str] | None = None,
    covariate_names: Sequence[str] | None = None,
    static_names: Sequence[str] | None = None,
    ids: Sequence[Any] | None = None,
    scaling: Any = "standard",
    frequency: Any = None,
    time_gap: bool = False,
    fill_covariates: str | None = None,
    like: Series | None = None,
) -> Series:
    """Series of arrays, one per sequence.

    NaN and masked elements (:mod:`numpy.ma`) are gaps. Covariates are numbers; categories need a table.

    Args:
        values: list of arrays or tensors, each (time, feature) or (time,); or one array (sequence, time, feature).
        covariates: list of as many arrays, each (time, covariate) or (time,).
        static: one row of numbers per sequence; (sequence, static) or (sequence,).
        times: list of as many arrays of dates or numbers, each (time,); None to count steps.
        names: names of the features; by default ``x_0``, ``x_1`` and so on.
        covariate_names: names of the covariates; by default ``c_0`` and so on.
        static_names: names of the static covariates; by default ``s_0`` and so on.
        ids: identifiers of the sequences; by default their positions.
        scaling, frequency, time_gap, fill_covariates: as for :func:`zf_pyro.data.from_dataframe`.
        like: earlier data of arrays, whose names and scaling hold.

    Raises:
        TypeError: something else than a list of numeric arrays.
        ValueError: arrays of other shapes or lengths, or what :func:`zf_pyro.data.from_dataframe` refuses.
    """
    arrays = _matrices("values", values)
    if not arrays:
        raise ValueError("values must hold one sequence at least, got none")
    lengths = [len(array) for array in arrays]
    owner = np.repeat(np.arange(len(arrays)), lengths)
    columns: list[tuple[Covariate, np.ndarray]] = []
    if covariates is not None:
        known = _matrices("covariates", covariates)
        _require_lengths("covariates", known, lengths)
        flat = np.concatenate(known)
        labels = _labels("covariate_names", covariate_names, flat.shape[1], "c")
        columns += [(Covariate(name, "number"), flat[:, i]) for i, name in enumerate(labels)]
    if static is not None:
        rows = _numbers("static", static)
        rows = rows[:, None] if rows.ndim == 1 else rows
        if rows.ndim != 2 or len(rows) != len(arrays):
            raise ValueError(f"static must have a row for each of {len(arrays)} sequences, got shape {rows.shape}")
        labels = _labels("static_names", static_names, rows.shape[1], "s")
        columns += [(Covariate(name, "number", static=True), rows[owner, i]) for i, name in enumerate(labels)]
    stamps, axis = _times(times, lengths)
    flat = np.concatenate(arrays)
    features = _labels("names", names, flat.shape[1], "x")
    every = [*features, *(covariate.name for covariate, _ in columns)]
    if len(set(every)) < len(every):
        raise ValueError(f"names must differ among features and covariates, got {every}")
    for name, column in zip(every, [*flat.T, *(column for _, column in columns)], strict=True):
        if np.isinf(column).any():
            i = int(owner[int(np.argmax(np.isinf(column)))])
            raise ValueError(f"{name!r} has an infinite value in sequence {i}: correct it, or make it NaN")
    own = [*range(len(arrays))] if ids is None else list(ids)
    if len(own) != len(arrays) or len(set(own)) != len(own):
        raise ValueError(f"ids must name each of {len(arrays)} sequences once, got {own[:8]}")
    flags = [False] * len(features)
    table = GivenRows(own, owner, stamps, axis, features, flags, flat, columns, "sequence", ["sequence", axis.name])
    return assemble(table, Settings(scaling, frequency, time_gap, fill_covariates), like)


def _matrices(name: str, given: Any) -> list[np.ndarray]:
    """Arrays (time, column) float64 of a list of arrays, or of one array with sequences first."""
    if has_columns(given) or isinstance(given, str) or not hasattr(given, "__len__"):
        advice = ": take zf_pyro.data.from_dataframe for a table" if has_columns(given) else ""
        raise TypeError(f"{name} must be a list of arrays (time, feature), got {type(given).__name__}{advice}")
    if hasattr(given, "ndim") and given.ndim != 3:
        raise ValueError(
            f"{name} must be (sequence, time, feature) or a list of arrays, got shape {tuple(given.shape)}"
        )
    found: list[np.ndarray] = []
    for i, part in enumerate(given):
        array = _numbers(f"{name}[{i}]", part)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or not array.size:
            raise ValueError(f"{name}[{i}] must be (time, feature) with one step at least, got shape {array.shape}")
        if found and array.shape[1] != found[0].shape[1]:
            raise ValueError(f"{name}[{i}] must have {found[0].shape[1]} columns as {name}[0], got {array.shape[1]}")
        found.append(array)
    return found


def _numbers(name: str, given: Any) -> np.ndarray:
    """An array of numbers as float64, NaN where masked."""
    if isinstance(given, np.ma.MaskedArray):
        return np.ma.filled(given.astype(np.float64), np.nan)
    try:
        array = require_array(name, given)
        if array.dtype.kind not in "biufO":
            raise TypeError(f"dtype {array.dtype}")
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must hold numbers, an array (time, feature), got {type(given).__name__} ({error})"
        ) from error


def _require_lengths(name: str, arrays: list[np.ndarray], lengths: list[int]) -> None:
    if len(arrays) != len(lengths):
        raise ValueError(f"{name} must hold an array for each of {len(lengths)} sequences, got {len(arrays)}")
    for i, (array, length) in enumerate(zip(arrays, lengths, strict=True)):
        if len(array) != length:
            raise ValueError(
                f"{name}[{i}] must have the {length} steps of values[{i}], got {len(array)}: covariates of future "
                "steps go with frames that are NaN"
            )


def _labels(name: str, given: Sequence[str] | None, count: int, letter: str) -> list[str]:
    if given is None:
        return [f"{letter}_{i}" for i in range(count)]
    found = [given] if isinstance(given, str) else [str(label) for label in given]
    if len(found) != count or len(set(found)) != count:
        raise ValueError(f"{name} must be {count} different names, got {found}")
    return found


def _times(times: Any, lengths: list[int]) -> tuple[np.ndarray, TimeAxis]:
    if times is None:
        return np.concatenate([np.arange(length) for length in lengths]), TimeAxis()
    if not hasattr(times, "__len__") or len(times) != len(lengths):
        raise ValueError(f"times must hold an array for each of {len(lengths)} sequences, got {type(times).__name__}")
    found = [np.asarray(part) for part in times]
    _require_lengths("times", found, lengths)
    flat = np.concatenate(found)
    if flat.dtype.kind not in "iufMm" or flat.ndim != 1:
        raise TypeError(f"times must hold dates or numbers, (time,) each, got {flat.dtype} of shape {flat.shape}")
    if flat.dtype.kind in "Mm":
        kind = "datetime" if flat.dtype.kind == "M" else "timedelta"
        if np.isnat(flat).any():
            raise ValueError("times must hold no missing date (NaT): give it, or leave the step out")
        return flat.astype(f"{kind}64[ns]").astype(np.int64), TimeAxis("time", kind)
    if flat.dtype.kind == "f":
        if not np.isfinite(flat).all():
            raise ValueError("times must be finite numbers: correct them, or leave the steps out")
        return flat.astype(np.float64), TimeAxis("time", "float")
    return flat.astype(np.int64), TimeAxis("time", "integer")
