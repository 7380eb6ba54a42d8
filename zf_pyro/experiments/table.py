"""Tables of a plan's results in Markdown: ``python -m zf_pyro.experiments.table PLAN [--page docs/results.md]``.

``--tables`` takes those of a name, with * and ?. With ``--page`` each table replaces what stands between
``<!-- table NAME -->`` and ``<!-- end of table NAME -->``.
"""

import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from ..checks import require_jsonargparse
from ..saving import write_atomically
from .curves import steps_to
from .paired_table import markdown, paired_table
from .plan import TRAINING, PlannedRow, PlannedTable, Sweep, read_plan
from .planned_results import Results, figure, finished

MISSING = ""


def table_of(plan: Sweep, table: PlannedTable) -> str:
    """A table in Markdown: for each row the mean over its seeds, then each seed; quoted figures as they are.

    Rows whose runs are not finished are left out, and named below the table. The runs' commands stand last, folded.
    """
    titles, times = [column.title for column in table.columns], [f"steps, seconds to {b:g}" for b in table.reach]
    header = ("model", "seed", "validation", *titles, "parameters", "seconds", *times)
    lines, unfinished, commands = [header, ("---",) * len(header)], [], []
    for row in table.rows:
        if row.published is not None:
            figures = [_shown(row.published.get(column.title)) for column in table.columns]
            lines.append((row.label, "published", "", *figures, "", "", *("",) * len(table.reach)))
            continue
        found = finished(plan, row)
        lines += _lines(row, found, table)
        commands += _commands(row, found)
        if len(found) < len(row.seeds):
            unfinished.append(f"{row.label} ({len(found)} of {len(row.seeds)} seeds)")
    parts = [markdown(lines)]
    if unfinished:
        parts.append("Not finished:\n\n" + "\n".join(f"- {row}" for row in unfinished))
    parts += paired_table(plan, table)
    if commands:
        parts += ["<details>\n<summary>Commands of the runs</summary>", "\n".join(commands), "</details>"]
    return "\n\n".join(parts)


def replaced(page: str, name: str, text: str) -> str:
    """A page with the text between the markers of a table replaced.

    Raises:
        ValueError: the page does not have both markers, once and in order.
    """
    start, end = f"<!-- table {name} -->", f"<!-- end of table {name} -->"
    before, _, rest = page.partition(start)
    old, _, after = rest.partition(end)
    if page.count(start) != 1 or page.count(end) != 1 or not (page.index(start) < page.index(end)):
        raise ValueError(f"the page must have {start} and then {end}, each once: put them where the table belongs")
    del old
    return f"{before}{start}\n\n{text}\n\n{end}{after}"


def _lines(row: PlannedRow, found: dict[int, Results], table: PlannedTable) -> list[tuple[str, ...]]:
    """The mean over the seeds, if there are several, and a line per seed."""
    wanted = [row.select, *((column.evaluation, column.bound) for column in table.columns)]
    digits = [(2 if bound == "gradient" else 0) if evaluation == TRAINING else 3 for evaluation, bound in wanted]
    values = {seed: [figure(result, *names) for names in wanted] for seed, result in found.items()}
    lines: list[tuple[str, ...]] = []
    label = f"**{row.label}**"
    if len(found) > 1:
        lines.append(
            (label, "mean", *map(_shown, map(_mean, zip(*values.values(), strict=True)), digits), "", "")
            + ("",) * len(table.reach)
        )
        label = ""
    for seed, result in found.items():
        figures = list(map(_shown, values[seed], digits))
        size, seconds = f"{result['parameters']:,}", f"{result['training_seconds']:,.0f}"
        times = [_time(result, bound) for bound in table.reach]
        lines.append((label, str(seed), *figures, size, seconds, *times))
        label = ""
    return lines


def _commands(row: PlannedRow, found: dict[int, Results]) -> list[str]:
    """A line for each command of a row, with the seeds that it ran under."""
    seeds: dict[str, list[str]] = {}
    for seed, result in found.items():
        seeds.setdefault(str(result["command"]).removesuffix(f" --seed {seed}"), []).append(str(seed))
    return [f"- {row.label}, `--seed` {', '.join(under)}: `{command}`" for command, under in seeds.items()]


def _time(result: Results, bound: float) -> str:
    """Steps and seconds of training until the validation bound was reached; "never" if it was not."""
    if "curves" not in result:
        return MISSING
    step = steps_to(result["curves"].get("validation/elbo", []), bound)
    return "never" if step is None else f"{step}, {step / result['steps'] * result['training_seconds']:.0f}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _shown(value: float | None, digits: int = 3) -> str:
    return MISSING if value is None else f"{value:,.{digits}f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables of the plan of the command line, or write them into a page."""
    jsonargparse = require_jsonargparse("examples")
    parser = jsonargparse.ArgumentParser(prog="python -m zf_pyro.experiments.table", description=__doc__)
    parser.add_argument("plan", type=Path, help="JSON file of the runs.")
    parser.add_argument("--page", type=Path, default=None, help="Page to write the tables into.")
    parser.add_argument("--tables", type=str, default="*", help="Names of the tables, with * and ?.")
    flags = parser.parse_args(arguments)
    try:
        plan = read_plan(flags.plan)
        wanted = [table for table in plan.tables if fnmatch(table.name, flags.tables)]
        if not wanted:
            names = ", ".join(repr(table.name) for table in plan.tables)
            raise ValueError(f"tables must be a pattern of {names}, got {flags.tables!r}")
        texts = {table.name: table_of(plan, table) for table in wanted}
        if flags.page is None:
            print("\n\n".join(f"{name}\n\n{text}" for name, text in texts.items()))
            return
        page = flags.page.read_text(encoding="utf-8")
        for name, text in texts.items():
            page = replaced(page, name, text)
        write_atomically(flags.page, lambda file: file.write(page.encode()))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
