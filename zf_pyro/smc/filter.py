"""Sequential Monte Carlo over the latents of many sequences at once, on the step functions of a model.

The filter runs step by step, since particles are weighed at one step before they are resampled for the next. Two things
make it fast: work that is done once before the first step (``steps.py``), and few sequences at a time with all their
steps, so that intermediate results stay in cache.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import require_choice, require_count, require_number
from ..models import StochasticRNN
from ..networks import State
from ..paths import RunInputs, backward_states_of, step_width
from .forms import steps_of
from .resampling import SCHEMES, effective_sample_size
from .steps import FilterSteps, Gaps
from .twist import Twist, TwistedRun, states_ahead

PROPOSALS = ("posterior", "prior")
"""Proposals of z_t: the guide's q(z_t | h_{t-1}, b_t), which depends on later frames, or p(z_t | h_{t-1})."""
ELEMENTS_PER_CHUNK = 2**20
"""Elements of the widest result of a step: few enough to stay in cache."""


@dataclass(frozen=True)
class FilterSettings:
    """Settings of a particle filter; each is explained in :class:`zf_pyro.inference.ParticleFilter`."""

    num_particles: int
    proposal: str = "posterior"
    resampling: str = "systematic"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_particles", require_count("num_particles", self.num_particles))
        require_choice("proposal", self.proposal, PROPOSALS)
        require_choice("resampling", self.resampling, SCHEMES)
        threshold = require_number("threshold", self.threshold, "a share of the particles in [0, 1]", 0.0, 1.0)
        object.__setattr__(self, "threshold", threshold)


class Filtered(NamedTuple):
    """Results of a pass over sequences. Beyond a sequence's length its weights do not change."""

    log_increments: Tensor
    """Estimates of log p(x_t | x_1..x_{t-1}), zero beyond a length; (time, batch) nats."""
    log_choices: Tensor
    """Log-probability of the ancestors sampled before each step, as a function of the weights; (time, batch) nats. Zero
    except under ``multinomial``, and where nothing was resampled."""
    ess: Tensor
    """1 / sum_k v_k^2 of the normalised weights after each step; (time, batch) particles."""
    log_weights: Tensor
    """log v_k after the last real step; (batch, particles)."""
    z: Tensor
    """Particles as they were proposed, zero beyond a length; (time, batch, particles, latent)."""
    ancestors: Tensor
    """Particle of the step before that each continues; (time, batch, particles). At the first step 0..particles-1."""
    x: Tensor | None = None
    """Frames as the particles completed them, (time, batch, particles, *frame); None if none sampled frames."""


class Known(NamedTuple):
    """Sequences that the steps of a filter depend on."""

    u: Tensor
    """Inputs; (time, batch, *frame)."""
    b: Tensor | None
    """Backward states, (time, batch, hidden); None where the prior proposes."""
    x: Tensor
    """Frames; (time, batch, *frame)."""
    gaps: Gaps | None = None
    """What was not seen of them; None if all was."""


def gaps_of(run: RunInputs) -> Gaps | None:
    """Gaps of a run; None if all was seen."""
    return None if run.seen is None else Gaps(run.seen, run.covariates, run.first)


def known_sequences(net: StochasticRNN, run: RunInputs, lengths: Tensor | None, settings: FilterSettings) -> Known:
    """Inputs, backward states and frames of all sequences, each (time, batch, ...).

    Args:
        net: the model.
        run: validated inputs, x included.
        lengths: real frames of each sequence, (batch,); None if all are.
        settings: the filter's settings.

    Raises:
        ValueError: there are no frames.
    """
    if run.x is None or run.u is None:
        raise ValueError("x must be given: a filter weighs particles by what was observed")
    guided = settings.proposal == "posterior"
    return Known(run.u, backward_states_of(net, run, lengths) if guided else None, run.x, gaps_of(run))


def random_numbers(like: Tensor, num_steps: int, shape: tuple[int, int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Random numbers of each step: normal (sequences, particles, latent), and uniform (sequences, particles)."""
    for _ in range(num_steps):
        yield like.new_empty(shape).normal_(), like.new_empty(shape[:2]).uniform_()


def run_filter(
    steps: FilterSteps,
    state: State,
    mask: Tensor | None,
    randomness: Iterable[tuple[Tensor, Tensor]],
    settings: FilterSettings,
    kl_weight: float = 1.0,
    twist: TwistedRun | None = None,
) -> Filtered:
    """Filter some sequences.

    Args:
        steps: the step functions over these sequences.
        state: h_0; (sequences, particles, hidden).
        mask: True on real frames, (time, sequences); None if all are.
        randomness: random numbers of each step, as of :func:`random_numbers`.
        settings: the filter's settings.
        kl_weight: exponent of p(z) / q(z | x) in the weights.
        twist: log r_t over these sequences; None for r_t = 1.
    """
    scheme, count, state = SCHEMES[settings.resampling], settings.num_particles, steps.start(state)
    shape = state.hidden.shape[:2]
    everyone = torch.arange(count, device=state.hidden.device).expand(shape)
    log_weights = state.hidden.new_full(shape, -math.log(count))
    nothing = state.hidden.new_zeros(shape[0])
    whole = [True] * len(steps.x) if mask is None else mask.all(1).tolist()
    kept: list[tuple[Tensor, ...]] = []
    frames: list[Tensor] = []
    ess = nothing + count
    ahead = torch.zeros_like(log_weights)  # log r_{t-1}
    for t, (noise, uniforms) in enumerate(randomness):
        real = None if mask is None or whole[t] else mask[t].unsqueeze(-1)
        choices, ancestors = nothing, everyone
        poor = (ess < settings.threshold * count).unsqueeze(-1)
        if real is not None:
            poor = poor & real
        if t > 0 and poor.any():
            ancestors = torch.where(poor, scheme(log_weights, uniforms), everyone)
            if settings.resampling == "multinomial" and torch.is_grad_enabled():
                choices = torch.where(poor, log_weights.gather(-1, ancestors), 0.0).sum(-1)
            state = State(*(_take(field, ancestors) for field in state))
            log_weights = torch.where(poor, -math.log(count), log_weights)
            if twist is not None:
                ahead = ahead.gather(-1, ancestors)
        z, moved, log_likelihood, log_ratio = steps.move(state, t, noise)
        x_t = steps.completed(moved)
        log_joint = log_weights + log_likelihood + kl_weight * log_ratio
        if twist is not None:
            before, ahead = ahead, twist.log_r(t, steps.hidden(moved, z))
            log_joint = log_joint + (ahead - before)
        increment = log_joint.logsumexp(-1)
        new_weights = log_joint - increment.unsqueeze(-1)
        if real is not None:
            z = torch.where(real.unsqueeze(-1), z, 0.0)
            moved = State(*(torch.where(real.unsqueeze(-1), *pair) for pair in zip(moved, state, strict=True)))
            increment = torch.where(real.squeeze(-1), increment, 0.0)
            new_weights = torch.where(real, new_weights, log_weights)
        state, log_weights = moved, new_weights
        ess = effective_sample_size(log_weights.detach(), dim=-1)
        kept.append((increment, choices, ess, z, ancestors))
        if x_t is not None:
            frames.append(x_t)
    increments, choices, sizes, z, ancestors = (torch.stack(field) for field in zip(*kept, strict=True))
    return Filtered(increments, choices, sizes, log_weights, z, ancestors, torch.stack(frames) if frames else None)


def filter_sequences(
    net: StochasticRNN, run: RunInputs, lengths: Tensor | None, settings: FilterSettings, twist: Twist | None = None
) -> Filtered:
    """Filter all sequences without gradients, a few of similar length at a time; lengths (batch,) or None."""
    u, b, x, gaps = known_sequences(net, run, lengths, settings)
    count, num_steps, batch = settings.num_particles, run.num_steps, run.batch_size
    start, latent = start_states(run, count), net.latent_dim
    ahead = b if twist is None else states_ahead(twist, net, run, b, lengths)
    ends = [num_steps] * batch if lengths is None else lengths.tolist()
    order = sorted(range(batch), key=ends.__getitem__)
    numbers = start.hidden.new_zeros(2, num_steps, batch)
    log_weights = start.hidden.new_empty(batch, count)
    z = start.hidden.new_zeros(num_steps, batch, count, latent)
    ancestors = torch.arange(count, device=z.device).repeat(num_steps, batch, 1)
    ess, frames = numbers[1], None
    if gaps is not None and not net.flag_dim:
        frames = x.unsqueeze(2).repeat(1, 1, count, *[1] * (x.dim() - 2))
    with torch.no_grad():
        for rows in torch.tensor(order, device=z.device).split(sequences_at_once(net, settings, z.device, batch)):
            time = slice(0, ends[int(rows[-1])])
            own = None if gaps is None else gaps.taken(time, rows)
            steps = steps_of(net, u[time, rows], None if b is None else b[time, rows], x[time, rows], own)
            mask = None if run.mask is None else run.mask[time, rows]
            randomness = random_numbers(z, time.stop, (len(rows), count, latent))
            twisted = None if twist is None or ahead is None else TwistedRun(twist, ahead[time, rows], mask)
            part = run_filter(steps, State(*(f[rows] for f in start)), mask, randomness, settings, twist=twisted)
            numbers[0][time, rows], ess[time, rows], log_weights[rows] = part.log_increments, part.ess, part.log_weights
            ess[time.stop :, rows] = part.ess[-1]
            z[time, rows], ancestors[time, rows] = part.z, part.ancestors
            if frames is not None and part.x is not None:
                frames[time, rows] = part.x
    return Filtered(numbers[0], torch.zeros_like(ess), ess, log_weights, z, ancestors, frames)


def start_states(run: RunInputs, num_particles: int) -> State:
    """h_0 of every particle; (batch, particles, hidden)."""
    hidden = run.initial_state.hidden
    if hidden.dim() > 3 or (hidden.dim() == 3 and hidden.shape[0] not in (1, num_particles)):
        raise ValueError(
            f"initial_state must be one state a sequence, or {num_particles} of them (particles, batch, hidden), got "
            f"shape {tuple(hidden.shape)}"
        )
    shape = num_particles, run.batch_size
    return State(*(field.expand(*shape, -1).transpose(0, 1) for field in run.initial_state))


def sequences_at_once(net: StochasticRNN, settings: FilterSettings, device: torch.device, batch: int) -> int:
    """Number of sequences to filter at once."""
    if device.type != "cpu":
        return batch
    return max(1, ELEMENTS_PER_CHUNK // (4 * step_width(net) * settings.num_particles))


def _take(field: Tensor, ancestors: Tensor) -> Tensor:
    """The states of the ancestors; field (sequences, particles, features), ancestors (sequences, particles)."""
    rows = ancestors + ancestors.shape[1] * torch.arange(len(ancestors), device=field.device).unsqueeze(-1)
    return field.flatten(0, 1).index_select(0, rows.flatten()).view(field.shape)
