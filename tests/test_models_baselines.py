"""Baselines: closed forms against least squares and densities by hand, and models of a requested size."""

import math

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

from zf_pyro.emissions import Categorical, Gaussian, GaussianMixture
from zf_pyro.evaluation import score_density, summarise
from zf_pyro.models import DeterministicRNN, LinearGaussian
from zf_pyro.models.deterministic_rnn import LayerNormLSTM
from zf_pyro.networks import ConditionalLayerNormCell, State

from .comparing import EXACT
from .conftest import EMISSIONS, random_frames

LENGTHS = torch.tensor([4, 1, 3])


def autoregressive(count, time, seed=0):
    """Sample sequences of a linear-Gaussian process; return them with its weight, bias and noise covariance."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.tensor([[0.6, 0.3], [-0.2, 0.5]], dtype=torch.float64)
    bias, root = torch.tensor([0.5, -1.0]).double(), torch.tensor([[0.7, 0.0], [0.4, 0.5]]).double()
    frames = [torch.randn(count, 2, generator=generator, dtype=torch.float64)]
    for _ in range(time - 1):
        noise = torch.randn(count, 2, generator=generator, dtype=torch.float64)
        frames.append(frames[-1] @ weight.T + bias + noise @ root.T)
    return torch.stack(frames, 1), weight, bias, root @ root.T


def test_the_fit_recovers_the_process_that_generated_the_data():
    x, weight, bias, noise = autoregressive(2000, 20)
    found = LinearGaussian.fit([(x, None)])
    torch.testing.assert_close(found.weight, weight, rtol=0, atol=0.02)
    torch.testing.assert_close(found.bias, bias, rtol=0, atol=0.02)
    torch.testing.assert_close(found.noise, noise, rtol=0, atol=0.02)


def test_the_fit_is_least_squares_over_pairs_of_real_frames_in_any_batches():
    x, *_ = autoregressive(6, 5)
    lengths = torch.tensor([5, 2, 1, 4, 3, 5])
    padded = x.clone()
    for i, length in enumerate(lengths.tolist()):
        padded[i, length:] = math.nan
    found = LinearGaussian.fit([(padded[:2], lengths[:2]), (padded[2:], lengths[2:])], ridge=0.0)
    pairs = [(row[:-1], row[1:]) for row in (x[i, :n] for i, n in enumerate(lengths.tolist()))]
    before, after = (torch.cat(part) for part in zip(*pairs, strict=True))
    design = torch.cat([torch.ones(len(before), 1).double(), before], 1)
    solution = torch.linalg.lstsq(design, after).solution
    torch.testing.assert_close(found.bias, solution[0], **EXACT)
    torch.testing.assert_close(found.weight, solution[1:].T, **EXACT)
    residual = after - design @ solution
    torch.testing.assert_close(found.noise, residual.T @ residual / len(before), **EXACT)
    real = torch.cat([x[i, :n] for i, n in enumerate(lengths.tolist())])
    torch.testing.assert_close(found.mean, real.mean(0), **EXACT)
    torch.testing.assert_close(found.marginal, real.T.cov(correction=0), **EXACT)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("with_context", [False, True])
def test_linear_gaussian_density_is_the_formula(covariance, with_context):
    x, *_ = autoregressive(3, 4)
    found = LinearGaussian.fit([(x, None)], covariance)
    normal = torch.distributions.MultivariateNormal
    for i, length in enumerate(LENGTHS.tolist()):
        before = x[i, 3]
        first = normal(found.mean, found.marginal) if not with_context else None
        total = 0.0
        for t in range(length):
            given = normal(found.weight @ before + found.bias, found.noise)
            total = total + (first if t == 0 and first else given).log_prob(x[i, t])
            before = x[i, t]
        log_prob = found.log_prob(x, LENGTHS, x[:, 3] if with_context else None)
        torch.testing.assert_close(log_prob[i], total, **EXACT)
    if covariance == "diagonal":
        assert (found.noise[0, 1], found.marginal[0, 1]) == (0.0, 0.0)
        assert found.num_parameters == 2 * (2 + 2) + 4


def test_a_full_covariance_fits_the_training_frames_better():
    x, *_ = autoregressive(50, 10)
    full, diagonal = (LinearGaussian.fit([(x, None)], c).log_prob(x).sum() for c in ("full", "diagonal"))
    assert full > diagonal


def test_constant_features_give_finite_densities():
    x = torch.cat([torch.randn(5, 6, 1), torch.zeros(5, 6, 1)], -1)
    assert LinearGaussian.fit([(x, None)]).log_prob(x).isfinite().all()


def test_data_and_settings_that_cannot_be_fitted_are_refused():
    x = torch.randn(3, 4, 2)
    with pytest.raises(ValueError, match="covariance must be one of"):
        LinearGaussian.fit([(x, None)], "banded")
    with pytest.raises(ValueError, match="ridge must be at least 0"):
        LinearGaussian.fit([(x, None)], ridge=-1.0)
    for batches in ([], [(x[:, :1], None)], [(x, torch.ones(3, dtype=torch.long))]):
        with pytest.raises(ValueError, match="sequences of at least two frames"):
            LinearGaussian.fit(batches)
    with pytest.raises(ValueError, match=r"x must have shape \(batch, time, 2\), got \(3, 4, 5\)"):
        LinearGaussian.fit([(x, None)]).log_prob(torch.zeros(3, 4, 5))


@pytest.mark.parametrize("emission", sorted(EMISSIONS))
@pytest.mark.parametrize("with_context", [False, True])
def test_the_rnns_density_is_that_of_a_step_by_step_loop(emission, with_context):
    family, x = EMISSIONS[emission], random_frames(emission)
    net = DeterministicRNN(family, embed_dim=5, hidden_dim=4).double()
    context = x[:, 3] if with_context else None
    padded = x.clone()
    padded[1, 1:] = -1 if emission == "categorical" else math.nan
    with torch.no_grad():
        found = net.log_prob(padded, LENGTHS, context)
        for i, length in enumerate(LENGTHS.tolist()):
            u_t = family.start(x[i : i + 1, 0]) if context is None else context[i : i + 1]
            state, total = None, 0.0
            for t in range(length):
                hidden, state = net.lstm(net.embedding(u_t).unsqueeze(1), state)
                u_t = x[i : i + 1, t]
                total = total + family.distribution(net.emission_layer(hidden[:, 0])).log_prob(u_t)
            torch.testing.assert_close(found[i], total[0], **EXACT)


@pytest.mark.parametrize("emission", [Gaussian(12), GaussianMixture(3, 4), Categorical(50)])
@pytest.mark.parametrize("requested", [3000, 30_000, 1_000_000])
def test_a_model_of_a_requested_size_is_the_nearest_possible(emission, requested):
    net = DeterministicRNN.of_size(emission, requested, embed_dim=16)
    for other in (net.hidden_dim - 1, net.hidden_dim + 1):
        if other:
            rival = DeterministicRNN(emission, embed_dim=16, hidden_dim=other).num_parameters
            assert abs(net.num_parameters - requested) <= abs(rival - requested)


def test_a_size_that_cannot_be_reached_is_refused():
    with pytest.raises(ValueError, match="num_parameters must leave room for a hidden size"):
        DeterministicRNN.of_size(Categorical(1000), 5000, embed_dim=64)
    with pytest.raises(ValueError, match="hidden_dim must be a positive integer, got 0"):
        DeterministicRNN(Gaussian(2), hidden_dim=0)
    with pytest.raises(ValueError, match="dropout must be a probability"):
        DeterministicRNN(Gaussian(2), dropout=1.0)


def test_svi_fits_the_rnn_by_its_log_likelihood():
    x, *_ = autoregressive(20, 6)
    net = DeterministicRNN(Gaussian(2), embed_dim=8, hidden_dim=8).double()
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    before = net.log_prob(x).sum().item()
    assert svi.evaluate_loss(x) == pytest.approx(-before)
    for _ in range(60):
        svi.step(x, None)
    assert net.log_prob(x).sum().item() > before + 50


def test_baselines_are_scored_under_the_protocols_of_the_bounds():
    x, *_ = autoregressive(5, 4)
    linear, lengths = LinearGaussian.fit([(x, None)]), torch.tensor([4, 2, 3, 4, 2])
    found = summarise(score_density(linear, x, lengths, protocol="first_frame_given", batch_size=2), scale=3.0)
    expected = linear.log_prob(x[:, 1:], lengths - 1, x[:, 0]) - 2 * (lengths - 1) * math.log(3.0)
    assert found.bounds["log_likelihood"].nats_per_sequence.value == pytest.approx(expected.mean().item())
    assert (found.num_frames, found.kl, found.num_particles) == (10, None, None)
    chunked = score_density(linear, [(x, lengths)], reset_every=3)
    torch.testing.assert_close(
        chunked.bounds["log_likelihood"][0], linear.log_prob(x[:1, :3])[0] + linear.log_prob(x[:1, 3:])[0], **EXACT
    )


def test_a_baseline_is_scored_without_dropout_and_keeps_its_mode():
    x, *_ = autoregressive(20, 6)
    for layer_norm in (False, True):
        net = DeterministicRNN(Gaussian(2), embed_dim=8, hidden_dim=8, dropout=0.5, layer_norm=layer_norm).double()
        expected = net.eval().log_prob(x)
        for training in (True, False):
            found = score_density(net.train(training), x).bounds["log_likelihood"]
            torch.testing.assert_close(found, expected.detach(), **EXACT)
            assert all(module.training is training for module in net.modules())


def test_the_layer_norm_lstm_is_the_cell_of_z_forcing_without_latents():
    """The conditional cell, with gain and shift that no latent changes."""
    torch.manual_seed(0)
    lstm, cell = LayerNormLSTM(3, 5).double(), ConditionalLayerNormCell(3, 5, 2, 4).double()
    gain, shift = 1.0 + torch.rand(2, 20, dtype=torch.float64)
    with torch.no_grad():
        for name in ("input_weights", "hidden_weights", "input_norm"):
            for one, other in zip(getattr(lstm, name).parameters(), getattr(cell, name).parameters(), strict=True):
                other.copy_(one.uniform_(-1.0, 1.0))
        lstm.hidden_norm.weight.copy_(gain)
        lstm.hidden_norm.bias.copy_(shift)
    x = torch.randn(4, 6, 3, dtype=torch.float64)
    states, (last, last_cell) = lstm(x)
    state = State(*torch.zeros(2, 4, 5, dtype=torch.float64))
    for t in range(6):
        state = cell.advance(state, cell.inputs(x[:, t]), torch.cat([gain - 1.0, shift]))
        torch.testing.assert_close(states[:, t], state.hidden, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((last, last_cell), (state.hidden, state.cell), rtol=1e-12, atol=1e-12)


def test_the_layer_norm_lstm_is_trained_as_any_baseline():
    model = DeterministicRNN(Gaussian(2), embed_dim=3, hidden_dim=4, layer_norm=True)
    x, lengths = torch.randn(3, 5, 2), torch.tensor([5, 2, 3])
    model.initialise(x, lengths)
    apart = torch.stack([model.log_prob(x[i : i + 1, :n])[0] for i, n in enumerate(lengths.tolist())])
    torch.testing.assert_close(model.log_prob(x, lengths), apart)
    model.log_prob(x, lengths).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(TypeError, match="layer_norm must be True or False, got 1"):
        DeterministicRNN(Gaussian(2), layer_norm=1)
