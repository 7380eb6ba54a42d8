"""The start at the data: untrained models have the marginals of the frames."""

import copy
import inspect
import math
import sys

import pytest
import torch

from zf_pyro import ZForcing, emissions
from zf_pyro.data import LengthBatches, Loader
from zf_pyro.emissions import marginals
from zf_pyro.evaluation import bounds
from zf_pyro.models import DeterministicRNN
from zf_pyro.models.checksums import checksums

from .comparing import EXACT
from .own_emissions import random_density

NADE = emissions.NADE(5, hidden_dim=3)
STARTS = {
    str(family): family
    for family in (
        emissions.Gaussian(3),
        emissions.Bernoulli(4),
        emissions.Categorical(5),
        emissions.Poisson(2),
        emissions.MuLaw(2, levels=8),
        emissions.StudentT(2),
        emissions.DiscretizedLogisticMixture(2, 3, bits=5),
    )
}


def some_frames(family, count=3000, seed=3):
    """Frames with unequal marginals, sampled from the family at random parameters."""
    torch.manual_seed(seed)
    return random_density(family, seed=seed).sample((count,))


def an_untrained_model(family, **settings):
    torch.manual_seed(0)
    return ZForcing(family, embed_dim=8, hidden_dim=16, latent_dim=2, mlp_dim=8, **settings).double()


# Emissions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STARTS)
def test_the_start_is_as_probable_as_the_best_constant_parameters(name):
    """The gradient of the mean log-density by constant parameters vanishes at a maximum."""
    family, frames = STARTS[name], some_frames(STARTS[name])
    parameters = family.marginal_parameters(frames).requires_grad_(True)
    family.distribution(parameters).log_prob(frames).mean().backward()
    assert parameters.grad.abs().max() < 2e-3


def test_a_nade_starts_at_the_frequencies():
    frames = some_frames(NADE)
    weights = [module.double() for module in NADE.weights()]
    found = NADE.distribution(NADE.marginal_parameters(frames), *weights).log_prob(frames)
    bits = emissions.Bernoulli(5)
    expected = bits.distribution(bits.marginal_parameters(frames)).log_prob(frames)
    torch.testing.assert_close(found, expected, **EXACT)


def test_a_mixture_starts_spread_over_the_data():
    torch.manual_seed(0)
    centres = torch.tensor([[-4.0, 0.0], [4.0, 1.0]])
    frames = torch.cat([torch.randn(500, 2) * 0.1 + centre for centre in centres])
    mixture, single = emissions.GaussianMixture(2, 2), emissions.Gaussian(2)
    density, one = (family.distribution(family.marginal_parameters(frames)) for family in (mixture, single))
    means = density.component_distribution.mean
    torch.testing.assert_close(means[means[:, 0].argsort()], centres, rtol=0, atol=0.05)
    assert density.log_prob(frames).mean() > one.log_prob(frames).mean()


def test_a_negative_binomial_starts_at_the_moments():
    family = emissions.NegativeBinomial(2)
    frames = some_frames(family, count=50_000)
    density = family.distribution(family.marginal_parameters(frames))
    torch.testing.assert_close(density.mean, frames.mean(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(density.variance, frames.var(0), rtol=0.02, atol=1e-2)


@pytest.mark.parametrize(
    ("family", "frames"),
    [
        (emissions.Bernoulli(2), torch.zeros(4, 2)),
        (emissions.Gaussian(2), torch.ones(4, 2)),
        (emissions.Gaussian(2), torch.ones(1, 2)),
        (emissions.GaussianMixture(2, 3), torch.ones(2, 2)),
        (emissions.Categorical(4), torch.zeros(3, dtype=torch.long)),
        (emissions.Poisson(2), torch.zeros(4, 2)),
        (emissions.NegativeBinomial(2), torch.ones(4, 2)),
        (emissions.NegativeBinomial(2), torch.zeros(1, 2)),
        (emissions.StudentT(2), torch.ones(4, 2)),
        (emissions.DiscretizedLogisticMixture(2, 2, bits=3), torch.ones(4, 2)),
        (emissions.MuLaw(2), torch.zeros(4, 2)),
        (NADE, torch.zeros(4, 5)),
    ],
    ids=str,
)
def test_frames_without_variation_have_a_finite_start(family, frames):
    parameters = family.marginal_parameters(frames)
    weights = [module.to(parameters.dtype) for module in family.weights()]
    assert parameters.isfinite().all()
    assert family.distribution(parameters, *weights).log_prob(frames).isfinite().all()


def test_a_fit_never_ends_below_its_start():
    family, start = emissions.StudentT(1), torch.tensor([100.0, 30.0, -30.0])
    frames = some_frames(family, count=50)
    found = marginals.most_probable(family.distribution, frames, start)
    before, after = (family.distribution(p.double()).log_prob(frames).mean() for p in (start, found))
    assert after >= before


# Models -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STARTS)
def test_an_initialised_model_starts_at_the_marginals(name):
    family = STARTS[name]
    frames = some_frames(family, count=400)
    x, z = frames.view(40, 10, *family.event_shape), torch.zeros(40, 10, 2).double()
    net = an_untrained_model(family)

    def score():
        return float(net.emission(net.states(x, z)).log_prob(x.transpose(0, 1)).mean().detach())

    as_is = score()
    assert net.initialise(x) == 400
    marginal = float(family.distribution(family.marginal_parameters(frames)).log_prob(frames).mean())
    assert score() > as_is
    for layer in (net.emission_layer, net.backward_emission_layer):  # at h_t = 0
        found = family.distribution(layer.bias.detach()).log_prob(frames).mean()
        assert float(found) == pytest.approx(marginal, rel=1e-9)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.parametrize(
    "family", [emissions.Gaussian(3), emissions.GaussianMixture(3, 2), emissions.StudentT(2)], ids=str
)
def test_the_start_does_not_depend_on_the_unit_of_the_frames(family, factor):
    found = []
    for unit in (1.0, factor):
        x = some_frames(family).view(30, 100, -1).double() * unit
        net = an_untrained_model(family)
        net.initialise(x)
        torch.manual_seed(1)
        found.append(bounds(net, x[:, :5], num_particles=1).elbo + 5 * x.shape[-1] * math.log(unit))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


def test_levels_start_at_the_marginals_however_narrow_they_are():
    family = emissions.DiscretizedLogisticMixture(2, 3, bits=16)
    x = (torch.randn(20, 50, 2, dtype=torch.float64) * 500).round().mul(2).add(1) / 65535
    net = an_untrained_model(family)
    net.initialise(x)
    constant = family.distribution(family.marginal_parameters(x.flatten(0, 1))).log_prob(x).mean()
    assert (bounds(net, x, num_particles=1).elbo.mean() / 50 - constant).abs() < 0.3  # nats a frame


def test_padding_does_not_count_in_the_start():
    x, lengths = torch.randn(3, 5, 2).double() * 3 + 7, torch.tensor([5, 2, 3])
    one, other = (an_untrained_model(emissions.Gaussian(2)) for _ in range(2))
    assert one.initialise(x, lengths) == 10
    real = torch.cat([sequence[:length] for sequence, length in zip(x, lengths, strict=True)])
    other.initialise(real.unsqueeze(0))
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    torch.testing.assert_close(one.emission_layer.bias[:2], real.mean(0))


def test_embedded_frames_are_centred_and_scaled():
    x = torch.randn(30, 20, 2).double() * torch.tensor([100.0, 1.0]) + 500.0
    net = an_untrained_model(emissions.Gaussian(2))
    linear = net.embedding[0]
    bias, weight = linear.bias.clone(), linear.weight.clone()
    net.initialise(x)
    torch.testing.assert_close(linear(x.mean((0, 1))), bias)
    scale = (x - x.mean((0, 1))).square().mean().sqrt()
    torch.testing.assert_close(linear.weight, weight / scale)


def test_the_start_of_the_baseline_is_the_same():
    x = torch.randn(4, 6, 2) * 3 + 7
    rnn = DeterministicRNN(emissions.Gaussian(2), embed_dim=4, hidden_dim=5)
    rnn.initialise(x)
    torch.testing.assert_close(rnn.emission_layer.bias[:2], x.mean((0, 1)))


def test_a_loader_gives_the_start_of_its_frames_and_keeps_its_order():
    sequences = [torch.randn(length, 2).double() + 5.0 for length in (5, 3, 4, 6)]

    def loader():
        return Loader(sequences, LengthBatches([5, 3, 4, 6], 2, seed=1))

    one, other, third = (an_untrained_model(emissions.Gaussian(2)) for _ in range(3))
    given = loader()
    assert one.initialise(given) == 18
    for mine, untouched in zip(given, loader(), strict=True):
        assert torch.equal(mine.x, untouched.x)
    other.initialise(torch.cat(sequences).unsqueeze(0))
    third.initialise(list(loader()))
    torch.testing.assert_close(one.emission_layer.bias, other.emission_layer.bias)
    torch.testing.assert_close(third.emission_layer.bias, other.emission_layer.bias)


def test_a_shuffling_loader_leaves_the_random_state_alone():
    data = torch.utils.data.TensorDataset(torch.randn(8, 5, 2).double())
    shuffled = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True)
    net = an_untrained_model(emissions.Gaussian(2))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert net.initialise(shuffled) == 40
    assert torch.equal(torch.rand(3), expected)


def test_the_work_of_a_start_grows_as_the_number_of_sequences():
    def calls(count):
        sequences = [torch.tensor([[float(i)]]) for i in range(count)]
        net = ZForcing(emissions.Gaussian(1), embed_dim=2, hidden_dim=2, latent_dim=1, mlp_dim=2)
        loader = Loader(sequences, LengthBatches([1] * count, 2))
        seen = [0]

        def see(*_):
            seen[0] += 1

        sys.setprofile(see)
        try:
            net.initialise(loader)
        finally:
            sys.setprofile(None)
        return seen[0]

    calls(10)
    assert calls(800) < 2.1 * calls(400)


def test_a_saved_model_keeps_its_start(tmp_path):
    net = an_untrained_model(emissions.Bernoulli(3))
    net.initialise(torch.bernoulli(torch.full((5, 4, 3), 0.2)).double())
    net.save(tmp_path)
    for mine, loaded in zip(net.parameters(), ZForcing.load(tmp_path).parameters(), strict=True):
        assert torch.equal(mine, loaded)


def test_a_parametrised_layer_keeps_its_parametrisation():
    net = an_untrained_model(emissions.Gaussian(2))
    torch.nn.utils.parametrizations.weight_norm(net.emission_layer)
    torch.nn.utils.parametrizations.weight_norm(net.embedding[0])
    weight, embedding = net.emission_layer.weight.clone(), net.embedding[0].weight.clone()
    x = 3.0 * torch.randn(4, 5, 2).double()
    net.initialise(x)
    units = torch.cat([x.flatten(0, 1).std(0, correction=0), torch.ones(2).double()])  # means, then log-variances
    torch.testing.assert_close(net.emission_layer.weight, weight * units.unsqueeze(1))
    scale = (x - x.mean((0, 1))).square().mean().sqrt()
    torch.testing.assert_close(net.embedding[0].weight, embedding / scale)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (([],), "data must hold at least one batch"),
        ((torch.full((2, 3, 2), math.nan).double(),), "x must hold finite numbers"),
        ((torch.randn(2, 3, 5).double(),), "x must have shape"),
        ((torch.randn(2, 3, 2).double(), torch.tensor([3])), "lengths must have shape"),
        (([(torch.randn(2, 3, 2).double(), None)], torch.tensor([3, 3])), "a loader brings its own"),
    ],
)
def test_bad_data_is_refused_by_name_and_nothing_is_changed(data, message):
    net = an_untrained_model(emissions.Gaussian(2))
    before = [parameter.clone() for parameter in net.parameters()]
    with pytest.raises(ValueError, match=message):
        net.initialise(*data)
    assert all(map(torch.equal, before, net.parameters()))


# Weights as built ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 5), (70_000,), (3, 50_000)])
def test_a_checksum_sees_each_bit_and_the_order(shape):
    layer = torch.nn.Module()
    layer.weight = torch.nn.Parameter(torch.randn(shape))
    before = checksums(layer)
    assert before == checksums(copy.deepcopy(layer))
    assert before == checksums(copy.deepcopy(layer).double()), "float64 holds the same values"
    for place in {0, layer.weight.numel() - 1} if layer.weight.numel() else ():
        other = copy.deepcopy(layer)
        flat = other.weight.detach().view(-1)
        flat[place] = torch.nextafter(flat[place], torch.tensor(torch.inf))
        assert checksums(other) != before
    if layer.weight.numel() > 1:
        other = copy.deepcopy(layer)
        other.weight.data = other.weight.data.flatten().roll(1).view(shape)
        assert checksums(other) != before


def test_a_network_on_the_meta_device_is_not_known_to_be_as_built():
    with torch.device("meta"):
        net = ZForcing(emissions.Gaussian(2), embed_dim=2, hidden_dim=2, latent_dim=2, mlp_dim=2)
    assert not net.as_built
    assert not net.to_empty(device="cpu").as_built


def test_the_constructor_keeps_its_signature():
    assert list(inspect.signature(ZForcing).parameters)[:2] == ["emission", "embed_dim"]
