"""Ancestral sampling by a loop over the step functions, without gradients."""

from collections.abc import Callable, Iterator

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..networks import AutoregressiveFlow, State, StepFunctions, base_of, joined, latent_of, sampled


def ancestral(
    net: StepFunctions,
    state: State,
    u_t: Tensor,
    num_steps: int,
    choose: Callable[[TorchDistribution], Tensor],
    *,
    latent_temperature: float = 1.0,
    stop: int | None = None,
    covariates: Tensor | None = None,
    seen: Tensor | None = None,
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
        covariates: those of the steps, (num_steps, ..., K), for a model that has them.
        seen: True for parts of ``u_t`` that were seen, (..., flags), for a model that reads gaps; all if None.

    Yields:
        z_t (..., latent) and x_t (..., *frame).

    Raises:
        TypeError: the prior is neither a diagonal normal nor a flow of one.
        ValueError: a temperature other than 1 for a flow.
    """
    transition = net.loop_transition()
    going = None if stop is None else torch.ones_like(u_t, dtype=torch.bool)
    for t in range(num_steps):
        read = joined(net, u_t, None if covariates is None else covariates[t], seen if t == 0 else None)
        past = net.past(state, read)
        latent = latent_of(net.prior(past), "prior", net.latent_dim, past.hidden.shape[:-1])
        prior = base_of(latent)
        noise = torch.randn_like(prior.loc)
        if isinstance(latent, AutoregressiveFlow):
            if latent_temperature != 1.0:
                raise ValueError(
                    f"latent_temperature must be 1 for a prior with a flow, whose variance it cannot scale, got "
                    f"{latent_temperature}: leave it out"
                )
            z_t, _ = sampled(latent, noise)
        else:
            scale = prior.scale if latent_temperature == 1.0 else prior.scale * latent_temperature**0.5
            z_t = torch.addcmul(prior.loc, scale, noise)
        state = transition(past, read, z_t)
        u_t = choose(net.emission(state))
        if stop is not None and going is not None:
            u_t = u_t.where(going, stop)
            going = going & (u_t != stop)
        yield z_t, u_t
