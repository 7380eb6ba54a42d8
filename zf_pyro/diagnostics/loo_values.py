"""Values of the group log_likelihood, over which PSIS-LOO gives the evidence and the k-hat of the weights."""

import numpy as np
from torch import Tensor

from ..evaluation import EncodedPart
from .arviz_versions import NO_TAIL, log_mean_exp

SPREAD = 1e-6
"""Spread, in nats, of the values of a sequence whose weights are all equal. ArviZ 0.x calls the tail index of equal
values infinite, and ArviZ 1.x raises an error."""
DEEPEST = 700.0
"""Log-weights further below the largest, in nats, are raised to there. Their share of the sum is below 1e-300."""


class LooValues:
    """Log-weights of samples from the guide, as values whose PSIS-LOO is the evidence of each sequence.

    The parameters of a trained model are fixed, and sequences are independent given them. Leaving sequence i out
    affects only its own latents, so its leave-one-out density is its evidence p(x_i). (PSIS-LOO over log p(x_i | z)
    would estimate it by a harmonic mean whose variance is usually infinite: Newton, Raftery 1994.)

    PSIS-LOO weighs samples by exp(-value) and averages exp(value). With the values 2 log W - log w, where w is the
    weight p(x, z) / q(z | x) of a sample and W the mean weight,

    - its importance ratios are proportional to w, so its k-hat is that of the weights,
    - its estimate is log W, the log-mean-weight, up to the smoothing of the tail.

    Args:
        num_draws: samples from the guide for each sequence.
        num_sequences: number of sequences.
    """

    def __init__(self, num_draws: int, num_sequences: int) -> None:
        self._log_weight = np.zeros((num_draws, num_sequences))

    def add(self, batch: EncodedPart, first: int, log_weight: Tensor) -> None:
        """Add log-weights (time, draws, batch) of samples of a batch, the first of which has index ``first``."""
        total = batch.sum(log_weight.double()).cpu().numpy()
        self._log_weight[first : first + len(total), batch.rows.cpu().numpy()] = total

    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """The values (draws, sequence) and the log-mean-weights log W (sequence,), in nats."""
        log_weight = np.maximum(self._log_weight, self._log_weight.max(0) - DEEPEST)
        log_mean = log_mean_exp(log_weight)
        equal = np.ptp(log_weight, axis=0) <= NO_TAIL
        even = np.linspace(-SPREAD, SPREAD, len(log_weight))[:, None]
        return np.where(equal, log_mean + even, 2 * log_mean - log_weight), log_mean
