"""Ancestral sampling by a loop over the step functions, without gradients."""

from collections.abc import Callable, Iterator

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..networks import State, StepFunctions


def ancestral(
    net: StepFunctions,
    state: State,
    u_t: Tensor,
    num_steps: int,
    choose: Callable[[TorchDistribution], Tensor],
    *,
    latent_temperature: float = 1.0,
    stop: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Sample z_t ~ p(z_t | h_{t-1}) and choose x_t from p(x_t | h_t) in turn. Call it without gradients.

    Args:
        net: the model, in evaluation mode.
        state: h before the first step; (..., hidden).
        u_t: the first input; (..., *frame).
        num_steps: steps to generate.
        choose: decoding strategy, from p(x_t | h_t) to x_t.
        latent_temperature: factor of the prior's variance.
        stop: for symbols, the end token. It is repeated after its first occurrence.

    Yields:
        z_t (..., latent) and x_t (..., *frame).
    """
    transition = net.loop_transition()
    going = None if stop is None else torch.ones_like(u_t, dtype=torch.bool)
    for _ in range(num_steps):
        past = net.past(state, u_t)
        prior = net.prior(past).base_dist
        scale = prior.scale if latent_temperature == 1.0 else prior.scale * latent_temperature**0.5
        z_t = torch.addcmul(prior.loc, scale, torch.randn_like(prior.loc))
        state = transition(past, u_t, z_t)
        u_t = choose(net.emission(state))
        if stop is not None and going is not None:
            u_t = u_t.where(going, stop)
            going = going & (u_t != stop)
        yield z_t, u_t
