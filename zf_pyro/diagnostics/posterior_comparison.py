"""One posterior against another: the guide against NUTS, latent by latent, for sequences short enough for NUTS."""

from typing import Any, NamedTuple

import numpy as np

from .arviz_versions import group, require_arviz


class PosteriorComparison(NamedTuple):
    """How far draws are from reference draws, for each latent; each (sequence, step, latent), NaN for padding."""

    mean_shift: np.ndarray
    """Difference of the means, in standard deviations of the reference."""
    scale_ratio: np.ndarray
    """Standard deviation of the draws over the reference's."""
    distance: np.ndarray
    """Kolmogorov-Smirnov distance of the two samples: the largest difference of their ECDFs, 0 to 1."""
    noise: float
    """The distance that a latent exceeds by chance once in twenty, by sizes of the samples: the reference's draws are
    counted by their effective sample size, the median over latents."""

    @property
    def share_apart(self) -> float:
        """Share of latents whose distance is above :attr:`noise`; one in twenty where the posteriors are the same."""
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
        reference: what it made of a posterior to trust, say of NUTS over the latents
            (``to_arviz(posterior=MCMC(NUTS(net.model), ...))``), for the same sequences. MCMC must come with at least
            two chains: with one, nobody could tell whether it had mixed.

    Raises:
        ValueError: other sequences, or a reference of MCMC with one chain.
    """
    from scipy.stats import ks_2samp  # comes with ArviZ, and takes long to import

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
