"""Proper scores of forecasts that are samples, and their intervals, coverage and probability integral transform.

Samples are (num_samples, ...), targets (...), NaN where a target is missing: its score is NaN. Lower scores are better.
Gneiting and Raftery 2007, "Strictly proper scoring rules, prediction, and estimation",
https://doi.org/10.1198/016214506000001437.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import require_count, require_flag, require_number, require_tensor

PAIRS = 1 << 24
"""Distances between samples that are held at once, 128 MiB."""


class Interval(NamedTuple):
    """Central interval of a forecast, and whether it holds the target; each (...)."""

    lower: Tensor
    upper: Tensor
    inside: Tensor
    """1 where the target lies within, ends included, else 0; NaN where it is missing."""
    score: Tensor
    """Width, and 2 / (1 - level) times the distance of a target outside; lower is better."""

    @property
    def width(self) -> Tensor:
        """Upper minus lower end; NaN where the target is missing, (...)."""
        return (self.upper - self.lower).where(~self.inside.isnan(), torch.nan)


def crps(samples: Tensor, targets: Tensor, *, fair: bool = True) -> Tensor:
    """Continuous ranked probability score, E|X - y| - E|X - X'| / 2, of each target.

    Args:
        samples: (num_samples, ...).
        targets: (...), NaN where missing.
        fair: the unbiased estimate of the score of the distribution that the samples come from: X and X' are different
            samples (Ferro 2014, https://doi.org/10.1002/qj.2270). Otherwise the score of the samples' own empirical
            distribution, which is larger by E|X - X'| / (2 num_samples).

    Returns:
        (...) float64, in units of the targets.

    Raises:
        TypeError, ValueError: other shapes, fewer than 2 samples, or samples that are not finite.
    """
    samples, targets = _pair(samples, targets)
    count = len(samples)
    centred = (samples - targets).sort(dim=0).values
    order = 2 * torch.arange(1, count + 1, dtype=torch.float64, device=samples.device) - count - 1
    spread = torch.tensordot(order, centred, dims=1)  # sum over pairs i < j of their distance
    return centred.abs().mean(0) - spread / (count * _others(count, fair))


def energy_score(samples: Tensor, targets: Tensor, *, fair: bool = True) -> Tensor:
    """Energy score, E||X - y|| - E||X - X'|| / 2, of each frame. In one dimension it is the CRPS.

    Only the elements that were seen count. A frame with other missing elements has another unit.

    Args:
        samples: (num_samples, ..., frame).
        targets: (..., frame), NaN where missing.
        fair: as for :func:`crps`.

    Returns:
        (...) float64, NaN where nothing of the frame was seen.

    Raises:
        TypeError, ValueError: as for :func:`crps`.
    """
    samples, targets = _pair(samples, targets)
    if not targets.dim():
        raise ValueError("targets must be (..., frame), got a scalar: take crps for single values")
    count, shape, frame = len(samples), targets.shape[:-1], targets.shape[-1]
    seen = ~targets.isnan()
    centred = (samples - targets).where(seen, 0.0).reshape(count, -1, frame).transpose(0, 1)
    parts = []
    for part in centred.split(max(1, PAIRS // count**2)):
        near = torch.cdist(part, part, compute_mode="donot_use_mm_for_euclid_dist").sum((1, 2))
        parts.append(part.norm(dim=-1).mean(1) - near / (2 * count * _others(count, fair)))
    scores = torch.cat(parts) if parts else centred.new_zeros(0)
    return scores.view(shape).where(seen.any(-1), torch.nan)


def log_score(samples: Tensor, targets: Tensor) -> Tensor:
    """-log p(y) in nats, where p is a kernel density estimate of the samples: a rough estimate.

    Normal kernels with Silverman's bandwidth, 0.9 min(deviation, interquartile range / 1.34) num_samples^(-1/5)
    (Silverman 1986, equation 3.31). It depends on the bandwidth and on the number of samples, most of all in the tails,
    and has no meaning for counts. Where the model's density is known, score that instead
    (:func:`zf_pyro.evaluation.evaluate`).

    Args:
        samples: (num_samples, ...).
        targets: (...), NaN where missing.

    Returns:
        (...) float64. Where all samples are equal, -inf at a target equal to them, and inf elsewhere.

    Raises:
        TypeError, ValueError: as for :func:`crps`.
    """
    samples, targets = _pair(samples, targets)
    count = len(samples)
    ordered = samples.sort(dim=0).values
    deviation = samples.std(0)
    ranged = (_quantile(ordered, 0.75) - _quantile(ordered, 0.25)) / 1.34
    narrow = torch.where(ranged > 0, torch.minimum(deviation, ranged), deviation)
    bandwidth = 0.9 * narrow * count**-0.2
    near = torch.where(bandwidth > 0, (targets - samples) / bandwidth.where(bandwidth > 0, 1.0), 0.0)
    density = (-near.square() / 2).logsumexp(0) - bandwidth.log() - math.log(count) - 0.5 * math.log(2 * math.pi)
    exact = torch.where(targets == samples[0], -torch.inf, torch.inf)
    return torch.where(bandwidth > 0, -density, exact).where(~targets.isnan(), torch.nan)


def interval(samples: Tensor, targets: Tensor, level: float = 0.9) -> Interval:
    """Central interval of each forecast.

    Its ends are quantiles at (1 -+ level) / 2 of the kind that p (num_samples + 1) samples lie below, interpolated.
    Where the target comes from the samples' distribution, the interval holds it with probability ``level``, also for
    few samples.

    Args:
        samples: (num_samples, ...).
        targets: (...), NaN where missing.
        level: probability of the interval, between 0 and 1.

    Raises:
        TypeError, ValueError: as for :func:`crps`, or too few samples for the level.
    """
    samples, targets = _pair(samples, targets)
    level = require_number("level", level, "between 0 and 1", 0.0, 1.0, "()")
    tail = (1 - level) / 2
    if tail * (len(samples) + 1) < 1 - 1e-9:
        raise ValueError(
            f"level {level} needs {math.ceil(1 / tail - 1e-9) - 1} samples at least, so that one can lie beyond each "
            f"end, got {len(samples)}: draw more, or take a lower level"
        )
    ordered = samples.sort(dim=0).values
    lower, upper = _quantile(ordered, tail), _quantile(ordered, 1 - tail)
    seen = ~targets.isnan()
    inside = ((lower <= targets) & (targets <= upper)).double().where(seen, torch.nan)
    beyond = (lower - targets).clamp(min=0) + (targets - upper).clamp(min=0)
    return Interval(lower, upper, inside, upper - lower + beyond / tail)


def pit(samples: Tensor, targets: Tensor, *, seed: int = 0) -> Tensor:
    """Probability integral transform of each target, randomised: uniform on [0, 1] where forecasts are calibrated.

    (L + u (E + 1)) / (num_samples + 1), with L samples below the target, E equal to it, and u uniform: exactly uniform
    for any number of samples, and for counts, too.

    Args:
        samples: (num_samples, ...).
        targets: (...), NaN where missing.
        seed: seed of u.

    Returns:
        (...) float64.

    Raises:
        TypeError, ValueError: as for :func:`crps`.
    """
    samples, targets = _pair(samples, targets)
    generator = torch.Generator().manual_seed(require_count("seed", seed, least=0))
    u = torch.rand(targets.shape, dtype=torch.float64, generator=generator).to(targets.device)
    below, equal = (samples < targets).sum(0), (samples == targets).sum(0)
    return ((below + u * (equal + 1)) / (len(samples) + 1)).where(~targets.isnan(), torch.nan)


def _pair(samples: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Samples and targets as float64 on one device, checked."""
    samples, targets = require_tensor("samples", samples).detach(), require_tensor("targets", targets).detach()
    if samples.shape[1:] != targets.shape or len(samples) < 2:
        raise ValueError(
            f"samples must be (num_samples, *targets.shape), at least 2 of them, got shapes {tuple(samples.shape)} and "
            f"{tuple(targets.shape)}"
        )
    samples, targets = samples.double(), targets.to(samples.device).double()
    if not samples.isfinite().all() or targets.isinf().any():
        name = "targets" if samples.isfinite().all() else "samples"
        raise ValueError(
            f"{name} must be finite" + (", NaN where missing" if name == "targets" else "") + ", got others"
        )
    return samples, targets


def _others(count: int, fair: bool) -> int:
    """Samples that each sample is compared with."""
    return count - 1 if require_flag("fair", fair) else count


def _quantile(ordered: Tensor, probability: float) -> Tensor:
    """Quantile at p (num_samples + 1), interpolated, of sorted samples, (num_samples, ...); the ends beyond them."""
    place = min(max(probability * (len(ordered) + 1) - 1, 0.0), len(ordered) - 1.0)
    low = min(int(place + 1e-9), len(ordered) - 1)
    return torch.lerp(ordered[low], ordered[min(low + 1, len(ordered) - 1)], max(0.0, place - low))
