"""Figure of a plan's runs over their training: ``python -m zf_pyro.experiments.figure PLAN --table NAME --out FILE``.

One line per row of the table, the mean over its seeds: the validation bound; the KL; the auxiliary, and what z earns of
it; and the gradient norms of the terms. The curves stand in the plan's small results. ``--rows`` draws some rows alone.
"""

import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..checks import require_jsonargparse
from .curves import LOGGED, Curve, mean_curve
from .plan import Sweep, read_plan
from .planned_results import finished

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 6.4, 3.4
"""Inches of a panel."""
SETTLED = 0.3
"""Share of the steps after which all of a bound's curve is in view: its first rise would flatten the rest."""
PANELS = {
    "validation bound": "validation/elbo",
    "KL(q || p)": "train/kl",
    "auxiliary": "train/auxiliary",
    "earned by z of the auxiliary": "mechanism/earned",
    "gradient norm of the likelihood": "mechanism/grad_norm_log_likelihood",
    "gradient norm of the KL": "mechanism/grad_norm_kl",
    "gradient norm of the auxiliary": "mechanism/grad_norm_auxiliary",
}
"""Names of the curves in the logs, by title of their panel."""


def draw(plan: Sweep, table: str, patterns: Sequence[str] = ("*",)) -> "Figure":
    """The figure of a table.

    Args:
        plan: the plan.
        table: name of the table.
        patterns: names of the rows that are drawn, with * and ?.

    Raises:
        ValueError: the plan has no such table or rows, or none of their runs has finished with curves.
        ImportError: matplotlib is not installed.
    """
    tables = {each.name: each for each in plan.tables}
    if table not in tables:
        raise ValueError(f"table must be one of {', '.join(map(repr, tables))}, got {table!r}")
    found: dict[str, Mapping[str, list[Curve]]] = {}
    rows = [row for row in tables[table].rows if any(fnmatch(row.name, pattern) for pattern in patterns)]
    if not rows:
        names = ", ".join(row.name for row in tables[table].rows if row.published is None)
        raise ValueError(f"rows must match one of {names}, got {' '.join(patterns)}")
    for row in rows:
        results = [] if row.published is not None else finished(plan, row).values()
        curves = [result["curves"] for result in results if result.get("curves")]
        if curves:
            found[row.label] = {name: [each[name] for each in curves if name in each] for name in LOGGED}
    if not found:
        raise ValueError(f"no run of the table {table!r} has finished with its curves: run the sweep first")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures are drawn by matplotlib: pip install zf-pyro[examples]") from error
    shown = {title: name for title, name in PANELS.items() if any(each[name] for each in found.values())}
    height = -(-len(shown) // 2)
    figure = Figure(figsize=(2 * WIDTH, HEIGHT * height), layout="constrained")
    axes = figure.subplots(height, 2, squeeze=False).ravel()
    for axis, (title, name) in zip(axes, shown.items(), strict=False):
        _panel(axis, title, {label: mean_curve(each[name]) for label, each in found.items()})
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    return figure


def _panel(axis: "Axes", title: str, curves: Mapping[str, Curve]) -> None:
    settled: list[float] = []
    for number, (label, curve) in enumerate(curves.items()):
        points = np.asarray(curve).reshape(-1, 2)
        axis.plot(*points.T, ("-", "--", ":")[number // 10 % 3], color=f"C{number % 10}", lw=1.2, label=label)
        settled += [value for step, value in points if step >= SETTLED * points[-1, 0]]
    norm = title.startswith("gradient")
    axis.set(title=title, xlabel="training step", ylabel="nats, times the loss's scale" if norm else "nats / sequence")
    if norm:
        axis.set_yscale("log")
    if "bound" in title and settled:
        margin = 0.05 * (max(settled) - min(settled))
        axis.set_ylim(min(settled) - margin, max(settled) + margin)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the figure of the command line."""
    jsonargparse = require_jsonargparse("examples")
    parser = jsonargparse.ArgumentParser(prog="python -m zf_pyro.experiments.figure", description=__doc__)
    parser.add_argument("plan", type=Path, help="JSON file of the runs.")
    parser.add_argument("--table", type=str, required=True, help="Name of the table.")
    parser.add_argument("--rows", type=str, nargs="+", default=["*"], help="Names of the rows to draw, with * and ?.")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write.")
    flags = parser.parse_args(arguments)
    try:
        draw(read_plan(flags.plan), flags.table, flags.rows).savefig(flags.out, dpi=80)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
