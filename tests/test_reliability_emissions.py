"""Emissions of the user's own: every operation works on them, and padding changes no density and no gradient."""

import math
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

import zf_pyro
from zf_pyro import ZForcing, ZForcingELBO, emissions, evaluation
from zf_pyro.inference import ParticleFilter
from zf_pyro.models import DeterministicRNN
from zf_pyro.objectives import FIVO, ImportanceWeightedELBO, SegmentedELBO

from .comparing import EXACT
from .conftest import random_net
from .own_emissions import (
    OWN,
    GammaFrames,
    MatrixFrames,
    SimplexFrames,
    StudentTFrames,
    Vector,
    own_frames,
    random_density,
)

LENGTHS = torch.tensor([5, 2, 3])
FULL = {"aux_weight": 0.3, "backward_weight": 0.2}
OBJECTIVES = {
    "ZForcingELBO": lambda: ZForcingELBO(**FULL),
    "ZForcingELBO, free nats": lambda: ZForcingELBO(**FULL, free_nats=0.5),
    "ZForcingELBO, particles": lambda: ZForcingELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1),
    "ImportanceWeightedELBO": lambda: ImportanceWeightedELBO(num_particles=3),
    "DReG": lambda: ImportanceWeightedELBO(num_particles=3, doubly_reparameterised=True),
    "FIVO": lambda: FIVO(num_particles=3),
    "SegmentedELBO": lambda: SegmentedELBO(**FULL, segment=2),
    "SegmentedELBO, truncated": lambda: SegmentedELBO(**FULL, segment=2, truncate=True),
    "Trace_ELBO": Trace_ELBO,
    "TraceMeanField_ELBO": TraceMeanField_ELBO,
    "TraceGraph_ELBO": TraceGraph_ELBO,
    "RenyiELBO": lambda: RenyiELBO(alpha=0.0, num_particles=2),
}
every_family = pytest.mark.parametrize("name", OWN)


def pairs(others, first):
    """All pairs of a family and another parameter. Those that differ in both from the first pair are slow tests."""
    family = "GammaFrames"
    return [
        pytest.param(name, other, marks=[] if name == family or other == first else pytest.mark.slow)
        for name in OWN
        for other in others
    ]


FLOATS = [name for name in OWN if not OWN[name].integer]


def own_net(name, **settings):
    return random_net(OWN[name], spread=0.2, **settings)


def padded(x, filling):
    """x with other values beyond LENGTHS."""
    real = torch.arange(x.shape[1]) < LENGTHS.unsqueeze(1)
    return x.where(real.view(*real.shape, *[1] * (x.dim() - 2)), torch.as_tensor(filling, dtype=x.dtype))


def loss_and_gradients(objective, net, x, lengths=LENGTHS):
    net.zero_grad()
    pyro.clear_param_store()
    pyro.set_rng_seed(5)
    loss = objective.loss_and_grads(net.model, net.guide, x, lengths)
    return loss, {key: p.grad.clone() for key, p in net.named_parameters() if p.grad is not None}


# Padding ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "objective"), pairs(OBJECTIVES, "ZForcingELBO"))
def test_padding_of_any_value_changes_no_loss_and_no_gradient(name, objective):
    net, x = own_net(name), own_frames(name)
    fillings = (0, -1) if OWN[name].integer else (0.0, -7.0, math.nan, math.inf)
    expected, gradients = loss_and_gradients(OBJECTIVES[objective](), net, x)
    assert math.isfinite(expected)
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    for filling in fillings:
        loss, found = loss_and_gradients(OBJECTIVES[objective](), net, padded(x, filling))
        assert loss == expected
        for key, gradient in gradients.items():
            assert torch.equal(found[key], gradient), key


@every_family
def test_a_padded_batch_has_the_densities_of_its_sequences_alone(name):
    net, x = own_net(name), padded(own_frames(name), 0)
    guide = poutine.trace(net.guide).get_trace(x, LENGTHS)
    joint = poutine.trace(poutine.replay(net.model, guide)).get_trace(x, LENGTHS)
    total = guide.log_prob_sum(), joint.log_prob_sum()
    alone = [0.0, 0.0]
    for i, length in enumerate(LENGTHS.tolist()):
        one = x[i : i + 1, :length]
        values = {f"z_{t}": guide.nodes[f"z_{t}"]["value"][i : i + 1] for t in range(length)}
        for k, program in enumerate((net.guide, net.model)):
            alone[k] += poutine.trace(poutine.condition(program, values)).get_trace(one).log_prob_sum()
    torch.testing.assert_close(total, tuple(alone), **EXACT)


@every_family
def test_padding_changes_no_evidence(name):
    net, x = own_net(name), own_frames(name)
    found = []
    for filling in (None, 0):
        pyro.set_rng_seed(3)
        given = x if filling is None else padded(x, filling)
        rnn = DeterministicRNN(OWN[name], embed_dim=3, hidden_dim=4).double()
        torch.nn.init.constant_(rnn.lstm.weight_hh_l0, 0.1)
        result = ParticleFilter(net, 8).run(given, LENGTHS)
        scores = evaluation.score(net, given, LENGTHS, num_particles=4, filter_particles=4)
        found.append((result.log_evidence, *scores.bounds.values(), scores.kl))
    for before, after in zip(*found, strict=True):
        assert before.isfinite().all()
        torch.testing.assert_close(before, after, **EXACT)


@pytest.mark.parametrize("name", FLOATS)
def test_a_deterministic_network_ignores_padding_and_keeps_finite_gradients(name):
    torch.manual_seed(0)
    rnn, x = DeterministicRNN(OWN[name], embed_dim=3, hidden_dim=4).double(), own_frames(name)
    expected = rnn.log_prob(x, LENGTHS)
    for filling in (0.0, math.nan):
        rnn.zero_grad()
        found = rnn.log_prob(padded(x, filling), LENGTHS)
        found.sum().backward()
        assert torch.equal(found, expected)
        assert all(parameter.grad.isfinite().all() for parameter in rnn.parameters())


# One density --------------------------------------------------------------------------------------------------------


@every_family
def test_the_fast_form_has_the_numbers_of_the_plain_one(name):
    fast, plain, x = own_net(name), own_net(name, recurrence="reference"), own_frames(name)
    loss, gradients = loss_and_gradients(ZForcingELBO(**FULL), fast, x)
    expected, references = loss_and_gradients(ZForcingELBO(**FULL), plain, x)
    assert loss == pytest.approx(expected, rel=1e-9)
    for key, reference in references.items():
        torch.testing.assert_close(gradients[key], reference, rtol=1e-9, atol=1e-9)


# Every operation ----------------------------------------------------------------------------------------------------


@every_family
def test_generated_frames_have_a_density(name):
    net, x, family = own_net(name), own_frames(name), OWN[name]
    for settings in ({}, {"greedy": True}, {"prompt": (x, LENGTHS)}, {"prompt": (x, LENGTHS), "prompt_particles": 3}):
        frames = net.generate(3, 4, **settings)
        assert frames.shape == (3, 4, *family.event_shape)
        assert family.valid(frames).all()
    assert net.generate(2, 3, context=x[:2, 0]).shape == (2, 3, *family.event_shape)


@pytest.mark.parametrize("name", [name for name in OWN if name not in ("NADE", "DiscretizedLogisticMixture")])
def test_a_greedy_frame_is_at_least_as_likely_as_samples(name):
    """Two have no closed form: a NADE takes one element after the other, a mixture its heaviest component."""
    family = OWN[name]
    density = random_density(family, 20)
    likeliest = density.log_prob(family.mode(density))
    for _ in range(50):
        assert (density.log_prob(density.sample()) <= likeliest + 1e-9).all()


@every_family
def test_reconstructions_and_interpolations_have_the_frames_shape_and_zeros_beyond(name):
    net, x = own_net(name), own_frames(name)
    for forcing in (True, False):
        found = net.reconstruct(x, LENGTHS, teacher_forcing=forcing)
        assert found.shape == x.shape
        assert torch.equal(padded(found, 0), found)
        assert OWN[name].valid(found[:, :2]).all()
    between = net.interpolate(x[:1], x[1:2], 3, lengths_a=LENGTHS[:1], lengths_b=LENGTHS[1:2])
    assert between.x.shape[3:] == OWN[name].event_shape


@every_family
def test_evaluation_reports_units_where_there_are_some(name):
    net, x = own_net(name), own_frames(name)
    found = evaluation.evaluate(net, x, LENGTHS, num_particles=3)
    assert found.num_values == 10 * OWN[name].event_shape.numel()
    scaled = ("StudentT", "LogNormalFrames", "GammaFrames", "StudentTFrames", "MatrixFrames", "NumberFrames")
    has_units = name in scaled
    assert found.units == ("normalised" if has_units else "none")
    if not has_units:
        with pytest.raises(ValueError, match="scale is for real-valued frames"):
            evaluation.evaluate(net, x, LENGTHS, num_particles=3, scale=2.0)
        return
    pyro.set_rng_seed(0)
    normalised = evaluation.evaluate(net, x, LENGTHS, num_particles=3)
    pyro.set_rng_seed(0)
    raw = evaluation.evaluate(net, x, LENGTHS, num_particles=3, scale=2.0)
    difference = raw.bounds["elbo"].bits_per_value.value - normalised.bounds["elbo"].bits_per_value.value
    assert difference == pytest.approx(1.0)


@pytest.mark.parametrize(("name", "posterior"), pairs(["guide", "importance", "smoother"], "guide"))
def test_all_arviz_groups_have_the_frames_shape(name, posterior):
    net, x = own_net(name).eval(), own_frames(name)
    data = zf_pyro.to_arviz(net, x, LENGTHS, posterior=posterior, num_samples=3, num_particles=6)
    shape, rank = tuple(OWN[name].event_shape), len(OWN[name].event_shape)
    dims = ((), ("feature",), ("feature_0", "feature_1"))[rank]
    for group in ("prior_predictive", "posterior_predictive"):
        assert data[group]["x"].dims == ("chain", "draw", "sequence", "step", *dims)
        assert data[group]["x"].shape == (1, 3, 3, 5, *shape)
    observed = data["observed_data"]["x"]
    assert observed.dims == ("sequence", "step", *dims)
    assert np.array_equal(np.isnan(observed.values.reshape(3, 5, -1)).all(-1), ~data["constant_data"]["mask"].values)
    log_likelihood = data["sample_stats"]["x_given_z"].values
    assert np.isfinite(log_likelihood[..., data["constant_data"]["mask"].values]).all()


@pytest.mark.parametrize("name", ["MatrixFrames", "NumberFrames"])
def test_predictive_checks_and_plots_take_frames_of_any_rank(name):
    pytest.importorskip("matplotlib").use("Agg")
    from zf_pyro.diagnostics import autocorrelation, plots, predictive_check, quantiles

    net, x = own_net(name).eval(), own_frames(name)
    data = zf_pyro.to_arviz(net, x, LENGTHS, num_samples=5)
    size = OWN[name].event_shape.numel()
    assert predictive_check(data, autocorrelation(2)).observed.shape == (2, size)
    assert predictive_check(data, quantiles((0.5,))).replicated.shape == (5, 1, size)
    axes = plots.plot_fan(data, 0, feature=size - 1)
    shown = axes.get_lines()[-1].get_ydata()
    np.testing.assert_array_equal(shown, x[0].reshape(5, -1)[:, -1].numpy())


@every_family
def test_a_saved_model_is_the_same_model(name, tmp_path):
    net, x = own_net(name), own_frames(name)
    net.save(tmp_path)
    loaded = ZForcing.load(tmp_path)
    assert loaded.emission_family == OWN[name]
    pyro.set_rng_seed(1)
    expected = ZForcingELBO().loss(net.eval().model, net.guide, x, LENGTHS)
    pyro.set_rng_seed(1)
    assert ZForcingELBO().loss(loaded.model, loaded.guide, x, LENGTHS) == expected


# Registration -------------------------------------------------------------------------------------------------------


def test_a_model_whose_emission_is_not_registered_is_not_saved(tmp_path):
    @dataclass(frozen=True)
    class Unregistered(Vector):
        def distribution(self, parameters):
            return StudentTFrames.distribution(self, parameters)

    with pytest.raises(TypeError, match=r"put @zf_pyro\.emissions\.register on the class Unregistered"):
        random_net(Unregistered()).save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_loading_names_an_emission_that_is_not_registered_and_imports_nothing(tmp_path):
    net = own_net("StudentTFrames")
    net.save(tmp_path)
    path = tmp_path / "net.json"
    path.write_text(path.read_text().replace('"StudentTFrames"', '"os.system"'))
    with pytest.raises(
        ValueError, match=r"has the emission 'os\.system', known are .*import the module that defines it"
    ):
        ZForcing.load(tmp_path)


@pytest.mark.parametrize("emission", ['"StudentTFrames"', "null", "[]", '{"size": 2}', '{"family": ["Gaussian"]}'])
def test_loading_refuses_a_description_of_another_form(emission, tmp_path):
    own_net("StudentTFrames").save(tmp_path)
    path = tmp_path / "net.json"
    before, _, rest = path.read_text().partition('"emission": ')
    path.write_text(before + f'"emission": {emission}' + rest[rest.index("}") + 1 :])
    with pytest.raises(ValueError, match="does not describe a net: its emission is"):
        ZForcing.load(tmp_path)


def test_loading_refuses_fields_that_do_not_fit(tmp_path):
    own_net("StudentTFrames").save(tmp_path)
    path = tmp_path / "net.json"
    path.write_text(path.read_text().replace('"size": 2', '"width": 2'))
    with pytest.raises(ValueError, match="does not describe a net"):
        ZForcing.load(tmp_path)


def test_fields_that_json_cannot_hold_are_refused_before_anything_is_written(tmp_path):
    @emissions.register
    @dataclass(frozen=True)
    class WithTensor(Vector):
        location: object = None

        def distribution(self, parameters):
            return StudentTFrames.distribution(self, parameters)

    with pytest.raises(TypeError, match="fields of an emission must be numbers, strings"):
        random_net(WithTensor(2, torch.zeros(2))).save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_state_outside_the_fields_is_refused(tmp_path):
    @emissions.register
    @dataclass(frozen=True)
    class WithList(Vector):
        sizes: object = None

        def distribution(self, parameters):
            return StudentTFrames.distribution(self, parameters)

    with pytest.raises(TypeError, match="put tuples where lists are"):
        random_net(WithList(2, [1, 2])).save(tmp_path)


def test_two_classes_of_one_name_are_refused_and_a_cell_run_again_is_not():
    def gaussian(module):
        return dataclass(frozen=True)(type("Gaussian", (Vector,), {"__module__": module, "__qualname__": "Gaussian"}))

    with pytest.raises(
        ValueError, match=r"'Gaussian' is the registered name of zf_pyro\.emissions\.families\.Gaussian"
    ):
        emissions.register(gaussian("mine"))
    first, again = (
        dataclass(frozen=True)(type("Mine", (Vector,), {"__module__": "notebook", "__qualname__": "Mine"}))
        for _ in range(2)
    )
    emissions.register(first)
    assert emissions.register(again) is again
    assert emissions.registered()["Mine"] is again


@pytest.mark.parametrize("family", [dist.Normal, StudentTFrames(), "Gaussian", None])
def test_only_classes_of_emissions_are_registered(family):
    with pytest.raises(TypeError, match="family must be a subclass of Emission"):
        emissions.register(family)


def test_an_emission_that_is_no_dataclass_is_not_registered():
    class Plain(emissions.Emission):
        pass

    with pytest.raises(TypeError, match="family must be a dataclass"):
        emissions.register(Plain)


# Defaults and errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("support", "has_units"),
    [
        (constraints.real, True),
        (constraints.real_vector, True),
        (constraints.independent(constraints.real, 1), True),
        (constraints.independent(constraints.independent(constraints.real, 1), 1), True),
        (constraints.positive, True),
        (constraints.independent(constraints.nonnegative, 1), True),
        (constraints.greater_than(1.0), False),
        (constraints.unit_interval, False),
        (constraints.simplex, False),
        (constraints.independent(constraints.boolean, 1), False),
        (constraints.nonnegative_integer, False),
        (constraints.integer_interval(0, 3), False),
    ],
    ids=str,
)
def test_real_and_positive_supports_have_units(support, has_units):
    class Supported(StudentTFrames):
        pass

    Supported.support = support
    assert Supported().has_units is has_units


@every_family
def test_defaults_agree_with_the_density(name):
    family, x = OWN[name], own_frames(name)
    density = random_density(family, 3, 5)
    assert family.has_rsample == density.has_rsample
    assert family.support.check(x).all()
    assert family.valid(x).shape == (3, 5)
    assert family.valid(x).all()
    assert not family.valid(torch.full_like(x, -1 if family.integer else math.nan)).any()
    embedding = family.embedding(7).to(torch.float64)
    assert embedding(x).shape == (3, 5, 7)
    assert embedding(family.start(x[:, 0])).shape == (3, 7)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("MatrixFrames", "(batch, time, 2, 3)"), ("NumberFrames", "(batch, time)"), ("SimplexFrames", "(batch, time, 3)")],
)
def test_errors_name_the_shape_of_the_familys_frames(name, shape):
    wrong = torch.zeros(3, 5, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"x must have shape {shape.replace('(', '.').replace(')', '.')} for {name}"):
        own_net(name).model(wrong)


def test_values_outside_the_support_are_named():
    x = own_frames("GammaFrames")
    x[1, 2, 0] = -3.0
    with pytest.raises(ValueError, match=r"x must hold values in the support .* at sequence 1, step 2"):
        own_net("GammaFrames").model(x)


def test_a_temperature_without_a_meaning_is_refused_and_one_with_is_not():
    with pytest.raises(TypeError, match=r"got Dirichlet: define tempered\(distribution, temperature\) in the emission"):
        own_net("SimplexFrames").generate(2, 3, temperature=0.5)
    torch.manual_seed(0)
    cold = own_net("StudentTFrames").generate(2, 3, temperature=1e-12)
    torch.manual_seed(0)
    greedy_density = StudentTFrames().tempered(StudentTFrames().distribution(torch.zeros(4)), 0.25)
    assert cold.isfinite().all()
    assert greedy_density.base_dist.scale.tolist() == pytest.approx([0.5 * (math.log(2.0) + 0.1)] * 2)


def test_a_distribution_without_a_mode_is_refused_by_name():
    @dataclass(frozen=True)
    class NoMode(Vector):
        def distribution(self, parameters):
            gate, log_rate = parameters.chunk(2, dim=-1)
            return dist.ZeroInflatedPoisson(gate_logits=gate, rate=log_rate.exp()).to_event(1)

    with pytest.raises(TypeError, match=r"got ZeroInflatedPoisson: define mode\(distribution\) in the emission"):
        random_net(NoMode()).generate(2, 3, greedy=True)


def test_integer_frames_without_an_embedding_are_refused_by_name():
    @dataclass(frozen=True)
    class NoEmbedding(Vector):
        integer = True

        def distribution(self, parameters):
            return dist.Poisson(parameters.exp()).to_event(1)

    with pytest.raises(TypeError, match=r"NoEmbedding has integer frames: define embedding\(embed_dim\)"):
        random_net(NoEmbedding())


def test_a_density_of_another_event_shape_is_refused_by_name():
    @dataclass(frozen=True)
    class Forgotten(Vector):
        def distribution(self, parameters):
            loc, scale = parameters.chunk(2, dim=-1)
            return dist.Normal(loc, scale.exp())

    with pytest.raises(
        ValueError, match=r"must have the batch shape \(\.\.\.\) and the event shape \(2,\).*see to_event"
    ):
        random_net(Forgotten()).model(torch.zeros(2, 3, 2, dtype=torch.float64))


def test_only_three_members_are_abstract():
    assert emissions.Emission.__abstractmethods__ == {"num_parameters", "event_shape", "distribution"}
    assert GammaFrames().support is not None
    assert MatrixFrames((4, 5)).event_shape == (4, 5)
    assert SimplexFrames(4).num_parameters == 4
