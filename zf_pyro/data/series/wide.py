"""Tables with a row per sequence and a column per step, as tables with a row per step."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .tables import names_of, require_columns, with_index, without_ends

IDS, TIMES = "sequence", "time"
"""Columns that are added where there are none."""


def to_long(table: Any, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The table in long form, and the arguments that fit it.

    Args:
        table: a table of pandas.
        given: arguments of :func:`zf_pyro.data.from_dataframe`.

    Raises:
        TypeError, ValueError: no groups of columns, groups of several lengths, or times of another number.
    """
    import pandas as pd

    sequence, static = names_of("sequence", given["sequence"]), names_of("static", given["static"])
    groups = _groups("values", given["values"], "value")
    known = _groups("covariates", given["covariates"], None) if given["covariates"] is not None else {}
    columns = [column for group in (groups | known).values() for column in group]
    table = with_index(table, [*sequence, *static, *columns], None if sequence else "sequence")
    require_columns(table, {"sequence": sequence, "static": static, "values": columns})
    steps = {len(group) for group in (groups | known).values()}
    if len(steps) != 1:
        sizes = {name: len(group) for name, group in (groups | known).items()}
        raise ValueError(f"values and covariates must list as many columns for each name, one per step, got {sizes}")
    count, rows = steps.pop(), len(table)
    times = given["time"]
    if times is not None:
        if isinstance(times, str) or not hasattr(times, "__len__") or len(times) != count:
            raise ValueError(
                f"time must list the times of the {count} steps in the wide form, got {times!r}: give a list of them"
            )
        times = list(times)
    clash = [name for name in (*groups, *known) if name in (*sequence, *static, IDS, TIMES)]
    if clash:
        raise ValueError(f"{clash[0]!r} is the name of a feature or covariate and of another column: rename it")
    ids = table[sequence[0]] if sequence else pd.Series(np.arange(rows), table.index)
    if ids.duplicated().any():
        raise ValueError(
            f"sequence column {sequence[0]!r} has {ids[ids.duplicated()].iloc[0]!r} in two rows: in the wide form a "
            "row is a sequence"
        )
    name = str(sequence[0]) if sequence else IDS
    index = np.arange(rows).repeat(count)
    long: dict[str, Any] = {name: ids.iloc[index].array}
    if times is not None:
        long[TIMES] = pd.Series(times).iloc[np.tile(np.arange(count), rows)].array
    for column in static:
        long[str(column)] = table[column].iloc[index].array
    for group, members in (groups | known).items():
        parts = pd.concat([table[column].rename(group) for column in members], ignore_index=True)
        long[group] = parts.iloc[np.arange(rows * count).reshape(count, rows).T.ravel()].array
    found = without_ends(pd.DataFrame(long), [name], [*groups, *known])
    arguments = {
        **given,
        "sequence": name,
        "time": TIMES if times is not None else None,
        "values": [*groups],
        "covariates": [*known] or None,
        "static": [str(column) for column in static] or None,
    }
    return found, arguments


def _groups(role: str, given: Any, single: str | None) -> dict[str, list[Any]]:
    """Columns of the steps of each feature or covariate."""
    if isinstance(given, Mapping):
        found = {str(name): names_of(role, columns, steps=True) for name, columns in given.items()}
    elif single is not None and isinstance(given, Iterable) and not isinstance(given, str):
        found = {single: names_of(role, given, steps=True)}
    else:
        form = (
            "the columns of the steps, or a dictionary {feature: columns}" if single else "a dictionary {name: columns}"
        )
        raise TypeError(f"{role} must be {form} in the wide form, got {given!r}")
    if not found or not all(found.values()):
        raise ValueError(f"{role} must list a column at least for each name, got {found}")
    return found
