"""Column of a .csv or .tsv table, read without its rows being shifted or cut."""

import csv
import io
from collections import Counter
from pathlib import Path

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Delimiters of tables by suffix. Files of any other suffix are text, one review per line."""


def suffix_of(path: Path) -> str:
    """Return the suffix of a file in lower case, without a trailing .gz."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def read_table(path: Path, text: str, column: str) -> list[tuple[int, str]]:
    """Read (line on which it ends, text in the column) of each row.

    Args:
        path: the file, for its delimiter and for errors.
        text: its content.
        column: the column's name in the first line.

    Raises:
        ValueError: no such column, two of that name, or a row whose fields are not those of the first line.
    """
    limit = csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))  # it holds for the whole process
    try:
        return _rows(path, text, column)
    finally:
        csv.field_size_limit(limit)


def _rows(path: Path, text: str, column: str) -> list[tuple[int, str]]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=DELIMITERS[suffix_of(path)], strict=True)
    found, line = [], 1
    try:
        names = next(rows, [])
        if Counter(names)[column] != 1:
            shown = ", ".join(map(repr, names)) or "none: the file is empty"
            count = f"{Counter(names)[column]} columns" if column in names else "no column"
            raise ValueError(
                f"{path} has {count} {column!r}, its first line names {shown}: "
                "name the column that holds the text with --text_column"
            )
        at = names.index(column)
        for row in rows:
            line = rows.line_num
            if row and len(row) != len(names) and at < len(row):
                raise ValueError(
                    f"{path}, line {line}: a row of {len(row)} fields, the first line has {len(names)}: quote "
                    "texts with double quotes, doubled within a text"
                )
            if row:
                found.append((line, row[at] if at < len(row) else ""))
    except csv.Error as error:
        raise ValueError(
            f"{path}, after line {line}: {error}: quote texts with double quotes, doubled within a text"
        ) from error
    return found
