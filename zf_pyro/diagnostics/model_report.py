"""Sections of a report on one model: use of the latents, accuracy of the guide, samples against the data."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..models import StochasticRNN
from .calibration import calibrate
from .information import mutual_information
from .latent_use import LatentUse, latent_use
from .measurements import Measurement, measurements
from .plots import plot_check, plot_fan, plot_khat, plot_kl, plot_phase, plot_rank_ecdf, plot_traversal
from .predictive_checks import autocorrelation, predictive_check, spectrum
from .probe import linear_probe
from .report import Section, Verdict, remedies
from .step_check import check_steps
from .step_plots import plot_steps
from .weight_check import check_weights


class ReportSizes(NamedTuple):
    """Sizes of the computations behind a report."""

    draws: int = 100
    """Samples from the guide of each sequence."""
    simulations: int = 400
    """Sequences of the model itself, for the calibration."""
    steps: int = 10
    """Their length."""
    by_step: int = 20
    """Sequences whose steps are checked one by one."""


class ModelReport(NamedTuple):
    """Report on one model."""

    name: str
    sections: list[Section]
    measurements: list[Measurement]
    use: LatentUse

    @property
    def page(self) -> list[Section]:
        """Its sections, after one with what to do where a measurement fails."""
        return [*remedies({self.name: self.measurements}), *self.sections]

    @property
    def verdict(self) -> Verdict:
        """What a reader is to know first: whether the latents are used, and which checks failed."""
        failed = [one.name for one in self.measurements if one.good is False]
        latents = "the latents are used" if self.use.used else "the latents have collapsed"
        checks = "all checks passed" if not failed else f"failed: {'; '.join(failed)}"
        return Verdict(self.name, f"{latents}; {checks}.", not failed)


class Given(NamedTuple):
    """Sequences of a report."""

    x: Tensor
    """(batch, time, frame)."""
    lengths: Tensor
    """(batch,)."""
    covariates: Tensor | None = None
    """(batch, time, K), or None."""
    observed: Tensor | None = None
    """(batch, time, frame), or None."""

    @property
    def named(self) -> dict[str, Any]:
        """Covariates and what was seen, as far as there are such."""
        found = {"covariates": self.covariates, "observed": self.observed}
        return {name: value for name, value in found.items() if value is not None}

    def taken(self, rows: Tensor) -> "Given":
        """Some sequences, cut to the longest of them; rows (sequences,) are indices."""
        time = int(self.lengths[rows].max())
        cut = (None if part is None else part[rows, :time] for part in (self.covariates, self.observed))
        return Given(self.x[rows, :time], self.lengths[rows], *cut)


def model_sections(
    name: str,
    net: StochasticRNN,
    data: Any,
    given: Given,
    *,
    sizes: ReportSizes = ReportSizes(),  # noqa: B008  # never changed
    feature: str = "feature 0",
    probe: bool = False,
    progress: bool = False,
) -> ModelReport:
    """Sections on one model, with figures of matplotlib, and all their measurements.

    For a network that reads covariates or gaps there is no traversal, and for data with gaps no comparison of its
    samples' autocorrelation and spectrum with those of the data.

    Args:
        name: name of the model.
        net: the model, in evaluation mode.
        data: result of :func:`zf_pyro.to_arviz` for these sequences, with all groups.
        given: the sequences.
        sizes: sizes of the computations.
        feature: name of the first feature, which the plots show.
        probe: whether to read the labels in ``data`` off the latents.
        progress: whether to show progress bars of the checks of the guide.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError, ValueError: sequences that ``net`` refuses.
    """
    use = latent_use(net, given.x, given.lengths, **given.named)
    found: list[Any] = [use, mutual_information(net, given.x, given.lengths, **given.named)]
    if probe:
        found.append(linear_probe(data))
    first = [one for result in found for one in measurements(result)]
    longest = int(given.lengths.argmax())
    parts = [_of_latents(name, net, data, given, use, first, longest, feature)]
    second_part, second = _of_guide(name, net, data, given, sizes, progress)
    parts += [second_part, _of_samples(name, data, longest, feature, gaps=given.observed is not None)]
    return ModelReport(name, parts, first + second, use)


def _of_latents(
    name: str,
    net: StochasticRNN,
    data: Any,
    given: Given,
    use: LatentUse,
    found: list[Measurement],
    longest: int,
    feature: str,
) -> Section:
    import matplotlib.pyplot as plt

    plain = net.extra_dim == 0
    figure, axes = plt.subplots(1, 3 if plain else 2, figsize=(13, 3.6), layout="constrained")
    plot_kl(use, axes[0])
    strongest = use.kl.nanmean((0, 1)).argsort(descending=True).tolist()
    caption = "Left: KL by step and latent."
    if len(strongest) > 1:
        plot_phase(data, (strongest[0], strongest[1]), ax=axes[1])
        caption += f" Next: paths of the two latents with the most KL, {strongest[0]} and {strongest[1]}."
    if plain:
        frames = given.x[longest : longest + 1, : int(given.lengths[longest])]
        plot_traversal(net, frames, strongest[0], ax=axes[2], name=feature)
        caption += (
            f" Right: the longest sequence while latent {strongest[0]} is moved by up to three standard deviations."
        )
    return Section(f"{name}: do the latents matter?", use.verdict(), found, figure, caption)


def _of_guide(
    name: str, net: StochasticRNN, data: Any, given: Given, sizes: ReportSizes, progress: bool
) -> tuple[Section, list[Measurement]]:
    import matplotlib.pyplot as plt

    check = check_weights(data)
    count = min(sizes.by_step, len(given.x))
    few = given.taken(torch.linspace(0, len(given.x) - 1, count).long())
    steps = check_steps(net, few.x, few.lengths, num_samples=sizes.draws, progress=progress, **few.named)
    num_steps, known = min(sizes.steps, int(given.lengths.max())), None
    if given.covariates is not None:  # those of real sequences, again and again
        long = (given.lengths >= num_steps).nonzero().flatten()
        rows = long[torch.arange(sizes.simulations) % len(long)]
        known = given.covariates[rows, :num_steps]
    calibration = calibrate(net, sizes.simulations, num_steps=num_steps, covariates=known, progress=progress)
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    plot_khat(check, axes[0])
    plot_steps(steps, "efficiency", ax=axes[1])
    plot_rank_ecdf(calibration, axes[2])
    found = [one for result in (check, steps, calibration) for one in measurements(result)]
    text = (
        f"Weights are those of {sizes.draws} samples from the guide. Steps are those of {count} sequences, and ranks "
        f"those of {sizes.simulations} sequences of the model itself. Samples from the guide are independent, so there "
        "is no R-hat."
    )
    caption = "Left: k-hat of each sequence. Middle: effective share of the samples by step. Right: ECDF of ranks."
    return Section(f"{name}: is the guide right?", text, found, figure, caption), found


def _of_samples(name: str, data: Any, longest: int, feature: str, *, gaps: bool) -> Section:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 1 if gaps else 3, figsize=(13, 3.6), layout="constrained", squeeze=False)
    plot_fan(data, longest, ax=axes[0, 0])
    title, found = f"{name}: do its samples resemble the data?", list[Measurement]()
    caption = f"Left: {feature} of the longest sequence under the posterior predictive."
    if gaps:
        return Section(title, "", found, figure, caption[6:].capitalize())
    lags = predictive_check(data, autocorrelation(5))
    plot_check(lags, range(1, 6), ax=axes[0, 1]).set(xlabel="lag, frames", ylabel="autocorrelation")
    powers = predictive_check(data, spectrum())
    plot_check(powers, np.linspace(0.0, 0.5, 8), ax=axes[0, 2]).set(xlabel="cycles per frame", ylabel="log power")
    found = [
        Measurement(
            f"largest surprise of the {what}", f"{abs(one.surprise).max():.1f}", "standard deviations", "about 2"
        )
        for what, one in (("autocorrelation", lags), ("spectrum", powers))
    ]
    caption += f" Middle and right: {feature} of real sequences, against what the model generates by itself."
    return Section(title, "", found, figure, caption)
