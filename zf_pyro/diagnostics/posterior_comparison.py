"""Comparison of two posteriors, latent by latent: the guide against NUTS, for sequences short enough for NUTS."""

from typing import Any, NamedTuple

import numpy as np

from .arviz_versions import group, require_arviz


class PosteriorComparison(NamedTuple):
    """Differences between samples and reference samples; each (sequence, step, latent), NaN for padding."""

    mean_shift: np.ndarray
    """Difference of the means, in standard deviations of the reference."""
    scale_ratio: np.ndarray
    """Standard deviation of the samples, divided by that of the reference."""
    distance: np.ndarray
    """Kolmogorov-Smirnov distance of the two samples: the largest difference of their ECDFs, 0 to 1."""
    noise: float
    """Distance that a latent exceeds by chance once in twenty, given the sample sizes. For the reference this is the
    effective sample size, the median over latents."""

    @property
    def share_apart(self) -> float:
        """Share of latents with a distance above :attr:`noise`; one in twenty if the posteriors are equal."""
        known = self.distance[~np.isnan(self.distance)]
        return float((known > self.noise).mean())

    def summary(self) -> str:
        """Largest differences in one line."""
        ratio = self.scale_ratio[~np.isnan(self.scale_ratio)]
        return (
            f"{100 * self.share_apart:.0f} % of latents apart (distance above {self.noise:.2f}); largest shift "
            f"{np.nanmax(np.abs(self.mean_shift)):.2f} standard deviations; scales {ratio.min():.2f} to "
            f"{ratio.max():.2f} of the reference's"
        )


def compare_posteriors(data: Any, reference: Any) -> PosteriorComparison:
    """Compare the samples of one posterior with those of a reference, for the same sequences.

    Args:
        data: result of :func:`zf_pyro.to_arviz`, for example of the guide.
        reference: result for a trusted posterior and the same sequences, for example NUTS over the latents
            (``to_arviz(posterior=MCMC(NUTS(net.model), ...))``). MCMC needs at least two chains, since one chain cannot
            show whether it has mixed.

    Raises:
        ValueError: different sequences, or a reference of MCMC with one chain.
    """
    from scipy.stats import ks_2samp  # comes with ArviZ, and takes long to import

    ours, theirs = group(data, "posterior"), group(reference, "posterior", "reference")
    if theirs.attrs.get("posterior") == "mcmc" and theirs.sizes["chain"] < 2:
        raise ValueError("reference must have at least 2 chains to show that it has mixed, got 1: MCMC(num_chains=2)")
    for axis, dim in enumerate(("sequence", "step", "latent"), start=2):
        sizes = [z["z"].transpose("chain", "draw", "sequence", "step", ...).shape[axis] for z in (ours, theirs)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"data and reference must hold the same sequences, got {sizes[0]} and {sizes[1]} {dim}s")
    a, b = (np.moveaxis(z["z"].stack(__s__=("chain", "draw")).values, -1, 0) for z in (ours, theirs))
    with np.errstate(invalid="ignore"):
        scale = b.std(0)
        shift, ratio = (a.mean(0) - b.mean(0)) / scale, a.std(0) / scale
    real = ~(np.isnan(a).any(0) | np.isnan(b).any(0))
    distance = np.full(scale.shape, np.nan)
    for place in map(tuple, np.argwhere(real)):
        distance[place] = ks_2samp(a[:, *place], b[:, *place]).statistic
    effective = require_arviz().ess(theirs)["z"].values if theirs.attrs.get("posterior") == "mcmc" else len(b)
    n, m = len(a), min(len(b), float(np.nanmedian(effective)))
    return PosteriorComparison(shift, ratio, distance, float(1.358 * np.sqrt((n + m) / (n * m))))
