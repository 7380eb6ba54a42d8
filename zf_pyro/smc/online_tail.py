"""Tail probability of a frame under the forecast of its step."""

import torch
from torch import Tensor

from ..generation import drawn
from ..models import StochasticRNN
from ..networks import State
from .online_step import of_particles

ELEMENTS_AT_ONCE = 2**22
"""Elements of sampled frames whose densities are computed at once; 32 MiB in float64."""


def tail_probability(
    net: StochasticRNN,
    log_weights: Tensor,
    state: State,
    seen: Tensor | None,
    log_likelihood: Tensor,
    num_samples: int,
) -> Tensor:
    """Share of frames sampled from the forecast that are no likelier than the one that came.

    The forecast is the mixture of p(x_t | h_t) over particles that the prior has moved. The frame that came counts as
    one of the samples. The share is then a p-value, uniform over its values if the frame is of the same mixture.

    Args:
        net: the model.
        log_weights: of the particles before the frame; (batch, particles).
        state: h_t of the particles; each field (batch, particles, hidden).
        seen: True for parts of the frame that were seen, (batch, 1, flags); all if None.
        log_likelihood: log-density of the frame under the mixture, (batch,) nats.
        num_samples: frames sampled for each sequence.

    Returns:
        (batch,), NaN where nothing was seen.
    """
    batch, count = log_weights.shape
    emission, shape = net.emission(state), net.emission_family.event_shape
    index = torch.multinomial(log_weights.exp(), num_samples, replacement=True)
    frames = drawn(net.emission(State(*(of_particles(field, index) for field in state)))).transpose(0, 1)
    at_once = max(1, ELEMENTS_AT_ONCE // (batch * count * max(1, shape.numel())))
    # A discrete frame that equals the one that came has its density only to rounding.
    bound = log_likelihood + 64 * torch.finfo(log_likelihood.dtype).eps * (1.0 + log_likelihood.abs())
    below = torch.zeros_like(log_likelihood)
    for part in frames.split(at_once):
        each = part.unsqueeze(2).expand(len(part), batch, count, *shape)
        found = (log_weights + net.emission_family.log_prob(emission, each, seen)).logsumexp(-1)
        below = below + (found <= bound).sum(0)
    tail = (1.0 + below) / (num_samples + 1.0)
    return tail if seen is None else tail.where(seen.reshape(batch, -1).any(-1), torch.nan)
