"""Simulation-based calibration: the model makes sequences whose latents are known, and a posterior has to find them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import require_count
from ..evaluation import encoded_parts, require_evaluation
from ..models import StochasticRNN
from .arviz_versions import assemble
from .per_step import draw, generate

Sampler = Callable[[Tensor, int], Tensor]


class Calibration(NamedTuple):
    """Ranks of the true latents among posterior draws: uniform, if the posterior is right on average over sequences.

    Talts, Betancourt, Simpson, Vehtari, Gelman 2018, https://arxiv.org/abs/1804.06788. A necessary condition only: the
    prior itself has uniform ranks, so a guide that ignores x altogether, and follows the prior, passes. Its weights
    (:func:`~zf_pyro.diagnostics.check_weights`) give it away.
    """

    ranks: np.ndarray
    """Draws below the true value, 0 to ``num_draws``; (simulation, step, latent)."""
    num_draws: int
    """Posterior draws of each simulation."""

    @property
    def num_ranks(self) -> int:
        """Values that a rank can take."""
        return self.num_draws + 1

    def outside(self, prob: float = 0.99) -> np.ndarray:
        """Latents whose rank ECDF leaves its simultaneous band; (step, latent) of bools.

        Args:
            prob: of the band, for all latents together (Bonferroni), so that of a right posterior no latent is named
                with at least this probability.
        """
        simulations, steps, latents = self.ranks.shape
        low, high = ecdf_band(simulations, self.num_ranks, 1 - (1 - prob) / (steps * latents))
        ecdf = self.ecdf()
        return np.any((ecdf < low - 1e-12) | (ecdf > high + 1e-12), axis=-1)

    def ecdf(self) -> np.ndarray:
        """Share of simulations with rank r or lower, for each r below the highest; (step, latent, num_draws)."""
        return (self.ranks[..., None] <= np.arange(self.num_draws)).mean(0)

    def summary(self) -> str:
        """How many latents leave their band."""
        outside = self.outside()
        return f"{int(outside.sum())} of {outside.size} latents leave the 99 % band of uniform ranks"

    def to_arviz(self) -> Any:
        """The ranks, scaled to (0, 1), as a posterior group for ArviZ's own histograms and ECDF plots.

        ``az.plot_ecdf_pit`` (ArviZ 1.x), or ``az.plot_ecdf`` of the values of one latent against the uniform (0.x).
        """
        import xarray

        scaled = (self.ranks[None] + 0.5) / self.num_ranks
        dims = ("chain", "draw", "step", "latent")
        coords = {dim: np.arange(size) for dim, size in zip(dims, scaled.shape, strict=True)}
        return assemble({"posterior": xarray.Dataset({"z": (dims, scaled)}, coords)})


@torch.no_grad()
def calibrate(
    net: StochasticRNN,
    num_simulations: int = 200,
    num_steps: int = 10,
    num_draws: int = 63,
    posterior: Sampler | None = None,
    *,
    batch_size: int = 64,
) -> Calibration:
    """Simulation-based calibration of the guide, or of any other posterior.

    Args:
        net: the net, in evaluation mode.
        num_simulations: sequences that the model makes.
        num_steps: their length.
        num_draws: posterior draws for each; 63 give 64 ranks, which bins divide evenly.
        posterior: a function from frames (batch, time, ...) and a number of draws to draws of their latents (draws,
            batch, time, latent); the guide if None.
        batch_size: simulations worked on at once.

    Raises:
        ValueError: a count that is not a positive integer, a net in training mode, or a posterior whose draws have
            another shape.
    """
    counts = {"num_simulations": num_simulations, "num_steps": num_steps, "num_draws": num_draws}
    for name, count in {**counts, "batch_size": batch_size}.items():
        require_count(name, count)
    require_evaluation(net)
    z, x = (made[:, 0].transpose(0, 1) for made in generate(net, num_steps, 1, num_simulations))
    ranks = []
    for batch in encoded_parts(net, x, None, batch_size):
        if posterior is None:
            draws = draw(net, batch, num_draws, ["z"])["z"].movedim(0, 2)
        else:
            draws = posterior(batch.x, num_draws)
        truth = z[batch.rows]
        if draws.shape != (num_draws, *truth.shape):
            raise ValueError(
                f"posterior must return draws of shape {(num_draws, *truth.shape)}, got {tuple(draws.shape)}"
            )
        ranks.append((draws < truth).sum(0).cpu())
    return Calibration(torch.cat(ranks).numpy(), num_draws)


def ecdf_band(size: int, num_ranks: int, prob: float, trials: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """A band that the ECDF of uniform ranks lies in as a whole with probability ``prob``.

    By simulation, after Sailynoja, Burkner, Vehtari 2022, https://doi.org/10.1007/s11222-022-10090-6, algorithm 1: the
    pointwise level of binomial intervals is set such that the share ``prob`` of simulated ECDFs leaves none of them.
    Beyond what ``trials`` resolve, it is at least Bonferroni's. The simulation has its own seed and leaves all random
    states alone. The two ArviZ have this under different names, and for continuous values only.

    Args:
        size: ranks in the sample.
        num_ranks: values that a rank can take.
        prob: of the whole ECDF lying inside.
        trials: simulated ECDFs.

    Returns:
        Lower and upper ends at each rank but the highest, (num_ranks - 1,).
    """
    from scipy.stats import binom  # comes with ArviZ, and takes long to import

    shares = np.arange(1, num_ranks) / num_ranks
    rng = np.random.default_rng(0)
    counts = rng.multinomial(size, np.full(num_ranks, 1 / num_ranks), size=trials).cumsum(1)[:, :-1]
    tails = np.minimum(binom.cdf(counts, size, shares), binom.sf(counts - 1, size, shares)).min(1)
    resolved = (1 - prob) * trials >= 10
    tail = np.quantile(tails, 1 - prob) if resolved else (1 - prob) / (2 * (num_ranks - 1))
    low, high = binom.ppf(tail, size, shares), binom.isf(tail, size, shares)
    return low / size, high / size
