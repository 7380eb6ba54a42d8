"""The plain time loops over step functions, under ordinary autograd.

Models with custom step functions run them, and the loops of :mod:`zf_pyro.recurrence.fast` are tested against them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..networks import PosteriorScan, State


def reference_posterior_scan(
    past: Callable[[State, Tensor], State],
    posterior: Callable[[State, Tensor], Any],
    transition: Callable[[State, Tensor, Tensor], State],
    state: State,
    u: Tensor,
    b: Tensor,
    noise: Tensor,
) -> PosteriorScan:
    """Sample z_1..z_T from the posterior and run the recurrence, by the plain loop over step functions.

    Args:
        past: what z_t depends on, from h_{t-1} and u_t.
        posterior: the distribution q(z_t | past, b_t) from the past and b_t.
        transition: h_t from the past, u_t and z_t.
        state: h_0; each field (..., hidden).
        u: raw input frames; (time, ..., *frame).
        b: backward states; (time, ..., backward).
        noise: standard normal samples; (time, ..., latent).
    """
    states, pasts, z, locs, scales = [state], [], [], [], []
    for u_t, b_t, noise_t in zip(u.unbind(0), b.unbind(0), noise.unbind(0), strict=True):
        pasts.append(past(state, u_t))
        q = posterior(pasts[-1], b_t).base_dist
        z.append(q.loc + q.scale * noise_t)
        state = transition(pasts[-1], u_t, z[-1])
        states.append(state)
        locs.append(q.loc)
        scales.append(q.scale)
    stacked = _stack(states)
    after = State(*(field[1:] for field in stacked))
    return PosteriorScan(torch.stack(z), stacked, _stack(pasts), after, torch.stack(locs), torch.stack(scales))


def reference_state_scan(
    past: Callable[[State, Tensor], State],
    transition: Callable[[State, Tensor, Tensor], State],
    state: State,
    u: Tensor,
    z: Tensor,
) -> State:
    """Return h_0..h_T by the plain loop over ``past`` and ``transition``.

    Args:
        past: what z_t depends on, from h_{t-1} and u_t.
        transition: h_t from the past, u_t and z_t.
        state: h_0; each field (..., hidden).
        u: raw input frames; (time, ..., *frame).
        z: latents; (time, ..., latent).
    """
    states = [state]
    for u_t, z_t in zip(u.unbind(0), z.unbind(0), strict=True):
        state = transition(past(state, u_t), u_t, z_t)
        states.append(state)
    return _stack(states)


def _stack(states: Sequence[State]) -> State:
    return State(*(torch.stack(torch.broadcast_tensors(*field)) for field in zip(*states, strict=True)))
