"""Paired differences of a table's rows from one of them, in Markdown."""

from collections.abc import Sequence

from .paired import differences, titled
from .plan import PlannedTable, Sweep
from .planned_results import sequences
from .sequences_csv import Nats


def paired_table(plan: Sweep, table: PlannedTable) -> list[str]:
    """A sentence, and a table of the rows whose runs are all finished: their difference from the row ``against``.

    Nats per frame on the test set, of the mean over the seeds, with the standard error of paired differences over
    sequences. Then the difference of each pair of seeds. Nothing without two such rows.
    """
    rows = [row for row in table.rows if row.published is None]
    found = {row.name: sequences(plan, row) for row in rows}
    base = found.get(table.against or "", [])
    others = [row for row in rows if row.name != table.against and found[row.name]]
    if not base or not others:
        return []
    cells = {row.label: _cells(found[row.name], base) for row in others}
    bounds = list(dict.fromkeys(title for each in cells.values() for title in each))
    lines = [("ahead by", *bounds), ("---",) * (len(bounds) + 1)]
    lines += [(f"**{label}**", *(each.get(title, "") for title in bounds)) for label, each in cells.items()]
    label = next(row.label for row in rows if row.name == table.against)
    about = (
        f"Paired with {label} over {len(base[0]['num_frames'])} test sequences, nats per frame: the mean over seeds ± "
        "the standard error over sequences, and each seed:"
    )
    return [about, markdown(lines)]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(of: list[Nats], against: list[Nats]) -> dict[str, str]:
    """Differences by the title of the bound."""
    cells = {}
    for bound, mean in differences(of, against).items():
        cell = f"{mean.value:+.3f} ± {mean.standard_error:.3f}"
        if len(of) == len(against) > 1:
            each = [differences([a], [b])[bound].value for a, b in zip(of, against, strict=True)]
            cell += f" ({', '.join(f'{value:+.3f}' for value in each)})"
        cells[titled(bound, [*of, *against])] = cell
    return cells
