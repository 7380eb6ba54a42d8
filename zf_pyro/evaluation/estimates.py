"""Means and ratios over sequences with standard errors, and a bound in all units."""

import math
from typing import NamedTuple

from torch import Tensor

from ..checks import require_tensor


class Estimate(NamedTuple):
    """Value estimated over sequences."""

    value: float
    standard_error: float
    """Standard error over independent sequences; NaN for a single one."""


class Amount(NamedTuple):
    """Nats over a data set."""

    nats_per_sequence: Estimate
    """Mean over sequences."""
    nats_per_frame: Estimate
    """Total nats divided by the number of scored frames."""


class Bound(NamedTuple):
    """Log-likelihood of a data set, or a bound on it, in all units."""

    nats_per_sequence: Estimate
    """Mean over sequences."""
    nats_per_frame: Estimate
    """Total nats divided by the number of scored frames, so long sequences weigh more."""
    bits_per_value: Estimate
    """Minus the total nats divided by log 2 and by the number of scored values (audio samples, pixels, words): lower is
    better."""
    perplexity: Estimate | None
    """exp(-nats per frame) for symbols: lower is better. None for other frames."""


def mean(values: Tensor) -> Estimate:
    """Mean of values (sequences,), float64."""
    count = len(values)
    error = (values.var() / count).sqrt().item() if count > 1 else math.nan
    return Estimate(values.mean().item(), error)


def ratio(numerators: Tensor, denominators: Tensor) -> Estimate:
    """Ratio R = sum_i a_i / sum_i n_i over sequences; a and n (sequences,), float64.

    The standard error of the ratio estimator by the delta method is
    sqrt(N / (N - 1) sum_i (a_i - R n_i)^2) / sum_i n_i (Cochran, Sampling Techniques, 1977, chapter 6).
    """
    shape, other = require_tensor("numerators", numerators).shape, require_tensor("denominators", denominators).shape
    if shape != other or len(shape) != 1 or not shape[0]:
        raise ValueError(
            f"numerators and denominators must have one shape (sequences,), got {tuple(shape)} and {tuple(other)}"
        )
    count, total = len(numerators), denominators.sum()
    value = numerators.sum() / total
    error = math.nan
    if count > 1:
        residuals = numerators - value * denominators
        error = ((count / (count - 1) * residuals.square().sum()).sqrt() / total).item()
    return Estimate(value.item(), error)


def amount(nats: Tensor, num_frames: Tensor) -> Amount:
    """Nats of each sequence (sequences,) per sequence and per scored frame; ``num_frames`` (sequences,)."""
    return Amount(mean(nats), ratio(nats, num_frames))


def bound(nats: Tensor, num_frames: Tensor, frame_size: int, *, symbols: bool) -> Bound:
    """Log-likelihood over sequences, in all units.

    Args:
        nats: log-likelihood of each sequence; (sequences,) float64.
        num_frames: scored frames of each; (sequences,) float64.
        frame_size: values in a frame.
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
