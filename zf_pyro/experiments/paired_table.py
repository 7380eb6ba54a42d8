"""Paired differences of a table's rows from one row of the plan, in Markdown."""

from collections.abc import Mapping, Sequence

from .paired import differences, titled
from .plan import PlannedTable, Sweep
from .planned_results import sequences
from .sequences_csv import Nats


def paired_table(plan: Sweep, table: PlannedTable) -> list[str]:
    """A sentence, and a table of the rows with runs under seeds of the row ``against``: their difference from it.

    Nats per frame on the test set, of the mean over the seeds that both have, with the standard error of paired
    differences over sequences. Then the difference of each pair. Nothing without two such rows.
    """
    rows = [row for row in table.rows if row.published is None]
    base = next((row for row in plan.rows if row.name == table.against), None)
    if base is None:
        return []
    reference = sequences(plan, base)
    cells = {row.label: _cells(sequences(plan, row), reference) for row in rows if row.name != base.name}
    bounds = list(dict.fromkeys(title for each in cells.values() for title in each))
    if not bounds:
        return []
    lines = [("ahead by", *bounds), ("---",) * (len(bounds) + 1)]
    lines += [(f"**{label}**", *(each.get(title, "") for title in bounds)) for label, each in cells.items() if each]
    count = len(next(iter(reference.values()))["num_frames"])
    about = (
        f"Paired with {base.label} over {count} test sequences, nats per frame: the mean over seeds ± the standard "
        "error over sequences, and each seed:"
    )
    return [about, markdown(lines)]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(of: Mapping[int, Nats], against: Mapping[int, Nats]) -> dict[str, str]:
    """The seeds that both have, and differences by the title of the bound; nothing without such seeds."""
    seeds = [seed for seed in of if seed in against]
    if not seeds:
        return {}
    first, second = [of[seed] for seed in seeds], [against[seed] for seed in seeds]
    cells = {"seeds": ", ".join(map(str, seeds))}
    for bound, mean in differences(first, second).items():
        cell = f"{mean.value:+.3f} ± {mean.standard_error:.3f}"
        if len(seeds) > 1:
            each = [differences([a], [b])[bound].value for a, b in zip(first, second, strict=True)]
            cell += f" ({', '.join(f'{value:+.3f}' for value in each)})"
        cells[titled(bound, first + second)] = cell
    return cells
