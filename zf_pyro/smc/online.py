"""A particle filter that goes on with time: one frame at a time, in constant memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from ..checks import require_count, require_room
from ..generation import ancestral, drawn
from ..models import StochasticRNN
from ..networks import State
from ..paths import step_width
from .filter import ELEMENTS_PER_CHUNK, FilterSettings
from .online_frames import require_frame, require_seen, require_seen_values
from .online_guide import Carried, backward_now, carried_start
from .online_state import FIELDS, read_state, require_state, write_state
from .online_step import Particles, advanced, of_particles, require_parts, resampled, seen_log_prob, weighed
from .online_tail import tail_probability
from .resampling import effective_sample_size

SAMPLES_PER_CHUNK = 16 * ELEMENTS_PER_CHUNK
"""Elements of the widest result of a step of a forecast, which bounds its memory beside the result."""


class OnlineStep(NamedTuple):
    """Results of one frame."""

    log_likelihood: Tensor
    """Estimate of log p(x_t | x_1..x_{t-1}) of what was seen of x_t; (batch,) nats, 0 where nothing was."""
    ess: Tensor
    """Effective sample size after the frame, before resampling; (batch,) particles."""
    z_mean: Tensor
    """Filtered mean E[z_t | x_1..x_t]; (batch, latent)."""
    hidden_mean: Tensor
    """Filtered mean of h_t as the model's states hold it, E[h_t | x_1..x_t]; (batch, hidden)."""
    tail_probability: Tensor | None
    """P(p(X | x_1..x_{t-1}) <= p(x_t | x_1..x_{t-1})) for a frame X sampled from the forecast of this step, by
    ``tail_samples`` samples; (batch,) in (0, 1], uniform if the model is right, and small for a frame that it did not
    expect. NaN where nothing was seen, None without ``tail_samples``."""


class OnlineFilter:
    """An online run of a particle filter, made by :meth:`zf_pyro.inference.ParticleFilter.start`.

    It holds the particles of the latest frame, and nothing of those before: memory does not grow with time.

    Random numbers come from PyTorch's global generator, in the order of ``ParticleFilter.run``. With the same seed and
    proposal both have the same estimates.

    Attributes:
        frames: frames taken in, (batch,) int64.
        log_evidence: log p(x_1..x_t) so far, the sum of the log-likelihoods; (batch,) nats, float64.
    """

    def __init__(self, net: StochasticRNN, settings: FilterSettings, particles: Particles, carried: Carried) -> None:
        self.net, self.settings = net, settings
        self._particles, self._carried = particles, carried
        batch, device = particles.log_weights.shape[0], particles.log_weights.device
        self.frames = torch.zeros(batch, dtype=torch.int64, device=device)
        self.log_evidence = torch.zeros(batch, dtype=torch.float64, device=device)

    @property
    def batch_size(self) -> int:
        """Number of sequences."""
        return len(self.frames)

    @property
    def log_weights(self) -> Tensor:
        """Normalised log-weights of the particles; (batch, particles)."""
        return self._particles.log_weights

    @property
    def states(self) -> State:
        """h_t of the particles; each field (batch, particles, hidden)."""
        return self._particles.state

    @torch.no_grad()
    def step(
        self, x_t: Tensor, covariates_t: Tensor | None = None, *, observed: Tensor | None = None, tail_samples: int = 0
    ) -> OnlineStep:
        """Take in one frame of each sequence.

        Elements that were not seen are sampled from p(x_t | h_t) of each particle and fed back to it. The weights
        depend on what was seen alone, and the values of ``x_t`` elsewhere have no effect. A frame that was not wholly
        seen has the prior as proposal.

        Args:
            x_t: the next frame; (batch, *frame) floats, or (batch,) integers.
            covariates_t: what is known at this step, (batch, covariates); None for a model without.
            observed: True where seen, (batch,), or (batch, *frame) for emissions of independent elements; all if None.
            tail_samples: samples for the tail probability of x_t, with ``proposal="prior"``; 0 leaves it out.

        Raises:
            TypeError, ValueError: an argument of the wrong type, shape, dtype, device or value; or a frame that has no
                density under any particle. The filter is then as it was before.
        """
        refuse_covariates(self.net, covariates_t, "covariates_t")
        tail_samples = require_count("tail_samples", tail_samples, least=0)
        if tail_samples and self.settings.proposal != "prior":
            raise ValueError(
                "tail_samples must be 0 where the guide proposes, whose particles have read x_t: make the filter with "
                f"proposal='prior'; got {tail_samples}"
            )
        net, before = self.net, self._particles
        seen, whole = require_seen(net, observed, self.batch_size)
        x_t = require_frame(net, x_t, self.batch_size, seen)
        noise = before.log_weights.new_empty(*before.log_weights.shape, net.latent_dim).normal_()
        uniforms = torch.empty_like(before.log_weights).uniform_()
        with pyro.validation_enabled(False):  # the frame is valid, and sampled elements may lie at the support's edge
            chosen = resampled(before, self.frames, uniforms, self.settings)
            b_t, carried = None, self._carried
            if self.settings.proposal == "posterior":
                b_t, carried = backward_now(net, x_t, carried, whole)
            z, state, ratio = advanced(net, chosen, b_t, whole, noise)
            emission, frame = net.emission(state), x_t.unsqueeze(1)
            if seen is not None:
                require_parts(emission, seen)
                sample, seen = drawn(emission).to(x_t.dtype), seen.unsqueeze(1)
                frame = torch.where(seen, frame, sample)
                require_seen_values(net, frame[:, 0], sample[:, 0])
            log_weights, increment = weighed(chosen.log_weights, seen_log_prob(emission, frame, seen), ratio)
        if not bool(increment.isfinite().all()):
            i = int((~increment.isfinite()).nonzero()[0])
            raise ValueError(
                f"x_t must have a density under some particle, got one of {increment[i].item()} nats at sequence {i}: "
                "mark it as unseen by observed=, or take more particles"
            )
        tail = None
        if tail_samples:
            with pyro.validation_enabled(False):
                tail = tail_probability(net, chosen.log_weights, state, seen, increment, tail_samples)
        self._particles, self._carried = Particles(state, frame, log_weights), carried
        self.frames = self.frames + 1
        self.log_evidence = self.log_evidence + increment
        weights = log_weights.exp().unsqueeze(-1)
        ess = effective_sample_size(log_weights, dim=-1)
        return OnlineStep(increment, ess, (weights * z).sum(1), (weights * state.hidden).sum(1), tail)

    def step_of(self, real: Tensor, x_t: Tensor, observed: Tensor) -> None:
        """:meth:`step` for some sequences alone.

        Args:
            real: True for sequences that take in a frame, (batch,).
            x_t: (batch, *frame).
            observed: True where seen, (batch,) or (batch, *frame); False for the other sequences.
        """
        before, frames, log_evidence = self._particles, self.frames, self.log_evidence
        self.step(x_t, observed=observed)
        new, single = self._particles, real.unsqueeze(-1)
        parts = ((new.state.hidden, before.state.hidden), (new.state.cell, before.state.cell), (new.u, before.u))
        hidden, cell, u = (torch.where(real.view(-1, *[1] * (now.dim() - 1)), now, then) for now, then in parts)
        self._particles = Particles(State(hidden, cell), u, torch.where(single, new.log_weights, before.log_weights))
        self.frames = torch.where(real, self.frames, frames)
        self.log_evidence = torch.where(real, self.log_evidence, log_evidence)

    @torch.no_grad()
    def forecast(self, horizon: int, covariates: Tensor | None = None, *, num_samples: int = 100) -> Tensor:
        """Sample the next frames, x_{t+1}..x_{t+horizon} given x_1..x_t. The particles do not change.

        Each sample chooses a particle by its weight and goes on from it by ancestral sampling, z ~ p(z | h), x ~
        p(x | h), each frame fed back. Samples are independent given the particles.

        Args:
            horizon: frames of each forecast.
            covariates: what is known at these steps, (batch, horizon, covariates); None for a model without.
            num_samples: samples of each sequence.

        Returns:
            (num_samples, batch, horizon, *frame).

        Raises:
            ValueError: a count that is not a positive integer, or covariates for a model without.
            MemoryError: the samples do not fit; says how many would.
        """
        horizon, num_samples = require_count("horizon", horizon), require_count("num_samples", num_samples)
        refuse_covariates(self.net, covariates, "covariates")
        net, (state, u, log_weights) = self.net, self._particles
        frame = horizon * self.batch_size * max(1, net.emission_family.event_shape.numel()) * max(4, u.element_size())
        require_room(num_samples, 2 * frame, log_weights.device, "num_samples")
        index = torch.multinomial(log_weights.exp(), num_samples, replacement=True)
        at_once = max(1, SAMPLES_PER_CHUNK // (4 * step_width(net) * self.batch_size))
        return torch.cat([self._continued(state, u, part, horizon) for part in index.split(at_once, dim=1)])

    def _continued(self, state: State, u: Tensor, index: Tensor, horizon: int) -> Tensor:
        """Frames (samples, batch, horizon, *frame) after the particles ``index`` (batch, samples)."""
        states = State(*(of_particles(field, index).transpose(0, 1) for field in state))
        last = of_particles(u.expand(-1, state.hidden.shape[1], *u.shape[2:]), index).transpose(0, 1)
        steps = ancestral(self.net, states, last, horizon, drawn)
        return torch.stack([x_t for _, x_t in steps], dim=2)

    # State ----------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """All that the run goes on from, by name, and the state of PyTorch's generator (``random``, uint8).

        Particles are (batch, particles, ...); the others (batch, ...). The tensors are copies.
        """
        fields = (*self._particles.state, self._particles.u, self.log_weights, *self._carried, self.frames)
        found = dict(zip(FIELDS, (*fields, self.log_evidence), strict=True))
        device = self.frames.device
        random = (
            torch.get_rng_state() if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)
        )
        return {**{name: value.detach().clone().contiguous() for name, value in found.items()}, "random": random}

    def load_state(self, state: Mapping[str, Tensor]) -> "OnlineFilter":
        """Go on from a :meth:`state`, tensors (batch, ...), and from its state of PyTorch's generator.

        The number of sequences may differ from that before.

        Returns:
            The run itself.

        Raises:
            TypeError, ValueError: it is no such state, or one of another model or number of particles.
        """
        like = self.net.initial_state((1,)), carried_start(self.net, 1)
        found = require_state(state, self.net, self.settings.num_particles, like)
        random = found.pop("random")
        hidden, cell, u, log_weights, *carried, frames, log_evidence = (found[name] for name in FIELDS)
        self._particles, self._carried = Particles(State(hidden, cell), u, log_weights), Carried(*carried)
        self.frames, self.log_evidence = frames, log_evidence
        device = frames.device
        if device.type == "cpu":
            torch.set_rng_state(random)
        else:
            torch.get_device_module(device).set_rng_state(random, device)
        return self

    def save(self, file: Path | str) -> None:
        """Write the :meth:`state` to a safetensors file, whole or not at all.

        Raises:
            ImportError: safetensors is not installed.
            OSError: an error of the system. A file of the same name is then unchanged.
        """
        write_state(file, self.state(), self.net)

    def load(self, file: Path | str) -> "OnlineFilter":
        """Go on from a file of :meth:`save`, as :meth:`load_state`.

        Raises:
            ImportError: safetensors is not installed.
            FileNotFoundError: there is no such file.
            TypeError, ValueError: it is no such file, or one of another model or number of particles.
        """
        return self.load_state(read_state(file, self.net))


def _random_state(device: torch.device) -> Tensor:
    """State of PyTorch's generator, (bytes,)."""
    return torch.get_rng_state() if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)


def refuse_covariates(net: StochasticRNN, covariates: Any, name: str) -> None:
    """Refuse covariates (batch, ...), and models that read them or flags of gaps, which this filter does not.

    Raises:
        ValueError: they are given, or the model reads them.
    """
    if net.covariate_dim or net.flag_dim:
        read = "covariates" if net.covariate_dim else "flags of gaps (missing='fill')"
        raise ValueError(
            f"net must read neither covariates nor flags of gaps to be filtered frame by frame, got one that reads "
            f"{read}: call ParticleFilter(net, ...).run on the frames so far"
        )
    if covariates is not None:
        raise ValueError(f"{name} must be left out: {type(net).__name__} has no covariates")
