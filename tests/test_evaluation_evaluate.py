"""Bounds over data sets, divided by the true numbers of sequences and frames, under each protocol and in each unit."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zf_pyro.emissions import Bernoulli, Categorical, Gaussian
from zf_pyro.evaluation import Scores, bounds, evaluate, prior_mean_log_likelihood, report, score, summarise
from zf_pyro.evaluation.estimates import mean, ratio
from zf_pyro.evaluation.protocols import PROTOCOLS, cut

from .comparing import EXACT
from .conftest import EMISSIONS, random_frames, random_net
from .exact import log_evidence, small

LENGTHS = torch.tensor([5, 2, 4])


def without_latents(emission="gaussian", **settings):
    """Model that ignores its latents, with the prior as posterior: every bound is exactly log p(x)."""
    net = random_net(emission, transition="concatenate", **settings)
    with torch.no_grad():
        net.cell.latent_weights.weight.zero_()
        for network in (net.prior_network, net.posterior_network):
            network.second.weight.zero_()
            network.second.bias.zero_()
    return net


def by_hand(net, x, lengths, context=None):
    """sum_t log p(x_t | h_t) of each sequence in a loop; for :func:`without_latents` this is log p(x)."""
    totals = []
    with torch.no_grad():
        for i, length in enumerate(lengths.tolist()):
            row = x[i : i + 1, :length]
            u = net.inputs(row, None if context is None else context[i : i + 1])
            state, total = net.initial_state((1,)), 0.0
            for t in range(length):
                state = net.transition(state, u[:, t], net.prior(state).mean)
                total = total + net.emission(state).log_prob(row[:, t])
            totals.append(total)
    return torch.cat(totals)


def scores_of(nats, frames, emission):
    return Scores("full_density", None, emission, torch.tensor(frames).double(), {"elbo": nats}, nats * 0, 1, None)


def test_a_mean_has_the_standard_error_of_the_mean():
    assert mean(torch.tensor([1.0, 2.0, 6.0]).double()) == (3.0, pytest.approx(math.sqrt(7.0 / 3.0)))
    assert math.isnan(mean(torch.ones(1)).standard_error)


def test_a_ratio_has_the_error_that_repetition_shows():
    """The standard deviation of the ratio over 4000 samples of 50 sequences each."""
    generator = torch.Generator().manual_seed(0)
    n = torch.randint(1, 40, (4000, 50), generator=generator).double()
    a = -2.0 * n + n.sqrt() * torch.randn(n.shape, generator=generator, dtype=torch.float64) * 3.0 + 1.0
    ratios = a.sum(1) / n.sum(1)
    errors = torch.tensor([ratio(*pair).standard_error for pair in zip(a[:400], n[:400], strict=True)])
    assert errors.mean().item() == pytest.approx(ratios.std().item(), rel=0.05)
    assert ratio(a[0], n[0]).value == pytest.approx(ratios[0].item())


def test_a_ratio_over_equal_lengths_is_the_mean_by_the_length():
    a = torch.tensor([1.0, 2.0, 6.0]).double()
    found, whole = ratio(a, torch.full_like(a, 4.0)), mean(a)
    assert (found.value, found.standard_error) == pytest.approx((whole.value / 4, whole.standard_error / 4))


def test_units_by_hand():
    """Two sequences of 1 and 3 frames of 2 values: -2 and -10 nats."""
    found = summarise(scores_of(torch.tensor([-2.0, -10.0]).double(), [1, 3], Gaussian(2))).bounds["elbo"]
    assert found.nats_per_sequence.value == -6.0
    assert found.nats_per_frame.value == -3.0
    assert found.bits_per_value.value == pytest.approx(3.0 / 2 / math.log(2))
    assert found.perplexity is None
    # residuals a_i - R n_i are 1 and -1
    assert found.nats_per_frame.standard_error == pytest.approx(math.sqrt(2.0 / 1.0 * 2.0) / 4.0)


def test_perplexity_is_per_word_of_all_sequences_together():
    found = summarise(scores_of(torch.tensor([-2.0, -10.0]).double(), [1, 3], Categorical(7))).bounds["elbo"]
    assert found.perplexity.value == pytest.approx(math.exp(3.0))
    assert found.perplexity.standard_error == pytest.approx(math.exp(3.0) * found.nats_per_frame.standard_error)


def test_raw_units_are_the_density_of_the_raw_numbers():
    """The density of a normal from its standardised values and the Jacobian."""
    scale, raw = 7.0, torch.tensor([[[3.0], [-9.0]], [[4.0], [0.5]]]).double()
    frames = torch.tensor([2, 2])
    nats = torch.distributions.Normal(0.0, 1.0).log_prob(raw / scale).sum((1, 2))
    found = summarise(scores_of(nats, frames.tolist(), Gaussian(1)), scale=scale)
    expected = torch.distributions.Normal(0.0, scale).log_prob(raw).sum()
    assert (found.units, found.scale) == ("raw", scale)
    assert found.bounds["elbo"].nats_per_sequence.value == pytest.approx(expected.item() / 2)
    assert found.bounds["elbo"].bits_per_value.value == pytest.approx(-expected.item() / 4 / math.log(2))
    assert found.kl.nats_per_sequence.value == 0.0


@pytest.mark.parametrize("emission", sorted(EMISSIONS))
@pytest.mark.parametrize("protocol", ["full_density", "first_frame_given"])
def test_padding_is_neither_scored_nor_counted(emission, protocol):
    """An average that counts padding would be too small by a factor of 11 / 15."""
    net, x = without_latents(emission), random_frames(emission, time=5)
    first = int(protocol == "first_frame_given")
    expected = by_hand(net, x[:, first:], LENGTHS - first, x[:, 0] if first else None)
    padded = x.clone()
    for i, length in enumerate(LENGTHS.tolist()):
        padded[i, length:] = -1 if emission == "categorical" else math.nan
    found = evaluate(net, padded, LENGTHS, protocol=protocol, num_particles=2, filter_particles=3)
    assert (found.protocol, found.num_sequences, found.num_frames) == (protocol, 3, 11 - 3 * first)
    assert set(found.bounds) == {"elbo", "importance_weighted", "particle", "prior_mean"}
    assert found.num_values == found.num_frames * EMISSIONS[emission].event_shape.numel()
    for value in found.bounds.values():
        assert value.nats_per_sequence.value == pytest.approx(expected.mean().item())
        assert value.nats_per_frame.value == pytest.approx(expected.sum().item() / found.num_frames)
    assert found.kl.nats_per_sequence.value == pytest.approx(0.0, abs=1e-12)


def test_chunks_are_sequences_of_their_own():
    net, x = without_latents(), random_frames(time=5)
    found = score(net, x, LENGTHS, reset_every=2, num_particles=1)
    pieces = [(0, 0, 2), (0, 2, 4), (0, 4, 5), (1, 0, 2), (2, 0, 2), (2, 2, 4)]
    expected = torch.zeros(3).double()
    for i, start, stop in pieces:
        expected[i] += by_hand(net, x[i : i + 1, start:stop], torch.tensor([stop - start]))[0]
    torch.testing.assert_close(found.bounds["elbo"], expected, **EXACT)
    assert found.num_frames.tolist() == LENGTHS.tolist()


def test_the_given_frame_of_a_chunk_is_the_last_of_the_one_before():
    net, x = without_latents(), random_frames(time=5)
    found = score(net, x, LENGTHS, reset_every=2, protocol="first_frame_given", num_particles=1)
    pieces = [(0, 0, 2), (0, 2, 2), (1, 0, 1), (2, 0, 2), (2, 2, 1)]
    expected = torch.zeros(3).double()
    for i, start, count in pieces:
        frames, first = x[i : i + 1, start + 1 : start + 1 + count], x[i : i + 1, start]
        expected[i] += by_hand(net, frames, torch.tensor([count]), first)[0]
    torch.testing.assert_close(found.bounds["elbo"], expected, **EXACT)
    assert found.num_frames.tolist() == (LENGTHS - 1).tolist()


@given(st.lists(st.integers(2, 9), min_size=1, max_size=5), st.integers(1, 10), st.sampled_from(PROTOCOLS))
def test_chunks_score_the_same_frames_as_whole_sequences(lengths, reset_every, protocol):
    lengths = torch.tensor(lengths)
    x = torch.arange(9 * len(lengths)).view(-1, 9)
    whole, chunks = (cut(x, lengths, protocol, reset) for reset in (None, reset_every))
    scored = [torch.cat([piece[:n] for piece, n in zip(p.x, p.lengths, strict=True)]) for p in (whole, chunks)]
    assert torch.equal(*scored)
    if protocol == "first_frame_given":
        assert torch.equal(chunks.context, chunks.x[:, 0] - 1)


def test_lengths_10_and_7_in_chunks_of_4_have_15_scored_frames():
    """Counted by hand in the released script's way: 4 + 4 + 1 and 4 + 2."""
    pieces = cut(torch.zeros(2, 10, 1), torch.tensor([10, 7]), "first_frame_given", 4)
    assert pieces.lengths.tolist() == [4, 4, 1, 4, 2]
    assert pieces.owner.tolist() == [0, 0, 0, 1, 1]


def test_chunks_as_long_as_the_data_change_nothing():
    x = random_frames(time=5)
    whole, chunked = cut(x, LENGTHS, "full_density"), cut(x, LENGTHS, "full_density", 5)
    for a, b in zip(whole, chunked, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
def test_however_sequences_are_batched_each_counts_once(emission):
    net, x = without_latents(emission), random_frames(emission, batch=7, time=5)
    lengths = torch.tensor([5, 1, 4, 3, 2, 5, 1])
    whole = score(net, x, lengths, num_particles=1)
    for size in (1, 2, 3):
        split = zip(x.split(size), lengths.split(size), strict=True)
        batches = ((part[:, : int(real.max())], real) for part, real in split)
        found = score(net, batches, num_particles=1, batch_size=2)
        torch.testing.assert_close(found.bounds, whole.bounds, **EXACT)
        assert torch.equal(found.num_frames, lengths.double())
    assert torch.equal(score(net, [(x, None)], num_particles=1).num_frames, torch.full((7,), 5.0).double())


@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
def test_bounds_lie_in_their_order_below_the_evidence(emission, transition):
    net, x = small(emission, transition, 3)
    with torch.no_grad():
        exact = log_evidence(net, x)
    found = evaluate(net, x, num_particles=4000, filter_particles=4000, chunk_particles=4000).bounds
    tight, particle, elbo = (
        found[name].nats_per_sequence.value for name in ("importance_weighted", "particle", "elbo")
    )
    assert elbo < tight
    assert tight == pytest.approx(exact.mean().item(), abs=0.03)
    assert particle == pytest.approx(exact.mean().item(), abs=0.03)


@pytest.mark.parametrize("emission", sorted(EMISSIONS))
def test_the_prior_means_likelihood_is_the_loop_by_hand(emission, transition):
    net, x = random_net(emission, transition=transition), random_frames(emission, time=5)
    context = x[:, 0]
    for first in (None, context):
        found = prior_mean_log_likelihood(net, x, LENGTHS, context=first, batch_size=2)
        torch.testing.assert_close(found, by_hand(net, x, LENGTHS, first), **EXACT)


def test_a_context_is_given_to_every_particle_of_a_bound():
    net, x = without_latents(), random_frames(time=5)
    found = bounds(net, x, LENGTHS, 3, context=x[:, 4], batch_size=2)
    torch.testing.assert_close(found.elbo, by_hand(net, x, LENGTHS, x[:, 4]), **EXACT)


def test_json_names_the_protocol_and_holds_every_bound():
    found = evaluate(random_net("categorical"), random_frames("categorical")[:1], num_particles=2)
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["protocol"] == "full_density"
    assert (plain["reset_every"], plain["units"], plain["scale"]) == (None, "none", None)
    assert set(plain["bounds"]) == {"elbo", "importance_weighted", "prior_mean"}
    value = found.bounds["elbo"].perplexity.value  # and one sequence has no standard error
    assert plain["bounds"]["elbo"]["perplexity"] == {"value": value, "standard_error": None, "unit": "perplexity"}
    assert plain["kl"]["nats_per_frame"]["value"] == found.kl.nats_per_frame.value
    assert plain["kl"]["nats_per_frame"]["unit"] == "nats per frame"
    assert "delta method" in plain["standard_errors"]


def test_a_report_has_a_line_for_each_bound_and_for_the_kl():
    found = evaluate(random_net("bernoulli"), random_frames("bernoulli"), num_particles=2)
    text = report({"a net": found}).splitlines()
    assert text[0].split() == ["bound", *["nats", "per", "frame"], *["bits", "per", "value"]]
    assert [line.split()[2] for line in text[1:-1]] == ["elbo", "importance_weighted", "prior_mean", "KL"]
    assert f"{found.bounds['elbo'].bits_per_value.value:.4g}" in text[1]
    assert text[-1].split() == ["±", *["standard", "error", "over", "sequences"]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "both"}, "protocol must be one of full_density, first_frame_given, got 'both'"),
        ({"reset_every": 0}, "reset_every must be a positive integer, got 0"),
        ({"lengths": torch.tensor([4, 1, 3]), "protocol": "first_frame_given"}, "sequence 1 has 1 frames, so none to"),
        ({"scale": 0.0}, "scale must be a positive number, got 0.0"),
        ({"filter_particles": -2}, "filter_particles must be an integer of at least 0, got -2"),
        ({"num_particles": 0}, "num_particles must be a positive integer, got 0"),
        ({"lengths": torch.tensor([4, 9, 3])}, "lengths must be between 1 and 4"),
    ],
)
def test_bad_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        evaluate(random_net(), random_frames(), **settings)


def test_data_that_cannot_be_scored_is_refused():
    net, x = random_net(), random_frames()
    with pytest.raises(ValueError, match="lengths go with data that is a tensor"):
        evaluate(net, [(x, None)], LENGTHS)
    with pytest.raises(ValueError, match="data must hold at least one sequence, got no batches"):
        evaluate(net, [])
    for emission in ("bernoulli", "categorical"):
        with pytest.raises(ValueError, match="scale is for real-valued frames"):
            evaluate(random_net(emission), random_frames(emission), num_particles=1, scale=2.0)
    assert summarise(scores_of(torch.ones(2).double(), [1, 1], Bernoulli(3))).units == "none"
