"""A data set from the rows of a table: checked, sorted by sequence, laid on a grid where asked, and scaled."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ...checks import require_choice, require_flag
from .layout import GAP, Covariate, Layout
from .regular import inserted
from .rows import HeldRows, Steps
from .scaling import Scaling, kinds_of
from .series import Series
from .times import TimeAxis, with_frequency


class GivenRows(NamedTuple):
    """Rows of a table, in any order of the sequences."""

    ids: list[Any]
    """Identifiers of the sequences."""
    owner: np.ndarray
    """Index of the sequence of each row; (rows,)."""
    times: np.ndarray
    """(rows,)."""
    axis: TimeAxis
    features: list[str]
    flags: list[bool]
    """Whether a feature holds True and False alone."""
    values: np.ndarray
    """(rows, feature) float64, NaN where missing."""
    covariates: list[tuple[Covariate, np.ndarray]]
    """Each with its values, (rows,) float64, NaN where missing."""
    sequence: str
    """Name of the identifiers."""
    keys: list[str]
    """Columns of sequence and time, as far as there are such, for advice."""


class Settings(NamedTuple):
    """Arguments of the functions that prepare series."""

    scaling: Any = "standard"
    frequency: Any = None
    time_gap: bool = False
    fill_covariates: str | None = None
    columns: Mapping[str, Any] = {}
    """Names of columns, for other data that are prepared alike."""


def assemble(table: GivenRows, settings: Settings, like: Series | None = None) -> Series:
    """The data set of a table.

    Raises:
        ValueError: times of a sequence that are not ascending, a feature or sequence without values, static covariates
            that vary, missing covariates, times off the grid, or data unlike those of ``like``.
    """
    if like is not None and not isinstance(like, Series):
        raise TypeError(f"like must be a zf_pyro.data.Series, got {type(like).__name__}")
    if like is not None and settings.scaling != "standard":
        raise ValueError(f"scaling is that of like, so it cannot be given beside it, got {settings.scaling!r}")
    time_gap = require_flag("time_gap", settings.time_gap)
    if settings.fill_covariates is not None:
        require_choice("fill_covariates", settings.fill_covariates, ("forward",))
    order = np.argsort(table.owner, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(table.owner, minlength=len(table.ids)))])
    known = [covariate for covariate, _ in table.covariates]
    given = np.stack([values for _, values in table.covariates], 1) if known else np.zeros((len(order), 0))
    steps = Steps(table.values, given, table.times).take(order)
    axis = with_frequency(table.axis, settings.frequency)
    _require_ascending(table, axis, offsets, steps)
    _require_values(table, offsets, steps, whole=like is None)
    _require_static(table, axis, known, offsets, steps)
    rows = np.ones(len(order), bool)
    if axis.frequency is not None:
        steps, offsets, rows = inserted(steps, offsets, axis, table.ids)
    static = [i for i, covariate in enumerate(known) if covariate.static]
    _fill(steps, offsets, rows, static, settings.fill_covariates)
    _require_covariates(table, axis, known, offsets, steps, rows)
    if time_gap:
        if GAP in [*table.features, *(covariate.name for covariate in known)]:
            raise ValueError(f"time_gap=True adds the covariate {GAP!r}, which is there already: rename that column")
        gaps = np.concatenate([axis.gaps(steps.times[start:stop]) for start, stop in pairwise(offsets)])
        steps, known = (
            steps._replace(covariates=np.column_stack([steps.covariates, gaps])),
            [*known, Covariate(GAP, "number")],
        )
    layout = Layout(tuple(table.features), tuple(known), axis, table.sequence, dict(settings.columns))
    names = layout.covariate_names
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"two covariates have a column {twice[0]!r}, one as NAME=CATEGORY: rename one")
    held = HeldRows(table.ids, offsets, steps)
    if like is not None:
        like.layout.require_same(layout, "these data")
        like.scaling.require_range(steps.values)
        return Series(held, like.layout, like.scaling, like.covariate_scaling)
    return Series(held, layout, *fitted(layout, settings.scaling, table.flags, steps))


def fitted(layout: Layout, scaling: Any, flags: list[bool], steps: Steps) -> tuple[Scaling, Scaling]:
    """Scaling of the features and of the covariates of a training part."""
    names = [covariate.name for covariate in layout.covariates]
    unscaled = [covariate.kind != "number" for covariate in layout.covariates]
    kinds = kinds_of(scaling, [*layout.features, *names], [*flags, *unscaled], layout.features)
    wrong = [
        name for name, kind, fixed in zip(names, kinds[len(flags) :], unscaled, strict=True) if fixed and kind != "none"
    ]
    if wrong:
        raise ValueError(f"scaling cannot be of {wrong[0]!r}, which holds categories or flags: leave it out")
    own = Scaling.fit(layout.features, kinds[: len(flags)], steps.values)
    own.require_range(steps.values)
    theirs = Scaling.fit(names, kinds[len(flags) :], steps.covariates)
    theirs.require_range(steps.covariates)
    return own, theirs


def _sequence_of(row: int, offsets: np.ndarray) -> int:
    return int(np.searchsorted(offsets, row, side="right")) - 1


def _place(row: int, table: GivenRows, axis: TimeAxis, offsets: np.ndarray, steps: Steps) -> str:
    """A row, for an error: its sequence and time."""
    return f"sequence {table.ids[_sequence_of(row, offsets)]!r} at {axis.name} {axis.show(steps.times[row])}"


def _require_ascending(table: GivenRows, axis: TimeAxis, offsets: np.ndarray, steps: Steps) -> None:
    later = np.diff(steps.times) > 0
    later[offsets[1:-1] - 1] = True
    if later.all():
        return
    row = int(np.argmin(later)) + 1
    place, by = _place(row, table, axis, offsets, steps), table.keys
    if steps.times[row] == steps.times[row - 1]:
        raise ValueError(
            f"times must occur once in a sequence, got two rows of {place}: leave one out with "
            f"frame.drop_duplicates({by}), or take their mean with frame.groupby({by})"
        )
    raise ValueError(
        f"times must ascend within a sequence, got {place} after {axis.show(steps.times[row - 1])}: sort the rows with "
        f"frame.sort_values({by})"
    )


def _require_values(table: GivenRows, offsets: np.ndarray, steps: Steps, *, whole: bool) -> None:
    seen = ~np.isnan(steps.values)
    if whole and not seen.any(0).all():
        name = table.features[int(np.argmin(seen.any(0)))]
        raise ValueError(f"feature {name!r} has no value in any row, all are missing: leave it out of values=")
    if whole:
        counts = np.add.reduceat(seen.any(1).astype(np.int64), offsets[:-1])
        if (counts == 0).any():
            raise ValueError(
                f"sequence {table.ids[int(np.argmin(counts))]!r} has no value of any feature, all are missing: leave "
                "it out"
            )


def _require_static(
    table: GivenRows, axis: TimeAxis, known: list[Covariate], offsets: np.ndarray, steps: Steps
) -> None:
    first = np.repeat(offsets[:-1], np.diff(offsets))
    for i, covariate in enumerate(known):
        column = steps.covariates[:, i]
        if covariate.static and not np.array_equal(column, column[first], equal_nan=True):
            row = int(np.argmax((column != column[first]) & ~(np.isnan(column) & np.isnan(column[first]))))
            raise ValueError(
                f"static covariate {covariate.name!r} must be one value per sequence, it changes in "
                f"{_place(row, table, axis, offsets, steps)}: name it under covariates= instead"
            )


def _fill(steps: Steps, offsets: np.ndarray, rows: np.ndarray, static: list[int], fill: str | None) -> None:
    """Repeat static covariates in inserted rows, and the last known value of others where asked; in place."""
    first = np.repeat(offsets[:-1], np.diff(offsets))
    for i in range(steps.covariates.shape[1]):
        column = steps.covariates[:, i]
        if i in static:
            column[~rows] = column[first[~rows]]
        elif fill == "forward":
            last = np.maximum.accumulate(np.where(np.isnan(column), first, np.arange(len(column))))
            column[:] = column[last]


def _require_covariates(
    table: GivenRows, axis: TimeAxis, known: list[Covariate], offsets: np.ndarray, steps: Steps, rows: np.ndarray
) -> None:
    missing = np.isnan(steps.covariates)
    if not missing.any():
        return
    row, i = (int(index) for index in np.argwhere(missing)[0])
    place, name = _place(row, table, axis, offsets, steps), known[i].name
    how = "" if rows[row] else f", a row that frequency={axis.frequency!r} inserts"
    raise ValueError(
        f"covariate {name!r} must be known at every step, it is missing in {place}{how}: fill it, give "
        "fill_covariates='forward' to repeat the last known value, or name it under values= if it is to be learned"
    )
