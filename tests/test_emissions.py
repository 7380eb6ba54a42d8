"""Emissions against formulas written out by hand."""

import math

import pytest
import torch

from zf_pyro import emissions

from .comparing import EXACT
from .conftest import EMISSIONS


def parameters(family, *shape):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, family.num_parameters, generator=generator, dtype=torch.float64)


def log_normal(x, mean, log_variance):
    return -0.5 * ((x - mean) ** 2 / log_variance.exp() + log_variance + math.log(2 * math.pi))


def test_gaussian_density_is_the_formula():
    family = emissions.Gaussian(3)
    p, x = parameters(family, 4, 5), torch.randn(4, 5, 3, dtype=torch.float64)
    expected = log_normal(x, p[..., :3], p[..., 3:]).sum(-1)
    torch.testing.assert_close(family.distribution(p).log_prob(x), expected, **EXACT)


def test_mixture_density_is_the_formula():
    family = emissions.GaussianMixture(2, 3)
    assert family.num_parameters == 3 + 6 + 6
    p, x = parameters(family, 4), torch.randn(4, 2, dtype=torch.float64)
    expected = torch.zeros(4, dtype=torch.float64)
    weights = p[:, :3].exp() / p[:, :3].exp().sum(-1, keepdim=True)
    for k in range(3):
        mean, log_variance = p[:, 3 + 2 * k : 5 + 2 * k], p[:, 9 + 2 * k : 11 + 2 * k]
        expected = expected + weights[:, k] * log_normal(x, mean, log_variance).sum(-1).exp()
    torch.testing.assert_close(family.distribution(p).log_prob(x), expected.log(), **EXACT)


def test_bernoulli_probability_is_the_formula():
    family = emissions.Bernoulli(3)
    p = parameters(family, 4)
    x = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64).expand(4, 3)
    one = 1 / (1 + (-p).exp())
    expected = torch.where(x == 1, one, 1 - one).log().sum(-1)
    torch.testing.assert_close(family.distribution(p).log_prob(x), expected, **EXACT)


def test_categorical_probability_is_the_formula():
    family = emissions.Categorical(4)
    p, x = parameters(family, 5), torch.tensor([0, 1, 2, 3, 0])
    expected = p[torch.arange(5), x] - p.exp().sum(-1).log()
    torch.testing.assert_close(family.distribution(p).log_prob(x), expected, **EXACT)


@pytest.mark.parametrize("family", [emissions.Gaussian(1), emissions.GaussianMixture(1, 4)], ids=str)
def test_densities_integrate_to_one(family):
    grid = torch.linspace(-60, 60, 60_001, dtype=torch.float64)
    density = family.distribution(parameters(family, 3)).log_prob(grid.reshape(-1, 1, 1)).exp()
    total = torch.trapezoid(density, grid, dim=0)
    torch.testing.assert_close(total, torch.ones(3, dtype=torch.float64), rtol=1e-8, atol=1e-8)


def test_probabilities_sum_to_one():
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
    family = emissions.Bernoulli(3)
    total = family.distribution(parameters(family, 2)).log_prob(bits.unsqueeze(1)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64), **EXACT)
    family = emissions.Categorical(4)
    total = family.distribution(parameters(family, 2)).log_prob(torch.arange(4).unsqueeze(1)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("name", EMISSIONS)
def test_a_density_is_over_one_frame(name):
    family = EMISSIONS[name]
    density = family.distribution(parameters(family, 4, 5))
    assert density.batch_shape == (4, 5)
    assert density.event_shape == family.event_shape
    drawn = density.sample()
    assert drawn.shape == (4, 5, *family.event_shape)
    assert drawn.is_floating_point() != family.integer
    assert family.valid(drawn).shape == (4, 5)
    assert family.valid(drawn).all()
    assert family.support.check(drawn).all()
    assert density.has_rsample == family.has_rsample


@pytest.mark.parametrize("name", EMISSIONS)
def test_frames_and_the_start_frame_can_be_embedded(name):
    family = EMISSIONS[name]
    embedding = family.embedding(7).double()
    drawn = family.distribution(parameters(family, 4, 5)).sample()
    start = family.start(drawn)
    assert (start.shape, start.dtype) == (drawn.shape, drawn.dtype)
    for frames in (drawn, start):
        assert embedding(frames).shape == (4, 5, 7)
    if family.integer:
        assert not family.valid(start).any(), "the start token must differ from all symbols"
    else:
        assert not start.any()


INVALID = {
    "gaussian": ([[0.0, 1.0], [float("nan"), 0.0], [float("inf"), 0.0]], [True, False, False]),
    "mixture": ([[0.0, 1.0], [0.0, -float("inf")]], [True, False]),
    "bernoulli": (
        [[0.0, 1.0, 1.0], [0.5, 0.0, 0.0], [2.0, 1.0, 1.0], [float("nan"), 0, 0]],
        [True, False, False, False],
    ),
    "categorical": ([0, 3, 4, -1], [True, True, False, False]),
}


@pytest.mark.parametrize("name", INVALID)
def test_frames_without_a_density_are_invalid(name):
    frames, valid = INVALID[name]
    assert EMISSIONS[name].valid(torch.tensor(frames)).tolist() == valid


BAD = [
    (lambda n: emissions.Gaussian(n), "frame_dim"),
    (lambda n: emissions.Bernoulli(n), "frame_dim"),
    (lambda n: emissions.GaussianMixture(n, 2), "frame_dim"),
    (lambda n: emissions.GaussianMixture(2, n), "num_components"),
    (lambda n: emissions.Categorical(n), "num_classes"),
]


@pytest.mark.parametrize("size", [0, -3, 2.0, True, "two", None])
@pytest.mark.parametrize(("build", "argument"), BAD)
def test_sizes_are_positive_integers(build, argument, size):
    with pytest.raises(ValueError, match=f"{argument} must be a positive integer, got {size!r}"):
        build(size)


def test_emissions_are_values():
    assert emissions.Gaussian(3) == emissions.Gaussian(3)
    assert repr(emissions.GaussianMixture(3, 2)) == "GaussianMixture(frame_dim=3, num_components=2)"
    with pytest.raises(AttributeError):
        emissions.Gaussian(3).frame_dim = 4
