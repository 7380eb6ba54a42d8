"""Emissions as users write them, with supports with and without zero and frames of rank 0 to 2, and some of ours."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import nn
from torch.nn.functional import softplus

from zf_pyro import emissions
from zf_pyro.emissions import Emission, register


@dataclass(frozen=True)
class Vector(Emission):
    """A base for frames (size,) with two parameters per element."""

    size: int = 2

    @property
    def num_parameters(self):
        return 2 * self.size

    @property
    def event_shape(self):
        return torch.Size([self.size])


@register
@dataclass(frozen=True)
class LogNormalFrames(Vector):
    def distribution(self, parameters):
        loc, scale = parameters.chunk(2, dim=-1)
        return dist.LogNormal(loc, softplus(scale) + 0.1).to_event(1)


@register
@dataclass(frozen=True)
class GammaFrames(Vector):
    def distribution(self, parameters):
        concentration, rate = softplus(parameters).chunk(2, dim=-1)
        return dist.Gamma(0.1 + concentration, 0.1 + rate).to_event(1)


@register
@dataclass(frozen=True)
class BetaFrames(Vector):
    def distribution(self, parameters):
        one, two = softplus(parameters).chunk(2, dim=-1)
        return dist.Beta(1.1 + one, 1.1 + two).to_event(1)


@register
@dataclass(frozen=True)
class StudentTFrames(Vector):
    """Units are those of real numbers, given as an independent constraint of its own."""

    @property
    def support(self):
        return constraints.independent(constraints.real, 1)

    def distribution(self, parameters):
        loc, scale = parameters.chunk(2, dim=-1)
        return dist.StudentT(4.0, loc, softplus(scale) + 0.1).to_event(1)

    def tempered(self, distribution, temperature):
        base = distribution.base_dist
        return dist.StudentT(base.df, base.loc, base.scale * temperature**0.5).to_event(1)


@register
@dataclass(frozen=True)
class ZeroInflatedFrames(Vector):
    """Counts as floats. Pyro's distribution has no mode, so there is one here."""

    def distribution(self, parameters):
        gate, log_rate = parameters.chunk(2, dim=-1)
        return dist.ZeroInflatedPoisson(gate_logits=gate, rate=log_rate.exp()).to_event(1)

    def mode(self, distribution):
        base = distribution.base_dist
        ungated = base.base_dist.rate.floor()
        zero = torch.zeros_like(ungated)
        return torch.where(base.log_prob(ungated) > base.log_prob(zero), ungated, zero)


@register
@dataclass(frozen=True)
class WrappedFrames(Vector):
    """Angles on a circle, which no unit scales, though Pyro's support for them is real."""

    has_units = False

    def distribution(self, parameters):
        loc, concentration = parameters.chunk(2, dim=-1)
        return dist.VonMises(loc, softplus(concentration) + 0.1).to_event(1)

    def mode(self, distribution):
        return distribution.base_dist.loc


@register
@dataclass(frozen=True)
class SimplexFrames(Emission):
    num_shares: int = 3

    @property
    def num_parameters(self):
        return self.num_shares

    @property
    def event_shape(self):
        return torch.Size([self.num_shares])

    def distribution(self, parameters):
        return dist.Dirichlet(1.0 + softplus(parameters))


@register
@dataclass(frozen=True)
class MatrixFrames(Emission):
    """Positive frames of two dimensions."""

    shape: tuple[int, int] = (2, 3)

    @property
    def num_parameters(self):
        return 2 * self.event_shape.numel()

    @property
    def event_shape(self):
        return torch.Size(self.shape)

    def distribution(self, parameters):
        loc, scale = (part.unflatten(-1, self.event_shape) for part in parameters.chunk(2, dim=-1))
        return dist.LogNormal(loc, softplus(scale) + 0.1).to_event(2)


@register
@dataclass(frozen=True)
class NumberFrames(Emission):
    """Single positive numbers: frames without a dimension."""

    @property
    def num_parameters(self):
        return 2

    @property
    def event_shape(self):
        return torch.Size()

    def distribution(self, parameters):
        return dist.LogNormal(parameters[..., 0], softplus(parameters[..., 1]) + 0.1)


@register
@dataclass(frozen=True)
class SymbolPairs(Emission):
    """Frames of several symbols, which are integers and need an embedding of their own."""

    num_classes: int = 4
    integer = True

    @property
    def num_parameters(self):
        return 2 * self.num_classes

    @property
    def event_shape(self):
        return torch.Size([2])

    def distribution(self, parameters):
        return dist.Categorical(logits=parameters.unflatten(-1, (2, self.num_classes))).to_event(1)

    def embedding(self, embed_dim):
        return nn.Sequential(nn.Embedding(self.num_classes, embed_dim), SummedSymbols())


class SummedSymbols(nn.Module):
    """Embeddings of the symbols of a frame, (..., symbols, embed), summed."""

    def forward(self, x):
        return x.sum(-2)


OWN = {
    family.__class__.__name__: family
    for family in (
        emissions.NADE(3, hidden_dim=4),
        emissions.DiscretizedLogisticMixture(2, 3, bits=4),
        emissions.MuLaw(2, levels=8),
        emissions.StudentT(2),
        emissions.Poisson(2),
        emissions.NegativeBinomial(2),
        LogNormalFrames(),
        GammaFrames(),
        BetaFrames(),
        StudentTFrames(),
        ZeroInflatedFrames(),
        WrappedFrames(),
        SimplexFrames(),
        MatrixFrames(),
        NumberFrames(),
        SymbolPairs(),
    )
}


def own_frames(name, batch=3, time=5, *, seed=2):
    """Frames (batch, time, *frame) sampled from the family at random parameters; floats are float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return random_density(OWN[name], batch, time, seed=seed).sample()


def random_density(family, *shape, seed=1):
    """The density at random parameters (*shape, num_parameters), and random weights where it has some; float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes):
        return torch.randn(*sizes, generator=generator, dtype=torch.float64)

    with torch.random.fork_rng():
        weights = [module.double() for module in family.weights()]
    for module in weights:
        for parameter in module.parameters():
            parameter.requires_grad_(False).copy_(normal(*parameter.shape))
    return family.distribution(normal(*shape, family.num_parameters), *weights)
