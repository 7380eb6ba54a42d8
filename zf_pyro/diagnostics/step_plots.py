"""Plots of the checks by step."""

from typing import TYPE_CHECKING

import numpy as np

from ..checks import require_choice
from .calibration import Calibration
from .plot_axes import axes, require_result
from .step_check import LEAST_EFFICIENCY, StepCheck

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_steps(check: StepCheck, name: str = "pareto_k", ax: "Axes | None" = None) -> "Axes":
    """Plot k-hat (``"pareto_k"``) or ``"efficiency"`` by step: median, middle 90 % of sequences, and flagged ones."""
    require_result("check", check, StepCheck, "check_steps")
    values = {"pareto_k": check.pareto_k, "efficiency": check.efficiency}[
        require_choice("name", name, ("pareto_k", "efficiency"))
    ].transpose("sequence", "step")
    ax = axes(ax)
    flagged, steps = check.flagged().values, np.flatnonzero(values.notnull().any("sequence"))
    low, middle, high = np.nanquantile(values.values[:, steps], [0.05, 0.5, 0.95], axis=0)
    ax.fill_between(steps, low, high, color="C0", alpha=0.25, lw=0, label="90 % of sequences")
    ax.plot(steps, middle, "C0.-", lw=1, label="median")
    rows, columns = np.nonzero(flagged)
    ax.plot(columns, values.values[rows, columns], "x", color="C1", ms=4, label="flagged")
    ax.axhline(check.good_k if name == "pareto_k" else LEAST_EFFICIENCY, color="0.5", ls="--", lw=1)
    ax.legend()
    label = "Pareto k-hat" if name == "pareto_k" else "effective share of samples"
    ax.set(xlabel="step", ylabel=label, title=f"{int(flagged.sum())} of {int(values.notnull().sum())} steps flagged")
    return ax


def plot_rank_steps(calibration: Calibration, ax: "Axes | None" = None) -> "Axes":
    """Plot the largest deviation of each latent's rank ECDF from the uniform by step, with crosses outside the band."""
    require_result("calibration", calibration, Calibration, "calibrate")
    ax = axes(ax)
    uniform = np.arange(1, calibration.num_ranks) / calibration.num_ranks
    largest, outside = np.abs(calibration.ecdf() - uniform).max(-1), calibration.outside()
    steps = np.broadcast_to(np.arange(len(largest))[:, None], largest.shape)
    ax.plot(steps[~outside], largest[~outside], ".", color="C0", label="within")
    ax.plot(steps[outside], largest[outside], "x", color="C1", label="outside")
    ax.legend()
    ax.set(xlabel="step", ylabel="largest ECDF difference", title=calibration.counts())
    return ax
