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
from torch.distributions import kl_divergence

from ..evaluation import EncodedPart
from ..generation import ancestral, drawn
from ..models import StochasticRNN
from ..networks import AutoregressiveFlow, Latent, State, Transition, base_of, latent_of, noise_of, sampled


class Step:
    """One time step of some samples of a batch. Its methods are the quantities that can be requested.

    All shapes are (samples, batch, ...), all densities in nats.

    Args:
        net: the model.
        transition: ``net.transition`` or a faster form of it.
        past: what z_t depends on.
        known: u_t, b_t and x_t; (batch, ...).
        seen: True for parts of x_t that were seen, (batch, flags); None if all were.
        z: z_t, (samples, batch, latent); sampled from the guide if None.
    """

    def __init__(
        self,
        net: StochasticRNN,
        transition: Transition,
        past: State,
        known: tuple[Tensor, Tensor, Tensor],
        z: Tensor | None,
        seen: Tensor | None = None,
    ) -> None:
        self.net, self.past, self.seen = net, past, seen
        u_t, self.b_t, self.x_t = known
        self._log_guide: Tensor | None = None
        if z is None:
            z, self._log_guide = self._sample()
        self.z_t = z
        self.after = transition(past, u_t, self.z_t)

    def _sample(self) -> tuple[Tensor, Tensor | None]:
        """A sample of the guide; and if a flow is involved its log-density, known without inversion."""
        if self.has_flow:
            return sampled(self.guide, self._noise())
        normal = base_of(self.guide)
        return torch.addcmul(normal.loc, normal.scale, self._noise()), None

    def _noise(self) -> Tensor:
        return torch.randn_like(base_of(self.guide).loc)

    @cached_property
    def guide(self) -> Latent:
        """q(z_t | h_{t-1}, b_t)."""
        return self._latent(self.net.posterior(self.past, self.b_t), "posterior")

    @cached_property
    def prior(self) -> Latent:
        """p(z_t | h_{t-1})."""
        return self._latent(self.net.prior(self.past), "prior")

    def _latent(self, distribution: TorchDistribution, step_function: str) -> Latent:
        return latent_of(distribution, step_function, self.net.latent_dim, self.past.hidden.shape[:-1])

    @property
    def has_flow(self) -> bool:
        """Whether the guide or the prior is a flow, whose KL has no closed form."""
        return isinstance(self.guide, AutoregressiveFlow) or isinstance(self.prior, AutoregressiveFlow)

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
        """log p(x_t | h_t), of what was seen."""
        return self.net.emission_family.log_prob(self.emission, self.x_t, self.seen)

    def log_prior(self) -> Tensor:
        """log p(z_t | h_{t-1})."""
        return _log_density(self.prior, self.z_t)

    def log_guide(self) -> Tensor:
        """log q(z_t | h_{t-1}, b_t)."""
        return _log_density(self.guide, self.z_t) if self._log_guide is None else self._log_guide

    def guide_noise(self) -> Tensor:
        """Standard normal noise from which q(z_t | h_{t-1}, b_t) makes z_t."""
        return noise_of(self.guide, self.z_t)

    def kl_by_latent(self) -> Tensor:
        """KL(q(z_t | h_{t-1}, b_t) || p(z_t | h_{t-1})) of each latent.

        Raises:
            NotImplementedError: one of the two is a flow, whose KL is no sum over latents.
        """
        if self.has_flow:
            raise NotImplementedError(
                "the KL of a flow is no sum over latents, and known by samples alone: use evaluation.bounds(...).kl or "
                "evaluation.step_kl, or build the model with num_flows=0"
            )
        return kl_divergence(base_of(self.guide), base_of(self.prior))

    def kl(self) -> Tensor:
        """KL(q(z_t | h_{t-1}, b_t) || p(z_t | h_{t-1})), summed over latents.

        Of a flow, log q - log p at a sample of q, which has the KL as its mean: z_t if it is one, else another.
        """
        if not self.has_flow:
            return self.kl_by_latent().sum(-1)
        if self._log_guide is not None:
            return self._log_guide - self.log_prior()
        z, log_guide = sampled(self.guide, self._noise())
        return log_guide - _log_density(self.prior, z)


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
    flags = [None] * batch.run.num_steps if batch.run.seen is None else batch.run.seen.unbind(0)
    for known_t, z_t, seen in zip(known, latents, flags, strict=True):
        step = Step(net, transition, net.past(state, known_t[0]), known_t, z_t, seen)
        yield step
        state = step.after


def has_analytic_kl(net: StochasticRNN, batch: EncodedPart) -> bool:
    """Whether :meth:`Step.kl` is the KL itself: guide and prior are normals. Takes no random numbers."""
    z = batch.b.new_zeros(batch.run.num_steps, 1, batch.run.batch_size, net.latent_dim)
    return not next(_steps(net, batch, 1, z)).has_flow


def _log_density(latent: Latent, z: Tensor) -> Tensor:
    if isinstance(latent, AutoregressiveFlow):
        return latent.log_prob(z)
    normal = base_of(latent)
    deviation = (z - normal.loc) / normal.scale
    logs = normal.scale.log().sum(-1) + 0.5 * math.log(2 * math.pi) * z.shape[-1]
    return -0.5 * deviation.square_().sum(-1) - logs


def generate(
    net: StochasticRNN, num_steps: int, count: int, batch_size: int, covariates: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sample latents (time, count, batch, latent) and frames (time, count, batch, *frame) from the model alone.

    Covariates are (time, batch, K).
    """
    family, like = net.emission_family, net.emission_layer.weight
    dtype = torch.long if family.integer else like.dtype
    u_t = family.start(torch.zeros(count, batch_size, *family.event_shape, dtype=dtype, device=like.device))
    state = net.initial_state((count, batch_size))
    known = None if covariates is None else covariates.unsqueeze(1)
    z, x = zip(*ancestral(net, state, u_t, num_steps, drawn, covariates=known), strict=True)
    return torch.stack(z), torch.stack(x)
