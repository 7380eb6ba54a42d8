"""Per-step quantities of posterior samples, computed one time step at a time: the input of all diagnostics.

A step covers many samples at once and computes only what is requested. Its results then stay in the processor's cache;
those of whole sequences would not.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ..evaluation import EncodedPart
from ..generation import ancestral, drawn
from ..models import StochasticRNN
from ..networks import State, Transition


class Step:
    """One time step of some samples of a batch. Its methods are the quantities that can be requested.

    All shapes are (samples, batch, ...), all densities in nats.

    Args:
        net: the model.
        transition: ``net.transition`` or a faster form of it.
        past: what z_t depends on.
        known: u_t, b_t and x_t; (batch, ...).
        z: z_t, (samples, batch, latent); sampled from the guide if None.
    """

    def __init__(
        self,
        net: StochasticRNN,
        transition: Transition,
        past: State,
        known: tuple[Tensor, Tensor, Tensor],
        z: Tensor | None,
    ) -> None:
        self.net, self.past = net, past
        u_t, self.b_t, self.x_t = known
        self.z_t = self._sample() if z is None else z
        self.after = transition(past, u_t, self.z_t)

    def _sample(self) -> Tensor:
        noise = torch.randn_like(self.guide.loc.expand(*self.past.hidden.shape[:-1], -1))
        return torch.addcmul(self.guide.loc, self.guide.scale, noise)

    @cached_property
    def guide(self) -> Normal:
        """q(z_t | h_{t-1}, b_t); each latent is a batch dimension."""
        return self.net.posterior(self.past, self.b_t).base_dist

    @cached_property
    def prior(self) -> Normal:
        """p(z_t | h_{t-1}); each latent is a batch dimension."""
        return self.net.prior(self.past).base_dist

    @cached_property
    def emission(self) -> TorchDistribution:
        """p(x_t | h_t)."""
        return self.net.emission(self.after)

    # Quantities -----------------------------------------------------------------------------------------------------

    def z(self) -> Tensor:
        """z_t."""
        return self.z_t

    def hidden(self) -> Tensor:
        """h_t."""
        return self.after.hidden

    def cell(self) -> Tensor:
        """Memory cell beside h_t."""
        return self.after.cell

    def past_hidden(self) -> Tensor:
        """Hidden state that z_t depends on."""
        return self.past.hidden

    def past_cell(self) -> Tensor:
        """Memory cell beside it."""
        return self.past.cell

    def x(self) -> Tensor:
        """Frame sampled from p(x_t | h_t), where h_t has seen the true frames before t."""
        return drawn(self.emission)

    def log_likelihood(self) -> Tensor:
        """log p(x_t | h_t)."""
        return self.emission.log_prob(self.x_t)

    def log_prior(self) -> Tensor:
        """log p(z_t | h_{t-1})."""
        return _log_density(self.prior, self.z_t)

    def log_guide(self) -> Tensor:
        """log q(z_t | h_{t-1}, b_t)."""
        return _log_density(self.guide, self.z_t)

    def guide_loc(self) -> Tensor:
        """Mean of q(z_t | h_{t-1}, b_t)."""
        return self.guide.loc

    def guide_scale(self) -> Tensor:
        """Standard deviation of q(z_t | h_{t-1}, b_t)."""
        return self.guide.scale

    def kl_by_latent(self) -> Tensor:
        """KL(q(z_t | h_{t-1}, b_t) || p(z_t | h_{t-1})) of each latent."""
        return kl_divergence(self.guide, self.prior)

    def kl(self) -> Tensor:
        """KL(q(z_t | h_{t-1}, b_t) || p(z_t | h_{t-1})), summed over latents."""
        return self.kl_by_latent().sum(-1)


Quantity = Callable[[Step], Tensor]
"""What is requested of each step: a method of :class:`Step`, for example ``Step.kl``."""
StepValues = dict[Quantity, Tensor]
"""Requested quantities at all steps; each (time, samples, batch, ...). Values beyond a length are meaningless."""
DENSITIES: tuple[Quantity, ...] = (Step.log_likelihood, Step.log_prior, Step.log_guide)
"""Quantities that :func:`log_weight` needs."""


def log_weight(values: StepValues) -> Tensor:
    """log p(x_t, z_t | past) - log q(z_t | past, x) from :data:`DENSITIES`; (time, samples, batch) nats."""
    return values[Step.log_likelihood] + values[Step.log_prior] - values[Step.log_guide]


def draw(net: StochasticRNN, batch: EncodedPart, count: int, quantities: Sequence[Quantity]) -> StepValues:
    """Quantities at ``count`` samples from the guide, (time, count, batch, ...). Call it without gradients."""
    return _values(net, batch, count, None, quantities)


def score(net: StochasticRNN, batch: EncodedPart, z: Tensor, quantities: Sequence[Quantity]) -> StepValues:
    """Quantities at given latents z (time, samples, batch, latent). Call it without gradients."""
    return _values(net, batch, z.shape[1], z, quantities)


def _values(
    net: StochasticRNN, batch: EncodedPart, count: int, z: Tensor | None, quantities: Sequence[Quantity]
) -> StepValues:
    values: StepValues = {}
    for t, step in enumerate(_steps(net, batch, count, z)):
        for quantity in quantities:
            value = quantity(step)
            if quantity not in values:
                values[quantity] = value.new_empty(batch.run.num_steps, *value.shape)
            values[quantity][t] = value
    return values


def _steps(net: StochasticRNN, batch: EncodedPart, count: int, z: Tensor | None) -> Iterator[Step]:
    transition = net.loop_transition()
    state = State(*(field.expand(count, *field.shape) for field in batch.run.initial_state))
    latents = [None] * batch.run.num_steps if z is None else z.unbind(0)
    known = zip(batch.u, batch.b, batch.frames, strict=True)
    for known_t, z_t in zip(known, latents, strict=True):
        step = Step(net, transition, net.past(state, known_t[0]), known_t, z_t)
        yield step
        state = step.after


def _log_density(normal: Normal, z: Tensor) -> Tensor:
    deviation = (z - normal.loc) / normal.scale
    logs = normal.scale.log().sum(-1) + 0.5 * math.log(2 * math.pi) * z.shape[-1]
    return -0.5 * deviation.square_().sum(-1) - logs


def generate(net: StochasticRNN, num_steps: int, count: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Sample latents (time, count, batch, latent) and frames (time, count, batch, *frame) from the model alone."""
    family, like = net.emission_family, net.emission_layer.weight
    dtype = torch.long if family.integer else like.dtype
    u_t = family.start(torch.zeros(count, batch_size, *family.event_shape, dtype=dtype, device=like.device))
    state = net.initial_state((count, batch_size))
    z, x = zip(*ancestral(net, state, u_t, num_steps, drawn), strict=True)
    return torch.stack(z), torch.stack(x)
