"""Bounds per sequence, KL per step and active units, against traces scored by hand and constructed models."""

import math
from collections.abc import Iterator

import pyro
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor

from zf_pyro import ZForcing
from zf_pyro.data.vowels import load_vowels
from zf_pyro.emissions import Categorical, Gaussian
from zf_pyro.evaluation import active_units, bounds, step_kl


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    pyro.clear_param_store()


@pytest.fixture
def net() -> ZForcing:
    """Model whose posterior differs enough from its prior for the bounds to differ."""
    net = ZForcing(Gaussian(12), embed_dim=8, hidden_dim=8, latent_dim=3, mlp_dim=8, dropout=0.3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net


@pytest.fixture(scope="module")
def utterances() -> tuple[Tensor, Tensor]:
    """Ten standardised utterances of Japanese Vowels, of different lengths."""
    test = load_vowels().test
    taken = test.take(torch.arange(0, 370, 37))
    return taken.x, taken.lengths


def test_one_particle_is_log_p_minus_log_q_of_a_trace(net: ZForcing, utterances: tuple[Tensor, Tensor]) -> None:
    x, lengths = utterances[0][:1, : utterances[1][0]], utterances[1][:1]
    pyro.set_rng_seed(7)
    result = bounds(net, x, lengths, num_particles=1)
    net.eval()
    pyro.set_rng_seed(7)
    guide = poutine.trace(net.guide).get_trace(x, lengths)
    model = poutine.trace(poutine.replay(net.model, trace=guide)).get_trace(x, lengths)
    by_hand = model.log_prob_sum() - guide.log_prob_sum()
    torch.testing.assert_close(result.importance_weighted, by_hand.detach().view(1))


def test_importance_weights_average_over_all_particles(net: ZForcing, utterances: tuple[Tensor, Tensor]) -> None:
    """In chunks of any size, 6 particles give the log-mean-exp of 6 single particles."""
    x, lengths = utterances[0][:1, : utterances[1][0]], utterances[1][:1]
    pyro.set_rng_seed(7)
    singles = torch.stack([bounds(net, x, lengths, num_particles=1).importance_weighted for _ in range(6)])
    pyro.set_rng_seed(7)
    result = bounds(net, x, lengths, num_particles=6, chunk_particles=1)
    torch.testing.assert_close(result.importance_weighted, singles.logsumexp(0) - math.log(6))


def test_each_batch_is_encoded_once(
    net: ZForcing, utterances: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, sizes = net.scan_backward, []
    monkeypatch.setattr(net, "scan_backward", lambda x, *given: sizes.append(x.shape[1]) or encode(x, *given))
    bounds(net, *utterances, num_particles=6, chunk_particles=2, batch_size=4)
    assert sizes == [4, 4, 2]


def test_more_particles_tighten_the_bound(net: ZForcing, utterances: tuple[Tensor, Tensor]) -> None:
    few, many = (bounds(net, *utterances, num_particles=count) for count in (1, 64))
    assert many.importance_weighted.mean() > few.importance_weighted.mean()
    assert (many.elbo <= many.importance_weighted).all()


def test_elbo_is_likelihood_minus_kl_of_every_real_step(net: ZForcing, utterances: tuple[Tensor, Tensor]) -> None:
    """The analytic KL and the difference of log-densities have the same expectation."""
    x, lengths = (field[:3] for field in utterances)
    result = bounds(net, x, lengths, num_particles=1000, chunk_particles=250)
    singles = torch.stack([bounds(net, x, lengths, num_particles=1).importance_weighted for _ in range(100)])
    error = singles.std(0) / math.sqrt(100)
    assert ((result.elbo - singles.mean(0)).abs() < 5 * error).all()


def test_kl_of_the_steps_adds_up_to_the_kl(net: ZForcing, utterances: tuple[Tensor, Tensor]) -> None:
    x, lengths = utterances[0][:1, : utterances[1][0]], utterances[1][:1]
    pyro.set_rng_seed(7)
    whole = bounds(net, x, lengths, num_particles=1).kl
    pyro.set_rng_seed(7)
    steps = step_kl(net, x, lengths)
    torch.testing.assert_close(steps.sum(1), whole)


def test_kl_beyond_a_length_is_nan(net: ZForcing, utterances: tuple[Tensor, Tensor]) -> None:
    x, lengths = utterances
    assert torch.equal((~step_kl(net, x, lengths).isnan()).sum(1), lengths)
    assert not step_kl(net, x[:, :7]).isnan().any()


@pytest.mark.parametrize("padding", [0.0, 1e6, math.nan])
def test_padding_changes_nothing(net: ZForcing, utterances: tuple[Tensor, Tensor], padding: float) -> None:
    x, lengths = utterances
    beyond = torch.arange(x.shape[1]) >= lengths.unsqueeze(-1)
    padded = torch.cat([x.masked_fill(beyond.unsqueeze(-1), padding), torch.full((len(x), 3, 12), padding)], dim=1)
    for evaluate in (bounds, step_kl, active_units):
        results = []
        for frames in (x, padded):
            pyro.set_rng_seed(7)
            results.append(evaluate(net, frames, lengths))
        if evaluate is step_kl:
            results[1] = results[1][:, : x.shape[1]]
        torch.testing.assert_close(results[0], results[1], equal_nan=True, atol=0, rtol=0)


def test_sequences_keep_their_order(net: ZForcing, utterances: tuple[Tensor, Tensor]) -> None:
    """Bounds are returned in the order of the sequences; those of other sequences differ by hundreds of nats."""
    x, lengths = utterances
    whole = bounds(net, x, lengths, num_particles=64, batch_size=3)
    for i in range(len(x)):
        alone = bounds(net, x[i : i + 1], lengths[i : i + 1], num_particles=64)
        assert abs(whole.elbo[i] - alone.elbo[0]) < 0.05 * abs(alone.elbo[0])


def test_without_lengths_every_frame_is_real(net: ZForcing, utterances: tuple[Tensor, Tensor]) -> None:
    x = utterances[0][:, :7]
    results = []
    for lengths in (None, torch.full((len(x),), 7)):
        pyro.set_rng_seed(7)
        results.append(bounds(net, x, lengths, num_particles=3))
    torch.testing.assert_close(results[0], results[1])


def test_symbols_have_bounds_as_well() -> None:
    net = ZForcing(Categorical(5), embed_dim=8, hidden_dim=8, latent_dim=3, mlp_dim=8)
    result = bounds(net, torch.randint(5, (4, 6)), num_particles=8)
    assert result.elbo.shape == result.importance_weighted.shape == result.kl.shape == (4,)
    assert (result.importance_weighted < 0).all()


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_gradients_are_left_as_found(
    net: ZForcing, utterances: tuple[Tensor, Tensor], training: bool
) -> None:
    net.train(training)
    net.cell.train(not training)
    assert not bounds(net, *utterances, num_particles=2).elbo.requires_grad
    active_units(net, *utterances)
    assert (net.training, net.embedding.training, net.cell.training) == (training, training, not training)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_modes_come_back_after_an_error(net: ZForcing, utterances: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        bounds(net, torch.full_like(utterances[0], math.nan), num_particles=2)
    assert net.training


def test_dropout_is_off(net: ZForcing, utterances: tuple[Tensor, Tensor]) -> None:
    results = []
    for training in (True, False):
        net.train(training)
        pyro.set_rng_seed(7)
        results.append(bounds(net, *utterances, num_particles=2).elbo)
    assert torch.equal(*results)


@pytest.mark.parametrize("active", [0, 1, 3])
def test_active_units_are_those_whose_mean_follows_the_data(
    net: ZForcing, utterances: tuple[Tensor, Tensor], active: int
) -> None:
    """Zero rows in the last layer of the posterior give a dimension the same mean for all data."""
    last = [module for module in net.posterior_network.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight[:active] *= 5
        last.weight[active:3] = 0
    assert active_units(net, *utterances) == active


def test_the_threshold_is_a_variance(net: ZForcing, utterances: tuple[Tensor, Tensor]) -> None:
    assert active_units(net, *utterances, threshold=0.0) == 3
    assert active_units(net, *utterances, threshold=1e3) == 0


@pytest.mark.parametrize("argument", ["num_particles", "batch_size", "chunk_particles"])
@pytest.mark.parametrize("count", [0, -1, 2.0, True])
def test_counts_must_be_positive_integers(
    net: ZForcing, utterances: tuple[Tensor, Tensor], argument: str, count: object
) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be a positive integer, got {count}"):
        bounds(net, *utterances, **{argument: count})


def test_a_wrong_threshold_is_refused(net: ZForcing, utterances: tuple[Tensor, Tensor]) -> None:
    for threshold in (-0.1, math.nan):
        with pytest.raises(ValueError, match="threshold must be a variance of at least 0"):
            active_units(net, *utterances, threshold=threshold)


def test_what_the_net_refuses_is_refused_before_any_work(net: ZForcing, utterances: tuple[Tensor, Tensor]) -> None:
    x, lengths = utterances
    for evaluate in (bounds, step_kl, active_units):
        with pytest.raises(ValueError, match=r"lengths must have shape \(10,\)"):
            evaluate(net, x, torch.cat([lengths, lengths]))
        with pytest.raises(TypeError, match=r"x must be torch.float32"):
            evaluate(net, x.double(), lengths)
        with pytest.raises(ValueError, match="at least one sequence"):
            evaluate(net, x[:0])
