"""The recurrent state, and the results of one pass of the recurrence over a batch of sequences."""

from typing import NamedTuple

import torch
from pyro.distributions import Normal
from torch import Tensor

from .flows import AutoregressiveFlow, FlowLayer, noise_log_prob
from .latent_distributions import Latent


class State(NamedTuple):
    """The forward recurrent state after a step: what the emission sees, and what the next step continues from.

    Sizes of the fields are those of ``net.initial_state``. In :class:`zf_pyro.ZForcing` they are h_t and c_t, each
    (..., hidden); other models say in their docstrings what they hold.
    """

    hidden: Tensor
    """h_t, what networks see; (..., hidden)."""
    cell: Tensor
    """c_t, the memory of an LSTM; (..., hidden), or (..., 0) in models without one."""


class PosteriorScan(NamedTuple):
    """Results of a pass over z_t ~ q(z_t | h_{t-1}, b_t), h_t = f(u_t, z_t, h_{t-1}), t = 1..T."""

    z: Tensor
    """z_1..z_T; (time, ..., latent)."""
    states: State
    """h_0..h_T; (time + 1, ..., hidden)."""
    before: State
    """What z_1..z_T depend on: ``net.past`` of each step; (time, ..., hidden)."""
    after: State
    """h_1..h_T; (time, ..., hidden)."""
    loc: Tensor
    """Means of q, or of the normal that a flow transforms; (time, ..., latent)."""
    scale: Tensor
    """Standard deviations of q, or of that normal; (time, ..., latent)."""
    flows: tuple[FlowLayer, ...] = ()
    """Layers of q's flow; none where q is a normal."""
    log_q: Tensor | None = None
    """log q(z_t | h_{t-1}, b_t) at z_t of a flow, (time, ...) nats; None where q is a normal."""

    def posterior(self) -> Latent:
        """q of every step; batch shape (time, ...)."""
        if self.flows:
            return AutoregressiveFlow(self.loc, self.scale, self.flows)
        return Normal(self.loc, self.scale).to_event(1)

    def log_prob(self, noise: Tensor) -> Tensor:
        """log q(z_t | h_{t-1}, b_t) at z_t, (time, ...) nats, from the noise of the scan, (time, ..., latent)."""
        return noise_log_prob(self.scale, noise) if self.log_q is None else self.log_q


def with_first(first: State, after: State) -> State:
    """States (time + 1, ..., features) of the first (..., features) and those after each step."""
    fields = zip(first, after, strict=True)
    return State(*(torch.cat([one.expand_as(more[0]).unsqueeze(0), more]) for one, more in fields))
