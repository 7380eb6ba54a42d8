"""Temperature, nucleus and the most likely frame, against densities by hand."""

import pyro.distributions as dist
import pytest
import torch

from zf_pyro import emissions
from zf_pyro.emissions import most_likely, tempered
from zf_pyro.generation.strategies import nucleus

from .comparing import EXACT
from .conftest import EMISSIONS


def a_distribution(emission, *shape):
    family = EMISSIONS[emission]
    generator = torch.Generator().manual_seed(1)
    return family.distribution(torch.randn(*shape, family.num_parameters, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("emission", sorted(EMISSIONS))
def test_temperature_one_changes_nothing(emission):
    distribution = a_distribution(emission, 2, 3)
    assert tempered(distribution, 1.0) is distribution


@pytest.mark.parametrize("emission", ["gaussian", "bernoulli", "categorical"])
@pytest.mark.parametrize("temperature", [0.3, 2.5])
def test_a_tempered_density_is_a_power_up_to_a_constant(emission, temperature):
    """The ratio of the densities of two frames is raised to the power 1 / temperature."""
    distribution = a_distribution(emission, 5)
    a, b = distribution.sample(), distribution.sample()
    ratio = distribution.log_prob(a) - distribution.log_prob(b)
    warm = tempered(distribution, temperature)
    torch.testing.assert_close(warm.log_prob(a) - warm.log_prob(b), ratio / temperature, **EXACT)
    assert (warm.batch_shape, warm.event_shape) == (distribution.batch_shape, distribution.event_shape)


def test_a_mixture_is_tempered_in_its_weights_and_in_its_components():
    weights, means = torch.tensor([0.2, 0.8]), torch.tensor([[0.0, 1.0], [4.0, 5.0]])
    mixture = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(means, 3.0).to_event(1))
    warm = tempered(mixture, 0.5)
    expected = weights**2 / (weights**2).sum()
    torch.testing.assert_close(warm.mixture_distribution.probs, expected)
    torch.testing.assert_close(warm.component_distribution.base_dist.scale, torch.full((2, 2), 3.0 * 0.5**0.5))
    torch.testing.assert_close(warm.component_distribution.base_dist.loc, means)


@pytest.mark.parametrize("emission", sorted(EMISSIONS))
def test_near_temperature_zero_only_the_most_likely_frame_is_sampled(emission):
    distribution = a_distribution(emission, 50)
    cold = tempered(distribution, 1e-12).sample()
    torch.testing.assert_close(cold, most_likely(distribution), rtol=0, atol=1e-4)


def test_at_a_high_temperature_symbols_become_equally_likely():
    torch.testing.assert_close(tempered(a_distribution("categorical", 3), 1e9).probs, torch.full((3, 4), 0.25).double())


@pytest.mark.parametrize("emission", ["gaussian", "bernoulli", "categorical"])
def test_no_frame_is_more_likely_than_the_most_likely(emission):
    distribution = a_distribution(emission, 6)
    draws = distribution.sample((500,))
    assert (distribution.log_prob(draws) <= distribution.log_prob(most_likely(distribution)) + 1e-12).all()


def test_the_most_likely_frame_of_a_mixture_is_the_mean_of_its_heaviest_component():
    family = emissions.GaussianMixture(2, 3)
    parameters = torch.zeros(1, family.num_parameters)
    parameters[0, 1] = 2.0
    parameters[0, 3:9] = torch.arange(6.0)
    assert most_likely(family.distribution(parameters)).tolist() == [[2.0, 3.0]]


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.3, [0, 1, 0, 0]), (0.5, [0, 1, 0, 0]), (0.51, [0, 1, 0, 1]), (0.85, [0, 1, 1, 1]), (1.0, [1, 1, 1, 1])],
)
def test_the_nucleus_is_the_smallest_set_of_symbols_with_the_probability(top_p, kept):
    probs = torch.tensor([0.05, 0.5, 0.15, 0.3], dtype=torch.float64)
    found = nucleus(dist.Categorical(probs), top_p).probs
    expected = probs * torch.tensor(kept)
    torch.testing.assert_close(found, expected / expected.sum(), **EXACT)


def test_each_distribution_of_a_batch_has_its_own_nucleus():
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])
    assert nucleus(dist.Categorical(probs), 0.6).sample((50,)).unique(dim=0).tolist() == [[0, 2]]


def test_a_nucleus_needs_symbols():
    with pytest.raises(ValueError, match="top_p is for symbols"):
        nucleus(a_distribution("gaussian"), 0.9)


def test_other_distributions_are_not_tempered():
    with pytest.raises(TypeError, match="must be a diagonal normal, a mixture of them, Bernoulli or categorical for"):
        tempered(dist.Poisson(torch.ones(2)), 2.0)


def test_a_distribution_without_a_mode_has_no_most_likely_frame():
    with pytest.raises(TypeError, match="distribution must have a mode, got ZeroInflatedPoisson"):
        most_likely(dist.ZeroInflatedPoisson(torch.ones(2), gate=torch.full((2,), 0.5)))
