"""The plain time loops over step functions, under ordinary autograd.

Models with custom step functions run them, and the loops of :mod:`zf_pyro.recurrence.fast` are tested against them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..networks import AutoregressiveFlow, FlowLayer, PosteriorScan, State, base_of, latent_of


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
        posterior: the distribution q(z_t | past, b_t) from the past and b_t: a diagonal normal, or a flow of one.
        transition: h_t from the past, u_t and z_t.
        state: h_0; each field (..., hidden).
        u: raw input frames; (time, ..., *frame).
        b: backward states; (time, ..., backward).
        noise: standard normal samples; (time, ..., latent).

    Raises:
        TypeError: ``posterior`` returns another distribution, or flows of other layers at other steps.
    """
    states, pasts, locs, scales = [state], [], [], []
    z: list[Tensor] = []
    log_qs: list[Tensor] = []
    flows: tuple[FlowLayer, ...] = ()
    for u_t, b_t, noise_t in zip(u.unbind(0), b.unbind(0), noise.unbind(0), strict=True):
        pasts.append(past(state, u_t))
        q = latent_of(posterior(pasts[-1], b_t), "posterior", noise.shape[-1])
        layers, base = (q.flows if isinstance(q, AutoregressiveFlow) else ()), base_of(q)
        if z and layers != flows:
            raise TypeError(
                "posterior must return a normal at every step, or a flow of the same layers at every step, got "
                f"{len(flows)} layers and then {len(layers)} at step {len(z)}: make the layers once, with the model"
            )
        flows = layers
        if isinstance(q, AutoregressiveFlow):
            z_t, log_q = q.from_noise(noise_t)
            log_qs.append(log_q)
        else:
            z_t = base.loc + base.scale * noise_t
        z.append(z_t)
        state = transition(pasts[-1], u_t, z_t)
        states.append(state)
        locs.append(base.loc.expand_as(z_t))
        scales.append(base.scale.expand_as(z_t))
    stacked = _stack(states)
    after = State(*(field[1:] for field in stacked))
    normals = torch.stack(locs), torch.stack(scales)
    known = torch.stack(log_qs) if flows else None
    return PosteriorScan(torch.stack(z), stacked, _stack(pasts), after, *normals, flows, known)


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
