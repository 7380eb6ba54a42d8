"""The start of an online filter: new sequences, or known frames taken in at once."""

import math
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..checks import int64, require_count, require_room, require_tensor
from ..data import arguments_of
from ..models import RefinedNetwork, StochasticRNN
from ..networks import State
from ..paths import (
    RunInputs,
    check_frames,
    filled,
    prepare_inputs,
    step_width,
)
from .filter import FilterSettings, known_sequences, start_states
from .forms import steps_of
from .online import OnlineFilter
from .online_frames import require_observed
from .online_guide import Carried, carried_after, carried_start
from .online_step import Particles, resampled, weighed

STEPS_AT_ONCE = 256
"""Known frames whose part that no particle changes is computed at once, which bounds memory."""


@torch.no_grad()
def start_online(
    net: StochasticRNN,
    settings: FilterSettings,
    batch: Any,
    proposal: str | None,
    context: Tensor | None,
    initial_state: State | None,
    covariates: Tensor | None,
    observed: Tensor | None,
) -> OnlineFilter:
    """An online run; the arguments are those of :meth:`zf_pyro.inference.ParticleFilter.start`.

    Frames are (batch, time, *frame), the context (batch, *frame), and observed (batch, time) or (batch, time, *frame).
    """
    if isinstance(net, RefinedNetwork):
        raise TypeError(
            "guide must be left out for an online run: the corrections of a refined guide belong to whole sequences; "
            "make ParticleFilter(net, num_particles) without it"
        )
    later = "prior" if proposal is None and net.has_auxiliary else proposal or settings.proposal
    later_settings = replace(settings, proposal=later)
    given: dict[str, Any] = {
        "context": context,
        "initial_state": initial_state,
        "covariates": covariates,
        "observed": observed,
    }
    number = isinstance(batch, Real)
    for name, value in ({} if number else arguments_of(batch, "batch")).items():
        if given.get(name) is not None:
            raise TypeError(f"{name} must be left out where batch has one")
        given[name] = value
    context, initial_state, covariates, observed = (given[name] for name in tuple(given)[:4])
    if number:
        for name in ("covariates", "observed"):
            if given[name] is not None:
                raise ValueError(
                    f"{name} must be left out where batch is a number of sequences, which have no frames yet"
                )
        return _new(net, later_settings, require_count("batch", batch), context, initial_state)
    x, lengths = require_tensor("batch", given["x"]), int64(given.get("lengths"))
    check_frames(x, net.emission_family, net.emission_layer.weight, "batch")
    observed = require_observed(net, observed, x)
    run = prepare_inputs(net, x, lengths, context, initial_state, covariates=covariates, observed=observed, draws=True)
    _require_room(net, settings, run)
    return _known(net, settings, later_settings, run, lengths)


def _new(
    net: StochasticRNN, settings: FilterSettings, batch: int, context: Tensor | None, initial_state: State | None
) -> OnlineFilter:
    """A run without frames."""
    weight = net.emission_layer.weight
    known = weight.new_zeros(batch, 1, net.covariate_dim) if net.covariate_dim else None
    run = prepare_inputs(net, None, None, context, initial_state, 1, batch, covariates=known)
    _require_room(net, settings, run)
    return OnlineFilter(net, settings, _first(net, run, settings), carried_start(net, batch))


def _first(net: StochasticRNN, run: RunInputs, settings: FilterSettings) -> Particles:
    """Particles before the first frame."""
    state = State(*(field.clone() for field in start_states(run, settings.num_particles)))
    shape = run.batch_size, settings.num_particles
    log_weights = state.hidden.new_full(shape, -math.log(settings.num_particles))
    flags = torch.ones(shape[0], 1, net.flag_dim, dtype=torch.bool, device=state.hidden.device)
    return Particles(state, run.first.unsqueeze(1).clone(), log_weights, flags)


def _known(
    net: StochasticRNN, settings: FilterSettings, later: FilterSettings, run: RunInputs, lengths: Tensor | None
) -> OnlineFilter:
    """A run after known frames, of which the guide reads the later ones too, as ``ParticleFilter.run`` does."""
    u, b, x, gaps = known_sequences(net, run, lengths, settings)
    particles = _first(net, run, settings)
    batch, count = particles.log_weights.shape
    z = particles.state.hidden.new_zeros(batch, count, net.latent_dim)
    frames = torch.zeros(batch, dtype=torch.int64, device=z.device)
    log_evidence = torch.zeros(batch, dtype=torch.float64, device=z.device)
    rows = torch.arange(batch, device=z.device)
    for first in range(0, run.num_steps, STEPS_AT_ONCE):
        time = slice(first, first + STEPS_AT_ONCE)
        own = None if gaps is None else gaps.taken(time, rows)
        steps = steps_of(net, u[time], None if b is None else b[time], x[time], own)
        if first == 0:
            particles = particles._replace(state=steps.start(particles.state))
        for t in range(len(steps.x)):
            real = None if run.mask is None else run.mask[first + t]
            noise = z.new_empty(z.shape).normal_()
            uniforms = z.new_empty(batch, count).uniform_()
            chosen = resampled(particles, frames, uniforms, settings)
            moved = steps.move(chosen.state, t, noise)
            log_weights, increment = weighed(chosen.log_weights, moved.log_likelihood, moved.log_ratio)
            after = particles._replace(state=moved.state, log_weights=log_weights)
            if real is None:
                particles, z, frames = after, moved.z, frames + 1
            else:
                particles = _where(real, after, particles)
                z = torch.where(real.view(-1, 1, 1), moved.z, z)
                increment, frames = torch.where(real, increment, 0.0), frames + real
            log_evidence = log_evidence + increment
    state, completed = State(steps.hidden(particles.state, z), particles.state.cell), steps.completed(particles.state)
    last, flags = x[frames - 1, rows], particles.flags
    if net.flag_dim and run.seen is not None:
        seen = run.seen[frames - 1, rows]
        last, flags = filled(last, seen, net.emission_family), seen.unsqueeze(1)
    u_next = last.unsqueeze(1) if completed is None else completed
    state = State(*(field.clone() for field in state))
    online = OnlineFilter(net, later, Particles(state, u_next, particles.log_weights, flags), _carried(net, later, run))
    online.frames, online.log_evidence = frames, log_evidence
    return online


def _carried(net: StochasticRNN, settings: FilterSettings, run: RunInputs) -> Carried:
    """What the guide carries after the frames; its start where the prior proposes."""
    if settings.proposal == "prior" or run.read is None:
        return carried_start(net, run.batch_size)
    return carried_after(net, run.read, run.mask)


def _where(real: Tensor, new: Particles, old: Particles) -> Particles:
    """Particles of sequences (batch,) that are real, and those before of the others."""
    chosen = real.view(-1, 1, 1)
    state = State(*(torch.where(chosen, *pair) for pair in zip(new.state, old.state, strict=True)))
    return new._replace(state=state, log_weights=torch.where(real.view(-1, 1), new.log_weights, old.log_weights))


def _require_room(net: StochasticRNN, settings: FilterSettings, run: RunInputs) -> None:
    """Refuse particles that do not fit in memory."""
    like = net.emission_layer.weight
    require_room(settings.num_particles, 24 * run.batch_size * step_width(net) * like.element_size(), like.device)
