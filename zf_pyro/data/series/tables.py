"""Tables of other libraries as pandas, and the roles of their columns."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def as_pandas(frame: Any, name: str = "frame") -> Any:
    """A table as a :class:`pandas.DataFrame`.

    Args:
        frame: a table of pandas; one of another library that has ``to_pandas``, the dataframe interchange protocol or
            Arrow's stream of columns, such as polars; or an xarray Dataset or DataArray, whose dimensions become
            columns.
        name: the argument's name, for errors.

    Raises:
        ImportError: the other library needs a package to convert its table.
        TypeError: no table.
    """
    import pandas as pd

    if isinstance(frame, pd.DataFrame):
        return _without_arrow(frame)
    if isinstance(frame, pd.Series):
        return _without_arrow(frame.to_frame(frame.name if frame.name is not None else "value"))
    if hasattr(frame, "dims") and hasattr(frame, "to_dataframe"):
        return _of_xarray(frame, name)
    try:
        if hasattr(frame, "to_pandas"):
            return _without_arrow(frame.to_pandas())
        if hasattr(frame, "__arrow_c_stream__") and hasattr(pd.DataFrame, "from_arrow"):
            return pd.DataFrame.from_arrow(frame)
        if hasattr(frame, "__dataframe__") and hasattr(pd.api, "interchange"):
            with warnings.catch_warnings():  # pandas 3 prefers Arrow, which this table has not
                warnings.filterwarnings("ignore", "The Dataframe Interchange Protocol")
                return pd.api.interchange.from_dataframe(frame)
    except ImportError as error:
        raise ImportError(
            f"{name}, a {type(frame).__module__.split('.')[0]} table, needs pyarrow to become one of pandas "
            f"({error}): pip install zf-pyro[series]"
        ) from error
    advice = ""
    if isinstance(frame, Mapping):
        advice = ": give pandas.DataFrame(...) of it"
    elif hasattr(frame, "collect"):
        advice = ": give what its collect() returns"
    elif isinstance(frame, list | tuple) or hasattr(frame, "shape"):
        advice = ": give arrays to zf_pyro.data.from_arrays"
    elif isinstance(frame, str) or hasattr(frame, "__fspath__"):
        advice = ": give a folder of files to zf_pyro.data.from_folder, or pandas.read_csv(...) of one"
    raise TypeError(f"{name} must be a table, such as a pandas.DataFrame, got {type(frame).__name__}{advice}")


def _without_arrow(table: Any) -> Any:
    """The table with columns of Arrow as those of NumPy and pandas, which all say what they hold in one way."""
    import pandas as pd

    arrow = [i for i, dtype in enumerate(table.dtypes) if isinstance(dtype, pd.ArrowDtype)]
    if not arrow:
        return table
    columns = [
        pd.Series(column.to_numpy(dtype=object, na_value=None), column.index, name=column.name).infer_objects()
        if i in arrow
        else column
        for i, (_, column) in enumerate(table.items())
    ]
    return pd.concat(columns, axis=1)


def _of_xarray(frame: Any, name: str) -> Any:
    """Table of an xarray object, a row per combination of its dimensions."""
    if hasattr(frame, "to_dataset"):  # a DataArray
        if frame.name is None:
            frame = frame.rename("value")
        frame = frame.to_dataset()
    if not frame.dims:
        raise TypeError(f"{name} must have dimensions, of sequences and times, got an xarray object without")
    return frame.to_dataframe().reset_index()


def names_of(role: str, given: Any, *, steps: bool = False) -> list[Any]:
    """Names of columns that an argument gives: one name, or several.

    Args:
        role: the argument's name, for errors.
        given: what came.
        steps: columns of steps, whose names may be anything, such as dates.

    Raises:
        TypeError: something else.
    """
    if given is None:
        return []
    if isinstance(given, str | int):
        return [given]
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        advice = ": groups of columns are for form='wide'" if isinstance(given, Mapping) else ""
        raise TypeError(f"{role} must be names of columns, got {type(given).__name__}{advice}")
    found = [column.item() if isinstance(column, np.generic) and not steps else column for column in given]
    for column in () if steps else found:
        if not isinstance(column, str | int) or isinstance(column, bool):
            raise TypeError(f"{role} must be names of columns, strings or integers, got {column!r}")
    return found


def with_index(table: Any, wanted: Iterable[Any], idle: str | None) -> Any:
    """The table with those levels of its index as columns that are asked for by name.

    Args:
        table: a table of pandas.
        wanted: columns that are asked for.
        idle: an argument that could name the index and was not given; None if there is none.

    Raises:
        ValueError: the index holds dates, text or several levels, and no argument names it.
    """
    import pandas as pd

    levels = [level for level in table.index.names if level is not None]
    missing = [column for column in wanted if column not in table.columns]
    if missing and (any(column in levels for column in missing) or "index" in missing):
        return table.reset_index()
    plain = not isinstance(table.index, pd.MultiIndex) and pd.api.types.is_integer_dtype(table.index.dtype)
    if idle is not None and not plain and len(table):
        shown = levels or ["index"]
        raise ValueError(
            f"frame has an index of {shown} that no argument names: name its levels as sequence= or time=, for example "
            f"{idle}={shown[-1]!r}, or drop it with frame.reset_index(drop=True)"
        )
    return table


def without_ends(table: Any, sequence: list[Any], columns: list[Any]) -> Any:
    """The table without the last rows of each sequence in which nothing is known.

    Args:
        table: a table of pandas, the rows of each sequence in order.
        sequence: column of the sequences, if there is one.
        columns: features and covariates that vary. A sequence of which nothing is known keeps all rows.
    """
    known = table[columns].notna().any(axis=1).to_numpy()
    owner = table[sequence[0]].to_numpy() if sequence else np.zeros(len(table))
    import pandas as pd

    rows = pd.Series(np.where(known, np.arange(len(table)), -1))
    last = rows.groupby(pd.factorize(owner)[0]).transform("max").to_numpy()
    return table[(np.arange(len(table)) <= last) | (last < 0)].reset_index(drop=True)


def require_columns(table: Any, roles: Mapping[str, list[Any]]) -> None:
    """Refuse columns that are missing, there twice, or named for two roles.

    Raises:
        ValueError: the first such column.
    """
    import pandas as pd

    if isinstance(table.columns, pd.MultiIndex):
        raise ValueError(
            "frame must have one level of column names, got several: join them, as in frame.columns.map('_'.join)"
        )
    seen: dict[Any, str] = {}
    for role, columns in roles.items():
        for column in columns:
            count = int((table.columns == column).sum())
            if not count:
                raise ValueError(f"{role} must name columns of the table, {[*table.columns][:12]}, got {column!r}")
            if count > 1:
                raise ValueError(f"frame has {count} columns {column!r}: rename or drop the others")
            if column in seen:
                other = seen[column]
                where = f"twice in {role}" if other == role else f"as {other} and as {role}"
                raise ValueError(f"column {column!r} is named {where}: name it once, or give a copy under another name")
            seen[column] = role
    texts = [str(column) for column in seen]
    if len(set(texts)) < len(texts):
        raise ValueError(f"names of columns must differ as text, got {texts}")
