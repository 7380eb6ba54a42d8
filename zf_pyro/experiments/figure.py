"""Figure of a plan's runs over their training: ``python -m zf_pyro.experiments.figure PLAN --table NAME --out FILE``.

One line per row of the table, the mean over its seeds: the validation bound; the KL; the auxiliary, and what z earns of
it; and the gradient norms of the terms. The curves stand in the plan's small results.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .curves import LOGGED, Curve, mean_curve
from .plan import Sweep, read_plan
from .planned_results import finished

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 6.4, 3.4
"""Inches of a panel."""
PANELS = {
    "validation bound": "validation/elbo",
    "KL(q || p)": "train/kl",
    "auxiliary": "train/auxiliary",
    "earned by z of the auxiliary": "mechanism/earned",
    "gradient norm of the likelihood": "mechanism/grad_norm_log_likelihood",
    "gradient norm of the auxiliary": "mechanism/grad_norm_auxiliary",
}
"""Names of the curves in the logs, by title of their panel."""


def draw(plan: Sweep, table: str) -> "Figure":
    """The figure of a table.

    Raises:
        ValueError: the plan has no such table, or none of its runs has finished with curves.
        ImportError: matplotlib is not installed.
    """
    tables = {each.name: each for each in plan.tables}
    if table not in tables:
        raise ValueError(f"table must be one of {', '.join(map(repr, tables))}, got {table!r}")
    found: dict[str, Mapping[str, list[Curve]]] = {}
    for row in tables[table].rows:
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
    rows = -(-len(shown) // 2)
    figure = Figure(figsize=(2 * WIDTH, HEIGHT * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    for axis, (title, name) in zip(axes, shown.items(), strict=False):
        _panel(axis, title, {label: mean_curve(each[name]) for label, each in found.items()})
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    return figure


def _panel(axis: "Axes", title: str, curves: Mapping[str, Curve]) -> None:
    for number, (label, curve) in enumerate(curves.items()):
        points = np.asarray(curve).reshape(-1, 2)
        axis.plot(*points.T, ("-", "--", ":")[number // 10 % 3], color=f"C{number % 10}", lw=1.2, label=label)
    norm = title.startswith("gradient")
    axis.set(title=title, xlabel="training step", ylabel="nats, times the loss's scale" if norm else "nats / sequence")
    if norm:
        axis.set_yscale("log")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the figure of the command line."""
    try:
        import jsonargparse
    except ImportError as error:
        raise ImportError("the command line needs jsonargparse: pip install zf-pyro[examples]") from error
    parser = jsonargparse.ArgumentParser(prog="python -m zf_pyro.experiments.figure", description=__doc__)
    parser.add_argument("plan", type=Path, help="JSON file of the runs.")
    parser.add_argument("--table", type=str, required=True, help="Name of the table.")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write.")
    flags = parser.parse_args(arguments)
    try:
        draw(read_plan(flags.plan), flags.table).savefig(flags.out, dpi=80)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
