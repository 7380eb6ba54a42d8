"""Arrays over sequences, steps and features with the names, times and units that went in."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...checks import require_choice, require_flag, require_integer
from .scaling import Units, array_of
from .series import Series

DIMS = {
    2: ("sequence", "step"),
    3: ("sequence", "step", "feature"),
    4: ("sample", "sequence", "step", "feature"),
}
"""Dimensions of an array by their number, where they are not given."""
UNITS = ("values", "deviations", "none")


def to_xarray(
    series: Series,
    values: Any,
    dims: Sequence[str] | None = None,
    *,
    indices: Sequence[int] | None = None,
    future: bool = False,
    units: Units | None = None,
    name: str = "value",
) -> Any:
    """An :class:`xarray.DataArray` with identifiers, feature names and times, in original units.

    ``time`` is a coordinate of (sequence, step), since sequences have their own times. What lies beyond a sequence is
    NaN. Dates are in UTC, since xarray has no time zones; the attribute ``time_zone`` says which one they came in.

    Args:
        series: the data that the values belong to.
        values: a tensor or array with the dimensions ``dims``, for example forecasts (sample, sequence, step, feature);
            or an :class:`xarray.DataArray`, which brings its own, such as that of ``net.forecast``.
        dims: names of the dimensions: ``sequence``, ``step``, ``feature``, and any others, such as ``sample``. By
            default (sequence, step), (sequence, step, feature) or (sample, sequence, step, feature).
        indices: positions of the sequences in ``series``; all of them if None.
        future: the steps are those after the end of each sequence. They have times if the data have a frequency.
        units: meaning of the values: ``values`` by default where there is a dimension ``feature``, else ``none``, which
            leaves them as they are; ``deviations`` for standard deviations and widths.
        name: name of the result.

    Raises:
        ValueError: dimensions or sizes that do not fit the data.
    """
    import xarray as xr

    array, dims, chosen, times, real = _fitted(series, values, dims, indices, future, units)
    labels = series.layout.axis.labels(times) if times is not None else None
    coords: dict[str, Any] = {"sequence": [series.ids[i] for i in chosen]}
    if "feature" in dims:
        coords["feature"] = list(series.features)
    if "step" in dims and real is not None:
        shape = [array.shape[dims.index(dim)] if dim in ("sequence", "step") else 1 for dim in dims]
        mask = real if dims.index("sequence") < dims.index("step") else real.T
        array = np.where(mask.reshape(shape), array, np.nan)
        coords["step"] = np.arange(real.shape[1]) + int(future)
        if labels is not None:
            beyond = np.array("NaT", labels.dtype) if labels.dtype.kind in "mM" else np.nan
            coords["time"] = (("sequence", "step"), labels if real.all() else np.where(real, labels, beyond))
    axis = series.layout.axis
    attrs = {} if axis.zone is None else {"time_zone": axis.zone}
    return xr.DataArray(array, coords, dims, name, attrs)


def to_pandas(
    series: Series,
    values: Any,
    dims: Sequence[str] | None = None,
    *,
    indices: Sequence[int] | None = None,
    future: bool = False,
    units: Units | None = None,
    name: str = "value",
) -> Any:
    """A :class:`pandas.DataFrame` with a row per sequence and step, and per sample and the like; a column per feature.

    Dates are in the time zone in which they came. Nothing stands for what lies beyond a sequence. Arguments and errors
    are those of :func:`to_xarray`.
    """
    import pandas as pd

    array, dims, chosen, times, real = _fitted(series, values, dims, indices, future, units)
    if real is None:
        raise ValueError(f"dims must have a step, got {tuple(dims)}")
    others = [dim for dim in dims if dim not in ("sequence", "step", "feature")]
    order = ["sequence", "step", *others, *(["feature"] if "feature" in dims else [])]
    array = array.transpose([list(dims).index(dim) for dim in order])
    sizes = array.shape[2 : 2 + len(others)]
    flat = array[real].reshape(-1, array.shape[-1] if "feature" in dims else 1)
    repeats = int(np.prod(sizes, dtype=int))
    owner, step = np.nonzero(real)
    table: dict[str, Any] = {series.layout.sequence: np.array([series.ids[i] for i in chosen], object)[owner]}
    axis = series.layout.axis
    if times is not None:
        table[axis.name] = axis.index(times[real])
    else:
        table["step"] = step + int(future)
    frame = pd.DataFrame(table).loc[np.arange(len(owner)).repeat(repeats)].reset_index(drop=True).infer_objects()
    grids = np.indices(sizes).reshape(len(sizes), repeats)
    for dim, grid in zip(others, grids, strict=True):
        frame[dim] = np.tile(grid, len(owner))
    columns = series.features if "feature" in dims else (name,)
    return pd.concat([frame, pd.DataFrame(flat, columns=list(columns))], axis=1)


def _fitted(
    series: Series,
    values: Any,
    dims: Sequence[str] | None,
    indices: Sequence[int] | None,
    future: bool,
    units: Units | None,
) -> tuple[np.ndarray, tuple[str, ...], list[int], np.ndarray | None, np.ndarray | None]:
    """Values in original units, dimensions, chosen sequences, times (sequence, step), and a mask of real steps."""
    dims = getattr(values, "dims", None) if dims is None else dims
    array, future = array_of(values), require_flag("future", future)
    if dims is None and array.ndim not in DIMS:
        raise ValueError(f"dims must name the dimensions of values with shape {array.shape}, got None")
    names = tuple(DIMS[array.ndim] if dims is None else dims)
    if len(names) != array.ndim or len(set(names)) != len(names) or "sequence" not in names:
        raise ValueError(
            f"dims must name each dimension of values with shape {array.shape} once, sequence among them, got {names}"
        )
    chosen = [*range(len(series))] if indices is None else list(indices)
    for i in chosen:
        require_integer("indices", i, f"positions of sequences, 0 to {len(series) - 1}", 0, len(series) - 1)
    units = ("values" if "feature" in names else "none") if units is None else units
    require_choice("units", units, UNITS)
    expected = {"sequence": len(chosen), "feature": series.frame_dim}
    if not future:
        expected["step"] = max(int(series.lengths[i]) for i in chosen)
    for dim, size in zip(names, array.shape, strict=True):
        if expected.get(dim, size) != size:
            raise ValueError(
                f"values must have {expected[dim]} entries along {dim}, as these data have, got shape {array.shape}: "
                "they come from other data, or give indices= of the sequences, and future=True for forecasts"
            )
    if units != "none":
        if "feature" not in names:
            raise ValueError(f"dims must have a feature where units are {units!r}, got {names}")
        last = np.moveaxis(array, names.index("feature"), -1)
        array = np.moveaxis(series.scaling.inverse(last, units), -1, names.index("feature"))
    else:
        array = array.astype(np.float64)
    if "step" not in names:
        return array, names, chosen, None, None
    steps = array.shape[names.index("step")]
    axis = series.layout.axis
    if future:
        known = axis.kind == "step" or axis.frequency is not None
        ends = [series.steps(i, -1).times[0] for i in chosen] if known else []
        times = np.stack([axis.after(end, steps) for end in ends]) if known else None
        return array, names, chosen, times, np.ones((len(chosen), steps), bool)
    real = np.arange(steps) < series.lengths[chosen].numpy()[:, None]
    times = np.zeros(real.shape, axis.dtype)
    for row, i in enumerate(chosen):
        times[row, real[row]] = series.steps(i).times
    return array, names, chosen, times, real
