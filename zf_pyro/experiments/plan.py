"""Plan of a sweep: the runs behind tables of results, read from a JSON file and checked.

A plan is one JSON object::

    {"script": "examples/polyphonic.py", "runs": "runs/polyphonic", "results": "docs/results/polyphonic",
     "flags": {"corpus": "jsb"}, "select": ["validation, 8 particles", "particle"],
     "tables": [{"name": "jsb", "rows": [
         {"name": "vrnn_32", "label": "VRNN, 32 units", "flags": {"model": "vrnn"}, "seeds": [0, 1, 2],
          "settings": [{}, {"dropout": 0.3}]},
         {"label": "VRNN, as published", "published": {"ELBO": -8.69}}]}]}

Every setting of a row runs under its first seed, without the test set (``--test_sequences 0``) where there are several.
The setting with the best validation figure is then scored on the test set, runs under the other seeds, and is the one
that tables show. Flags of the plan, a table, a row and a setting are joined in this order. A
plan or a table may have ``columns``, such as ``[["ELBO", "test", "elbo"]]``: a title, an evaluation and a bound; in
place of an evaluation ``training``, of ``auxiliary`` or ``earned``, for means of the logs in nats per sequence, or of
``gradient``, for the norm of the auxiliary's gradient over that of the likelihood's. A
table may have ``reach``, validation bounds in nats per sequence: its table then shows when each run reached them. A
table may have ``against``, the name of a row of any table: paired differences from it then stand below the table. A
row's ``grid``, such as ``{"dropout": [0.0, 0.3]}``, is joined with each of its settings. Folders are relative to the
working directory.
"""

import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .command import SWITCHES
from .curves import OF_TRAINING

NAME = re.compile(r"\w[\w.-]*")
Flags = dict[str, Any]


class PlannedRun(NamedTuple):
    """One run of a script."""

    name: str
    """Name of its folder and of its result."""
    arguments: list[str]
    """Arguments of the script, without ``--out``."""
    scored: bool = True
    """Whether the test set is scored: not while the setting is still to be chosen."""


class PlannedRow(NamedTuple):
    """Line of a table: one model, its settings to choose from, and its seeds."""

    name: str
    label: str
    flags: Flags
    settings: list[Flags]
    seeds: list[int]
    select: tuple[str, str]
    """Evaluation and bound by which the setting is chosen."""
    published: dict[str, float | None] | None
    """Figures by column, of a line that is quoted and not run."""

    def run(self, setting: Flags, seed: int, scored: bool = True) -> PlannedRun:
        """The run of a setting under a seed, with or without the test set."""
        chosen = "_".join(f"{flag}-{_plain(value)}" for flag, value in setting.items())
        name = ".".join(part for part in (self.name, re.sub(r"[^\w.-]", "", chosen), f"seed{seed}") if part)
        return PlannedRun(name, arguments_of({**self.flags, **setting, "seed": seed}), scored)


TRAINING = "training"
"""In place of an evaluation: what stands in the logs, nats per sequence."""


class Column(NamedTuple):
    """A figure of the results, in nats per frame; of training in nats per sequence."""

    title: str
    evaluation: str
    """Name of the evaluation in results.json, or of another group of figures there; or "training"."""
    bound: str
    """Name of the bound, or kl; of training, auxiliary, earned or gradient; of another group, that of the figure."""


COLUMNS = (
    Column("ELBO", "test, 8 particles", "elbo"),
    Column("IWAE-5", "test, 5 particles", "importance_weighted"),
    Column("FIVO-5", "test, 5 particles", "particle"),
    Column("FIVO-8", "test, 8 particles", "particle"),
    Column("FIVO-64", "test, 64 particles", "particle"),
    Column("KL", "test, 8 particles", "kl"),
)
"""Bounds on the test set of polyphonic music, by the names that they have in the literature."""


class PlannedTable(NamedTuple):
    """A table of results."""

    name: str
    rows: list[PlannedRow]
    reach: list[float]
    """Validation bounds, nats per sequence, whose steps and seconds the table shows."""
    columns: tuple[Column, ...]
    """What the table shows of each run. A log-likelihood stands for all bounds."""
    against: str | None = None
    """Name of the row from which the others are told apart, paired over the test sequences."""


class Sweep(NamedTuple):
    """Runs behind tables of results."""

    script: Path
    runs: Path
    """Folder of the runs."""
    results: Path
    """Folder of their results, one small file each."""
    tables: list[PlannedTable]

    @property
    def rows(self) -> list[PlannedRow]:
        """Rows of all tables that have runs."""
        return [row for table in self.tables for row in table.rows if row.published is None]


def read_plan(path: Path) -> Sweep:
    """Read a plan.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no plan; names the field.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error})") from error
    what = f"{path}: a plan"
    _known(found, what, {"script", "runs", "results", "tables"}, {"flags", "select", "columns"})
    tables = [_table(table, f"{path}: table {i}", found) for i, table in enumerate(_list(found["tables"], what))]
    plan = Sweep(Path(found["script"]), Path(found["runs"]), Path(found["results"]), tables)
    known = [row.name for row in plan.rows]
    for table in tables:
        if table.against is not None and table.against not in known:
            raise ValueError(f"{path}: table {table.name!r} must be against the name of a row, got {table.against!r}")
    names = [row.run(setting, seed).name for row in plan.rows for setting in row.settings for seed in row.seeds]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path} names two runs {twice[0]!r}: give each row its own name, and each setting once")
    return plan


def arguments_of(flags: Mapping[str, Any]) -> list[str]:
    """Flags as arguments of a command line; null leaves a flag out, and true sets a switch."""
    found: list[str] = []
    for flag, value in flags.items():
        if flag in SWITCHES:
            found += [f"--{flag}"] if value else []
        elif value is not None:
            found += [f"--{flag}", _plain(value)]
    return found


def _plain(value: Any) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _table(found: Any, what: str, plan: Mapping[str, Any]) -> PlannedTable:
    _known(found, what, {"name", "rows"}, {"flags", "select", "reach", "columns", "against"})
    flags = {**plan.get("flags", {}), **found.get("flags", {})}
    select = found.get("select", plan.get("select"))
    rows = _list(found["rows"], what)
    planned = [_row(row, f"{what}, row {i}", flags, select) for i, row in enumerate(rows)]
    reach = found.get("reach", [])
    if not isinstance(reach, list) or any(isinstance(bound, bool | str) for bound in reach):
        raise ValueError(f"{what} must have numbers of nats per sequence to reach, got {reach!r}")
    columns = found.get("columns", plan.get("columns", [list(column) for column in COLUMNS]))
    if not isinstance(columns, list) or any(not isinstance(each, list) or len(each) != 3 for each in columns):
        raise ValueError(f"{what} must have columns of a title, an evaluation and a bound, got {columns!r}")
    shown = tuple(Column(*map(str, each)) for each in columns)
    for column in shown:
        if column.evaluation == TRAINING and column.bound not in OF_TRAINING:
            raise ValueError(f"{what} must have columns of training of {', '.join(OF_TRAINING)}, got {column.bound!r}")
    return PlannedTable(str(found["name"]), planned, [float(bound) for bound in reach], shown, found.get("against"))


def _row(found: Any, what: str, flags: Flags, select: Any) -> PlannedRow:
    if isinstance(found, dict) and "published" in found:
        _known(found, what, {"label", "published"}, set())
        return PlannedRow("", str(found["label"]), {}, [], [], ("", ""), dict(found["published"]))
    _known(found, what, {"name", "label"}, {"flags", "settings", "grid", "seeds", "select"})
    if not isinstance(found["name"], str) or not NAME.fullmatch(found["name"]):
        raise ValueError(f"{what} must have a name of letters, digits, _, - and ., got {found['name']!r}")
    chosen = found.get("select", select)
    if not isinstance(chosen, list) or len(chosen) != 2 or not str(chosen[0]).startswith("validation"):
        raise ValueError(
            f"{what} must select by an evaluation of the validation set and a bound, such as "
            f'["validation, 8 particles", "particle"], got {chosen!r}'
        )
    settings = _list(found.get("settings", [{}]), what)
    grid = found.get("grid", {})
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    joined = [{**setting, **point} for setting in settings for point in points]
    seeds = _list(found.get("seeds", [0]), what)
    if any(isinstance(seed, bool) or not isinstance(seed, int) for seed in seeds):
        raise ValueError(f"{what} must have integers as seeds, got {seeds!r}")
    return PlannedRow(
        found["name"], str(found["label"]), {**flags, **found.get("flags", {})}, joined, seeds, tuple(chosen), None
    )


def _known(found: Any, what: str, needed: set[str], optional: set[str]) -> None:
    """Refuse other fields."""
    if not isinstance(found, dict) or not needed <= found.keys() <= needed | optional:
        got = sorted(found) if isinstance(found, dict) else type(found).__name__
        more = f", may have {', '.join(sorted(optional))}" if optional else ""
        raise ValueError(f"{what} must have {', '.join(sorted(needed))}{more}; got {got}")


def _list(found: Any, what: str) -> list[Any]:
    if not isinstance(found, list) or not found:
        raise ValueError(f"{what} must have lists of tables, rows, settings and seeds, got {found!r}")
    return found
