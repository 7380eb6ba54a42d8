"""Columns of a table as numbers: features, and covariates that are numbers, flags or categories."""

from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

from .layout import Category, Covariate

WHOLE = 2**53
"""Largest integer up to which float64 holds all."""


def numbers(column: Any, name: str, role: str) -> tuple[np.ndarray, bool]:
    """Values of a column of pandas, (rows,) float64, NaN where missing; and whether they are True and False alone.

    Args:
        column: the column.
        name: its name.
        role: its role, for errors.

    Raises:
        TypeError: text, dates or other objects.
        ValueError: an infinite value.
    """
    import pandas as pd

    dtype = column.dtype
    if isinstance(dtype, pd.StringDtype | pd.CategoricalDtype) or pd.api.types.is_object_dtype(dtype):
        found, flag = _from_objects(column, name, role)
    elif pd.api.types.is_bool_dtype(dtype) or (pd.api.types.is_numeric_dtype(dtype) and dtype.kind != "c"):
        found, flag = column.to_numpy(np.float64, na_value=np.nan), bool(pd.api.types.is_bool_dtype(dtype))
        if dtype.kind in "iu" and (np.abs(found) > WHOLE).any():
            row = column.index[np.abs(found) > WHOLE][0]
            raise ValueError(
                f"{role} {name!r} has an integer beyond 2^53 in row {row!r}, whose last digits would be lost: subtract "
                "an offset, or give it as text under covariates= if it is a category"
            )
    else:
        raise TypeError(
            f"{role} {name!r} must hold numbers, got {dtype}: convert it, for example to seconds since a date, or "
            "leave it out"
        )
    infinite = np.isinf(found)
    if infinite.any():
        row = column.index[infinite][0]
        raise ValueError(
            f"{role} {name!r} has an infinite value in row {row!r}: correct it, or make it missing, as in "
            f"frame[{name!r}].replace([inf, -inf], nan)"
        )
    return found, flag


def covariate(column: Any, name: str, static: bool, known: Covariate | None = None) -> tuple[Covariate, np.ndarray]:
    """A covariate of a column of pandas, and its values, (rows,) float64: NaN where missing, indices of categories.

    Text and pandas categories are categories, in the order of the text or of their dtype; those that occur count.

    Args:
        column: the column.
        name: its name.
        static: whether it is one value per sequence.
        known: the same covariate of earlier data, whose categories hold.

    Raises:
        TypeError: dates, or text mixed with numbers.
        ValueError: an infinite value, or a category that the earlier data have not.
    """
    import pandas as pd

    categorical = isinstance(column.dtype, pd.CategoricalDtype)
    text = isinstance(column.dtype, pd.StringDtype) or (
        pd.api.types.is_object_dtype(column.dtype) and _holds_text(column)
    )
    if not categorical and not text:
        found, flag = numbers(column, name, "covariate")
        kind = "flag" if flag else "number"
        if known is not None and known.kind == "category":
            raise TypeError(f"covariate {name!r} must hold categories as the earlier data, got {column.dtype}")
        return Covariate(name, kind if known is None else known.kind, static=static), found
    if known is not None and known.kind != "category":
        raise TypeError(f"covariate {name!r} must hold numbers as the earlier data, got text or categories")
    present = column.dropna()
    if categorical:
        kept = present.cat.remove_unused_categories().cat.categories
        labels = [_plain(label, name) for label in kept]
    else:
        mixed = [value for value in present if not isinstance(value, str)]
        if mixed:
            raise TypeError(
                f"covariate {name!r} mixes text with {type(mixed[0]).__name__}, as in row "
                f"{present.index[[not isinstance(value, str) for value in present]][0]!r}: give text or numbers alone"
            )
        labels = sorted(set(present))
    order: Sequence[Category] = labels if known is None else known.categories
    unseen = [label for label in labels if label not in order]
    if unseen:
        raise ValueError(
            f"covariate {name!r} has the category {unseen[0]!r}, which the data that were prepared first have not: "
            f"they have {list(order)[:8]}. Leave these rows out, name one of those, or train again with it"
        )
    position = {label: i for i, label in enumerate(order)}
    codes, uniques = pd.factorize(column)
    index = np.array([position[_plain(label, name)] for label in uniques] + [np.nan], np.float64)
    return Covariate(name, "category", tuple(order), static), index[codes]


def _holds_text(column: Any) -> bool:
    return any(isinstance(value, str) for value in column)


def _plain(label: Any, name: str) -> Category:
    """A category as text, number or flag, which a record can hold."""
    label = label.item() if isinstance(label, np.generic) else label
    if not isinstance(label, str | int | float | bool):
        raise TypeError(
            f"covariate {name!r} has categories that are {type(label).__name__}: convert them with "
            f"frame[{name!r}].astype(str)"
        )
    return label


def _from_objects(column: Any, name: str, role: str) -> tuple[np.ndarray, bool]:
    """Numbers of a column of Python objects, (rows,) float64; and whether they are True and False alone."""
    import pandas as pd

    found, flags = np.full(len(column), np.nan), 0
    for i, value in enumerate(column):
        if isinstance(value, Real | Decimal | np.bool_):
            found[i] = float(value)
            flags += isinstance(value, bool | np.bool_)
        elif value is not None and value is not pd.NA and value is not pd.NaT:
            raise TypeError(
                f"{role} {name!r} must hold numbers, got {value!r} in row {column.index[i]!r}: convert it with "
                f"pandas.to_numeric(frame[{name!r}], errors='coerce'), which makes text missing, or name it under "
                "covariates= if it is a category"
            )
    return found, 0 < flags == int((~np.isnan(found)).sum())
