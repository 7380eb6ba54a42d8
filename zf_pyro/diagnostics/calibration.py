"""Simulation-based calibration of a posterior on sequences from the model, whose true latents are known."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import require_count, require_flag, require_tensor
from ..data import progress_bar
from ..evaluation import EncodedPart, encoded_parts, require_evaluation
from ..models import StochasticRNN
from ..paths import check_covariates
from .arviz_versions import assemble
from .per_step import Step, draw, generate, score
from .remedies import FOR_THE_GUIDE

Sampler = Callable[[Tensor, int], Tensor]
"""From frames (batch, time, ...) and a number of samples to latents (samples, batch, time, latent)."""
COVERAGE = 0.99
"""Probability of the simultaneous band that holds the rank ECDFs of all latents, if the posterior is right."""
TRIALS = 2000
"""Simulated ECDFs behind a band."""


class Calibration(NamedTuple):
    """Ranks of the true latents among posterior samples: uniform if the posterior is right on average over sequences.

    Talts, Betancourt, Simpson, Vehtari, Gelman 2018, https://arxiv.org/abs/1804.06788. The condition is necessary, not
    sufficient. The prior has uniform ranks, so a guide that ignores x and follows the prior passes. Its importance
    weights (:func:`~zf_pyro.diagnostics.check_weights`) show the difference.
    """

    ranks: np.ndarray
    """Number of samples below the true value, 0 to ``num_draws``; (simulation, step, latent)."""
    num_draws: int
    """Posterior samples per simulation."""

    @property
    def num_ranks(self) -> int:
        """Number of values that a rank can take."""
        return self.num_draws + 1

    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end of the band of one latent's rank ECDF, each (num_draws,).

        All latents of a right posterior lie in it with a probability of at least :data:`COVERAGE` (Bonferroni).
        """
        simulations, steps, latents = self.ranks.shape
        return ecdf_band(simulations, self.num_ranks, 1 - (1 - COVERAGE) / (steps * latents))

    def outside(self) -> np.ndarray:
        """Mask of the latents whose rank ECDF leaves :meth:`band`; (step, latent)."""
        low, high = self.band()
        ecdf = self.ecdf()
        return np.any((ecdf < low - 1e-12) | (ecdf > high + 1e-12), axis=-1)

    def ecdf(self) -> np.ndarray:
        """Share of simulations with rank r or lower, for each r below the highest; (step, latent, num_draws)."""
        return (self.ranks[..., None] <= np.arange(self.num_draws)).mean(0)

    def summary(self) -> str:
        """Number of latents outside the band, as a sentence, and what to do if there is any."""
        outside = self.outside()
        text = (
            f"{int(outside.sum())} of {outside.size} latents leave the {100 * COVERAGE:.0f} % band of uniform ranks, "
            f"in which all latents of an exact posterior lie with that probability ({self.expected_outside:.2g} "
            "expected outside)"
        )
        return f"{text}; {FOR_THE_GUIDE}" if self.failed else text

    def counts(self) -> str:
        """Number of latents outside the band, in a few words."""
        outside = self.outside()
        return f"{int(outside.sum())} of {outside.size} outside the {100 * COVERAGE:.0f} % band"

    @property
    def expected_outside(self) -> float:
        """Latents of an exact posterior that are expected outside, at most."""
        return 1 - COVERAGE

    @property
    def failed(self) -> bool:
        """Whether any latent is outside, which an exact posterior does with a probability of 1 - :data:`COVERAGE`."""
        return bool(self.outside().any())

    def to_arviz(self) -> Any:
        """Return the ranks, scaled to (0, 1), as a posterior group for ArviZ's histograms and ECDF plots.

        Use ``az.plot_ecdf_pit`` (ArviZ 1.x), or ``az.plot_ecdf`` of one latent against the uniform distribution (0.x).
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
    covariates: Tensor | None = None,
    given_past: bool = False,
    batch_size: int = 64,
    progress: bool = False,
) -> Calibration:
    """Simulation-based calibration of the guide, or of any other posterior.

    Args:
        net: the model, in evaluation mode.
        num_simulations: sequences sampled from the model.
        num_steps: their length.
        num_draws: posterior samples per simulation. 63 give 64 ranks, which divide evenly into bins.
        posterior: a function from frames (batch, time, ...) and a number of samples to latents (samples, batch, time,
            latent); the guide if None.
        covariates: those of the simulations, (num_simulations, num_steps, K), for a model of ``covariate_dim`` K.
        given_past: whether each step of the guide is sampled given the true latents before it. Ranks of a step are then
            uniform if the guide is right at this step, whatever it does at others. Without it, samples of a step follow
            samples of the steps before, and a wrong step shows at later ones, too.
        batch_size: simulations processed at once.
        progress: whether to show a progress bar.

    Raises:
        ValueError: a count that is not a positive integer, a model in training mode, or a posterior whose samples have
            another shape or come with ``given_past``.
    """
    given_past = require_flag("given_past", given_past)
    num_simulations = require_count("num_simulations", num_simulations)
    num_steps, num_draws = require_count("num_steps", num_steps), require_count("num_draws", num_draws)
    batch_size = require_count("batch_size", batch_size)
    require_evaluation(net)
    if posterior is not None and not callable(posterior):
        raise TypeError(
            f"posterior must be a function from frames and a number of samples to latents, or None for the guide, got "
            f"{type(posterior).__name__}"
        )
    if given_past and posterior is not None:
        raise ValueError("given_past must be left out for a posterior of your own: it asks the guide for single steps")
    known = check_covariates(covariates, num_simulations, num_steps, net)
    known = None if known is None else known.transpose(0, 1)
    z, x = (value[:, 0].transpose(0, 1) for value in generate(net, num_steps, 1, num_simulations, known))
    ranks = []
    with progress_bar("calibration", "simulation", num_simulations, progress) as bar:
        for batch in encoded_parts(net, x, None, batch_size, covariates=covariates):
            truth = z[batch.rows]
            if given_past:
                truth = _noise_given_past(net, batch, truth)
                draws = torch.randn(num_draws, *truth.shape, dtype=truth.dtype, device=truth.device)
            elif posterior is None:
                draws = draw(net, batch, num_draws, [Step.z])[Step.z].movedim(0, 2)
            else:
                draws = require_tensor("posterior's result", posterior(batch.x, num_draws))
            if draws.shape != (num_draws, *truth.shape):
                raise ValueError(
                    f"posterior must return draws of shape {(num_draws, *truth.shape)}, got {tuple(draws.shape)}"
                )
            ranks.append((draws < truth).sum(0).cpu())
            bar.update(len(batch.rows))
    return Calibration(torch.cat(ranks).numpy(), num_draws)


def _noise_given_past(net: StochasticRNN, batch: EncodedPart, truth: Tensor) -> Tensor:
    """Noise from which the guide of each step, given the true latents before, makes the true ones.

    Ranks of latents of a normal are those of their noise. Of a flow, the noise alone has elements that are independent.

    Args:
        net: the model.
        batch: the frames.
        truth: true latents, (batch, time, latent).

    Returns:
        (batch, time, latent); standard normal where the guide is the posterior.
    """
    values = score(net, batch, truth.transpose(0, 1).unsqueeze(1).contiguous(), [Step.guide_noise])
    return values[Step.guide_noise][:, 0].transpose(0, 1)


def ecdf_band(size: int, num_ranks: int, prob: float) -> tuple[np.ndarray, np.ndarray]:
    """Simultaneous band of the ECDF of uniform ranks.

    By simulation, after Sailynoja, Burkner, Vehtari 2022, https://doi.org/10.1007/s11222-022-10090-6, algorithm 1. The
    pointwise level of binomial intervals is chosen so that a share ``prob`` of simulated ECDFs lies inside all of them.
    Where :data:`TRIALS` simulations cannot resolve ``prob``, the level is Bonferroni's. The simulation has its own seed
    and leaves all random states unchanged. ArviZ has such bands for continuous values only.

    Args:
        size: number of ranks in the sample.
        num_ranks: number of values that a rank can take.
        prob: probability that the whole ECDF lies inside.

    Returns:
        Lower and upper ends at each rank except the highest, (num_ranks - 1,).
    """
    from scipy.stats import binom  # comes with ArviZ, and takes long to import

    shares = np.arange(1, num_ranks) / num_ranks
    rng = np.random.default_rng(0)
    counts = rng.multinomial(size, np.full(num_ranks, 1 / num_ranks), size=TRIALS).cumsum(1)[:, :-1]
    tails = np.minimum(binom.cdf(counts, size, shares), binom.sf(counts - 1, size, shares)).min(1)
    resolved = (1 - prob) * TRIALS >= 10
    tail = np.quantile(tails, 1 - prob) if resolved else (1 - prob) / (2 * (num_ranks - 1))
    low, high = binom.ppf(tail, size, shares), binom.isf(tail, size, shares)
    return low / size, high / size
