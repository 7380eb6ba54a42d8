"""The plain time loops over step functions, under ordinary autograd.

They are the independent twins of :mod:`zf_pyro.recurrence.fast`, and what a model with step functions of its own runs.
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
    """The plain loop over step functions; u (time, ..., *frame), b (time, ..., hidden), noise (time, ..., latent)."""
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
    """h_0..h_T by the plain loop over ``transition``; u (time, ..., *frame), z (time, ..., latent)."""
    states = [state]
    for u_t, z_t in zip(u.unbind(0), z.unbind(0), strict=True):
        state = transition(state, u_t, z_t)
        states.append(state)
    return _stack(states)


def _stack(states: Sequence[State]) -> State:
    return State(*(torch.stack(torch.broadcast_tensors(*field)) for field in zip(*states, strict=True)))
