"""Series from a table in long or wide form."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...checks import require_choice
from .assembly import GivenRows, Settings, assemble
from .columns import covariate, numbers
from .layout import Covariate
from .series import Series
from .tables import as_pandas, names_of, require_columns, with_index, without_ends
from .times import TimeAxis, read_times
from .wide import to_long

FORMS = ("long", "wide")


def from_dataframe(
    frame: Any,
    sequence: Any = None,
    time: Any = None,
    values: Any = None,
    covariates: Any = None,
    static: Any = None,
    *,
    form: str = "long",
    scaling: Any = "standard",
    frequency: Any = None,
    time_gap: bool = False,
    fill_covariates: str | None = None,
    like: Series | None = None,
) -> Series:
    """Series of a table: pandas, polars and others by the dataframe interchange or Arrow, or xarray.

    In the ``long`` form a row is a step of a sequence. Rows of sequences may alternate; times must ascend within each.
    In the ``wide`` form a row is a sequence and a column a step. ``values`` then lists the columns of the steps, or
    is a dictionary {feature: columns}; ``covariates`` is such a dictionary; ``time`` lists the times of the steps.
    Steps at the end of a row at which nothing is known are beyond the end of the sequence.

    Missing values (NaN, None, NA, NaT) are gaps: ``observed`` is False there. Covariates are known at every step.
    Numbers are scaled, True and False are 0 and 1, and text and pandas categories become a column of zeros and ones
    each, which the first layer of a network embeds. Whole tables are scaled by their own mean and deviation;
    :meth:`Series.split` scales by the training part alone.

    Args:
        frame: the table. Levels of its index count as columns.
        sequence: column that tells the sequences apart; None for one sequence (long), or one per row (wide).
        time: column of times: dates, durations, numbers, or text that is a date of ISO 8601. Without it, the rows of a
            sequence are its steps in their order.
        values: columns of the features; all that no other argument names if None (long).
        covariates: columns of what is known at every step, in the future too.
        static: columns of covariates with one value per sequence, repeated at every step.
        form: ``"long"`` or ``"wide"``.
        scaling: ``"standard"``, ``"robust"`` (median and interquartile range) or ``"none"`` for the features, or a
            dictionary of these by column, covariates among them. What it does not name is standard; True and False are
            not scaled.
        frequency: step of a regular grid, such as ``"D"``, ``"h"`` or a number: rows that are missing on it become
            frames without values. A time off the grid is refused. None takes times as they are.
        time_gap: add the covariate ``time_gap``, the time since the last frame, in seconds for dates and durations.
        fill_covariates: ``"forward"`` repeats the last known value of a covariate where it is missing.
        like: earlier data, whose columns, categories and scaling hold: for new data of a trained network. What is None
            here is taken from it.

    Raises:
        ImportError: another library's table needs pyarrow.
        TypeError: no table, or columns of a type that cannot be used.
        ValueError: columns or rows that cannot be used; the message says which, and what to do.
    """
    form = require_choice("form", form, FORMS)
    given = {
        "sequence": sequence,
        "time": time,
        "values": values,
        "covariates": covariates,
        "static": static,
        "form": form,
        "frequency": frequency,
        "time_gap": time_gap,
        "fill_covariates": fill_covariates,
    }
    return from_table(as_pandas(frame), given, scaling, like, cut=hasattr(frame, "dims"))


def from_table(table: Any, given: dict[str, Any], scaling: Any, like: Series | None, *, cut: bool = False) -> Series:
    """Series of a table of pandas, by the arguments of :func:`from_dataframe`.

    Args:
        table: a table of pandas.
        given: arguments by name.
        scaling: likewise.
        like: likewise.
        cut: leave out the last rows of each sequence in which nothing is known: those of an array of equal lengths.
    """
    asked = given = _completed(given, like)
    if given["form"] == "wide":
        table, given = to_long(table, given)
    elif cut:
        sequence, static = names_of("sequence", given["sequence"]), names_of("static", given["static"])
        idle = {*sequence, *static, *names_of("time", given["time"])}
        varying = [column for column in table.columns if column not in idle]
        table = without_ends(table, sequence, names_of("values", given["values"]) or varying)
    parts, settings = long_table(table, given, scaling, like)
    columns = {**asked, "values": settings.columns["values"] if asked["values"] is None else asked["values"]}
    return assemble(parts, settings._replace(columns=_recorded(columns)), like)


def long_table(table: Any, given: Mapping[str, Any], scaling: Any, like: Series | None) -> tuple[GivenRows, Settings]:
    """Columns of a table in long form, by the arguments of :func:`from_dataframe`."""
    sequence, time = names_of("sequence", given["sequence"]), names_of("time", given["time"])
    for role, columns in (("sequence", sequence), ("time", time)):
        if len(columns) > 1:
            raise ValueError(f"{role} must be one column, got {columns}: join them into one")
    static, covariates = names_of("static", given["static"]), names_of("covariates", given["covariates"])
    features = names_of("values", given["values"])
    idle = None if time else "time"
    table = with_index(table, [*sequence, *time, *covariates, *static, *features], idle)
    roles = {"sequence": sequence, "time": time, "values": features, "covariates": covariates, "static": static}
    if not features:
        taken = {column for columns in roles.values() for column in columns}
        features = roles["values"] = [column for column in table.columns if column not in taken]
    require_columns(table, roles)
    if not len(table) or not features:
        what = "rows" if features else "columns of values"
        raise ValueError(f"frame must hold {what}, got shape {table.shape}: {'give' if features else 'name'} some")
    ids, owner = _sequences(table, sequence)
    if time:
        times, axis = read_times(table[time[0]], str(time[0]))
    else:
        times, axis = _counted(owner, len(ids)), TimeAxis()
    found = [numbers(table[column], str(column), "feature") for column in features]
    known = {covariate.name: covariate for covariate in like.layout.covariates} if like is not None else {}
    read = [_covariate(table, column, column in static, known) for column in (*covariates, *static)]
    parts = GivenRows(
        ids,
        owner,
        times,
        axis,
        [*map(str, features)],
        [flag for _, flag in found],
        np.stack([values for values, _ in found], axis=1),
        read,
        str(sequence[0]) if sequence else "sequence",
        [*map(str, (*sequence, *time))],
    )
    settings = Settings(scaling, given["frequency"], given["time_gap"], given["fill_covariates"], {"values": features})
    return parts, settings


def _completed(given: dict[str, Any], like: Series | None) -> dict[str, Any]:
    """Arguments, those that are None or left as they are taken from earlier data."""
    if like is None:
        return given
    if not isinstance(like, Series):
        raise TypeError(f"like must be a zf_pyro.data.Series, got {type(like).__name__}")
    if "form" not in like.layout.columns:
        raise ValueError("like must come from a table, got data of arrays: prepare new arrays with from_arrays")
    default = {"form": "long", "time_gap": False}
    return {name: like.layout.columns[name] if value == default.get(name) else value for name, value in given.items()}


def _recorded(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments in JSON's types."""
    return {name: _plain(value) for name, value in columns.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if hasattr(value, "freqstr") and not hasattr(value, "__len__"):
        return value.freqstr
    return [_plain(part) for part in value] if hasattr(value, "__iter__") else str(value)


def _sequences(table: Any, sequence: list[Any]) -> tuple[list[Any], np.ndarray]:
    """Identifiers in the order in which they occur, and the index of each row's; (rows,)."""
    import pandas as pd

    if not sequence:
        return [0], np.zeros(len(table), np.int64)
    owner, ids = pd.factorize(table[sequence[0]])
    if (owner < 0).any():
        row = table.index[owner < 0][0]
        raise ValueError(
            f"sequence column {sequence[0]!r} is missing in row {row!r}: name its sequence, or leave it out"
        )
    return [id_.item() if isinstance(id_, np.generic) else id_ for id_ in ids], owner.astype(np.int64)


def _counted(owner: np.ndarray, count: int) -> np.ndarray:
    """Position of each row among those of its sequence; (rows,)."""
    order = np.argsort(owner, kind="stable")
    sizes = np.bincount(owner, minlength=count)
    places = np.empty(len(owner), np.int64)
    places[order] = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return places


def _covariate(table: Any, column: Any, static: bool, known: Mapping[str, Covariate]) -> tuple[Covariate, np.ndarray]:
    return covariate(table[column], str(column), static, known.get(str(column)))
