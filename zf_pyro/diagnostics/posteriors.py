"""One posterior against another: the guide against NUTS, latent by latent."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from pyro.infer import MCMC, NUTS
from scipy.stats import ks_2samp
from torch import Tensor

from ..model import ZForcing
from .arviz_versions import group, require_arviz
from .runs import require_count, require_sequences


class PosteriorComparison(NamedTuple):
    """How far draws are from reference draws, for each latent; each (sequence, step, latent), NaN for padding."""

    mean_shift: np.ndarray
    """Difference of the means, in standard deviations of the reference."""
    scale_ratio: np.ndarray
    """Standard deviation of the draws over the reference's."""
    distance: np.ndarray
    """Kolmogorov-Smirnov distance of the two samples: the largest difference of their distribution functions, 0 to 1."""
    noise: float
    """The distance that a latent exceeds by chance once in twenty, by sizes of the samples: the reference's draws are
    counted by their effective sample size, the median over latents."""

    @property
    def share_apart(self) -> float:
        """Share of latents whose distance is above :attr:`noise`; one in twenty where the two posteriors are the same."""
        known = self.distance[~np.isnan(self.distance)]
        return float((known > self.noise).mean())

    def summary(self) -> str:
        """The extremes in a line."""
        ratio = self.scale_ratio[~np.isnan(self.scale_ratio)]
        return (
            f"{100 * self.share_apart:.0f} % of latents apart (distance above {self.noise:.2f}); largest shift "
            f"{np.nanmax(np.abs(self.mean_shift)):.2f} standard deviations; scales {ratio.min():.2f} to "
            f"{ratio.max():.2f} of the reference's"
        )


def compare_posteriors(data: Any, reference: Any) -> PosteriorComparison:
    """Hold the draws of one posterior to those of another, for the same sequences.

    Args:
        data: what :func:`zf_pyro.to_arviz` made, say of the guide.
        reference: what it made of a posterior to trust, say of NUTS, for the same sequences. At least two chains:
            with one, nobody could tell whether it had mixed.

    Raises:
        ValueError: other sequences, or a reference of MCMC with one chain.
    """
    ours, theirs = group(data, "posterior"), group(reference, "posterior")
    if theirs.attrs.get("posterior") == "mcmc" and theirs.sizes["chain"] < 2:
        raise ValueError("reference must have at least 2 chains to show that it has mixed, got 1: MCMC(num_chains=2)")
    for dim in ("sequence", "step", "latent"):
        if ours.sizes[dim] != theirs.sizes[dim]:
            raise ValueError(
                f"data and reference must hold the same sequences, got {ours.sizes[dim]} and {theirs.sizes[dim]} {dim}s"
            )
    a, b = (np.moveaxis(z["z"].stack(__s__=("chain", "draw")).values, -1, 0) for z in (ours, theirs))
    with np.errstate(invalid="ignore"):
        scale = b.std(0)
        shift, ratio = (a.mean(0) - b.mean(0)) / scale, a.std(0) / scale
    real = ~(np.isnan(a).any(0) | np.isnan(b).any(0))
    distance = np.full(scale.shape, np.nan)
    for place in np.argwhere(real):
        own = (slice(None), *place)
        distance[tuple(place)] = ks_2samp(a[own], b[own]).statistic
    effective = require_arviz().ess(theirs)["z"].values if theirs.attrs.get("posterior") == "mcmc" else len(b)
    n, m = len(a), min(len(b), float(np.nanmedian(effective)))
    return PosteriorComparison(shift, ratio, distance, float(1.358 * np.sqrt((n + m) / (n * m))))


def nuts(
    net: ZForcing,
    x: Tensor,
    *,
    num_samples: int = 300,
    warmup_steps: int = 200,
    num_chains: int = 2,
    max_latents: int = 300,
) -> MCMC:
    """NUTS over the latents of a few short sequences of one length, to be handed to ``to_arviz(posterior=...)``.

    All sequences are one target of batch x time x latent dimensions. Chains run side by side where there are processors
    for them, one after the other elsewhere.

    Args:
        net: the net, in evaluation mode.
        x: (batch, time, frame) floats or (batch, time) integers, without padding.
        num_samples: draws a chain.
        warmup_steps: steps that are thrown away.
        num_chains: at least 2, so that they can be held against each other.
        max_latents: dimensions beyond which this is refused: it would take hours.

    Raises:
        TypeError, ValueError: what ``net`` refuses, a bad count, fewer than 2 chains, or too many dimensions.
    """
    require_sequences(net, x, None)
    for name, count in (("num_samples", num_samples), ("warmup_steps", warmup_steps), ("num_chains", num_chains)):
        require_count(name, count)
    if num_chains < 2:
        raise ValueError("num_chains must be at least 2, or R-hat cannot show whether the chains have mixed; got 1")
    size = x.shape[0] * x.shape[1] * net.latent_dim
    if size > max_latents:
        raise ValueError(
            f"x has {size} dimensions in all, more than max_latents = {max_latents}: take fewer or shorter sequences"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="num_chains=.*is more than available_cpu")
        mcmc = MCMC(NUTS(net.model), num_samples, warmup_steps, num_chains=num_chains, disable_progbar=True)
    mcmc.run(x)
    return mcmc
