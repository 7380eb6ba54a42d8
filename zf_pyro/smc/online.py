"""A particle filter that goes on with time: one frame at a time, in constant memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pyro
import torch
from torch import Tensor

from ..checks import require_count, require_room
from ..generation import ancestral, drawn
from ..models import StochasticRNN
from ..networks import State, joined
from ..paths import check_covariates, require_finite, step_width
from .filter import ELEMENTS_PER_CHUNK, FilterSettings
from .online_frames import require_covariates, require_frame
from .online_guide import Carried, backward_now, carried_start
from .online_state import FIELDS, read_state, require_state, write_state
from .online_step import Particles, advanced, of_particles, resampled, weighed
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
        seen has the prior as proposal. A model of ``missing="fill"`` reads gaps instead, and so does its guide.

        Args:
            x_t: the next frame; (batch, *frame) floats, or (batch,) integers.
            covariates_t: c_t, (batch, K), for a model of ``covariate_dim`` K.
            observed: True where seen, (batch,), or (batch, *frame) for emissions of independent elements; all if None.
            tail_samples: samples for the tail probability of x_t, with ``proposal="prior"``; 0 leaves it out.

        Raises:
            TypeError, ValueError: an argument of the wrong type, shape, dtype, device or value; or a frame that has no
                density under any particle. The filter is then as it was before.
        """
        tail_samples = require_count("tail_samples", tail_samples, least=0)
        if tail_samples and self.settings.proposal != "prior":
            raise ValueError(
                "tail_samples must be 0 where the guide proposes, whose particles have read x_t: make the filter with "
                f"proposal='prior'; got {tail_samples}"
            )
        net, family, before = self.net, self.net.emission_family, self._particles
        frame = require_frame(net, x_t, observed, self.batch_size)
        covariates_t = require_covariates(net, covariates_t, self.batch_size)
        # A network that reads gaps has a guide of frames with gaps. Others have whole frames, sampled where unseen.
        fills, seen = net.flag_dim > 0, None if frame.seen is None else frame.seen.unsqueeze(1)
        flags = seen if fills and seen is not None else torch.ones_like(before.flags)
        read, own = (frame.with_unseen(net, family.start(frame.x)), None) if fills else (frame.x, frame.whole)
        noise = before.log_weights.new_empty(*before.log_weights.shape, net.latent_dim).normal_()
        uniforms = torch.empty_like(before.log_weights).uniform_()
        with pyro.validation_enabled(False):  # the frame is valid
            chosen = resampled(before, self.frames, uniforms, self.settings)
            b_t, carried = None, self._carried
            if self.settings.proposal == "posterior":
                b_t, carried = backward_now(net, joined(net, read, covariates_t, flags[:, 0]), carried, own)
            z, state, ratio = advanced(net, chosen, covariates_t, b_t, own, noise)
            emission = net.emission(state)
            log_likelihood = family.log_prob(emission, frame.x.unsqueeze(1), seen)
            log_weights, increment = weighed(chosen.log_weights, log_likelihood, ratio)
            u = read.unsqueeze(1).clone()
            if observed is not None and not fills:  # also where all was seen now, as a filter over whole sequences does
                u = frame.with_unseen(net, drawn(emission))
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
        self._particles, self._carried = Particles(state, u, log_weights, flags), carried
        self.frames = self.frames + 1
        self.log_evidence = self.log_evidence + increment
        weights = log_weights.exp().unsqueeze(-1)
        ess = effective_sample_size(log_weights, dim=-1)
        return OnlineStep(increment, ess, (weights * z).sum(1), (weights * state.hidden).sum(1), tail)

    @torch.no_grad()
    def forecast(self, horizon: int, covariates: Tensor | None = None, *, num_samples: int = 100) -> Tensor:
        """Sample the next frames, x_{t+1}..x_{t+horizon} given x_1..x_t. The particles do not change.

        Each sample chooses a particle by its weight and goes on from it by ancestral sampling, z ~ p(z | h), x ~
        p(x | h), each frame fed back. Samples are independent given the particles.

        Args:
            horizon: frames of each forecast.
            covariates: those of these steps, (batch, horizon, K), for a model of ``covariate_dim`` K. Further ones are
                left out.
            num_samples: samples of each sequence.

        Returns:
            (num_samples, batch, horizon, *frame).

        Raises:
            TypeError, ValueError: a count that is not a positive integer, or covariates that do not fit, or that end
                before the horizon.
            MemoryError: the samples do not fit; says how many would.
        """
        horizon, num_samples = require_count("horizon", horizon), require_count("num_samples", num_samples)
        covariates = check_covariates(covariates, self.batch_size, horizon, self.net, least=True)
        if covariates is not None:
            covariates = covariates.transpose(0, 1)
            require_finite(covariates, None)
        net, (_, u, log_weights, _) = self.net, self._particles
        frame = horizon * self.batch_size * max(1, net.emission_family.event_shape.numel()) * max(4, u.element_size())
        require_room(num_samples, 2 * frame, log_weights.device, "num_samples")
        index = torch.multinomial(log_weights.exp(), num_samples, replacement=True)
        at_once = max(1, SAMPLES_PER_CHUNK // (4 * step_width(net) * self.batch_size))
        return torch.cat([self._continued(part, horizon, covariates) for part in index.split(at_once, dim=1)])

    def _continued(self, index: Tensor, horizon: int, covariates: Tensor | None) -> Tensor:
        """Frames (samples, batch, horizon, *frame) after the particles ``index`` (batch, samples)."""
        state, u, _, flags = self._particles
        states = State(*(of_particles(field, index).transpose(0, 1) for field in state))
        last = of_particles(u.expand(-1, state.hidden.shape[1], *u.shape[2:]), index).transpose(0, 1)
        steps = ancestral(self.net, states, last, horizon, drawn, covariates=covariates, seen=flags[:, 0])
        return torch.stack([x_t for _, x_t in steps], dim=2)

    # State ----------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """All that the run goes on from, by name, and the state of PyTorch's generator (``random``, uint8).

        Particles are (batch, particles, ...); the others (batch, ...). The tensors are copies.
        """
        state, *others = self._particles
        fields = (*state, *others, *self._carried, self.frames)
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
        _set_random_state(found.pop("random"), self.frames.device)
        hidden, cell, u, log_weights, flags, *carried, frames, log_evidence = (found[name] for name in FIELDS)
        self._particles, self._carried = Particles(State(hidden, cell), u, log_weights, flags), Carried(*carried)
        self.frames, self.log_evidence = frames, log_evidence
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


def _set_random_state(random: Tensor, device: torch.device) -> None:
    """Set the state of PyTorch's generator, (bytes,)."""
    if len(random) != len(_random_state(device)):
        raise ValueError(
            f"state must be of a run on {device.type}, whose generator has a state of {len(_random_state(device))} "
            f"bytes, got {len(random)}: move the model to the device of that run, or put a state of the generator here "
            "in its place, state['random']"
        )
    if device.type == "cpu":
        torch.set_rng_state(random)
    else:
        torch.get_device_module(device).set_rng_state(random, device)
