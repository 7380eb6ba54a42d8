"""Emissions of counts, audio, heavy tails and NADE: densities sum to one, samples have their moments."""

import math

import pytest
import torch

from zf_pyro import emissions
from zf_pyro.emissions import levels

from .comparing import EXACT
from .conftest import random_net
from .own_emissions import random_density

NADE = emissions.NADE(5, hidden_dim=3)
AUDIO = emissions.DiscretizedLogisticMixture(2, 3, bits=4)
CELLS = emissions.MuLaw(2, levels=16)


def frames_of_bits(count):
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * count)


# Sums, integrals and formulas ---------------------------------------------------------------------------------------


def test_the_probabilities_of_all_frames_under_a_nade_sum_to_one():
    total = random_density(NADE, 4).log_prob(frames_of_bits(5).unsqueeze(1)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(4, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9], ids=["silent", "few", "many"])
def test_a_nade_of_few_ones_has_the_density_and_gradients_of_the_formula(share):
    """Frames of few ones take another way than those of many; x that needs gradients takes the formula's."""
    torch.manual_seed(0)
    family = emissions.NADE(20, hidden_dim=6)
    (weights,) = family.weights()
    weights.double()
    torch.nn.init.normal_(weights.decoder)
    x = (torch.rand(7, 20) < share).double()
    x[0], x[1] = 0.0, 0.0
    x[0, 0] = x[1, 19] = 1.0
    parameters = torch.randn(3, 7, 26, dtype=torch.float64, requires_grad=True)
    inputs = (parameters, weights.encoder, weights.decoder)
    found = []
    for frames in (x, x.clone().requires_grad_()):
        log_prob = family.distribution(parameters, weights).log_prob(frames)
        found.append((log_prob, *torch.autograd.grad((log_prob * torch.arange(7)).sum(), inputs)))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_the_way_of_few_ones_is_not_taken_where_values_are_unknown():
    """Under vmap there are none, and a traced function is for other frames as well."""
    torch.manual_seed(0)
    family = emissions.NADE(20, hidden_dim=6)
    (weights,) = family.weights()
    torch.nn.init.normal_(weights.requires_grad_(False).decoder)
    x, parameters = (torch.rand(2, 5, 20) < torch.tensor([0.05, 0.9]).view(2, 1, 1)).float(), torch.randn(5, 26)
    density = family.distribution(parameters, weights)
    expected = torch.stack([density.log_prob(frames) for frames in x])
    torch.testing.assert_close(torch.func.vmap(density.log_prob)(x), expected)
    traced = torch.jit.trace(density.log_prob, x[0])
    torch.testing.assert_close(traced(x[1]), expected[1])
    assert density.log_prob(torch.zeros(0, 5, 20)).shape == (0, 5)


def test_a_nade_is_the_product_of_its_elements_given_those_before():
    density = random_density(NADE, 4)
    x = density.sample()
    expected = torch.zeros(4, dtype=torch.float64)
    for i in range(4):
        hidden = density.hidden[i].clone()
        for d in range(5):
            probability = torch.sigmoid(density.visible[i, d] + hidden.sigmoid() @ density.decoder[d])
            expected[i] += (probability if x[i, d] == 1 else 1 - probability).log()
            hidden += x[i, d] * density.encoder[d]
    torch.testing.assert_close(density.log_prob(x), expected, **EXACT)


def test_a_nade_in_pieces_has_the_same_densities_and_gradients(monkeypatch):
    density = random_density(NADE, 7, 3)
    x = density.sample()
    leaves = [density.encoder.requires_grad_(True), density.decoder.requires_grad_(True)]
    whole = density.log_prob(x)
    gradients = torch.autograd.grad(whole.sum(), leaves)
    monkeypatch.setattr("zf_pyro.emissions.nade.FLOATS_AT_ONCE", 30)
    pieces = density.log_prob(x)
    torch.testing.assert_close(pieces, whole, **EXACT)
    torch.testing.assert_close(torch.autograd.grad(pieces.sum(), leaves), gradients, **EXACT)


def test_a_nade_takes_frames_of_several_samples_and_a_single_one():
    density = random_density(NADE, 3)
    x = density.sample((6,))
    assert x.shape == (6, 3, 5)
    torch.testing.assert_close(density.log_prob(x)[2], density.log_prob(x[2]), **EXACT)
    torch.testing.assert_close(density.expand([6, 3]).log_prob(x), density.log_prob(x), **EXACT)
    single = random_density(NADE)
    assert single.log_prob(single.sample()).shape == ()


def test_a_new_nade_is_independent_bits():
    (weights,) = NADE.weights()
    parameters = torch.randn(4, NADE.num_parameters)
    x = torch.bernoulli(torch.full((4, 5), 0.5))
    expected = emissions.Bernoulli(5).distribution(parameters[:, :5]).log_prob(x)
    torch.testing.assert_close(NADE.distribution(parameters, weights).log_prob(x), expected)


def test_the_probabilities_of_all_levels_sum_to_one():
    grid = torch.arange(16, dtype=torch.float64) * (2 / 15) - 1
    density = random_density(AUDIO, 3).base_dist
    torch.testing.assert_close(density.log_prob(grid.view(-1, 1, 1)).exp().sum(0), torch.ones(3, 2).double(), **EXACT)


def test_a_discretised_logistic_is_the_integral_over_its_cell():
    density = random_density(emissions.DiscretizedLogisticMixture(1, 1, bits=4), 1).base_dist
    mean, scale = density.means.item(), density.log_scales.exp().item()
    for level in range(16):
        x = 2 * level / 15 - 1
        low = -math.inf if level == 0 else (x - 1 / 15 - mean) / scale
        high = math.inf if level == 15 else (x + 1 / 15 - mean) / scale
        cell = torch.tensor([low, high], dtype=torch.float64).sigmoid()
        expected = (cell[1] - cell[0]).log().item()
        assert density.log_prob(torch.tensor([[x]], dtype=torch.float64)).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("mean", [-1e3, -30.0, 30.0, 1e3])
def test_levels_far_in_the_tail_have_finite_densities_and_gradients(mean):
    parameters = torch.tensor([0.0, mean, -6.0], requires_grad=True)
    density = emissions.DiscretizedLogisticMixture(1, 1, bits=16).distribution(parameters)
    found = density.log_prob(torch.tensor([0.0]))
    found.backward()
    assert found.item() == pytest.approx(-(abs(mean) * math.exp(6.0)), rel=0.01)
    assert parameters.grad.isfinite().all()


def by_levels(density, bits):
    """The mean as the sum of each level times its probability."""
    grid = torch.arange(2**bits, dtype=torch.float64) * (2 / (2**bits - 1)) - 1
    return (density.log_prob(grid.view(-1, 1, 1)).exp() * grid.view(-1, 1, 1)).sum(0)


@pytest.mark.parametrize("bits", [1, 2, 4, 9])
def test_the_mean_of_discretised_logistics_is_the_sum_over_all_levels(bits):
    """Scales far below and far above the distance of levels, and means outside their range too."""
    family = emissions.DiscretizedLogisticMixture(2, 3, bits)
    generator = torch.Generator().manual_seed(bits)
    parameters = 3.0 * torch.randn(50, family.num_parameters, generator=generator, dtype=torch.float64)
    density = family.distribution(parameters)
    torch.testing.assert_close(density.mean, by_levels(density.base_dist, bits), rtol=1e-12, atol=1e-12)


def test_the_mean_of_discretised_logistics_in_pieces_is_the_same(monkeypatch):
    density = random_density(AUDIO, 3, 2)
    whole = density.mean
    monkeypatch.setattr("zf_pyro.emissions.levels.FLOATS_AT_ONCE", 100)
    torch.testing.assert_close(density.mean, whole, **EXACT)
    assert density.expand([4, 3, 2]).mean.shape == (4, 3, 2, 2)


def test_the_mean_of_16_bit_audio_in_float32_is_exact_to_its_precision():
    family = emissions.DiscretizedLogisticMixture(1, 2, bits=16)
    parameters = torch.tensor([[0.3, -0.2, 0.1, -0.4, -3.0, -9.0]])
    found = family.distribution(parameters).mean
    expected = by_levels(family.distribution(parameters.double()).base_dist, 16)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)


def test_the_mean_of_discretised_logistics_has_the_gradient_of_the_sum():
    parameters = torch.randn(3, AUDIO.num_parameters, dtype=torch.float64, requires_grad=True)
    density = AUDIO.distribution(parameters)
    found, expected = (
        torch.autograd.grad(mean.sum(), parameters, retain_graph=True)[0]
        for mean in (density.mean, by_levels(density.base_dist, 4))
    )
    torch.testing.assert_close(found, expected, **EXACT)


MEANS = {
    str(family): family
    for family in (
        emissions.Gaussian(2),
        emissions.GaussianMixture(2, 2),
        emissions.Bernoulli(2),
        emissions.Poisson(2),
        emissions.NegativeBinomial(2),
        AUDIO,
        CELLS,
    )
}


@pytest.mark.parametrize("name", MEANS)
def test_samples_have_the_mean(name):
    density = random_density(MEANS[name], 3)
    samples = density.sample((20_000,))
    error = samples.std(0) / math.sqrt(len(samples))
    assert ((samples.mean(0) - density.mean).abs() < 5.0 * error + 1e-9).all()


def test_the_mean_of_a_nade_is_refused_and_the_way_out_has_the_mean_over_all_frames():
    density = random_density(NADE, 3)
    with pytest.raises(NotImplementedError, match=r"estimate it by distribution\.sample\(\(1000,\)\)\.mean\(0\)"):
        density.mean  # noqa: B018
    frames = frames_of_bits(5)
    exact = (density.log_prob(frames.unsqueeze(1)).exp().unsqueeze(-1) * frames.unsqueeze(1)).sum(0)
    error = (exact * (1.0 - exact) / 1000).sqrt()
    assert ((density.sample((1000,)).mean(0) - exact).abs() < 5.0 * error).all()


def test_the_probabilities_of_all_mu_law_cells_sum_to_one():
    centres = levels.mu_law_centre(torch.arange(16), 16)
    density = random_density(CELLS, 3).base_dist
    total = density.log_prob(centres.view(-1, 1, 1)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(3, 2).double(), **EXACT)


@pytest.mark.parametrize("count", [2, 16, 255, 256, 65_536])
def test_the_centre_of_a_mu_law_cell_lies_in_it(count):
    cells = torch.arange(count)
    assert torch.equal(levels.mu_law_cell(levels.mu_law_centre(cells, count), count), cells)
    ends = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    assert levels.mu_law_cell(ends, count).tolist() == [0, count - 1]


def test_mu_law_is_the_formula_of_g_711():
    x = torch.linspace(-1, 1, 101, dtype=torch.float64)
    compressed = x.sign() * torch.log1p(255 * x.abs()) / math.log(256)
    assert torch.equal(levels.mu_law_cell(x, 256), ((compressed + 1) / 2 * 256).floor().long().clamp(max=255))


def test_a_student_t_density_integrates_to_one_and_is_the_formula():
    density = random_density(emissions.StudentT(1), 3)
    angles = torch.linspace(-math.pi / 2 + 1e-5, math.pi / 2 - 1e-5, 400_001, dtype=torch.float64)
    grid = angles.tan()
    total = torch.trapezoid(density.log_prob(grid.view(-1, 1, 1)).exp(), grid, dim=0)
    torch.testing.assert_close(total, torch.ones(3, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    df, loc, scale = (part[0, 0] for part in (density.base_dist.df, density.base_dist.loc, density.base_dist.scale))
    y = (0.7 - loc) / scale
    expected = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2) - 0.5 * torch.log(df * math.pi) - torch.log(scale)
    expected = expected - (df + 1) / 2 * torch.log1p(y**2 / df)
    torch.testing.assert_close(density.log_prob(torch.full((3, 1), 0.7).double())[0], expected, **EXACT)


@pytest.mark.parametrize("family", [emissions.Poisson(1), emissions.NegativeBinomial(1)], ids=str)
def test_the_probabilities_of_counts_sum_to_one(family):
    counts = torch.arange(4000, dtype=torch.float64).view(-1, 1, 1)
    total = random_density(family, 3).log_prob(counts).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_a_negative_binomial_has_the_mean_and_variance_of_its_docstring():
    density = random_density(emissions.NegativeBinomial(1), 1)
    counts = torch.arange(4000, dtype=torch.float64).view(-1, 1, 1)
    probability = density.log_prob(counts).exp().unsqueeze(-1)
    mean, dispersion = density.base_dist.mean, density.base_dist.total_count
    found = (counts * probability).sum(0)
    torch.testing.assert_close(found, mean, rtol=1e-6, atol=1e-6)
    variance = (counts.square() * probability).sum(0) - found.square()
    torch.testing.assert_close(variance, mean + mean.square() / dispersion, rtol=1e-5, atol=1e-5)


# Samples ------------------------------------------------------------------------------------------------------------


def near(share, expected, count):
    """Whether shares of ``count`` samples lie within five standard errors of their probabilities."""
    return ((share - expected).abs() < 5 * (expected / count).sqrt() + 2 / count).all()


def test_samples_of_a_nade_have_its_probabilities():
    density, frames = random_density(NADE), frames_of_bits(5)
    torch.manual_seed(0)
    numbers = (density.sample((40_000,)) @ torch.tensor([16.0, 8.0, 4.0, 2.0, 1.0]).double()).long()
    assert near(torch.bincount(numbers, minlength=32) / 40_000, density.log_prob(frames).exp(), 40_000)


@pytest.mark.parametrize("family", [AUDIO, CELLS], ids=str)
def test_samples_of_audio_have_its_probabilities(family):
    density = random_density(family).base_dist
    torch.manual_seed(0)
    samples = density.sample((40_000,))
    assert family.valid(samples).all()
    for value in samples.unique():
        share = (samples == value).double().mean(0)
        assert near(share, density.log_prob(value.expand(2)).exp(), 40_000)


def test_the_mean_of_mu_law_cells_is_that_of_samples():
    density = random_density(CELLS).base_dist
    torch.manual_seed(0)
    torch.testing.assert_close(density.sample((100_000,)).mean(0), density.mean, rtol=0, atol=0.02)


@pytest.mark.parametrize("family", [NADE, AUDIO, CELLS], ids=str)
def test_a_low_temperature_samples_the_greedy_frame(family):
    density = random_density(family, 20)
    cold = family.tempered(density, 1e-12)
    torch.testing.assert_close(cold.sample(), family.mode(density), rtol=0, atol=1e-6)


# Refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: emissions.DiscretizedLogisticMixture(2, 3, bits=25), "bits must be at most 24"),
        (lambda: emissions.DiscretizedLogisticMixture(2, 3, bits=0), "bits must be a positive integer"),
        (lambda: emissions.DiscretizedLogisticMixture(2, 0, bits=8), "num_components must be a positive integer"),
        (lambda: emissions.MuLaw(2, levels=1), "levels must be"),
        (lambda: emissions.MuLaw(2, levels=2.5), "levels must be"),
        (lambda: emissions.NADE(0), "frame_dim must be a positive integer"),
        (lambda: emissions.NADE(3, hidden_dim=0), "hidden_dim must be a positive integer"),
        (lambda: emissions.Poisson(-1), "frame_dim must be a positive integer"),
        (lambda: emissions.NegativeBinomial("3"), "frame_dim must be a positive integer"),
        (lambda: emissions.StudentT(None), "frame_dim must be a positive integer"),
    ],
)
def test_sizes_out_of_range_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("family", "frame"),
    [
        (AUDIO, [0.0, 1.0]),
        (AUDIO, [1.0, 3.0]),
        (CELLS, [0.0, 1.5]),
        (emissions.Poisson(2), [0.5, 1.0]),
        (emissions.Poisson(2), [-1.0, 1.0]),
        (emissions.NegativeBinomial(2), [math.inf, 1.0]),
        (emissions.NADE(2), [2.0, 0.0]),
        (emissions.StudentT(2), [math.nan, 0.0]),
    ],
    ids=str,
)
def test_frames_outside_the_support_are_refused_by_name(family, frame):
    x = torch.tensor(frame, dtype=torch.float64).expand(1, 3, 2)
    with pytest.raises(ValueError, match=f"x must hold {family.values} for {type(family).__name__}"):
        random_net(family).model(x)
