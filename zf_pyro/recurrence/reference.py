"""The plain time loops over step functions, under ordinary autograd.

Models with custom step functions run them, and the loops of :mod:`zf_pyro.recurrence.fast` are tested against them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..networks import PosteriorScan, State


def reference_posterior_scan(
    posterior: Callable[[State, Tensor], Any],
    transition: Callable[[State, Tensor, Tensor], State],
    state: State,
    u: Tensor,
    b: Tensor,
    noise: Tensor,
) -> PosteriorScan:
    """Sample z_1..z_T from the posterior and run the recurrence, by the plain loop over step functions.

    Args:
        posterior: the distribution q(z_t | h_{t-1}, b_t) from h_{t-1} and b_t.
        transition: h_t from h_{t-1}, u_t and z_t.
        state: h_0; each field (..., hidden).
        u: raw input frames; (time, ..., *frame).
        b: backward states; (time, ..., hidden).
        noise: standard normal samples; (time, ..., latent).
    """
    states, z, locs, scales = [state], [], [], []
    for u_t, b_t, noise_t in zip(u.unbind(0), b.unbind(0), noise.unbind(0), strict=True):
        q = posterior(state, b_t).base_dist
        z.append(q.loc + q.scale * noise_t)
        state = transition(state, u_t, z[-1])
        states.append(state)
        locs.append(q.loc)
        scales.append(q.scale)
    stacked = _stack(states)
    neighbours = stacked.hidden[:-1], stacked.hidden[1:]
    return PosteriorScan(torch.stack(z), stacked, *neighbours, torch.stack(locs), torch.stack(scales))


def reference_state_scan(
    transition: Callable[[State, Tensor, Tensor], State], state: State, u: Tensor, z: Tensor
) -> State:
    """Return h_0..h_T by the plain loop over ``transition``; u (time, ..., *frame), z (time, ..., latent)."""
    states = [state]
    for u_t, z_t in zip(u.unbind(0), z.unbind(0), strict=True):
        state = transition(state, u_t, z_t)
        states.append(state)
    return _stack(states)


def _stack(states: Sequence[State]) -> State:
    return State(*(torch.stack(torch.broadcast_tensors(*field)) for field in zip(*states, strict=True)))
