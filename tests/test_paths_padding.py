"""Padding, the order of a batch and its division never change a density or a gradient."""

import functools

import pyro
import pyro.poutine as poutine
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zf_pyro import ZForcingELBO

from .comparing import assert_same, gradients, parameter_grads
from .conftest import EMISSIONS, TRANSITIONS, random_frames, random_net

few = settings(max_examples=15, deadline=None, derandomize=True, database=None)
ELBO = {"kl_weight": 0.7, "aux_weight": 0.3, "backward_weight": 0.2}


@functools.cache
def net_of(emission, transition):
    return random_net(emission, transition=transition, name=f"{emission}_{transition}")


@st.composite
def cases(draw):
    """Draw a model, x, lengths and latents."""
    emission, transition = draw(st.sampled_from(sorted(EMISSIONS))), draw(st.sampled_from(TRANSITIONS))
    batch, time = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    lengths = torch.tensor(draw(st.lists(st.integers(1, time), min_size=batch, max_size=batch)))
    seed = draw(st.integers(0, 1000))
    z = torch.randn(batch, time, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return net_of(emission, transition), random_frames(emission, batch, time, seed=seed), lengths, z


def spoiled(x, lengths, how):
    """Return x with other values beyond the lengths."""
    padding = torch.arange(x.shape[1]) >= lengths.unsqueeze(1)
    fills = {"nan": float("nan"), "infinity": float("inf"), "huge": 1e300, "negative": -7.0}
    fill = -7 if not x.is_floating_point() else fills[how]
    return torch.where(padding.reshape(*padding.shape, *[1] * (x.dim() - 2)), torch.as_tensor(fill, dtype=x.dtype), x)


def scores(net, x, lengths, z):
    """Compute log p(x, z) and log q(z | x) for given latents (batch, time, latent); each (batch,)."""
    values = {f"z_{t}": z_t for t, z_t in enumerate(z.unbind(1))}
    found = {}
    for name, program in (("model", net.model), ("guide", net.guide)):
        trace = poutine.trace(poutine.condition(program, data=values)).get_trace(x, lengths)
        trace.compute_log_prob()
        sites = [site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample"]
        found[name] = sum(log_prob for log_prob in sites if log_prob.shape == lengths.shape)
    return found


def gradients_of(net, found, order=None):
    """Return the gradients of a sum in which every sequence has its own weight."""
    total = 0.0
    for value in found.values():
        weight = torch.linspace(0.5, 1.5, len(value), dtype=value.dtype)
        total = total + ((weight if order is None else weight[order]) * value).sum()
    return gradients(net, total)


@few
@given(cases(), st.sampled_from(["nan", "infinity", "huge", "negative"]))
def test_padding_never_changes_a_density(case, how):
    net, x, lengths, z = case
    plain = scores(net, x, lengths, z)
    other = scores(net, spoiled(x, lengths, how), lengths, z)
    assert_same(other, plain)
    assert_same(gradients_of(net, other), gradients_of(net, plain))


@few
@given(cases(), st.sampled_from(["nan", "infinity", "huge", "negative"]))
def test_padding_never_changes_the_objective(case, how):
    net, x, lengths, _z = case
    found = []
    for frames in (x, spoiled(x, lengths, how)):
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        elbo = ZForcingELBO(**ELBO)
        loss = elbo.loss_and_grads(net.model, net.guide, frames, lengths)
        found.append({"loss": torch.tensor(loss), **elbo.terms._asdict(), **parameter_grads(net)})
    assert_same(*found)


@few
@given(cases())
def test_latents_on_padding_never_change_a_density(case):
    net, x, lengths, z = case
    other = torch.where((torch.arange(x.shape[1]) >= lengths.unsqueeze(1)).unsqueeze(-1), z + 3.0, z)
    plain, changed = scores(net, x, lengths, z), scores(net, x, lengths, other)
    assert_same(changed, plain)
    assert_same(gradients_of(net, changed), gradients_of(net, plain))


@few
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_a_batch_does_not_matter(case, random):
    net, x, lengths, z = case
    order = list(range(len(x)))
    random.shuffle(order)
    order = torch.tensor(order)
    plain, shuffled = scores(net, x, lengths, z), scores(net, x[order], lengths[order], z[order])
    assert_same(shuffled, {name: value[order] for name, value in plain.items()})
    assert_same(gradients_of(net, shuffled, order), gradients_of(net, plain))


@few
@given(cases(), st.integers(0, 4))
def test_how_a_batch_is_split_does_not_matter(case, at):
    net, x, lengths, z = case
    plain = scores(net, x, lengths, z)
    parts = [
        scores(net, x[part], lengths[part], z[part]) for part in (slice(None, at), slice(at, None)) if len(x[part])
    ]
    joined = {name: torch.cat([part[name] for part in parts]) for name in plain}
    assert_same(joined, plain)
    assert_same(gradients_of(net, joined), gradients_of(net, plain))


@few
@given(cases(), st.integers(1, 3))
def test_longer_padding_does_not_matter(case, more):
    net, x, lengths, z = case
    batch = x.shape[0]
    fill = float("nan") if x.is_floating_point() else 99
    longer = torch.cat([x, x.new_full((batch, more, *x.shape[2:]), fill)], dim=1)
    z_longer = torch.cat([z, z.new_full((batch, more, 3), 0.3)], dim=1)
    plain, padded = scores(net, x, lengths, z), scores(net, longer, lengths, z_longer)
    assert_same(padded, plain)
    assert_same(gradients_of(net, padded), gradients_of(net, plain))


@few
@given(cases())
def test_full_lengths_equal_no_lengths(case):
    net, x, _lengths, z = case
    full = torch.full((x.shape[0],), x.shape[1])
    values = {f"z_{t}": z_t for t, z_t in enumerate(z.unbind(1))}
    for program in (net.model, net.guide):
        sums = [
            poutine.trace(poutine.condition(program, data=values)).get_trace(x, given).log_prob_sum()
            for given in (None, full)
        ]
        torch.testing.assert_close(*sums, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
def test_shorter_lengths_give_the_density_of_the_cut_sequence(emission, transition):
    net, x = random_net(emission, transition=transition), random_frames(emission)
    z = torch.randn(3, 4, 3, dtype=torch.float64)
    padded = scores(net, x, torch.tensor([2, 2, 2]), z)
    assert_same(padded, scores(net, x[:, :2], torch.tensor([2, 2, 2]), z[:, :2]))
