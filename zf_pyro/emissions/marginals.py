"""Parameters of an emission under which its density is that of the frames of a data set, whatever the time step."""

from collections.abc import Callable

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

LARGEST_SAMPLE = 4_000_000
"""Frames times parameters of a fit, which bounds its time: some seconds."""


def scarce(frames: Tensor) -> Tensor:
    """Means of nonnegative frames (frames, *frame) with half an occurrence added, so that none is 0; (*frame)."""
    return (frames.sum(0) + 0.5) / (len(frames) + 1.0)


def log_odds(frames: Tensor) -> Tensor:
    """Log-odds of ones among zeros and ones (frames, *frame), half an occurrence of each added; (*frame)."""
    ones = frames.sum(0) + 0.5
    return ones.log() - (len(frames) + 1.0 - ones).log()


def spread(frames: Tensor) -> Tensor:
    """Variances of the elements of frames (frames, elements), at least 1e-4 of their mean and never 0; (elements,)."""
    variance = frames.var(0, correction=0)
    return variance.clamp(min=float(1e-4 * variance.mean())).clamp(min=1e-8)


def slices(frames: Tensor, count: int) -> list[Tensor]:
    """Frames (frames, elements) cut into ``count`` parts of equal size along their direction of largest variance."""
    centred = frames - frames.mean(0)
    _, _, directions = torch.linalg.svd(centred.T @ centred)
    order = (centred @ directions[0]).argsort(stable=True)
    if len(order) < count:  # a frame may stand in several
        order = order.repeat_interleave(-(-count // len(order)))
    return [frames[part] for part in order.tensor_split(count)]


def most_probable(distribution: Callable[[Tensor], TorchDistribution], frames: Tensor, start: Tensor) -> Tensor:
    """Parameters of the highest total density of independent frames, by L-BFGS from a start.

    Args:
        distribution: from parameters (num_parameters,) to the density of a frame.
        frames: (frames, *frame).
        start: (num_parameters,).

    Returns:
        (num_parameters,), the best that was found; the start, where no other is better.
    """
    frames = frames[:: max(1, -(-len(frames) * len(start) // LARGEST_SAMPLE))]
    frames = frames.double() if frames.is_floating_point() else frames
    parameters = start.double().clone().requires_grad_(True)
    best, lowest = start.double(), torch.inf
    optimiser = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        nonlocal best, lowest
        optimiser.zero_grad()
        loss = -distribution(parameters).log_prob(frames).mean()
        if float(loss.detach()) < lowest:
            best, lowest = parameters.detach().clone(), float(loss.detach())
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    return best.to(start.dtype)
