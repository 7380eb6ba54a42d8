"""Plots of the results of the diagnostics, each on one matplotlib axes, which is returned."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..checks import require_count, require_number
from ..evaluation import require_evaluation, require_sequences
from ..models import StochasticRNN
from ..networks import base_of, latent_of, sampled
from .arviz_versions import group
from .calibration import Calibration
from .forecast_plots import plot_forecast
from .latent_use import LatentUse
from .plot_axes import axes, index, require_result
from .predictive_checks import PredictiveCheck
from .step_plots import plot_rank_steps, plot_steps
from .weight_check import WeightCheck

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "plot_check",
    "plot_fan",
    "plot_forecast",
    "plot_khat",
    "plot_kl",
    "plot_phase",
    "plot_rank_ecdf",
    "plot_rank_steps",
    "plot_ranks",
    "plot_steps",
    "plot_training",
    "plot_traversal",
]

MOST_PATHS = 60
"""Sequences in a phase plot, so that single paths can be told apart."""


def plot_kl(use: LatentUse, ax: "Axes | None" = None) -> "Axes":
    """Plot a heat map of the KL by step and latent, averaged over the sequences that reach the step."""
    require_result("use", use, LatentUse, "latent_use")
    ax = axes(ax)
    kl = use.kl.numpy()
    reached = ~np.isnan(kl).all((0, 2))
    mean = np.nanmean(kl[:, reached], axis=0)
    image = ax.imshow(mean.T, aspect="auto", origin="lower", cmap="viridis", vmin=0.0)
    ax.figure.colorbar(image, ax=ax, label="KL(q || p), nats")
    ax.set(xlabel="step", ylabel="latent", title=f"KL {use.total_kl:.1f} nats a sequence")
    return ax


def plot_khat(check: WeightCheck, ax: "Axes | None" = None) -> "Axes":
    """Plot k-hat of each sequence, as ArviZ's ``plot_khat`` does, with the name of the worst one."""
    require_result("check", check, WeightCheck, "check_weights")
    ax = axes(ax)
    good = check.pareto_k <= check.good_k
    places = np.arange(len(check.pareto_k))
    ax.plot(places[good], check.pareto_k[good], "+", color="C0", label="reliable")
    ax.plot(places[~good], check.pareto_k[~good], "x", color="C1", label="not reliable")
    ax.axhline(check.good_k, color="0.5", ls="--", lw=1)
    place = int(np.argmax(check.pareto_k))
    if not good[place]:
        side = "left" if place < len(places) / 2 else "right"
        ax.annotate(str(check.sequences[place]), (place, check.pareto_k[place]), fontsize="small", ha=side, va="bottom")
    ax.legend()
    ax.set(
        xlabel="sequence", ylabel="Pareto k-hat", title=f"{int((~good).sum())} of {len(good)} above {check.good_k:.2f}"
    )
    return ax


def plot_ranks(calibration: Calibration, step: int, latent: int, ax: "Axes | None" = None, bins: int = 16) -> "Axes":
    """Plot the rank histogram of one latent, with the band of 99 % of the bins of uniform ranks."""
    from scipy.stats import binom

    require_result("calibration", calibration, Calibration, "calibrate")
    _, steps, latents = calibration.ranks.shape
    step, latent = index("step", step, steps), index("latent", latent, latents)
    bins = require_count("bins", bins)
    ax = axes(ax)
    ranks = calibration.ranks[:, step, latent]
    edges = np.linspace(0, calibration.num_ranks, bins + 1)
    ax.hist(ranks, bins=(edges - 0.5).tolist(), color="C0", alpha=0.7, edgecolor="w")
    low, high = binom.interval(0.99, len(ranks), 1 / bins)
    ax.axhspan(low, high, color="0.5", alpha=0.3)
    ax.axhline(len(ranks) / bins, color="0.4", lw=1)
    ax.set(xlabel="rank of the true latent", ylabel="simulations", title=f"latent {latent}, step {step}")
    return ax


def plot_rank_ecdf(calibration: Calibration, ax: "Axes | None" = None) -> "Axes":
    """Plot the ECDF of the ranks minus the uniform's, one line per latent and step, with the band of each line."""
    require_result("calibration", calibration, Calibration, "calibrate")
    ax = axes(ax)
    uniform = np.arange(1, calibration.num_ranks) / calibration.num_ranks
    low, high = calibration.band()
    ax.fill_between(uniform, low - uniform, high - uniform, color="0.5", alpha=0.3, lw=0)
    outside, ecdfs = calibration.outside().ravel(), calibration.ecdf().reshape(-1, len(uniform))
    for ecdf, out in zip(ecdfs, outside, strict=True):
        ax.plot(uniform, ecdf - uniform, color="C1" if out else "C0", lw=1.2 if out else 0.5, alpha=1.0 if out else 0.5)
    ax.set(xlabel="scaled rank", ylabel="ECDF difference", title=calibration.counts())
    return ax


def plot_fan(
    data: Any, sequence: int, feature: int = 0, ax: "Axes | None" = None, name: str = "posterior_predictive"
) -> "Axes":
    """Plot a fan chart of one feature of a sequence: observed values on 50 and 90 % intervals of a predictive group."""
    ax = axes(ax)
    drawn, observed = group(data, name)["x"], group(data, "observed_data")["x"]
    sequence = index("sequence", sequence, drawn.sizes["sequence"])
    features = [dim for dim in observed.dims if dim not in ("sequence", "step")]
    label = str(feature)
    if features:
        drawn, observed = (values.stack({"element": features}) for values in (drawn, observed))
        feature = index("feature", feature, drawn.sizes["element"])
        drawn, observed = drawn.isel(element=feature), observed.isel(element=feature)
        label = ", ".join(str(observed[dim].values) for dim in features)
    values = drawn.isel(sequence=sequence).stack(__s__=("chain", "draw")).transpose("__s__", "step").values
    observed = observed.isel(sequence=sequence)
    truth, called = observed.values, observed["sequence"].values
    steps = np.flatnonzero(~np.isnan(truth.astype(np.float64)))
    for share, alpha in ((0.9, 0.25), (0.5, 0.45)):
        low, high = np.quantile(values[:, steps], [(1 - share) / 2, (1 + share) / 2], axis=0)
        ax.fill_between(steps, low, high, color="C0", alpha=alpha, lw=0, label=f"{100 * share:.0f} %")
    ax.plot(steps, truth[steps], "k.-", lw=1, ms=4, label="observed")
    ax.legend()
    ax.set(xlabel="step", ylabel=_called(label), title=f"sequence {called}, {name.replace('_', ' ')}")
    return ax


@torch.no_grad()
def plot_traversal(
    net: StochasticRNN,
    x: Tensor,
    latent: int,
    values: Sequence[float] = (-3.0, -1.5, 0.0, 1.5, 3.0),
    feature: int = 0,
    ax: "Axes | None" = None,
    name: str | None = None,
) -> "Axes":
    """Plot the mean frames of a sequence for several values of one latent, with the others at their posterior means.

    Args:
        net: the model, in evaluation mode.
        x: one sequence, (1, time, frame) floats or (1, time) integers.
        latent: index of the latent, which is shifted at every step.
        values: shifts in standard deviations of its posterior; of a flow, those of the noise.
        feature: index of the plotted feature.
        ax: axes of the plot; a new figure if None.
        name: name of the feature; its index if None.

    Raises:
        ValueError: more than one sequence, an unknown latent, or a model in training mode.
        NotImplementedError: the emission has no mean, as NADE.
    """
    require_evaluation(net)
    x, _ = require_sequences(net, x, None)
    if x.shape[0] != 1:
        raise ValueError(f"x must hold one sequence, got {x.shape[0]}")
    shape = net.emission_family.event_shape
    latent = index("latent", latent, net.latent_dim)
    feature = index("feature", feature, shape.numel() if shape else net.emission_family.num_parameters)
    if not isinstance(values, Iterable) or isinstance(values, str):
        raise TypeError(f"values must be some numbers, got {type(values).__name__}")
    values = [require_number("values", value, "finite numbers") for value in values]
    u, b = net.inputs(x).unbind(1), net.backward_states(x)
    lines = []
    for value in values:
        state, means = net.initial_state((1,)), []
        for u_t, b_t in zip(u, b, strict=True):
            past = net.past(state, u_t)
            guide = latent_of(net.posterior(past, b_t), "posterior", net.latent_dim, past.hidden.shape[:-1])
            noise = torch.zeros_like(base_of(guide).loc)
            noise[:, latent] = value
            z, _ = sampled(guide, noise)
            state = net.transition(past, u_t, z)
            means.append(_mean(net.emission(state), feature))
        lines.append(torch.stack(means).cpu())
    ax = axes(ax)
    for i, (value, line) in enumerate(zip(values, lines, strict=True)):
        ax.plot(line, color=_colour(i / max(1, len(values) - 1)), lw=1.2, label=f"{value:+g} sd")
    ax.legend(title=f"latent {latent}")
    ax.set(xlabel="step", ylabel=f"mean of {name or f'feature {feature}'}", title="latent traversal")
    return ax


def plot_phase(
    data: Any, latents: tuple[int, int] = (0, 1), ax: "Axes | None" = None, *, labels_of: str = "label"
) -> "Axes":
    """Plot the posterior means of two latents over time, one line per sequence, coloured by label if there are labels.

    At most :data:`MOST_PATHS` sequences are shown. The legend's title is ``labels_of``, such as "speaker".
    """
    ax = axes(ax)
    mean = group(data, "posterior")["z"].mean(("chain", "draw")).transpose("sequence", "step", ...)
    mean, called = mean.values, mean[mean.dims[-1]].values
    if not isinstance(latents, tuple | list) or len(latents) != 2:
        raise TypeError(f"latents must be a pair of indices, got {latents!r}")
    latents = index("latents", latents[0], mean.shape[-1]), index("latents", latents[1], mean.shape[-1])
    constants = group(data, "constant_data")
    labels = constants["labels"].values if "labels" in constants else np.zeros(len(mean), dtype=int)
    names, codes = np.unique(labels, return_inverse=True)
    shown = np.linspace(0, len(mean) - 1, min(MOST_PATHS, len(mean))).astype(int)
    seen = set()
    for row in shown:
        code = int(codes[row])
        label = str(names[code]) if code not in seen and len(names) > 1 else None
        seen.add(code)
        path = mean[row][:, list(latents)]
        ax.plot(*path.T, "-", color=f"C{code % 10}", lw=0.8, alpha=0.6, label=label)
        ax.plot(*path[0], ".", color=f"C{code % 10}", ms=4)
    if len(names) > 1:
        ax.legend(title=labels_of, fontsize="small", ncols=2)
    ax.set(
        xlabel=f"posterior mean of z[{called[latents[0]]}]",
        ylabel=f"posterior mean of z[{called[latents[1]]}]",
        title="paths of two latents (dot: first step)",
    )
    return ax


def plot_training(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], ax: "Axes | None" = None) -> "Axes":
    """Plot training curves: steps and values by name."""
    ax = axes(ax)
    for name, (steps, values) in curves.items():
        ax.plot(steps, values, lw=1, label=name)
    ax.legend()
    ax.set(xlabel="training step", ylabel="nats a sequence", title="training")
    return ax


def plot_check(
    check: PredictiveCheck, at: Sequence[float] | np.ndarray, feature: int = 0, ax: "Axes | None" = None
) -> "Axes":
    """Plot a predictive check of one feature: observed values and the 90 % interval of the replicates.

    Args:
        check: the check; its statistic has the feature as last dimension.
        at: positions on the horizontal axis.
        feature: index of the feature.
        ax: axes of the plot; a new figure if None.
    """
    require_result("check", check, PredictiveCheck, "predictive_check")
    feature = index("feature", feature, check.observed.shape[-1])
    ax = axes(ax)
    observed, replicated = check.observed[..., feature], check.replicated[..., feature]
    places = np.asarray(at)
    low, middle, high = np.quantile(replicated, [0.05, 0.5, 0.95], axis=0)
    ax.fill_between(places, low, high, alpha=0.3, lw=0, label="90 % of replicates")
    ax.plot(places, middle, lw=1)
    ax.plot(places, observed, "k.-", lw=1, label="observed")
    ax.legend()
    ax.set(title=_called(str(check.features[feature] if check.features else feature)))
    return ax


def _called(feature: str) -> str:
    """A feature's name; an index with the word before it."""
    return f"feature {feature}" if feature.isdecimal() else feature


def _mean(distribution: Any, feature: int) -> Tensor:
    """Mean of one feature of a frame; for symbols, the probability of symbol ``feature``."""
    if distribution.event_shape:
        return distribution.mean[0].flatten()[feature]
    return distribution.probs[0, feature]


def _colour(share: float) -> Any:
    from matplotlib import colormaps

    return colormaps["coolwarm"](share)
