"""Series from a folder of CSV or Parquet files."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...checks import require_path
from ..folders.files import list_files
from .frames import from_dataframe
from .series import Series

CSV, PARQUET = (".csv", ".csv.gz", ".tsv", ".tsv.gz"), (".parquet", ".pq")
FILE = "sequence"
"""Column with the path of each file, where a file is a sequence."""


def from_folder(
    folder: Path | str,
    sequence: Any = None,
    time: Any = None,
    values: Any = None,
    covariates: Any = None,
    static: Any = None,
    *,
    csv: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Series:
    """Series of the CSV or Parquet files below a folder, or of one file.

    Every file is used, or named with its reason in ``layout.columns["left_out"]`` and in the record of saved data.

    Args:
        folder: the folder, or a file.
        sequence: column that tells the sequences apart, over all files; None where each file is a sequence, named by
            its path without the ending.
        time, values, covariates, static: columns, as for :func:`zf_pyro.data.from_dataframe`.
        csv: arguments for :func:`pandas.read_csv`, such as ``{"sep": ";", "decimal": ","}``, or ``{"dtype": {"id":
            "str"}}`` for identifiers with leading zeros. By default those of ``like``.
        settings: further arguments of :func:`zf_pyro.data.from_dataframe`.

    Raises:
        FileNotFoundError: no such folder, or no such file in it.
        ImportError: Parquet files need pyarrow.
        ValueError: a file that cannot be read, other columns than in the first file, or what
            :func:`zf_pyro.data.from_dataframe` refuses.
    """
    import pandas as pd

    root = require_path("folder", folder)
    if not root.exists():
        raise FileNotFoundError(f"folder must be a folder of tables or a table, got {root}, which does not exist")
    if root.is_file():
        names, left_out, root = [root.name], [], root.parent
    else:
        listing = list_files(root)
        names = [name for name in listing.files if name.lower().endswith((*CSV, *PARQUET))]
        left_out = [*listing.left_out, *((name, "no table") for name in listing.files if name not in names)]
    if not names:
        raise FileNotFoundError(f"{root} holds no {', '.join((*CSV, *PARQUET))} file: give the folder that does")
    if not isinstance(csv, Mapping | None):
        raise TypeError(f"csv must be a dictionary of arguments for pandas.read_csv, got {type(csv).__name__}")
    like = settings.get("like")
    known: Mapping[str, Any] = like.layout.columns if isinstance(like, Series) else {}
    csv = known.get("csv") if csv is None else csv
    tables = [_read(root / name, csv or {}) for name in names]
    columns = [*tables[0].columns]
    for name, table in zip(names, tables, strict=True):
        if set(table.columns) != set(columns):
            differing = sorted(map(str, set(table.columns) ^ set(columns)))
            raise ValueError(
                f"{root / name} must have the columns of {names[0]}, {columns[:12]}; {differing[0]!r} is in one of "
                "them alone: give files of one kind"
            )
    sequence = known.get("sequence") if sequence is None else sequence
    if sequence is None or (known and sequence == FILE and FILE not in columns):
        sequence = FILE
        if FILE in columns:
            raise ValueError(f"{names[0]} has a column {FILE!r}: name it as sequence=, or rename it")
        stems = [_stem(name) for name in names]
        twice = [name for name, stem in zip(names, stems, strict=True) if stems.count(stem) > 1]
        if twice:
            raise ValueError(f"{twice[0]} and {twice[1]} have one name but for their endings: rename or move one")
        tables = [table.assign(**{FILE: stem}) for table, stem in zip(tables, stems, strict=True)]
    table = pd.concat(tables, ignore_index=True)
    found = from_dataframe(table, sequence, time, values, covariates, static, **settings)
    arguments = {**found.layout.columns, "left_out": [list(pair) for pair in left_out], "csv": _plain(csv)}
    found.layout = dataclasses.replace(found.layout, columns=arguments)
    return found


def _plain(csv: Mapping[str, Any] | None) -> Any:
    """Arguments of pandas in JSON's types.

    Raises:
        TypeError: others, which no record could hold.
    """
    try:
        return json.loads(json.dumps(dict(csv or {})))
    except TypeError as error:
        raise TypeError(
            f"csv must hold text, numbers, lists and dictionaries, so that new data can be read alike, got {csv!r}: "
            "write types as text, for example 'str'"
        ) from error


def _stem(name: str) -> str:
    """A file's path without its ending."""
    ending = next(end for end in sorted((*CSV, *PARQUET), key=len, reverse=True) if name.lower().endswith(end))
    return name[: -len(ending)]


def _read(path: Path, csv: Mapping[str, Any]) -> Any:
    """The table of one file."""
    import pandas as pd

    try:
        if path.name.lower().endswith(PARQUET):
            table = pd.read_parquet(path)
            return table if isinstance(table.index, pd.RangeIndex) else table.reset_index()
        default = {"sep": "\t"} if ".tsv" in path.name.lower() else {}
        table = pd.read_csv(path, **{"low_memory": False, "float_precision": "round_trip", **default, **csv})
    except ImportError as error:
        raise ImportError(f"{path} needs pyarrow to be read: pip install zf-pyro[series]") from error
    except (ValueError, UnicodeDecodeError, OSError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read as a table ({str(error).splitlines()[0]}): correct it, or say how it is written, "
            "as in csv={'sep': ';', 'decimal': ',', 'encoding': 'latin1'}"
        ) from error
    if not len(table):
        raise ValueError(f"{path} holds no rows: leave it out")
    return table
