"""Means and ratios over sequences, with their standard errors, and a bound in all its units."""

import math
from typing import NamedTuple

from torch import Tensor


class Estimate(NamedTuple):
    """A number estimated over sequences."""

    value: float
    standard_error: float
    """Over sequences drawn independently; NaN for a single one."""


class Amount(NamedTuple):
    """Nats."""

    nats_per_sequence: Estimate
    """The mean over sequences."""
    nats_per_frame: Estimate
    """All nats by all scored frames."""


class Bound(NamedTuple):
    """A log-likelihood, or a bound on it, over a data set."""

    nats_per_sequence: Estimate
    """The mean over sequences."""
    nats_per_frame: Estimate
    """All nats by all scored frames: long sequences count for more."""
    bits_per_value: Estimate
    """Minus all nats by all scored numbers (audio samples, pixels, words) and by log 2: lower is better."""
    perplexity: Estimate | None
    """exp(-nats per frame), for symbols: lower is better. None for other frames."""


def mean(values: Tensor) -> Estimate:
    """The mean of values (sequences,), float64."""
    count = len(values)
    error = (values.var() / count).sqrt().item() if count > 1 else math.nan
    return Estimate(values.mean().item(), error)


def ratio(numerators: Tensor, denominators: Tensor) -> Estimate:
    """R = sum_i a_i / sum_i n_i over sequences, both (sequences,), float64.

    The standard error is the ratio estimator's, by the delta method,
    sqrt(N / (N - 1) sum_i (a_i - R n_i)^2) / sum_i n_i (Cochran, Sampling Techniques, 1977, chapter 6).
    """
    count, total = len(numerators), denominators.sum()
    value = numerators.sum() / total
    error = math.nan
    if count > 1:
        residuals = numerators - value * denominators
        error = ((count / (count - 1) * residuals.square().sum()).sqrt() / total).item()
    return Estimate(value.item(), error)


def amount(nats: Tensor, num_frames: Tensor) -> Amount:
    """Nats of each sequence (sequences,) over their scored frames (sequences,)."""
    return Amount(mean(nats), ratio(nats, num_frames))


def bound(nats: Tensor, num_frames: Tensor, frame_size: int, *, symbols: bool) -> Bound:
    """A log-likelihood of each sequence in all units.

    Args:
        nats: (sequences,) float64.
        num_frames: scored frames of each; (sequences,) float64.
        frame_size: numbers in a frame.
        symbols: whether frames are symbols, which have a perplexity.
    """
    a_sequence, a_frame = amount(nats, num_frames)
    bits = frame_size * math.log(2.0)
    perplexity = None
    if symbols:
        value = nats.new_tensor(-a_frame.value).exp().item()
        perplexity = Estimate(value, value * a_frame.standard_error)
    in_bits = Estimate(-a_frame.value / bits, a_frame.standard_error / bits)
    return Bound(a_sequence, a_frame, in_bits, perplexity)
