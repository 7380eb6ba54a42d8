"""Whole sequences of the parts of a split by time, and sequences with the covariates of the steps that follow them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...checks import require_count
from .layout import GAP
from .rows import HeldRows, Steps
from .series import Series, common
from .splitting import SeriesSets
from .tables import as_pandas


def joined(parts: SeriesSets | Mapping[str, Series]) -> Series:
    """The sequences of all parts: those of one identifier as one, each step once, in the scaling of the parts.

    Args:
        parts: parts of one data set.

    Raises:
        ValueError: parts with other columns or another scaling.
    """
    given = parts._asdict() if isinstance(parts, SeriesSets) else parts
    given = {name: part for name, part in given.items() if part is not None}
    first = common(given)
    found: dict[Any, list[Steps]] = {}
    for part in given.values():
        for index, id_ in enumerate(part.ids):
            found.setdefault(id_, []).append(part.steps(index))
    whole = {}
    for id_, pieces in found.items():
        steps = _stacked(pieces)
        _, order = np.unique(steps.times, return_index=True)
        whole[id_] = steps.take(order)
    return _of_steps(first, whole)


def continued(series: Series, horizon: int, future: Any = None) -> Series:
    """The sequences with ``horizon`` steps more, whose features are missing and whose covariates are known.

    Args:
        series: the data, whose sequences have different identifiers.
        horizon: steps after the end of each sequence.
        future: table of the covariates of these steps, with the columns of identifiers and times of the data: pandas,
            polars and others. Further rows are left out. Static covariates may be left out. None if there are no
            others.

    Raises:
        TypeError: no table.
        ValueError: covariates that are not known ``horizon`` steps ahead, or times that do not follow a sequence.
    """
    horizon, layout, axis = require_count("horizon", horizon), series.layout, series.layout.axis
    if future is None and layout.varying:
        raise ValueError(
            f"future must be a table of the covariates {layout.varying} of the {horizon} steps after each sequence, "
            "got none"
        )
    later = {} if future is None else _by_sequence(series, future)
    found = {}
    for index, id_ in enumerate(series.ids):
        past = series.steps(index)
        if future is None:
            rows = Steps(
                np.full((horizon, series.frame_dim), np.nan),
                np.repeat(past.covariates[-1:], horizon, axis=0),
                axis.after(past.times[-1], horizon),
            )
        else:
            rows = _following(series, id_, past, later.get(id_), horizon)
        steps = _stacked([past, rows])
        for column, covariate in enumerate(layout.covariates):
            if covariate.name == GAP and not covariate.static:
                steps.covariates[:, column] = axis.gaps(steps.times)
        if id_ in found:
            raise ValueError(f"series must have an identifier for each sequence, got two of {id_!r}: join parts first")
        found[id_] = steps
    return _of_steps(series, found)


def _following(series: Series, id_: Any, past: Steps, rows: Steps | None, horizon: int) -> Steps:
    """The ``horizon`` rows of a table that follow a sequence."""
    axis, end = series.layout.axis, past.times[-1]
    known = Steps(*(part[:0] for part in past)) if rows is None else rows.take(rows.times > end)
    if axis.kind == "step" and rows is not None:  # counted from 0 in the table
        known = rows._replace(times=rows.times + end + 1)
    if len(known.times) < horizon:
        raise ValueError(
            f"future must hold the {horizon} steps after sequence {id_!r}, which ends at {axis.name} {axis.show(end)}, "
            f"got {len(known.times)}: add rows, or take a shorter horizon"
        )
    known = known.take(slice(horizon))
    expected = axis.after(end, horizon) if axis.kind == "step" or axis.frequency is not None else known.times
    if not np.array_equal(expected, known.times):
        wrong = int(np.argmax(expected != known.times))
        raise ValueError(
            f"future must hold step {wrong + 1} after sequence {id_!r} at {axis.name} {axis.show(expected[wrong])}, "
            f"got {axis.show(known.times[wrong])}"
        )
    return known


def _by_sequence(series: Series, future: Any) -> dict[Any, Steps]:
    """Steps of a table of covariates by sequence, features missing."""
    from .frames import from_dataframe  # which makes data sets

    table, layout = as_pandas(future, "future"), series.layout
    named = layout.columns
    if named.get("form") != "long":
        raise ValueError("future goes with data of a table in long form, got other data: give covariates of all steps")
    static = [covariate for covariate in layout.covariates if covariate.static]
    owner = named.get("sequence")
    owner = owner[0] if isinstance(owner, list) else owner
    if owner is not None and owner not in table.columns and len(series) == 1:
        table = table.assign(**{owner: series.ids[0]})
    for name in (owner, *layout.varying):
        if name is not None and name not in table.columns:
            raise ValueError(f"future must have a column {name!r}, got {[*map(str, table.columns)][:12]}")
    table = table.drop(columns=[covariate.name for covariate in static if covariate.name in table.columns])
    table = table.drop(columns=[name for name in layout.features if name in table.columns])
    table = table.assign(**dict.fromkeys(layout.features, np.nan))
    last = {id_: series.steps(index, -1).covariates[0] for index, id_ in enumerate(series.ids)}
    ids = [series.ids[0]] * len(table) if owner is None else table[owner].tolist()
    kept = np.array([id_ in last for id_ in ids], bool)
    table, ids = table[kept].reset_index(drop=True), [id_ for id_ in ids if id_ in last]
    for covariate in static:
        column = layout.covariates.index(covariate)
        codes = [last[id_][column] for id_ in ids]
        values = [covariate.categories[int(code)] for code in codes] if covariate.kind == "category" else codes
        table = table.assign(**{covariate.name: values})
    if not len(table):
        return {}
    given = from_dataframe(table, like=series)
    return {id_: given.steps(index) for index, id_ in enumerate(given.ids)}


def _stacked(pieces: list[Steps]) -> Steps:
    return Steps(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def _of_steps(like: Series, found: Mapping[Any, Steps]) -> Series:
    """A data set in memory of the steps of each sequence, in the names and the scaling of another."""
    offsets = np.concatenate([[0], np.cumsum([len(steps.times) for steps in found.values()])]).astype(np.int64)
    held = HeldRows([*found], offsets, _stacked([*found.values()]))
    return Series(held, like.layout, like.scaling, like.covariate_scaling)
