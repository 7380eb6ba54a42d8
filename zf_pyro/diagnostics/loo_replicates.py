"""What each sequence, and each step of it, contributes to the log-likelihood of a data set."""

import numpy as np
import torch
from torch import Tensor

from ..evaluation import EncodedPart

JITTER = 1e-6
"""Nats of noise on a replicate. Without it those of an exact guide are equal, for which ArviZ 0.x reports a tail index
of infinity, and ArviZ 1.x raises."""


class Contributions:
    """Replicates of the estimates of log p(x) and of log p(x_t | x_1..x_{t-1}), from importance weights of the guide.

    The parameters of a trained net are numbers, and given them sequences are independent: leaving sequence i out
    changes nothing but its own latents, so its leave-one-out density is its evidence p(x_i) itself. (PSIS-LOO over
    log p(x_i | z) would estimate the same number by the harmonic mean of p(x_i | z), whose variance is as a rule
    infinite: Newton, Raftery 1994.) The evidence up to step t is the mean over draws of
    prod_{s<=t} p(x_s | h_s) p(z_s | h_{s-1}) / q(z_s | h_{s-1}, b_s): unbiased for p(x_1..x_t) whatever the guide has
    seen of the future, because q is a density of z for any x.

    Replicates are a Bayesian bootstrap (Rubin 1981, https://doi.org/10.1214/aos/1176345338) over the draws: each weighs
    them by its own draw from a flat Dirichlet. So PSIS-LOO over replicates has the evidence for its elpd, their spread
    for its p_loo (the Monte Carlo error in nats, not a number of parameters), and a high k-hat exactly where few draws
    carry the estimate.

    Args:
        num_draws: draws of the guide for each sequence, and replicates.
        num_sequences: sequences.
        num_steps: T of the padded whole.
    """

    def __init__(self, num_draws: int, num_sequences: int, num_steps: int) -> None:
        self._log_weight = np.zeros((num_draws, num_sequences, num_steps))
        self._lengths = np.zeros(num_sequences, dtype=np.int64)

    def add(self, batch: EncodedPart, first: int, log_weight: Tensor) -> None:
        """Take the log-weights (time, draws, batch) of some draws of a batch."""
        steps = log_weight.double().where(batch.real.unsqueeze(1), 0.0).cumsum(0).permute(1, 2, 0).cpu().numpy()
        rows = batch.rows.cpu().numpy()
        self._log_weight[first : first + len(steps), rows, : steps.shape[-1]] = steps
        self._lengths[rows] = batch.real.sum(0).cpu().numpy()

    def replicates(self) -> tuple[np.ndarray, np.ndarray]:
        """(draws, sequence), and (draws, sequence, step) that add up to it, NaN beyond a length; nats."""
        count, sequences, steps = self._log_weight.shape
        share = torch.distributions.Exponential(torch.ones((), dtype=torch.float64)).sample((count, count)).numpy()
        share /= share.sum(1, keepdims=True)
        jitter = JITTER * torch.randn(count, sequences, dtype=torch.float64).numpy()
        evidence = np.empty_like(self._log_weight)
        for own in range(sequences):
            weights = self._log_weight[:, own]
            top = weights.max(0)
            evidence[:, own] = np.log(share @ np.exp(weights - top)) + top
        evidence += jitter[..., None]
        total = np.take_along_axis(evidence, self._lengths[None, :, None] - 1, axis=-1)[..., 0]
        evidence[..., 1:] -= evidence[..., :-1].copy()
        evidence[:, np.arange(steps) >= self._lengths[:, None]] = np.nan
        return total, evidence
