"""Per-step sample sites that cost no more than a batch.

A path is one run of the model or of the guide. For each step it hands ``pyro.sample`` a distribution whose
parameters are not computed yet. If a handler supplies the value, nothing is computed until a density is asked for;
by then all values are known, so the recurrence runs once over them, the heads run once over (time x batch), and each
site gets its slice. If nobody supplies a value, the guide's path runs its whole scan ahead and hands out its draws
one by one, and the model's path goes step by step.

The rule: a path is the sequential program, evaluated in a better order. Whatever a handler does to a site, the path
goes by the value that ``pyro.sample`` returned, and recognises its own values by identity alone.
"""

import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence

from .emissions import Emission
from .given import Given
from .networks import State
from .recurrence import PosteriorScan
from .steps import FrameStep, LatentStep


class StepFunctions(Protocol):
    """What a path needs of :class:`~zf_pyro.ZForcing`."""

    training: bool
    latent_dim: int
    emission_family: Emission

    def prior(self, state: State) -> TorchDistribution: ...
    def posterior(self, state: State, b_t: Tensor) -> TorchDistribution: ...
    def transition(self, state: State, u_t: Tensor, z_t: Tensor) -> State: ...
    def emission(self, state: State) -> TorchDistribution: ...
    def scan_posterior(self, state: State, u: Tensor, b: Tensor, noise: Tensor) -> PosteriorScan: ...
    def scan_states(self, state: State, u: Tensor, z: Tensor) -> State: ...
    def parameters(self) -> Any: ...


class _Stamp:
    """The parameters a run was made with, so that a density asked for later is never of others."""

    def __init__(self, net: StepFunctions) -> None:
        self.net = net
        self.gradients = torch.is_grad_enabled()
        self.training = net.training
        self.parameters = list(net.parameters())
        self.versions = [p._version for p in self.parameters]

    def matches(self, other: "_Stamp") -> bool:
        return (
            self.net is other.net
            and self.gradients == other.gradients
            and self.training == other.training
            and self.versions == other.versions
            and all(a is b for a, b in zip(self.parameters, other.parameters, strict=True))
        )

    def check(self) -> None:
        if self.versions != [p._version for p in self.parameters]:
            raise RuntimeError(
                "the parameters changed after this trace was made (an optimiser step, or load_state_dict) and its "
                "densities were not yet computed; call trace.compute_log_prob() before the change, or trace anew"
            )


class LatentPath:
    """One run over T steps: the values of its sites, the states they imply, and the densities of all.

    Attributes:
        z: values of the latent sites so far, as ``pyro.sample`` returned them; each (..., latent).
        batch_shape: the common batch shape of everything so far.
    """

    def __init__(self, net: StepFunctions, given: Given) -> None:
        self.net = net
        self.given = given
        self.z: list[Tensor] = []
        self.batch_shape = torch.broadcast_shapes(given.initial_state.hidden.shape[:-1], (given.batch_size,))
        self.masks = None if given.mask is None else given.mask.unbind(0)
        self.states = [given.initial_state]
        self.stamp = _Stamp(net)
        self._stacked: State | None = None
        self._group: TorchDistribution | None = None
        self._latents: dict[bool, Tensor] = {}
        self._log_probs: dict[bool, tuple[Tensor, ...]] = {}
        self._parameters: list[tuple[Tensor, ...]] = []

    @property
    def finished(self) -> bool:
        """Whether every site has its value."""
        return len(self.z) == self.given.num_steps

    def latent(self, t: int) -> LatentStep:
        """The distribution of z_t, not computed yet."""
        return LatentStep(self, t, self.batch_shape, torch.Size([self.net.latent_dim]))

    def record(self, z_t: Tensor) -> Tensor:
        """Take z_t as what the sample statement returned."""
        self._widen(z_t.shape[:-1])
        self.z.append(z_t)
        return z_t

    def _widen(self, shape: torch.Size) -> None:
        if shape != self.batch_shape:
            self.batch_shape = torch.broadcast_shapes(self.batch_shape, shape)

    def local(self, t: int) -> TorchDistribution:
        """The distribution of z_t by itself."""
        raise NotImplementedError

    def draw(self, t: int, batch_shape: torch.Size) -> Tensor:
        """A value for z_t that nobody supplied; (*batch_shape, latent)."""
        return self.local(t).expand(batch_shape).rsample()

    def inputs(self, start: int, stop: int) -> Tensor:
        """u_{start+1}..u_{stop}; (stop - start, ..., *frame)."""
        raise NotImplementedError

    def state(self, t: int) -> State:
        """h_t, from the values recorded so far."""
        done = len(self.states) - 1
        if t > done and self._stacked is not None:
            self.states = _unstack(self._stacked)
        elif t > done:
            with torch.set_grad_enabled(self.stamp.gradients):
                u = self.inputs(done, t)
                if t == done + 1:
                    self.states.append(self.net.transition(self.states[-1], u[0], self.z[done]))
                else:
                    z = _stack(self.z[done:t], self.batch_shape)
                    self.states += _unstack(self.net.scan_states(self.states[-1], u, z))[1:]
        return self.states[t]

    def stacked(self) -> State:
        """h_0..h_T of a finished run; (time + 1, ..., hidden)."""
        if self._stacked is None:
            num_steps = self.given.num_steps
            with torch.set_grad_enabled(self.stamp.gradients):
                if len(self.states) == 1:
                    states = self.net.scan_states(self.states[0], self.inputs(0, num_steps), self.latents())
                else:
                    self.state(num_steps)
                    states = State(*(_stack(field, self.batch_shape) for field in zip(*self.states, strict=True)))
                self._stacked = states
        return self._stacked

    def before(self) -> State:
        """h_0..h_{T-1}, what priors and posteriors see; (time, ..., hidden)."""
        states = self.stacked()
        return State(states.hidden[:-1], states.cell[:-1])

    def latents(self) -> Tensor:
        """z_1..z_T; (time, ..., latent)."""
        gradients = torch.is_grad_enabled()
        if gradients not in self._latents:
            self._latents[gradients] = _stack(self.z, self.batch_shape)
        return self._latents[gradients]

    def group(self) -> TorchDistribution:
        """The distributions of all z_t of a finished run; batch shape (time, ...)."""
        if self._group is None:
            self.stamp.check()
            with torch.set_grad_enabled(self.stamp.gradients):
                self._group = self._all_steps()
        return self._group

    def _all_steps(self) -> TorchDistribution:
        raise NotImplementedError

    def log_prob(self) -> Tensor:
        """Log-densities of all z_t of a finished run, in nats; (time, ...)."""
        return self.group().log_prob(self.latents())

    def step_log_prob(self, t: int, value: Tensor) -> Tensor:
        """Log-density of ``value`` at z_t, given the values recorded before it."""
        if self.finished and value is self.z[t]:
            gradients = torch.is_grad_enabled()
            if gradients not in self._log_probs:
                self._log_probs[gradients] = self.log_prob().unbind(0)
            return self._log_probs[gradients][t]
        return self.step(t).log_prob(value)

    def step(self, t: int) -> TorchDistribution:
        """The distribution of z_t itself: a slice of :meth:`group` once the run is finished."""
        if not self.finished:
            return self.local(t)
        if not self._parameters:
            normal = self.group().base_dist
            self._parameters = list(zip(normal.loc.unbind(0), normal.scale.unbind(0), strict=True))
        return Normal(*self._parameters[t]).to_event(1)


class PosteriorPath(LatentPath):
    """One run of the guide: z_t ~ q(z_t | h_{t-1}, b_t).

    Args:
        net: the step functions.
        given: what the run was given, x included.
        b: backward states (time, batch, hidden).
    """

    def __init__(self, net: StepFunctions, given: Given, b: Tensor) -> None:
        super().__init__(net, given)
        self.b = b
        self._ahead: PosteriorScan | None = None
        self._drawn: tuple[Tensor, ...] = ()
        self._handed = -1
        self._kl: dict[bool, tuple[weakref.ref[LatentPath], tuple[Tensor, ...]]] = {}

    def inputs(self, start: int, stop: int) -> Tensor:
        if self.given.u is None:
            raise RuntimeError("a guide's path needs x")
        return self.given.u[start:stop]

    def local(self, t: int) -> TorchDistribution:
        with torch.set_grad_enabled(self.stamp.gradients):
            return self.net.posterior(self.state(t), self.b[t])

    def draw(self, t: int, batch_shape: torch.Size) -> Tensor:
        if t == 0 and not self.z and self._handed < 0:
            self._scan_ahead(batch_shape)
        if self._ahead is not None and t == len(self.z) and t > self._handed:
            if self._drawn[t].shape[:-1] == batch_shape:
                self._handed = t
                return self._drawn[t]
        return super().draw(t, batch_shape)

    def _scan_ahead(self, batch_shape: torch.Size) -> None:
        num_steps = self.given.num_steps
        noise = self.b.new_empty(num_steps, *batch_shape, self.net.latent_dim)
        for noise_t in noise.unbind(0):
            noise_t.normal_()  # one call a step: the draws of the sequential program under the same seed
        start = State(*(field.expand(*batch_shape, -1) for field in self.states[0]))
        self._ahead = self.net.scan_posterior(start, self.inputs(0, num_steps), self.b, noise)
        self._drawn = self._ahead.z.unbind(0)
        self._stacked = self._ahead.states

    def record(self, z_t: Tensor) -> Tensor:
        t = len(self.z)
        if self._ahead is not None and z_t is not self._drawn[t]:
            self.states = _unstack(self._ahead.states)[: t + 1]
            self._ahead = self._stacked = None  # a handler put in another value: from here on step by step
        if t == 0:
            _PATHS[id(z_t)] = self
        return super().record(z_t)

    def latents(self) -> Tensor:
        return super().latents() if self._ahead is None else self._ahead.z

    def _all_steps(self) -> TorchDistribution:
        if self._ahead is not None:
            return Normal(self._ahead.loc, self._ahead.scale).to_event(1)
        return self.net.posterior(self.before(), align(self.b, len(self.batch_shape)))

    def step_kl(self, prior: LatentPath, t: int) -> Tensor:
        """KL(q(z_t) || p(z_t)) of two finished runs, in nats."""
        gradients = torch.is_grad_enabled()
        owner, slices = self._kl.get(gradients, (None, ()))
        if owner is None or owner() is not prior:
            slices = kl_divergence(self.group(), prior.group()).unbind(0)
            self._kl[gradients] = (weakref.ref(prior), slices)
        return slices[t]


class PriorPath(LatentPath):
    """One run of the model: z_t ~ p(z_t | h_{t-1}), then x_t ~ p(x_t | h_t)."""

    def __init__(self, net: StepFunctions, given: Given) -> None:
        super().__init__(net, given)
        self.x: list[Tensor] = []
        self.emission = net.emission_family
        self.frames_given = None if given.x is None else given.x.unbind(0)
        self._untouched = given.x is not None
        self._frame_group: TorchDistribution | None = None
        self._frame_log_probs: dict[bool, tuple[Tensor, ...]] = {}

    @property
    def finished(self) -> bool:
        return len(self.x) == self.given.num_steps

    def frame(self, t: int) -> FrameStep:
        """The distribution of x_t, not computed yet."""
        step = FrameStep(self, t, self.batch_shape, self.emission.event_shape)
        step.has_rsample = self.emission.has_rsample
        return step

    def observed(self, t: int) -> Tensor | None:
        """The given frame at step t; (batch, *frame), or None where the model generates."""
        return None if self.frames_given is None else self.frames_given[t]

    def record_frame(self, x_t: Tensor) -> Tensor:
        """Take x_t as what the sample statement returned."""
        t = len(self.x)
        if self.frames_given is None or x_t is not self.frames_given[t]:
            self._untouched = False
            self._widen(x_t.shape[: x_t.dim() - self.given.first.dim() + 1])
        self.x.append(x_t)
        return x_t

    def inputs(self, start: int, stop: int) -> Tensor:
        if self._untouched and self.given.u is not None:
            return self.given.u[start:stop]
        frames = self.x[start - 1 : stop - 1] if start else [self.given.first, *self.x[: stop - 1]]
        return torch.stack(torch.broadcast_tensors(*frames))

    def local(self, t: int) -> TorchDistribution:
        with torch.set_grad_enabled(self.stamp.gradients):
            return self.net.prior(self.state(t))

    def frame_step(self, t: int) -> TorchDistribution:
        """The distribution of x_t by itself."""
        with torch.set_grad_enabled(self.stamp.gradients):
            return self.net.emission(self.state(t + 1))

    def stacked(self) -> State:
        if self._stacked is None and len(self.states) == 1:
            guide = self._replayed()
            if guide is not None:
                self._stacked = guide.stacked()
        return super().stacked()

    def _replayed(self) -> PosteriorPath | None:
        """The guide's path, if this run was replayed with the very tensors that it drew, on the same input."""
        guide = _PATHS.get(id(self.z[0]))
        if (
            guide is not None
            and self._untouched
            and guide.finished
            and guide.given.same_input(self.given)
            and all(a is b for a, b in zip(guide.z, self.z, strict=True))
            and guide.batch_shape == self.batch_shape
            and guide.stamp.matches(self.stamp)
        ):
            return guide
        return None

    def _all_steps(self) -> TorchDistribution:
        return self.net.prior(self.before())

    def frame_group(self) -> TorchDistribution:
        """The distributions of all x_t of a finished run; batch shape (time, ...)."""
        if self._frame_group is None:
            self.stamp.check()
            with torch.set_grad_enabled(self.stamp.gradients):
                states = self.stacked()
                self._frame_group = self.net.emission(State(states.hidden[1:], states.cell[1:]))
        return self._frame_group

    def frames(self) -> Tensor:
        """x_1..x_T; (time, ..., *frame)."""
        if self._untouched and self.given.x is not None:
            return self.given.x
        return torch.stack(torch.broadcast_tensors(*self.x))

    def result(self, x: Tensor | None) -> Tensor:
        """What the program returns: (..., batch, time, *frame), x itself if every frame was observed as given."""
        if self._untouched and x is not None:
            return x
        return self.frames().movedim(0, -self.given.first.dim())

    def frame_log_prob(self) -> Tensor:
        """Log-densities of all x_t of a finished run, in nats; (time, ...)."""
        x = self.frames()
        frame_dim = self.given.first.dim() - 1
        return self.frame_group().log_prob(align(x, len(self.batch_shape), frame_dim))

    def frame_step_log_prob(self, t: int, value: Tensor) -> Tensor:
        """Log-density of ``value`` at x_t, given the values recorded before it."""
        if self.finished and value is self.x[t]:
            gradients = torch.is_grad_enabled()
            if gradients not in self._frame_log_probs:
                self._frame_log_probs[gradients] = self.frame_log_prob().unbind(0)
            return self._frame_log_probs[gradients][t]
        return self.frame_step(t).log_prob(value)


_PATHS: "weakref.WeakValueDictionary[int, PosteriorPath]" = weakref.WeakValueDictionary()
"""Living guide paths by the identity of their first latent, which each keeps alive: no path outlives its trace."""


def _stack(values: Sequence[Tensor], batch_shape: torch.Size) -> Tensor:
    shape = (*batch_shape, values[0].shape[-1])
    return torch.stack([v if v.shape == shape else v.expand(shape) for v in values])


def _unstack(states: State) -> list[State]:
    return [State(*fields) for fields in zip(*(field.unbind(0) for field in states), strict=True)]


def align(sequence: Tensor, batch_dims: int, event_dims: int = 1) -> Tensor:
    """(time, batch, *event) with room for ``batch_dims`` batch dimensions between time and event."""
    missing = batch_dims - (sequence.dim() - 1 - event_dims)
    return sequence[(slice(None), *[None] * missing)] if missing > 0 else sequence
