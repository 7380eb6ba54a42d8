"""Replicates of log p(x) of each sequence and step, for PSIS-LOO."""

import numpy as np
import torch
from torch import Tensor

from ..evaluation import EncodedPart

JITTER = 1e-6
"""Noise on a replicate, nats. The replicates of an exact guide would be equal without it: ArviZ 0.x then reports a tail
index of infinity, and ArviZ 1.x raises."""


class Contributions:
    """Replicates of estimates of log p(x) and of log p(x_t | x_1..x_{t-1}), from importance weights of the guide.

    The parameters of a trained model are fixed, and sequences are independent given them. Leaving sequence i out
    affects only its own latents, so its leave-one-out density is its evidence p(x_i). (PSIS-LOO over log p(x_i | z)
    would estimate the same by the harmonic mean of p(x_i | z), whose variance is usually infinite: Newton, Raftery
    1994.) The evidence up to step t is the mean over samples of
    prod_{s<=t} p(x_s | h_s) p(z_s | h_{s-1}) / q(z_s | h_{s-1}, b_s). It is unbiased for p(x_1..x_t) although the guide
    depends on later frames, because q is a density of z for any x.

    Replicates are a Bayesian bootstrap (Rubin 1981, https://doi.org/10.1214/aos/1176345338) over the samples: each
    replicate weights them by a draw from a flat Dirichlet. In PSIS-LOO over replicates, elpd is the evidence, and p_loo
    is their spread: the Monte Carlo error in nats, not a number of parameters. k-hat is high where few samples dominate
    the estimate.

    Args:
        num_draws: samples from the guide for each sequence, and number of replicates.
        num_sequences: number of sequences.
        num_steps: T, with padding.
    """

    def __init__(self, num_draws: int, num_sequences: int, num_steps: int) -> None:
        self._log_weight = np.zeros((num_draws, num_sequences, num_steps))
        self._lengths = np.zeros(num_sequences, dtype=np.int64)

    def add(self, batch: EncodedPart, first: int, log_weight: Tensor) -> None:
        """Add log-weights (time, draws, batch) of samples of a batch, the first of which has index ``first``."""
        steps = log_weight.double().where(batch.real.unsqueeze(1), 0.0).cumsum(0).permute(1, 2, 0).cpu().numpy()
        rows = batch.rows.cpu().numpy()
        self._log_weight[first : first + len(steps), rows, : steps.shape[-1]] = steps
        self._lengths[rows] = batch.real.sum(0).cpu().numpy()

    def replicates(self) -> tuple[np.ndarray, np.ndarray]:
        """Replicates of log p(x), (draws, sequence), and of their summands by step, (draws, sequence, step).

        In nats; steps beyond a length are NaN.
        """
        count, sequences, steps = self._log_weight.shape
        share = torch.distributions.Exponential(torch.ones((), dtype=torch.float64)).sample((count, count)).numpy()
        share /= share.sum(1, keepdims=True)
        jitter = JITTER * torch.randn(count, sequences, dtype=torch.float64).numpy()
        evidence = np.empty_like(self._log_weight)
        for i in range(sequences):
            weights = self._log_weight[:, i]
            top = weights.max(0)
            evidence[:, i] = np.log(share @ np.exp(weights - top)) + top
        evidence += jitter[..., None]
        total = np.take_along_axis(evidence, self._lengths[None, :, None] - 1, axis=-1)[..., 0]
        evidence[..., 1:] -= evidence[..., :-1].copy()
        evidence[:, np.arange(steps) >= self._lengths[:, None]] = np.nan
        return total, evidence
