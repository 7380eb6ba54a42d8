"""Walks through the steps of a batch, with what is asked of each step: what every diagnostic is computed from.

Step by step with many draws at once, and nothing computed that nobody asks for: what a step computes stays in the
processor's cache, where whole sequences at once would not.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ..evaluation import EncodedPart
from ..generation import ancestral, drawn
from ..models import StochasticRNN
from ..networks import State, Transition

Record = dict[str, Tensor]
"""What was asked of each step, by the name of :class:`Step`'s property; (time, draws, batch, ...), padding included,
which means nothing."""


class Step:
    """One step of some draws of a batch. All shapes are (draws, batch, ...), all densities in nats.

    Args:
        net: the step functions.
        transition: ``net.transition`` or what is as good.
        before: h_{t-1}.
        known: u_t, b_t and x_t; (batch, ...).
        z: z_t if it is given; else it is drawn from the guide.
    """

    def __init__(
        self,
        net: StochasticRNN,
        transition: Transition,
        before: State,
        known: tuple[Tensor, Tensor, Tensor],
        z: Tensor | None,
    ) -> None:
        self.net, self.transition, self.before, self.given_z = net, transition, before, z
        self.u_t, self.b_t, self.x_t = known

    @cached_property
    def guide(self) -> Normal:
        """q(z_t | h_{t-1}, b_t), each latent by itself."""
        return self.net.posterior(self.before, self.b_t).base_dist

    @cached_property
    def prior(self) -> Normal:
        """p(z_t | h_{t-1}), each latent by itself."""
        return self.net.prior(self.before).base_dist

    @cached_property
    def z(self) -> Tensor:
        """z_t."""
        if self.given_z is not None:
            return self.given_z
        noise = torch.randn_like(self.guide.loc.expand(*self.before.hidden.shape[:-1], -1))
        return torch.addcmul(self.guide.loc, self.guide.scale, noise)

    @cached_property
    def after(self) -> State:
        """h_t, with the memory beside it."""
        return self.transition(self.before, self.u_t, self.z)

    @property
    def hidden(self) -> Tensor:
        """h_t."""
        return self.after.hidden

    @property
    def cell(self) -> Tensor:
        """The memory beside h_t."""
        return self.after.cell

    @cached_property
    def emission(self) -> TorchDistribution:
        """p(x_t | h_t)."""
        return self.net.emission(self.after)

    @property
    def x(self) -> Tensor:
        """A frame from p(x_t | h_t), under the true frames before."""
        return drawn(self.emission)

    @property
    def log_likelihood(self) -> Tensor:
        """log p(x_t | h_t)."""
        return self.emission.log_prob(self.x_t)

    @property
    def log_prior(self) -> Tensor:
        """log p(z_t | h_{t-1})."""
        return _log_density(self.prior, self.z)

    @property
    def log_guide(self) -> Tensor:
        """log q(z_t | h_{t-1}, b_t)."""
        return _log_density(self.guide, self.z)

    @property
    def log_weight(self) -> Tensor:
        """log p(x_t, z_t | past) - log q(z_t | past, x)."""
        return self.log_likelihood + self.log_prior - self.log_guide

    @property
    def kl_by_latent(self) -> Tensor:
        """KL(q(z_t | h_{t-1}, b_t) || p(z_t | h_{t-1})) of each latent."""
        return kl_divergence(self.guide, self.prior)

    @property
    def kl(self) -> Tensor:
        """The same of all latents together."""
        return self.kl_by_latent.sum(-1)


def _log_density(normal: Normal, z: Tensor) -> Tensor:
    deviation = (z - normal.loc) / normal.scale
    logs = normal.scale.log().sum(-1) + 0.5 * math.log(2 * math.pi) * z.shape[-1]
    return -0.5 * deviation.square_().sum(-1) - logs


def draw(net: StochasticRNN, batch: EncodedPart, count: int, names: Sequence[str]) -> Record:
    """What ``names`` ask for, of ``count`` draws of the guide for each sequence; to be called without gradients."""
    return _record(net, batch, count, None, names)


def score(net: StochasticRNN, batch: EncodedPart, z: Tensor, names: Sequence[str]) -> Record:
    """The same of given latents; z (time, draws, batch, latent)."""
    return _record(net, batch, z.shape[1], z, names)


def _record(net: StochasticRNN, batch: EncodedPart, count: int, z: Tensor | None, names: Sequence[str]) -> Record:
    record: Record = {}
    for t, step in enumerate(_walk(net, batch, count, z)):
        for name in names:
            value = getattr(step, name)
            if name not in record:
                record[name] = value.new_empty(batch.run.num_steps, *value.shape)
            record[name][t] = value
    return record


def _walk(net: StochasticRNN, batch: EncodedPart, count: int, z: Tensor | None) -> Iterator[Step]:
    transition = net.loop_transition()
    state = State(*(field.expand(count, *field.shape) for field in batch.run.initial_state))
    latents = [None] * batch.run.num_steps if z is None else z.unbind(0)
    known = zip(batch.u, batch.b, batch.frames, strict=True)
    for known_t, z_t in zip(known, latents, strict=True):
        step = Step(net, transition, state, known_t, z_t)
        yield step
        state = step.after


def generate(net: StochasticRNN, num_steps: int, count: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Latents and frames from the model by itself; (time, count, batch, latent) and (time, count, batch, *frame)."""
    family, like = net.emission_family, net.emission_layer.weight
    dtype = torch.long if family.integer else like.dtype
    u_t = family.start(torch.zeros(count, batch_size, *family.event_shape, dtype=dtype, device=like.device))
    state = net.initial_state((count, batch_size))
    z, x = zip(*ancestral(net, state, u_t, num_steps, drawn), strict=True)
    return torch.stack(z), torch.stack(x)
