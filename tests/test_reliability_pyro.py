"""Pyro's idioms: plates that subsample, scales, copies of networks, and refusals of programs that make no sense."""

import copy
import io
import itertools
import pickle

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.infer import (
    SVI,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.reparam import LocScaleReparam
from pyro.poutine.messenger import Messenger
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zf_pyro import FIVO, ImportanceWeightedELBO, Linear, ZForcing, ZForcingELBO, emissions
from zf_pyro.evaluation import evaluate
from zf_pyro.inference import ALGORITHMS, StepwiseModel, WakeSleepPrograms, log_weights, with_padding_prior
from zf_pyro.models import DeterministicRNN
from zf_pyro.objectives import GraphedELBO, SegmentedELBO
from zf_pyro.training import Training

from .comparing import EXACT, assert_same, parameter_grads
from .conftest import random_frames, random_net, random_state
from .linear_gaussian import LinearGaussian, exact_evidence, simulated
from .textbook import Textbook

SIZE, CHOSEN = 6, torch.tensor([4, 0, 2])
LENGTHS = torch.tensor([4, 2, 3, 1, 4, 2])
WEIGHTS = {"kl_weight": 0.7, "aux_weight": 0.3, "backward_weight": 0.2}
VECTORISED = {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 1}


class Programs:
    """A pair of programs."""

    def __init__(self, model, guide):
        self.model, self.guide = model, guide


def subsampled(programs, name="sequences", chosen=CHOSEN, size=SIZE, dim=-1):
    """Both programs on a subsample of their data, in a plate of its indices."""

    def inside(program):
        def run(*data):
            with pyro.plate(name, size, subsample=chosen, dim=dim) as i:
                return program(*(None if value is None else value[i] for value in data))

        return run

    return Programs(inside(programs.model), inside(programs.guide))


def scored(programs, elbo, *data, of=None, seed=5):
    """Loss and gradients by parameter."""
    pyro.set_rng_seed(seed)
    loss = elbo.loss_and_grads(programs.model, programs.guide, *data)
    losses = torch.as_tensor(loss, dtype=torch.float64)
    return {"loss": losses, **({} if of is None else parameter_grads(of))}


def times(factor, found):
    return {name: factor * value for name, value in found.items()}


# Plates that subsample ----------------------------------------------------------------------------------------------

OURS = {
    "the bound": lambda: ZForcingELBO(max_plate_nesting=1),
    "all weights": lambda: ZForcingELBO(**WEIGHTS, max_plate_nesting=1),
    "free nats": lambda: ZForcingELBO(**WEIGHTS, free_nats=1.5),
    "schedules": lambda: ZForcingELBO(Linear(0.2, 1.0, 4), aux_weight=Linear(0.5, 0.0, 4)),
    "particles": lambda: ZForcingELBO(**WEIGHTS, **VECTORISED),
    "particles one by one": lambda: ZForcingELBO(**WEIGHTS, num_particles=3),
    "importance weights": lambda: ImportanceWeightedELBO(3, max_plate_nesting=1),
    "doubly reparameterised": lambda: ImportanceWeightedELBO(3, doubly_reparameterised=True, max_plate_nesting=1),
    "annealed importance weights": lambda: ImportanceWeightedELBO(3, kl_weight=0.4, max_plate_nesting=1),
    "graphs": lambda: GraphedELBO(ZForcingELBO(**WEIGHTS)),
}
THEIRS = {
    "mean field": TraceMeanField_ELBO,
    "trace": Trace_ELBO,
    "graph": TraceGraph_ELBO,
    "enumeration": lambda: TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    "renyi": lambda: RenyiELBO(0, **VECTORISED),
    "wake-sleep": lambda: ReweightedWakeSleep(**VECTORISED),
}


@pytest.mark.parametrize(
    ("objective", "name"), [*((objective, "sequences") for objective in OURS), ("all weights", "data")]
)
def test_a_subsample_of_half_the_data_has_twice_the_loss_and_gradient_of_its_batch(objective, name):
    net, x = random_net(), random_frames(batch=SIZE)
    found = scored(subsampled(net, name), OURS[objective](), x, LENGTHS, of=net)
    batch = scored(net, OURS[objective](), x[CHOSEN], LENGTHS[CHOSEN], of=net)
    assert_same(found, times(2.0, batch))


@pytest.mark.parametrize("objective", THEIRS)
def test_pyros_objectives_see_the_plate_as_around_the_textbook(objective):
    net, x = random_net(), random_frames(batch=SIZE)
    ours = scored(subsampled(net), THEIRS[objective](), x, LENGTHS, of=net)
    batch = Textbook(net)
    plain = Programs(*(poutine.scale(program, scale=2.0) for program in (batch.model, batch.guide)))
    assert_same(ours, scored(plain, THEIRS[objective](), x[CHOSEN], LENGTHS[CHOSEN], of=net))


def test_terms_are_those_of_the_batch_without_the_scale():
    net, x = random_net(), random_frames(batch=SIZE)
    elbos = ZForcingELBO(**WEIGHTS), ZForcingELBO(**WEIGHTS)
    scored(subsampled(net), elbos[0], x, LENGTHS)
    scored(net, elbos[1], x[CHOSEN], LENGTHS[CHOSEN])
    assert_same(elbos[0].terms._asdict(), elbos[1].terms._asdict())


@pytest.mark.parametrize(
    "objective",
    [Trace_ELBO, lambda: ImportanceWeightedELBO(2), lambda: ImportanceWeightedELBO(2, doubly_reparameterised=True)],
    ids=["trace", "importance weights", "doubly reparameterised"],
)
def test_the_mean_over_all_subsamples_is_the_loss_of_the_data(objective):
    """With the exact posterior as guide every sample has the weight p(x), so that nothing is random."""
    net, x = LinearGaussian(), simulated(4, 3)
    exact = -exact_evidence(x)
    losses = []
    for chosen in map(torch.tensor, itertools.combinations(range(4), 2)):
        programs = subsampled(net, chosen=chosen, size=4)
        losses.append(scored(programs, objective(), x)["loss"])
        torch.testing.assert_close(losses[-1], 2.0 * exact[chosen].sum().detach(), **EXACT)
    torch.testing.assert_close(torch.stack(losses).mean(), exact.sum().detach(), **EXACT)


def test_a_random_subsample_is_the_same_in_model_and_guide_and_trains():
    net, x = random_net(), random_frames(batch=SIZE)

    def inside(program):
        def run(x, lengths):
            with pyro.plate("sequences", SIZE, subsample_size=2, dim=-1) as i:
                seen.append(i)
                program(x[i], lengths[i])

        return run

    seen = []
    before = net.emission_layer.weight.detach().clone()
    svi = SVI(inside(net.model), inside(net.guide), pyro.optim.Adam({"lr": 0.01}), loss=ZForcingELBO(**WEIGHTS))
    for _ in range(3):
        svi.step(x, LENGTHS)
    assert all(torch.equal(a, b) for a, b in zip(seen[::2], seen[1::2], strict=True))
    assert len({tuple(i.tolist()) for i in seen}) > 1
    assert not torch.equal(net.emission_layer.weight, before)


def test_the_plate_may_leave_its_dimension_to_pyro():
    net, x = random_net(), random_frames(batch=SIZE)
    found = scored(subsampled(net, dim=None), ZForcingELBO(), x, LENGTHS)
    torch.testing.assert_close(found["loss"], 2.0 * scored(net, ZForcingELBO(), x[CHOSEN], LENGTHS[CHOSEN])["loss"])


def test_context_and_initial_states_are_subsampled_with_the_data():
    net, x = random_net(), random_frames(batch=SIZE)
    context, state = random_frames(batch=SIZE, time=1, seed=9)[:, 0], random_state(net, SIZE)

    def inside(program):
        def run():
            with pyro.plate("data", SIZE, subsample=CHOSEN, dim=-1) as i:
                program(x[i], LENGTHS[i], context[i], type(state)(*(field[i] for field in state)))

        return run

    found = scored(Programs(inside(net.model), inside(net.guide)), ZForcingELBO(**WEIGHTS), of=net)
    batch = x[CHOSEN], LENGTHS[CHOSEN], context[CHOSEN], type(state)(*(field[CHOSEN] for field in state))
    assert_same(found, times(2.0, scored(net, ZForcingELBO(**WEIGHTS), *batch, of=net)))


def test_pyro_subsample_of_the_data_is_the_same_as_indexing():
    net, x = random_net(), random_frames(batch=SIZE)

    def inside(program):
        def run(x, lengths):
            with pyro.plate("data", SIZE, subsample=CHOSEN, dim=-1):
                program(pyro.subsample(x, event_dim=2), pyro.subsample(lengths, event_dim=0))

        return run

    both = Programs(inside(net.model), inside(net.guide))
    assert_same(
        scored(both, ZForcingELBO(), x, LENGTHS, of=net), scored(subsampled(net), ZForcingELBO(), x, LENGTHS, of=net)
    )


@pytest.mark.parametrize("objective", ["the bound", "importance weights", "graphs"])
def test_a_plate_around_the_objective_scales_it_as_one_inside_the_programs(objective):
    net, x = random_net(), random_frames(batch=SIZE)
    inside = scored(subsampled(net), OURS[objective](), x, LENGTHS, of=net)
    with pyro.plate("sequences", SIZE, subsample=CHOSEN, dim=-1) as i:
        assert_same(scored(net, OURS[objective](), x[i], LENGTHS[i], of=net), inside)


@pytest.mark.parametrize("kind", [ZForcingELBO, ImportanceWeightedELBO])
def test_particles_under_a_plate_around_the_objective_need_no_nesting_by_hand(kind):
    net, x = random_net(), random_frames(batch=SIZE)
    settings = {"num_particles": 3} | ({"vectorize_particles": True} if kind is ZForcingELBO else {})
    elbo = kind(**settings)
    with pyro.plate("data", SIZE, subsample=CHOSEN, dim=-1) as i:
        elbo.loss(net.model, net.guide, x[i], LENGTHS[i])  # finds the nesting in a trial run
        found = scored(net, elbo, x[i], LENGTHS[i], of=net)
    expected = kind(**settings, max_plate_nesting=1)
    assert_same(found, scored(subsampled(net), expected, x, LENGTHS, of=net))


def test_particles_in_the_place_of_the_sequences_are_refused():
    net, x = random_net(), random_frames()
    elbo = ZForcingELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=0)
    with pytest.raises(ValueError, match=r"holds samples, and is at dim -1.*set max_plate_nesting=1"):
        elbo.loss(net.model, net.guide, x)


@pytest.mark.parametrize("inside", [True, False], ids=["backward inside", "backward outside"])
def test_segments_under_a_plate_have_its_scale_also_where_they_are_computed_again(inside):
    net, x = random_net(), random_frames(batch=SIZE)
    elbo = SegmentedELBO(**WEIGHTS, segment=2)
    expected = scored(subsampled(net), ZForcingELBO(**WEIGHTS), x, LENGTHS, of=net)
    pyro.set_rng_seed(5)
    with pyro.plate("data", SIZE, subsample=CHOSEN, dim=-1) as i:
        loss = elbo.differentiable_loss(net.model, net.guide, x[i], LENGTHS[i])
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    assert_same({"loss": loss.detach(), **parameter_grads(net)}, expected)


@pytest.mark.parametrize("elbo", [FIVO(2), SegmentedELBO(segment=2)], ids=["fivo", "segments"])
def test_objectives_that_run_no_programs_refuse_them(elbo):
    both, x = subsampled(random_net()), random_frames(batch=SIZE)
    with pytest.raises(TypeError, match="plates, scales and other handlers around them, use ZForcingELBO"):
        elbo.loss(both.model, both.guide, x, LENGTHS)


@pytest.mark.parametrize(
    "around",
    [
        lambda: pyro.plate("data", 12, subsample_size=3, dim=-1),
        lambda: poutine.scale(scale=2.0),
        lambda: poutine.mask(mask=False),
        lambda: poutine.condition(data={"z_0": torch.zeros(3, 3)}),
    ],
    ids=["plate", "scale", "mask", "condition"],
)
def test_fivo_refuses_handlers_that_would_have_no_effect(around):
    net, x = random_net(), random_frames()
    with around(), pytest.raises(TypeError, match=r"no sample statements, so .* would have no effect"):
        FIVO(2).loss(net.model, net.guide, x)


def test_fivo_runs_where_handlers_only_record():
    net, x = random_net(), random_frames()
    with poutine.trace(), poutine.block():
        found = scored(net, FIVO(2), x)
    assert_same(found, scored(net, FIVO(2), x))


def test_a_model_that_scales_a_latent_of_the_users_by_the_same_plate():
    """A latent per sequence beside the path, in the subsampling plate: as in the textbook."""
    net, x = random_net(), random_frames(batch=SIZE)

    def both(programs):
        def model(x, lengths):
            with pyro.plate("sequences", SIZE, subsample=CHOSEN, dim=-1) as i:
                pyro.sample("level", dist.Normal(x.new_zeros(3), 1.0))
                programs.model(x[i], lengths[i])

        def guide(x, lengths):
            with pyro.plate("sequences", SIZE, subsample=CHOSEN, dim=-1) as i:
                pyro.sample("level", dist.Normal(x[i, 0, 0], 0.5))
                programs.guide(x[i], lengths[i])

        return Programs(model, guide)

    found = scored(both(net), ZForcingELBO(), x, LENGTHS, of=net)
    assert_same(found, scored(both(net), TraceMeanField_ELBO(), x, LENGTHS, of=net))


def test_the_padding_prior_has_the_scale_of_the_plate():
    net, x = random_net(), random_frames(batch=SIZE)
    guide = pyro.infer.autoguide.AutoDelta(with_padding_prior(net.model))
    guide(x[CHOSEN], LENGTHS[CHOSEN])
    values = guide(x[CHOSEN], LENGTHS[CHOSEN])

    def log_joint(model, *data):
        with poutine.condition(data={name: value.detach() for name, value in values.items()}):
            return poutine.trace(model).get_trace(*data).log_prob_sum()

    whole = log_joint(with_padding_prior(net.model), x[CHOSEN], LENGTHS[CHOSEN])
    ours = log_joint(with_padding_prior(subsampled(net).model), x, LENGTHS)
    torch.testing.assert_close(ours, 2.0 * whole, **EXACT)


def test_importance_weights_of_a_guide_leave_out_the_scale():
    net, x = random_net(), random_frames(batch=SIZE)
    both = subsampled(net)
    pyro.set_rng_seed(5)
    ours = log_weights(both.model, both.guide, x, LENGTHS, num_particles=4)
    pyro.set_rng_seed(5)
    torch.testing.assert_close(ours, log_weights(net.model, net.guide, x[CHOSEN], LENGTHS[CHOSEN], num_particles=4))


def test_a_network_without_latents_has_the_scale_of_the_plate():
    net, x = DeterministicRNN(emissions.Gaussian(2), embed_dim=3, hidden_dim=4).double(), random_frames(batch=SIZE)
    found = scored(subsampled(net), Trace_ELBO(), x, LENGTHS, of=net)
    assert_same(found, times(2.0, scored(net, Trace_ELBO(), x[CHOSEN], LENGTHS[CHOSEN], of=net)))


def test_a_step_of_pyros_filter_may_stand_in_a_plate_of_the_users():
    program, x = StepwiseModel(random_net()), random_frames()
    with pyro.plate("data", 12, subsample_size=3, dim=-1), poutine.trace() as tracer:
        state = {}
        program.init(state, x)
        program.step(state, 0)
    assert tracer.trace.nodes["z_0"]["scale"] == 4.0


def test_a_plate_that_does_not_hold_the_sequences_names_both_sizes_and_the_remedy():
    net, x = random_net(), random_frames(batch=SIZE)
    with (
        pyro.plate("data", 12, subsample_size=4, dim=-1),
        pytest.raises(ValueError, match=r"'data' .* has 4 of 12, x has 6.*subsample_size=6, dim=-1.*x\[i\]"),
    ):
        net.model(x)
    with (
        pyro.plate("sequences", 5, dim=-1),
        pytest.raises(ValueError, match=r"has 5, x has 6. Write pyro.plate\('sequences', 6"),
    ):
        net.guide(x)


def test_all_the_data_in_a_plate_of_a_subsample_is_refused():
    net, x = random_net(), random_frames(batch=SIZE)
    with (
        pyro.plate("sequences", SIZE, subsample_size=3, dim=-1),
        pytest.raises(ValueError, match=r"3 of 6, x has 6.*give the program x\[i\]"),
    ):
        net.model(x)


def test_one_sequence_is_not_spread_over_a_plate():
    with pyro.plate("data", 5, dim=-1), pytest.raises(ValueError, match="has 5, x has 1"):
        random_net().model(random_frames(batch=1))


@pytest.mark.parametrize("name", ["data", "rows"])
def test_a_subsample_further_left_would_replicate_the_sequences_and_is_refused(name):
    """Pyro advises dim=-2 where two plates collide."""
    net, x = random_net(), random_frames()
    with (
        pyro.plate(name, 12, subsample_size=3, dim=-2),
        pytest.raises(ValueError, match=r"replicate each of the 3 sequences 3 times.*subsample_size=3, dim=-1"),
    ):
        net.model(x)


def test_a_full_plate_further_left_holds_particles():
    net, x = random_net(), random_frames()
    with pyro.plate("particles", 5, dim=-2):
        z = net.guide(x)
    assert z.shape == (5, 3, 4, 3)


def test_a_subsample_of_groups_with_states_of_their_own_is_no_replication():
    net, x = random_net(), random_frames()
    state = type(random_state(net))(*(field.expand(2, 3, -1) for field in random_state(net)))
    with pyro.plate("groups", 8, subsample_size=2, dim=-2), poutine.trace() as tracer:
        net.model(x, None, None, state)
    assert tracer.trace.nodes["x_1"]["scale"] == 4.0


@pytest.mark.parametrize("objective", [ZForcingELBO, TraceMeanField_ELBO])
def test_particles_around_a_subsample(objective):
    net, x = random_net(), random_frames(batch=SIZE)
    both = subsampled(net)
    around = Programs(*(pyro.plate("particles", 5, dim=-2)(program) for program in (both.model, both.guide)))
    inner = Programs(*(pyro.plate("particles", 5, dim=-2)(program) for program in (net.model, net.guide)))
    found = scored(around, objective(), x, LENGTHS, of=net)
    assert_same(found, times(2.0, scored(inner, objective(), x[CHOSEN], LENGTHS[CHOSEN], of=net)))


def test_a_sequential_plate_of_that_name_is_refused():
    net, x = random_net(), random_frames()
    with pytest.raises(ValueError, match=r"must be pyro.plate\('sequences', 1, dim=-1\)"):
        [net.model(x[i : i + 1]) for i in pyro.plate("sequences", 3)]


def test_a_plate_without_a_size_is_taken_for_the_sequences():
    net, x = random_net(), random_frames()
    with pyro.plate("data", dim=-1), poutine.trace() as tracer:
        net.guide(x)
    assert [frame.name for frame in tracer.trace.nodes["z_0"]["cond_indep_stack"]] == ["data"]


def test_states_are_computed_once_for_both_programs_of_a_subsample(monkeypatch):
    net, x, calls = random_net(), random_frames(batch=SIZE), []
    monkeypatch.setattr(type(net), "scan_states", lambda *arguments: calls.append(arguments))
    scored(subsampled(net), ZForcingELBO(**WEIGHTS), x, LENGTHS)
    assert calls == []


# Scales -------------------------------------------------------------------------------------------------------------

PER_SEQUENCE = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
SCALES = {
    "a number": 2.5,
    "a scalar": torch.tensor(2.5, dtype=torch.float64),
    "a scalar of another dtype": torch.tensor(2.5),
    "one weight per sequence": PER_SEQUENCE,
    "one weight": PER_SEQUENCE[:1],
}


def handled(net, on_model, on_guide):
    return Programs(on_model(net.model), on_guide(net.guide))


def by(scale):
    return lambda program: poutine.scale(program, scale=scale)


def plain(program):
    return program


def masked(program):
    return poutine.mask(program, mask=torch.tensor([True, False, True]))


class Rising(Messenger):
    """A scale that rises from step to step."""

    def _process_message(self, msg):
        if msg["type"] == "sample" and msg["name"][:2] in ("z_", "x_"):
            msg["scale"] = msg["scale"] * (1.0 + int(msg["name"][2:]))


class Annealing(Messenger):
    """A scale of the latents alone, Pyro's idiom for annealing."""

    def _process_message(self, msg):
        if msg["type"] == "sample" and msg["name"][:2] == "z_":
            msg["scale"] = msg["scale"] * 0.3


MIXES = {f"both by {name}": (by(scale), by(scale)) for name, scale in SCALES.items()}
MIXES |= {f"the model by {name}": (by(scale), plain) for name, scale in SCALES.items()}
MIXES |= {
    "the guide by one weight per sequence": (plain, by(PER_SEQUENCE)),
    "each by another scale": (by(2.0), by(PER_SEQUENCE)),
    "scaled twice": (lambda p: by(2.0)(by(PER_SEQUENCE)(p)), lambda p: by(PER_SEQUENCE)(by(2.0)(p))),
    "scaled and masked": (lambda p: masked(by(PER_SEQUENCE)(p)), lambda p: masked(by(PER_SEQUENCE)(p))),
    "another scale at each step": (lambda p: Rising()(p), lambda p: Rising()(p)),
    "the latents alone": (lambda p: Annealing()(p), lambda p: Annealing()(p)),
    "the model's frames unlike its latents": (lambda p: Annealing()(p), plain),
}


@pytest.mark.parametrize("mix", MIXES)
def test_scales_are_those_of_the_mean_field_elbo(mix):
    net, x = random_net(), random_frames()
    both = handled(net, *MIXES[mix])
    losses = [scored(both, kind(), x, LENGTHS[:3], of=net) for kind in (ZForcingELBO, TraceMeanField_ELBO)]
    assert_same(*losses)


@pytest.mark.parametrize("vectorised", [True, False])
def test_plate_scale_mask_and_particles_together_are_those_of_the_mean_field_elbo(vectorised):
    net, x = random_net(), random_frames(batch=SIZE)
    both = subsampled(handled(net, *MIXES["scaled and masked"]), "data")
    settings = VECTORISED if vectorised else {"num_particles": 2}
    losses = [scored(both, kind(**settings), x, LENGTHS, of=net) for kind in (ZForcingELBO, TraceMeanField_ELBO)]
    assert_same(*losses)


def any_scale():
    return st.sampled_from([None, *SCALES.values()])


def any_mask():
    masks = [None, True, False, torch.tensor([True, False, True]), torch.tensor(True)]
    return st.sampled_from(masks)


def chosen_handlers(program, scale, mask, scale_first):
    on = [] if scale is None else [lambda p: poutine.scale(p, scale=scale)]
    on += [] if mask is None else [lambda p: poutine.mask(p, mask=mask)]
    for handler in on if scale_first else reversed(on):
        program = handler(program)
    return program


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Found non-auxiliary vars in guide")
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    emission=st.sampled_from(["gaussian", "categorical", "mixture"]),
    lengths=st.none() | st.lists(st.integers(1, 4), min_size=SIZE, max_size=SIZE).map(torch.tensor),
    scales=st.tuples(any_scale(), any_scale()),
    masks=st.tuples(any_mask(), any_mask()),
    condition=st.sampled_from([None, "z_1"]),
    plate=st.sampled_from([None, "sequences", "data"]),
    order=st.booleans(),
    particles=st.sampled_from([{}, {"num_particles": 2}, VECTORISED]),
)
def test_any_mix_of_handlers_is_that_of_the_mean_field_elbo(
    emission, lengths, scales, masks, condition, plate, order, particles
):
    net, x = random_net(emission), random_frames(emission, batch=SIZE)
    model, guide = (
        chosen_handlers(p, *each, order) for p, *each in zip((net.model, net.guide), scales, masks, strict=True)
    )
    both = Programs(poutine.condition(model, data={condition: GIVEN}) if condition else model, guide)
    data = (x, lengths) if plate else (x[CHOSEN], None if lengths is None else lengths[CHOSEN])
    both = subsampled(both, plate) if plate else both
    pyro.clear_param_store()
    assert_same(*(scored(both, kind(**particles), *data, of=net) for kind in (ZForcingELBO, TraceMeanField_ELBO)))


@pytest.mark.parametrize(
    "objective", ["all weights", "particles", "importance weights", "doubly reparameterised", "graphs"]
)
def test_one_weight_per_sequence_weights_each_sequences_share(objective):
    """The weighted sum of three losses, each of one sequence, has the weighted sum of their gradients."""
    net, x = random_net(), random_frames()
    weights = [PER_SEQUENCE * torch.eye(3, dtype=torch.float64)[i] + 1e-12 for i in range(3)]
    found = scored(handled(net, by(PER_SEQUENCE), by(PER_SEQUENCE)), OURS[objective](), x, LENGTHS[:3], of=net)
    parts = [scored(handled(net, by(w), by(w)), OURS[objective](), x, LENGTHS[:3], of=net) for w in weights]
    assert_same(found, {name: sum(part[name] for part in parts) for name in found}, rtol=1e-8, atol=1e-8)
    ones = torch.ones(3, dtype=torch.float64)
    unit = scored(handled(net, by(ones), by(ones)), OURS[objective](), x, LENGTHS[:3], of=net)
    assert_same(unit, scored(net, OURS[objective](), x, LENGTHS[:3], of=net))


def test_segments_take_one_weight_per_sequence_around_them():
    net, x = random_net(), random_frames()
    with poutine.scale(scale=PER_SEQUENCE):
        found = scored(net, SegmentedELBO(**WEIGHTS, segment=2), x, LENGTHS[:3], of=net)
        assert_same(found, scored(net, ZForcingELBO(**WEIGHTS), x, LENGTHS[:3], of=net))


@pytest.mark.parametrize("mix", ["both by one weight per sequence", "the model by a scalar", "scaled twice"])
def test_equal_scales_keep_paths_scored_as_a_batch(mix):
    net, x, elbo = random_net(), random_frames(), ZForcingELBO(**WEIGHTS)
    scored(handled(net, *MIXES[mix]), elbo, x, LENGTHS[:3])
    assert elbo.terms is not None
    assert elbo.other == 0.0


def test_gradients_flow_into_learned_scales():
    net, x = random_net(), random_frames()
    found = []
    for kind in (ZForcingELBO, TraceMeanField_ELBO):
        weight = PER_SEQUENCE.clone().requires_grad_()
        both = handled(net, by(weight), by(weight))
        scored(both, kind(), x, LENGTHS[:3])
        found.append(weight.grad)
    torch.testing.assert_close(*found, **EXACT)


@pytest.mark.parametrize("elbo", [ZForcingELBO(), ImportanceWeightedELBO(3, max_plate_nesting=1)], ids=["elbo", "iwae"])
@pytest.mark.parametrize("shape", [(4, 1), (4, 3), (4, 1, 3)])
def test_a_scale_that_would_replicate_the_sequences_is_refused(shape, elbo):
    net, x = random_net(), random_frames()
    both = handled(net, by(torch.ones(shape)), by(torch.ones(shape)))
    with pytest.raises(ValueError, match=r"one weight per sequence, of shape \(3,\), got shape"):
        elbo.loss(both.model, both.guide, x)


def test_scales_of_the_model_alone_temper_importance_weights_as_in_renyi():
    net, x = random_net(), random_frames()
    both = handled(net, by(PER_SEQUENCE), plain)
    ours = scored(both, ImportanceWeightedELBO(3, max_plate_nesting=1), x, LENGTHS[:3], of=net)
    assert_same(ours, scored(both, RenyiELBO(0, **VECTORISED), x, LENGTHS[:3], of=net))


# Copies -------------------------------------------------------------------------------------------------------------


def through_pickle(net):
    return pickle.loads(pickle.dumps(net))


def through_a_file(net):
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": through_pickle,
    "torch.save": through_a_file,
    "average": lambda net: AveragedModel(net).module,
    "copy of a copy": lambda net: copy.deepcopy(copy.deepcopy(net)),
    "deepcopy of a program": lambda net: copy.deepcopy(net.model).__self__,
    "deepcopy of a loss": lambda net: copy.deepcopy(ZForcingELBO()(net.model, net.guide)).model.__self__,
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_computes_and_trains_beside_its_original(kind):
    net, x = random_net(), random_frames()
    loss = scored(net, ZForcingELBO(**WEIGHTS), x, LENGTHS[:3], of=net)
    other = COPIES[kind](net)
    assert other.name != net.name
    assert_same(scored(other, ZForcingELBO(**WEIGHTS), x, LENGTHS[:3], of=other), loss)
    SVI(other.model, other.guide, pyro.optim.Adam({"lr": 0.01}), loss=ZForcingELBO()).step(x)
    if kind != "copy":  # which shares its parameters
        assert_same(scored(net, ZForcingELBO(**WEIGHTS), x, LENGTHS[:3], of=net), loss)
    assert other.eval().generate(2, 3).shape == (2, 3, 2)
    if kind == "average":
        assert evaluate(other, [(x, None)], num_particles=2).num_sequences == 3


@pytest.mark.parametrize("kind", ["deepcopy", "copy", "pickle", "average"])
def test_a_copy_has_loop_memory_of_its_own(kind):
    net = random_net()
    scored(net, ZForcingELBO(), random_frames())
    other = COPIES[kind](net)
    assert other.loop_memory is not net.loop_memory
    assert other.loop_memory.forward.pool is not net.loop_memory.forward.pool


def test_names_of_copies_are_told_apart():
    net = random_net(name="mine")
    first, second = copy.deepcopy(net), copy.deepcopy(net)
    third = copy.deepcopy(first)
    assert [n.name for n in (net, first, second, third)] == ["mine", "mine_copy", "mine_copy_2", "mine_copy_3"]


def test_a_network_unpickled_where_its_name_is_free_keeps_it():
    net = random_net(name="mine")
    net.model(random_frames())
    content = pickle.dumps(net)
    del net
    assert pickle.loads(content).name == "mine_copy", "its parameters are still in Pyro's store"
    pyro.clear_param_store()
    assert pickle.loads(content).name == "mine"


def test_new_networks_take_no_name_of_an_unpickled_one():
    net = random_net()
    number = int(net.name.rpartition("_")[2])
    other = copy.deepcopy(net)
    other.name = f"zforcing_{number + 1}"
    assert random_net().name not in (net.name, other.name)


def test_two_networks_of_one_explicit_name_are_refused():
    x = random_frames()
    random_net(name="mine").model(x)
    with pytest.raises(RuntimeError, match="give each net its own name"):
        random_net(name="mine", seed=2).model(x)


def test_copies_go_on_after_the_store_is_cleared():
    net, x = random_net(), random_frames()
    other = copy.deepcopy(net)
    losses = []
    for _ in range(2):
        losses += [scored(n, ZForcingELBO(), x)["loss"] for n in (net, other)]
        pyro.clear_param_store()
    assert len({loss.item() for loss in losses}) == 1


def test_an_average_of_weights_is_evaluated_as_a_network_of_these_weights():
    net, x = random_net(), random_frames()
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    expected = {name: value.detach().clone() for name, value in net.named_parameters()}
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 0.05}), loss=ZForcingELBO())
    for i in range(3):
        svi.step(x, LENGTHS[:3])
        averaged.update_parameters(net)
        for name, value in net.named_parameters():
            expected[name] = value.detach().clone() if i == 0 else 0.5 * expected[name] + 0.5 * value.detach()
        scored(averaged.module, ZForcingELBO(), x, LENGTHS[:3])  # registered from the start on
    plain = random_net(seed=9)
    plain.load_state_dict(expected)
    found = [scored(n, ZForcingELBO(**WEIGHTS), x, LENGTHS[:3])["loss"] for n in (averaged.module, plain)]
    torch.testing.assert_close(*found, **EXACT)
    assert found[0] != scored(net, ZForcingELBO(**WEIGHTS), x, LENGTHS[:3])["loss"]


def test_weights_loaded_into_a_copy_are_its_own():
    net, x = random_net(), random_frames()
    other = copy.deepcopy(net)
    changed = random_net(seed=4)
    other.load_state_dict(changed.state_dict())
    found = [scored(n, ZForcingELBO(), x)["loss"] for n in (other, changed, net)]
    torch.testing.assert_close(found[0], found[1], **EXACT)
    assert found[0] != found[2]


def test_two_networks_without_latents_train_each_its_own_parameters():
    """Pyro's module() silently trains the first one's parameters where two have one name."""
    x = random_frames()
    first = DeterministicRNN(emissions.Gaussian(2), embed_dim=3, hidden_dim=4).double()
    second = copy.deepcopy(first)
    assert second.name != first.name
    before = second.emission_layer.weight.detach().clone()
    for net in (first, second):
        SVI(net.model, net.guide, pyro.optim.Adam({"lr": 0.1}), loss=Trace_ELBO()).step(x)
    assert not torch.equal(second.emission_layer.weight, before)
    assert_same(dict(first.state_dict()), dict(second.state_dict()))


@pytest.mark.parametrize("name", ["", "a$$$b"])
def test_names_that_pyro_cannot_hold_are_refused(name):
    with pytest.raises(ValueError, match=r"name must not (be empty|contain)"):
        random_net(name=name)


def test_a_name_is_a_string():
    with pytest.raises(TypeError, match="name must be a string, got 3"):
        random_net(name=3)


# Programs that make no sense ----------------------------------------------------------------------------------------


class Plain:
    """A Pyro program without a network of this package."""

    @staticmethod
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    @staticmethod
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.5 * x, 0.7))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"aux_weight": 0.5}, "aux_weight needs net.guide of a zf_pyro network"),
        ({"backward_weight": 0.5}, "backward_weight needs net.guide of a zf_pyro network"),
        ({"aux_weight": Linear(0.5, 0.0, 10)}, "aux_weight needs net.guide"),
        ({"free_nats": 0.5}, "free_nats is for latents of net.model"),
        ({"kl_weight": 0.5}, "kl_weight is for latents of net.model"),
    ],
)
def test_weights_that_a_plain_model_would_ignore_are_refused(settings, message):
    x = torch.randn(4, dtype=torch.float64)
    with pytest.raises(TypeError, match=message):
        ZForcingELBO(**settings).loss(Plain.model, Plain.guide, x)
    assert ZForcingELBO().loss(Plain.model, Plain.guide, x) > 0


def own_guide(x):
    with pyro.plate("sequences", len(x), dim=-1):
        for t in range(x.shape[1]):
            pyro.sample(f"z_{t}", dist.Normal(x.new_zeros(len(x), 3), 1.0).to_event(1))


@pytest.mark.parametrize("name", ["aux_weight", "backward_weight"])
def test_weights_of_the_guides_states_are_refused_for_a_guide_of_the_users(name):
    net, x = random_net(), random_frames()
    with pytest.raises(TypeError, match=f"{name} needs net.guide"):
        ZForcingELBO(**{name: 0.5}).loss(net.model, own_guide, x)
    assert ZForcingELBO(kl_weight=0.5, free_nats=0.1).loss(net.model, own_guide, x) > 0


@pytest.mark.filterwarnings("ignore:Found non-auxiliary vars in guide")
def test_weights_are_refused_where_every_latent_was_given():
    net, x = random_net(), random_frames()
    model = poutine.condition(net.model, data={f"z_{t}": torch.zeros(3, 3).double() for t in range(4)})
    with pytest.raises(TypeError, match=r"aux_weight needs net.guide"):
        ZForcingELBO(aux_weight=0.5).loss(model, net.guide, x)


def swapped_in_functions(net):
    return Programs(lambda *data: net.guide(*data), lambda *data: net.model(*data))


def swapped(net):
    return Programs(net.guide, net.model)


EVERY = {**OURS, "fivo": lambda: FIVO(2), "segments": lambda: SegmentedELBO(segment=2)}


@pytest.mark.parametrize("objective", EVERY)
@pytest.mark.parametrize("programs", [swapped, lambda net: subsampled(swapped(net))], ids=["swapped", "in functions"])
def test_swapped_programs_are_refused_by_our_objectives(programs, objective):
    net, x = random_net(), random_frames(batch=SIZE)
    both = programs(net)
    with pyro.validation_enabled(False), pytest.raises(TypeError, match=r"model and guide must be net.model and"):
        EVERY[objective]().loss_and_grads(both.model, both.guide, x, LENGTHS)


@pytest.mark.parametrize(
    ("objective", "programs"), [*((objective, swapped) for objective in THEIRS), ("trace", swapped_in_functions)]
)
def test_swapped_programs_are_refused_by_the_guide_under_pyros_svi(objective, programs):
    net, x = random_net(), random_frames()
    both = programs(net)
    svi = SVI(both.model, both.guide, pyro.optim.Adam({"lr": 0.01}), loss=THEIRS[objective]())
    with pytest.raises(TypeError, match="model and guide are swapped"):
        svi.step(x, LENGTHS[:3])


def test_a_guide_may_be_evaluated_at_samples_of_the_model():
    net, x = random_net(), random_frames()
    model = poutine.trace(net.model).get_trace(x)
    guide = poutine.trace(poutine.replay(net.guide, trace=model)).get_trace(x)
    assert guide.log_prob_sum().isfinite()


def test_the_sleep_phase_of_wake_sleep_is_not_taken_for_swapped_programs():
    net, x = random_net(), random_frames()
    both = WakeSleepPrograms(net)
    loss = ReweightedWakeSleep(num_particles=2, insomnia=0.5, num_sleep_particles=1, max_plate_nesting=1)
    losses = SVI(both.model, both.guide, pyro.optim.Adam({"lr": 0.01}), loss=loss).step(x, LENGTHS[:3])
    assert all(torch.as_tensor(value).isfinite() for value in losses)


WRONG = {
    "the guide twice": lambda net: (net.guide, net.guide),
    "the model twice": lambda net: (net.model, net.model),
    "the network": lambda net: (net, net.guide),
    "the network twice": lambda net: (net, net),
    "another method": lambda net: (net.states, net.guide),
    "generation": lambda net: (net.generate, net.guide),
    "forward": lambda net: (net.forward, net.forward),
    "the prior": lambda net: (net.model, net.prior),
    "another network's guide": lambda net: (net.model, random_net(seed=3).guide),
    "the guide of a copy": lambda net: (net.model, copy.deepcopy(net).guide),
    "the guide of a copy, scaled": lambda net: (net.model, poutine.scale(copy.deepcopy(net).guide, scale=2.0)),
    "no program": lambda net: (net.model, None),
    "results": lambda net: (net.model, torch.zeros(3)),
}


@pytest.mark.parametrize(
    ("programs", "objective"),
    [
        *((programs, "the bound") for programs in WRONG),
        *itertools.product(
            ["the network", "the guide of a copy"], ["importance weights", "fivo", "segments", "graphs"]
        ),
    ],
)
def test_programs_that_are_no_model_and_guide_of_one_network_are_refused(programs, objective):
    net, x = random_net(), random_frames()
    message = r"model and guide must be net\.model and net\.guide of one|must be a program, such as net\."
    with pytest.raises(TypeError, match=message):
        EVERY[objective]().loss_and_grads(*WRONG[programs](net), x)


def test_a_module_of_wrong_programs_is_refused_when_it_is_made():
    net = random_net()
    with pytest.raises(TypeError, match=r"got net\.guide as model"):
        ZForcingELBO()(net.guide, net.model)


def test_wrong_programs_are_refused_in_training_and_in_the_table_under_pyros_objectives_too():
    net, x = random_net(), random_frames()
    with pytest.raises(TypeError, match=r"got net\.guide as model"):
        Training(net.guide, net.model, Trace_ELBO())
    svi = ALGORITHMS["Trace_ELBO"].build(net, model=lambda x: net.guide(x), guide=lambda x: net.model(x))
    with pytest.raises(TypeError, match="swapped"):
        svi.evaluate_loss(x)


def test_another_networks_guide_is_taken_where_it_is_called_on_purpose():
    net, other, x = random_net(), random_net(seed=3), random_frames()
    found = [
        scored(Programs(net.model, lambda x: other.guide(x)), kind(), x) for kind in (ZForcingELBO, TraceMeanField_ELBO)
    ]
    assert_same(*found)


def test_programs_of_the_users_subclass_are_taken():
    class Labelled(ZForcing):
        def model_with_label(self, x):
            pyro.sample("label", dist.Normal(x.new_zeros(()), 1.0), obs=x.new_zeros(()))
            return self.model(x)

    sizes = {"embed_dim": 5, "hidden_dim": 4, "latent_dim": 3, "mlp_dim": 6}
    net = Labelled(emissions.Gaussian(2), **sizes).double()
    assert ZForcingELBO().loss(net.model_with_label, net.guide, random_frames()) > 0


@pytest.mark.parametrize("kind", [ZForcingELBO, ImportanceWeightedELBO, FIVO])
def test_the_class_of_an_objective_is_refused_as_a_loss(kind):
    net, x = random_net(), random_frames()
    for programs in (net, Programs(lambda x: net.model(x), lambda x: net.guide(x))):
        svi = SVI(programs.model, programs.guide, pyro.optim.Adam({"lr": 0.01}), loss=kind)
        with pytest.raises(TypeError, match=rf"give SVI an instance of the objective, loss={kind.__name__}\(\)"):
            svi.step(x)


def test_classes_are_refused_where_objectives_are_held():
    net = random_net()
    with pytest.raises(TypeError, match="got the class ZForcingELBO"):
        GraphedELBO(ZForcingELBO)
    with pytest.raises(TypeError, match="got the class ZForcingELBO"):
        Training(net.model, net.guide, ZForcingELBO)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (Linear, "got the class Linear: give an instance"),
        (float, "got the class float"),
        (lambda: 1.0, "cannot be called with a step alone"),
        (lambda step, epoch: 1.0, "cannot be called with a step alone"),
        (torch.nn.Linear(1, 1), "must be a number or a schedule"),
        (torch.ones(3), "must be a number or a schedule"),
        ("0.5", "must be a number or a schedule"),
    ],
)
@pytest.mark.parametrize("name", WEIGHTS)
def test_things_that_are_no_schedule_are_refused(name, weight, message):
    with pytest.raises(TypeError, match=f"{name} must be a .*{message}|{message}"):
        ZForcingELBO(**{name: weight})


@pytest.mark.parametrize("value", [None, "1.0", True, torch.ones(2), 1j, [1.0]])
def test_schedules_that_return_no_number_are_refused(value):
    net, x = random_net(), random_frames()
    with pytest.raises(TypeError, match=r"the schedule of aux_weight must return a finite number .* at step 0"):
        ZForcingELBO(aux_weight=lambda step: value).loss(net.model, net.guide, x)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), torch.tensor(-1.0)])
def test_schedules_that_leave_the_range_are_refused_at_that_step(value):
    net, x = random_net(), random_frames()
    elbo = ZForcingELBO(kl_weight=lambda step: 1.0 if step < 2 else value)
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 0.01}), loss=elbo)
    svi.step(x)
    svi.step(x)
    with pytest.raises(ValueError, match=r"the schedule of kl_weight must return a finite number .* at step 2"):
        svi.step(x)


@pytest.mark.parametrize("value", [1, torch.tensor(1.0), torch.ones((), dtype=torch.float64).numpy()[()]])
def test_schedules_may_return_any_scalar(value):
    net, x = random_net(), random_frames()
    found = scored(net, ZForcingELBO(kl_weight=lambda step: value), x)
    assert_same(found, scored(net, ZForcingELBO(), x))


def test_a_tensor_as_third_weight_is_named():
    with pytest.raises(TypeError, match="backward_weight must be a number or a schedule"):
        ZForcingELBO(1.0, 0.0, torch.ones(3))


def test_arguments_of_schedules_are_numbers():
    with pytest.raises(ValueError, match="start must be a finite number of at least 0, got None"):
        Linear(None, 1.0, 5)


def test_free_nats_without_an_analytic_kl_are_refused():
    net, x = random_net(), random_frames()

    def guide(x):
        with pyro.plate("sequences", len(x), dim=-1):
            for t in range(x.shape[1]):
                pyro.sample(f"z_{t}", dist.StudentT(5.0, x.new_zeros(len(x), 3), 1.0).to_event(1))

    assert ZForcingELBO().loss(net.model, guide, x) > 0
    with pytest.raises(TypeError, match="free_nats needs the analytic KL of 'z_0'"):
        ZForcingELBO(free_nats=0.5).loss(net.model, guide, x)


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
@pytest.mark.parametrize("elbo", [ZForcingELBO(), ImportanceWeightedELBO(3)], ids=["elbo", "iwae"])
def test_generated_frames_are_not_scored(elbo):
    net, x = random_net(), random_frames()
    with pytest.raises(ValueError, match="the frame 'x_0' was generated, not observed"):
        elbo.loss(poutine.uncondition(net.model), net.guide, x)


@pytest.mark.filterwarnings("ignore:Found non-auxiliary vars in guide", "ignore:Found plate statements")
@pytest.mark.parametrize("hidden", ["all", ["z_1"]])
@pytest.mark.parametrize("elbo", [ZForcingELBO(), ImportanceWeightedELBO(3)], ids=["elbo", "iwae"])
def test_latents_that_the_model_hides_are_refused(elbo, hidden):
    net, x = random_net(), random_frames()
    model = poutine.block(net.model) if hidden == "all" else poutine.block(net.model, hide=hidden)
    with pytest.raises(ValueError, match=r"the guide samples 'z_\d', and the model has no such site"):
        elbo.loss(model, net.guide, x)


def test_the_loss_of_a_model_and_guide_is_refused_as_an_objective():
    net, x = random_net(), random_frames()
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 0.01}), loss=ZForcingELBO()(net.model, net.guide))
    with pytest.raises(TypeError, match=r"SVI takes the objective, loss=ZForcingELBO\(\)"):
        svi.step(x)


def test_a_user_program_of_two_arguments_runs_uncaptured_as_in_the_plain_objective():
    net, x = random_net(), random_frames()
    both = Programs(lambda x: net.model(x), lambda x: net.guide(x))
    assert_same(scored(both, GraphedELBO(ZForcingELBO()), x, of=net), scored(both, ZForcingELBO(), x, of=net))


def test_a_loss_of_handled_programs_has_the_networks_parameters():
    net = random_net()
    loss = ZForcingELBO()(poutine.scale(net.model, scale=2.0), poutine.scale(net.guide, scale=2.0))
    assert {id(p) for p in loss.parameters()} == {id(p) for p in net.parameters()}


# Handlers of Pyro ---------------------------------------------------------------------------------------------------

GIVEN = torch.linspace(-1, 1, 9, dtype=torch.float64).reshape(3, 3)
FRAME = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)
HANDLED = {
    "a latent given to the model": (lambda p: poutine.condition(p, data={"z_1": GIVEN}), plain),
    "a frame replaced": (lambda p: poutine.condition(p, data={"x_1": FRAME}), plain),
    "a latent set in both": (
        lambda p: poutine.do(p, data={"z_1": GIVEN}),
        lambda p: poutine.do(p, data={"z_1": GIVEN}),
    ),
    "masked by a number": (lambda p: poutine.mask(p, mask=True), lambda p: poutine.mask(p, mask=True)),
    "a sequence masked": (masked, masked),
    "the model masked": (masked, plain),
}


@pytest.mark.filterwarnings("ignore:Found non-auxiliary vars in guide")
@pytest.mark.parametrize(
    ("case", "where"), [*((case, "alone") for case in HANDLED), ("a frame replaced", "in a subsample")]
)
def test_handled_programs_are_scored_as_in_the_mean_field_elbo(case, where):
    net, x = random_net(), random_frames(batch=SIZE)
    both, data = handled(net, *HANDLED[case]), (x[CHOSEN], LENGTHS[CHOSEN])
    if where == "in a subsample":
        both, data = subsampled(both), (x, LENGTHS)
    assert_same(*(scored(both, kind(), *data, of=net) for kind in (ZForcingELBO, TraceMeanField_ELBO)))


@pytest.mark.parametrize("kind", [ZForcingELBO, TraceMeanField_ELBO])
def test_reparameterising_a_step_is_refused_with_the_way_to_do_it(kind):
    net, x = random_net(), random_frames()
    both = handled(net, *[lambda p: poutine.reparam(p, config={"z_1": LocScaleReparam(0.0)})] * 2)
    with pytest.raises(AttributeError, match=r"Strategies of poutine\.reparam cannot rewrite a step"):
        kind().loss(both.model, both.guide, x)


def test_a_step_still_has_its_parameters():
    net, x = random_net(), random_frames()
    step = poutine.trace(net.guide).get_trace(x).nodes["z_1"]["fn"]
    assert step.distribution.base_dist.loc.shape == (3, 3)
    assert not hasattr(step, "loc")
    assert copy.copy(step).t == 1


@pytest.mark.parametrize("row", ["AutoNormal", "AutoDelta"])
def test_autoguides_of_the_table_train_beside_a_copy(row):
    net, x = random_net(), random_frames()
    other = copy.deepcopy(net)
    losses = []
    for n in (net, other):
        pyro.clear_param_store()  # of the guide, whose parameters have the same names
        pyro.set_rng_seed(3)
        losses.append(ALGORITHMS[row].build(n).step(x, LENGTHS[:3]))
    assert losses[0] == pytest.approx(losses[1])
