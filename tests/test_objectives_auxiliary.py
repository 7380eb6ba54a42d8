"""Forms of the auxiliary against their definitions, and what no form may change."""

import math

import pyro
import pyro.poutine as poutine
import pytest
import torch
from torch.distributions import Normal

from zf_pyro import SRNN, ZForcing, ZForcingELBO
from zf_pyro.objectives import Auxiliary, GraphedELBO, SegmentedELBO
from zf_pyro.objectives.auxiliary import BEST_CONSTANT, SCALE, Statistics, contrast

from .comparing import EXACT, assert_same, parameter_grads
from .conftest import random_frames, random_net
from .test_objectives_graphed import Replay

LENGTHS = torch.tensor([4, 2, 3])
REAL = torch.arange(4).unsqueeze(1) < LENGTHS
FORMS = {
    "plain": Auxiliary(),
    "standardised": Auxiliary(standardised=True),
    "contrastive": Auxiliary(contrastive=True),
    "per unit": Auxiliary(per_unit=True),
    "standardised per unit": Auxiliary(standardised=True, per_unit=True),
    "standardised, contrastive": Auxiliary(standardised=True, contrastive=True),
}
QUICK = ("standardised", "contrastive", "standardised, contrastive")
each_form = pytest.mark.parametrize(
    "form",
    [pytest.param(form, marks=[] if name in QUICK else pytest.mark.slow, id=name) for name, form in FORMS.items()],
)
each_model = pytest.mark.parametrize("model", [ZForcing, pytest.param(SRNN, marks=pytest.mark.slow)])


def elbo_of(form, kind=ZForcingELBO, **settings):
    return kind(0.7, 0.3, 0.2, auxiliary=form, measure_earned=True, **settings)


def outcome(net, elbo, *args, guide=None, seed=5):
    pyro.set_rng_seed(seed)
    loss = elbo.loss_and_grads(net.model, guide or net.guide, *args)
    terms = {**elbo.terms._asdict(), "earned": elbo.terms.earned}
    return {"loss": torch.tensor(loss, dtype=torch.float64), **terms, **parameter_grads(net)}


def with_target(net, change):
    """The guide, whose backward states are changed."""

    def guide(x, lengths=None):
        return net.guide(x, lengths, b=change(net.backward_states(x, lengths)))

    return guide


def head_of(net, x, lengths, seed=5):
    """Run of the guide: the auxiliary's distribution at every step, and b."""
    pyro.set_rng_seed(seed)
    path = poutine.trace(net.guide).get_trace(x, lengths).nodes["z_0"]["fn"].path
    return net.auxiliary(path.latents(), path.before()).base_dist, path.b.detach()


# Definitions ----------------------------------------------------------------------------------------------------------


def test_statistics_are_numpys_over_real_frames():
    b = torch.randn(4, 3, 5, dtype=torch.float64)
    for mask, frames in ((None, b.flatten(0, 1)), (REAL, b[REAL])):
        found = Statistics.of(torch.where(REAL.unsqueeze(-1), b, 1e3) if mask is not None else b, mask)
        torch.testing.assert_close(found.mean, torch.from_numpy(frames.numpy().mean(0)))
        torch.testing.assert_close(found.deviation, torch.from_numpy(frames.numpy().std(0)))


def test_the_standardised_auxiliary_is_the_density_of_standardised_targets_above_the_best_constant():
    net, x = random_net(), random_frames()
    normal, b = head_of(net, x, LENGTHS)
    frames = b[REAL]
    target = SCALE * (b - frames.mean(0)) / frames.std(0, unbiased=False)
    expected = torch.where(REAL, (normal.log_prob(target) - BEST_CONSTANT).sum(-1), 0.0).sum(0)
    found = outcome(net, elbo_of(FORMS["standardised"]), x, LENGTHS)
    torch.testing.assert_close(found["auxiliary"], expected.detach(), **EXACT)
    constant = Normal(torch.zeros((), dtype=torch.float64), SCALE).log_prob(target[REAL]) - BEST_CONSTANT
    torch.testing.assert_close(constant.mean(), torch.zeros((), dtype=torch.float64), rtol=0.0, atol=1e-12)


def test_the_standardised_auxiliary_does_not_depend_on_offset_and_scale_of_its_target():
    net, x = random_net(), random_frames()
    with torch.no_grad():
        net.posterior_network.first.weight[:, net.hidden_dim :] = 0.0  # z does not depend on b
    found = [
        outcome(net, elbo_of(FORMS["standardised"]), x, LENGTHS, guide=with_target(net, change))["auxiliary"]
        for change in (lambda b: b, lambda b: 5.0 * b - 3.0)
    ]
    torch.testing.assert_close(*found, **EXACT)


def test_the_contrast_is_the_density_less_that_of_the_mean_of_the_batchs_targets():
    net, x = random_net(), random_frames()
    normal, b = head_of(net, x, LENGTHS)
    expected = torch.zeros(3, dtype=torch.float64)
    for t in range(4):
        real = [j for j in range(3) if REAL[t, j]]
        for i in real:
            each = torch.stack([Normal(normal.loc[t, i], normal.scale[t, i]).log_prob(b[t, j]).sum() for j in real])
            expected[i] += each[real.index(i)] - each.logsumexp(0) + math.log(len(real))
    found = outcome(net, elbo_of(FORMS["contrastive"]), x, LENGTHS)
    torch.testing.assert_close(found["auxiliary"], expected.detach(), **EXACT)
    assert (found["auxiliary"] <= torch.tensor([math.log(3) + math.log(2) + math.log(2), math.log(6), 4.0])).all()


def test_the_contrast_of_far_targets_is_the_log_of_their_number_and_finite_in_float32():
    b = torch.arange(8.0).view(1, 8, 1).expand(1, 8, 3)
    normal = Normal(b.clone(), torch.full_like(b, math.exp(-8.0)))
    found = contrast(normal, b, torch.ones(1, 8), torch.ones(3))
    torch.testing.assert_close(found, torch.full((1, 8), math.log(8.0)))


def test_per_unit_the_weight_is_divided_by_the_size_of_the_target():
    net, x = random_net(), random_frames()
    found = outcome(net, ZForcingELBO(aux_weight=0.4, auxiliary=FORMS["per unit"], measure_earned=True), x, LENGTHS)
    plain = ZForcingELBO(aux_weight=0.4 / net.hidden_dim, measure_earned=True)
    assert_same(found | {"backward": 0 * found["kl"]}, outcome(net, plain, x, LENGTHS) | {"backward": 0 * found["kl"]})


@pytest.mark.parametrize("name", ["standardised", "contrastive"])
def test_a_constant_target_earns_nothing_and_has_no_gradient(name):
    net, x = random_net(), random_frames()
    guide = with_target(net, lambda b: 0.0 * b + 0.3)
    found = outcome(net, elbo_of(FORMS[name]), x, LENGTHS, guide=guide)
    plain = outcome(net, ZForcingELBO(0.7, 0.0, 0.2), x, LENGTHS, guide=guide)
    zero = torch.zeros(3, dtype=torch.float64)
    for term in ("auxiliary", "earned"):
        torch.testing.assert_close(found[term], zero, rtol=0.0, atol=1e-12)
    same = [key for key in plain if key not in ("auxiliary", "earned")]
    assert_same({key: found[key] for key in same}, {key: plain[key] for key in same})


# What no form may change ----------------------------------------------------------------------------------------------


@each_form
@each_model
def test_fast_and_reference_recurrence_agree(form, model):
    fast, plain = (random_net(model=model, recurrence=way) for way in ("deferred", "reference"))
    assert_same(*(outcome(net, elbo_of(form), random_frames(), LENGTHS) for net in (fast, plain)))


@each_form
def test_padding_changes_nothing(form):
    net, x = random_net(), random_frames()
    spoiled = torch.where(REAL.T.unsqueeze(-1), x, 7.0)
    longer = torch.cat([x, torch.zeros(3, 2, 2, dtype=x.dtype)], 1)
    plain = outcome(net, elbo_of(form), x, LENGTHS)
    assert_same(outcome(net, elbo_of(form), spoiled, LENGTHS), plain)
    assert_same(outcome(net, elbo_of(form), longer, LENGTHS), plain)


@each_form
def test_particles_average_the_losses(form):
    net, x = random_net(), random_frames()
    settings = {"num_particles": 2, "max_plate_nesting": 1}
    found = outcome(net, elbo_of(form, vectorize_particles=True, **settings), x, LENGTHS)
    assert all(value.isfinite().all() for value in found.values())
    pyro.set_rng_seed(5)
    each = [elbo_of(form).loss(net.model, net.guide, x, LENGTHS) for _ in range(2)]
    assert outcome(net, elbo_of(form, **settings), x, LENGTHS)["loss"].item() == pytest.approx(sum(each) / 2)


@each_form
def test_segments_give_the_same(form):
    net, x, lengths = random_net(), random_frames(time=11), torch.tensor([11, 4, 5])
    plain = outcome(net, elbo_of(form), x, lengths)
    assert_same(outcome(net, elbo_of(form, SegmentedELBO, segment=4), x, lengths), plain)
    whole = elbo_of(form, SegmentedELBO, segment=11, truncate=True)
    assert_same(outcome(net, whole, x, lengths), plain)


@each_form
def test_graphs_give_the_same(form):
    net, capture = random_net(), Replay()
    plain = ZForcingELBO(0.7, 0.3, 0.2, auxiliary=form)
    graphed = GraphedELBO(ZForcingELBO(0.7, 0.3, 0.2, auxiliary=form), bucket=4, capacity=1, capture=capture)
    for seed, num_steps in enumerate((3, 4, 7)):  # the last one beyond the capacity
        x, lengths = random_frames(time=num_steps, seed=seed), torch.tensor([num_steps, 2, 1])
        found = []
        for elbo in (graphed, plain):
            pyro.set_rng_seed(seed)
            loss = elbo.loss_and_grads(net.model, net.guide, x, lengths)
            found.append({"loss": torch.tensor(loss), **elbo.terms._asdict(), **parameter_grads(net)})
        assert_same(*found)
    assert (capture.captures, capture.replays, graphed.step) == (1, 2, 3)


@each_form
def test_sites_scored_one_by_one_have_the_same_form(form):
    net, x = random_net(), random_frames()
    masked = poutine.mask(net.model, mask=torch.ones(3, dtype=torch.bool))  # a mask of the user's own
    found = []
    for model in (net.model, masked):
        pyro.set_rng_seed(5)
        elbo = ZForcingELBO(0.7, 0.3, 0.2, auxiliary=form)
        loss = elbo.loss_and_grads(model, net.guide, x, LENGTHS)
        found.append({"loss": torch.tensor(loss), **parameter_grads(net)})
    assert elbo.terms is None
    assert_same(*found)


# Bad settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Auxiliary(standardised=1), "standardised must be True or False"),
        (lambda: Auxiliary(contrastive=True, per_unit=True), "per_unit must be False with contrastive=True"),
        (lambda: ZForcingELBO(auxiliary=Auxiliary(contrastive=True)), "form of a term of weight 0"),
        (lambda: ZForcingELBO(aux_weight=1.0, auxiliary="contrastive"), "auxiliary must be a zf_pyro.objectives"),
    ],
)
def test_bad_settings_are_refused_by_name(make, match):
    with pytest.raises((TypeError, ValueError), match=match):
        make()


def test_an_auxiliary_that_is_no_normal_has_the_plain_form_alone():
    class Other(ZForcing):
        def auxiliary(self, z_t, past):
            normal = super().auxiliary(z_t, past).base_dist
            return pyro.distributions.Laplace(normal.loc, normal.scale).to_event(1)

    net, x = random_net(model=Other), random_frames()
    assert math.isfinite(elbo_of(Auxiliary()).loss(net.model, net.guide, x))
    for form in (FORMS["standardised"], FORMS["contrastive"]):
        with pytest.raises(TypeError, match=r"need net\.auxiliary to return Normal"):
            elbo_of(form).loss(net.model, net.guide, x)
