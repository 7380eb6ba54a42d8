"""Per-step sample sites that cost no more than a batch.

A path is one run of the model or of the guide. For each step it gives ``pyro.sample`` a distribution whose parameters
are not computed yet.

- If a handler supplies the value, nothing is computed until a density is requested. By then all values are known: the
  recurrence runs once over them, the networks run once over (time x batch), and each site gets its slice.
- If no handler supplies it, the guide's path runs its whole scan ahead and returns its samples one by one. The model's
  path runs step by step.

The rule: a path is the sequential program, evaluated in a better order. It continues from the value that
``pyro.sample`` returned, whatever a handler did, and recognises its own values by identity alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence

from ..networks import Latent, State, StepFunctions, base_of, latent_of, with_base
from .inputs import RunInputs
from .sites import LatentStep, SitePath
from .stamp import Stamp


class Neighbours(torch.autograd.Function):
    """x_0..x_{T-1} and x_1..x_T of x_0..x_T (time + 1, ...), as views.

    Its backward pass writes one gradient. Two slices would write a full-size gradient each.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both views, each (time, ...)."""
        ctx.set_materialize_grads(False)
        ctx.zero = x.new_zeros(()).expand_as(x[:1])
        return x[:-1], x[1:]

    @staticmethod
    def backward(ctx: Any, before: Tensor | None, after: Tensor | None) -> Tensor | None:
        """The gradient of x, (time + 1, ...), from those of the views."""
        if before is None:
            return None if after is None else torch.cat([ctx.zero, after])
        whole = torch.cat([before, ctx.zero])
        if after is not None:
            whole[1:] += after
        return whole


class LatentPath(ABC):
    """One run over T steps: the values of its sites, the states that follow from them, and all densities.

    Args:
        net: the model.
        run: the inputs of the run.

    Attributes:
        z: values of the latent sites so far, as ``pyro.sample`` returned them; each (..., latent).
        batch_shape: the common batch shape of everything so far.
        step_function: name of the step function that its latents are sampled from.
    """

    step_function: str

    def __init__(self, net: StepFunctions, run: RunInputs) -> None:
        self.net = net
        self.run = run
        self.z: list[Tensor] = []
        self.batch_shape = torch.broadcast_shapes(run.initial_state.hidden.shape[:-1], (run.batch_size,))
        self.masks = None if run.mask is None else run.mask.unbind(0)
        self.states = [run.initial_state]
        self._past: tuple[int, State] | None = None
        self.stamp = Stamp(net)
        self._stacked: State | None = None
        self._pairs: tuple[State, State] | None = None
        self._group: Latent | None = None
        self._latents: dict[bool, Tensor] = {}
        self._log_probs: dict[bool, tuple[Tensor, ...]] = {}
        self._parameters: list[tuple[Tensor, Tensor]] = []

    @property
    def finished(self) -> bool:
        """Whether every site has its value."""
        return len(self.z) == self.run.num_steps

    def latent(self, t: int) -> LatentStep:
        """The distribution of z_t, not computed yet."""
        return LatentStep(self, t, self.batch_shape, torch.Size([self.net.latent_dim]))

    def record(self, z_t: Tensor) -> Tensor:
        """Record the value that the sample statement returned for z_t; (..., latent)."""
        self._widen(z_t.shape[:-1])
        self.z.append(z_t)
        return z_t

    def _widen(self, shape: torch.Size) -> None:
        if shape != self.batch_shape:
            self.batch_shape = torch.broadcast_shapes(self.batch_shape, shape)

    @abstractmethod
    def local(self, t: int) -> Latent:
        """The distribution of z_t, from the step function."""

    def checked(self, distribution: TorchDistribution) -> Latent:
        """The result of the step function, once it is known to be one that paths can read."""
        return latent_of(distribution, self.step_function, self.net.latent_dim)

    def draw(self, t: int, batch_shape: torch.Size) -> Tensor:
        """A sample of z_t, where no handler supplied a value; (*batch_shape, latent)."""
        return self.local(t).expand(batch_shape).rsample()

    @abstractmethod
    def inputs(self, start: int, stop: int) -> Tensor:
        """u_{start+1}..u_{stop}; (stop - start, ..., *frame), or with what is read beside frames."""

    def past(self, t: int) -> State:
        """What z_t depends on, from the values recorded so far."""
        if self._past is None or self._past[0] != t:
            with torch.set_grad_enabled(self.stamp.gradients):
                self._past = t, self.net.past(self.state(t), self.inputs(t, t + 1)[0])
        return self._past[1]

    def state(self, t: int) -> State:
        """h_t, from the values recorded so far."""
        done = len(self.states) - 1
        if t > done and self._stacked is not None:
            self.states = unstack(self._stacked)
        elif t > done:
            with torch.set_grad_enabled(self.stamp.gradients):
                u = self.inputs(done, t)
                if t == done + 1:
                    self.states.append(self.net.transition(self.past(done), u[0], self.z[done]))
                else:
                    z = stack(self.z[done:t], self.batch_shape)
                    self.states += unstack(self.net.scan_states(self.states[-1], u, z))[1:]
        return self.states[t]

    def stacked(self) -> State:
        """h_0..h_T of a finished run; (time + 1, ..., hidden)."""
        if self._stacked is None:
            num_steps = self.run.num_steps
            with torch.set_grad_enabled(self.stamp.gradients):
                if len(self.states) == 1:
                    states = self.net.scan_states(self.states[0], self.inputs(0, num_steps), self.latents())
                else:
                    self.state(num_steps)
                    states = State(*(stack(field, self.batch_shape) for field in zip(*self.states, strict=True)))
                self._stacked = states
        return self._stacked

    def before(self) -> State:
        """What priors and posteriors see at each step; (time, ..., hidden)."""
        return self.neighbours()[0]

    def after(self) -> State:
        """h_1..h_T, what emissions see; (time, ..., hidden)."""
        return self.neighbours()[1]

    def neighbours(self) -> tuple[State, State]:
        """:meth:`before` and :meth:`after`."""
        hidden, cell = self.stacked()  # a replayed model gets the guide's pairs here as well
        if self._pairs is None:
            with torch.set_grad_enabled(self.stamp.gradients):
                sliced = torch.jit.is_tracing()  # torch.jit cannot trace a custom autograd function
                early, late = (hidden[:-1], hidden[1:]) if sliced else Neighbours.apply(hidden)
                u = align(self.inputs(0, len(early)), len(self.batch_shape), self.run.input_dim)
                after = State(late, cell[1:])
                self._pairs = self.net.scan_past(State(early, cell[:-1]), u, after), after
        return self._pairs

    def latents(self) -> Tensor:
        """z_1..z_T; (time, ..., latent)."""
        gradients = torch.is_grad_enabled()
        if gradients not in self._latents:
            self._latents[gradients] = stack(self.z, self.batch_shape)
        return self._latents[gradients]

    def group(self) -> Latent:
        """The distributions of all z_t of a finished run; batch shape (time, ...)."""
        if self._group is None:
            self.stamp.check()
            with torch.set_grad_enabled(self.stamp.gradients):
                group, shape = self._all_steps(), (self.run.num_steps, *self.batch_shape)
                whole = len(group.batch_shape) == len(shape) and group.batch_shape[0] == shape[0]
                self._group = group if whole else group.expand(shape)  # of a step function that reads no tensor of all
        return self._group

    @abstractmethod
    def _all_steps(self) -> Latent:
        """The distributions of all z_t; results of step functions are :meth:`checked`."""

    def log_prob(self) -> Tensor:
        """Log-densities of all z_t of a finished run, in nats; (time, ...)."""
        return self.group().log_prob(self.latents())

    def step_log_prob(self, t: int, value: Tensor) -> Tensor:
        """Log-density of ``value`` (..., latent) at z_t, given the values recorded before it; (...) nats."""
        if self.finished and value is self.z[t]:
            gradients = torch.is_grad_enabled()
            if gradients not in self._log_probs:
                self._log_probs[gradients] = self.log_prob().unbind(0)
            return self._log_probs[gradients][t]
        return self.step(t).log_prob(value)

    def step_kl(self, prior: SitePath, t: int) -> Tensor:
        """KL of z_t from its distribution in another finished run, in nats; (...)."""
        return kl_divergence(self.step(t), prior.step(t))

    def step(self, t: int) -> TorchDistribution:
        """The distribution of z_t: a slice of :meth:`group` once the run is finished."""
        if not self.finished:
            return self.local(t)
        if not self._parameters:
            normal = base_of(self.group())
            self._parameters = list(zip(normal.loc.unbind(0), normal.scale.unbind(0), strict=True))
        return with_base(self.group(), *self._parameters[t])


def stack(values: Sequence[Tensor], batch_shape: torch.Size) -> Tensor:
    """Values (..., features), each broadcast to ``batch_shape``, as one tensor (time, *batch_shape, features)."""
    shape = (*batch_shape, values[0].shape[-1])
    return torch.stack([v if v.shape == shape else v.expand(shape) for v in values])


def unstack(states: State) -> list[State]:
    """The states of (time + 1, ..., hidden) one by one."""
    return [State(*fields) for fields in zip(*(field.unbind(0) for field in states), strict=True)]


def align(sequence: Tensor, batch_dims: int, event_dims: int = 1) -> Tensor:
    """Insert dimensions of size 1 after time, until a sequence has ``batch_dims`` batch dimensions.

    Args:
        sequence: (time, batch, *event).
        batch_dims: number of batch dimensions of the result.
        event_dims: number of event dimensions.

    Returns:
        (time, 1, ..., batch, *event).
    """
    missing = batch_dims - (sequence.dim() - 1 - event_dims)
    return sequence[(slice(None), *[None] * missing)] if missing > 0 else sequence
