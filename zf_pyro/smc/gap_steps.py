"""One step of a particle filter that marginalises what was not seen: each particle samples it, and goes on with it."""

import torch
from torch import Tensor

from ..models import StochasticRNN
from ..networks import State, joined
from ..paths import replaced
from .steps import FilterSteps, Gaps, Moved


class GapSteps(FilterSteps):
    """The step functions of a model of whole frames over sequences with gaps.

    A particle samples the unseen part of x_t from p(x_t | h_t) and is weighed by the seen part. It reads both at the
    next step. The estimate of the density of what was seen is unbiased, as that of a filter of whole frames.

    The state holds x_t beside ``hidden``, as floats of at least single precision.

    Args:
        net: the model.
        b: backward states (time, sequences, hidden) of some completion of the frames, or None where the prior proposes.
        x: frames (time, sequences, *frame), of the support where nothing was seen.
        gaps: what was not seen of them.
    """

    gaps: Gaps

    def __init__(self, net: StochasticRNN, b: Tensor | None, x: Tensor, gaps: Gaps) -> None:
        self.frame, self.size = net.emission_family.event_shape, net.emission_family.event_shape.numel()
        super().__init__(net, x, b, x, gaps)  # u is of each particle
        self.covariates = None if gaps.covariates is None else gaps.covariates.unsqueeze(2).unbind(0)

    def start(self, state: State) -> State:
        first = self.gaps.first.unsqueeze(1).expand(*state.hidden.shape[:2], *self.frame)
        return self._with_frame(state, first)

    def past(self, state: State, t: int) -> State:
        state, before = self._parts(state)
        self._read = joined(self.net, before, None if self.covariates is None else self.covariates[t])
        return self.net.past(state, self._read)

    def transition(self, past: State, t: int, z_t: Tensor) -> State:
        return self.net.transition(past, self._read, z_t)

    def hidden(self, state: State, z_t: Tensor) -> Tensor:
        return self._parts(state)[0].hidden

    def completed(self, state: State) -> Tensor:
        return self._parts(state)[1]

    def move(self, state: State, t: int, noise: Tensor) -> Moved:
        past = self.past(state, t)
        z, ratio = self.propose(past, t, noise)
        moved = self.transition(past, t, z)
        emission = self.net.emission(moved).expand(noise.shape[:2])
        seen = self.gaps.seen[t].unsqueeze(1)
        with torch.no_grad():
            sample = emission.sample()
        x = replaced(self.x[t].expand_as(sample), seen.expand(*noise.shape[:2], -1), sample, self.net.emission_family)
        return Moved(z, self._with_frame(moved, x), self.log_likelihood(emission, t), ratio)

    def _with_frame(self, state: State, x: Tensor) -> State:
        """A state with a frame (sequences, particles, *frame) beside ``hidden``."""
        flat = x.reshape(*x.shape[:2], self.size)
        dtype = torch.promote_types(state.hidden.dtype, torch.float32)
        flat, hidden = flat.to(dtype), state.hidden.to(dtype).expand(*flat.shape[:2], -1)
        return State(torch.cat([hidden, flat], dim=-1), state.cell)

    def _parts(self, state: State) -> tuple[State, Tensor]:
        """The model's own state, and the frame."""
        hidden, flat = state.hidden.tensor_split([state.hidden.shape[-1] - self.size], dim=-1)
        like = self.net.emission_layer.weight.dtype
        frame = flat.reshape(*flat.shape[:2], *self.frame)
        frame = frame.round().long() if self.net.emission_family.integer else frame.to(like)
        return State(hidden.to(like), state.cell), frame
