"""Models that read gaps in their frames as a fill and flags, and train on them."""

import math

import pyro
import pytest
import torch

import zf_pyro
from zf_pyro import FIVO, SIXO, ImportanceWeightedELBO, ZForcingELBO, to_arviz
from zf_pyro.diagnostics import check_steps, latent_use
from zf_pyro.diagnostics.arviz_versions import group
from zf_pyro.evaluation import bounds, evaluate, particle_bound, score_density
from zf_pyro.inference import ALGORITHMS, ParticleFilter, fit_guide, refine, smc_filter
from zf_pyro.models import DeterministicRNN
from zf_pyro.objectives import GraphedELBO, SegmentedELBO
from zf_pyro.smc.steps import FilterSteps
from zf_pyro.training import Training, fit

from .comparing import EXACT, assert_same, gradients
from .conftest import random_frames, random_net, random_state
from .exact import log_evidence, small_of
from .handlers import HANDLERS, REDRAWN, TIME
from .test_inference_table import DEFAULT_DTYPE, MARKOV, QUICK
from .test_models_covariates import algorithms, every_handler, known, losses
from .test_models_family import shrunk
from .test_objectives_graphed import Replay
from .test_paths_equivalence import assert_equivalent
from .textbook import beside, frame_for_density, seen_alone

K = 2
LENGTHS = torch.tensor([4, 3, 1])
WHOLE = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 0]]).bool()
PARTS = torch.tensor(
    [[[1, 1], [0, 1], [0, 0], [1, 1]], [[0, 0], [1, 0], [1, 1], [1, 1]], [[1, 0], [1, 1], [1, 1], [0, 1]]]
)
PARTS = PARTS.bool()
"""What was seen of sequences: of frames, and of their elements."""


def net_of(emission="gaussian", **settings):
    return random_net(emission, missing="fill", **settings)


def spoiled(x, seen, value=math.nan):
    """Frames with other values where nothing was seen."""
    seen = seen if seen.dim() == x.dim() else seen.reshape(*seen.shape, *[1] * (x.dim() - 2))
    return torch.where(seen, x, 3 if not x.is_floating_point() else value)


# Model and guide against the textbook programs -----------------------------------------------------------------------


@every_handler
def test_every_handler_sees_the_textbook_program(handler, member):
    net, x = net_of(covariate_dim=K, **member), random_frames()
    kwargs = {"covariates": known()}
    if "generation" not in handler and "condition on x" not in handler:
        kwargs |= {"observed": PARTS, "lengths": torch.tensor([4, 3, 2])}
    assert_equivalent(net, HANDLERS[handler], x, kwargs, REDRAWN.get(handler, TIME))


@pytest.mark.parametrize(
    "emission", ["categorical", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mixture", "bernoulli"))]
)
def test_every_emission_sees_the_textbook_program(emission, member):
    net, x = net_of(emission, **member), random_frames(emission)
    assert_equivalent(net, HANDLERS["replay"], x, {"observed": WHOLE})


def test_conditions_on_part_of_the_frames_keep_their_meaning():
    """Frames that a handler gives are seen; those of the program are sampled, and read as seen."""
    net = net_of()
    frame = random_frames()[:, 1]
    given = pyro.condition(net.model, data={"x_1": frame})
    trace = pyro.poutine.trace(given).get_trace(num_steps=3, batch_shape=3)
    assert trace.nodes["x_1"]["is_observed"]
    assert not trace.nodes["x_0"]["is_observed"]
    frames = [trace.nodes[f"x_{t}"]["value"] for t in range(3)]
    x, z = torch.stack(frames, 1), torch.stack([trace.nodes[f"z_{t}"]["value"] for t in range(3)], 1)
    trace.compute_log_prob()
    expected = net.emission(net.states(x, z)).log_prob(x.transpose(0, 1))
    torch.testing.assert_close(torch.stack([trace.nodes[f"x_{t}"]["log_prob"] for t in range(3)]), expected, **EXACT)


# Exact answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "observed", [PARTS[:2, 1:3], pytest.param(WHOLE[:2, 1:3], marks=pytest.mark.slow)], ids=["elements", "frames"]
)
def test_filters_and_bounds_agree_with_the_evidence(observed, member):
    net, x = small_of("gaussian", 2, 0.1, missing="fill", covariate_dim=K, **member)
    shrunk(net)
    c = known(2, 2)

    def score(emission, t):
        return seen_alone(emission, observed[:, t]).log_prob(frame_for_density(x[:, t], observed[:, t]))

    with torch.no_grad():
        exact = log_evidence(net, x, u=net.inputs(x, None, c, observed), score=score)
    given = {"observed": observed, "covariates": c}
    filtered = ParticleFilter(net, 20_000).run(spoiled(x, observed), **given)
    torch.testing.assert_close(filtered.log_evidence, exact, rtol=0, atol=0.03)
    assert filtered.x is None
    wide = bounds(net, spoiled(x, observed), num_particles=10_000, chunk_particles=10_000, **given)
    torch.testing.assert_close(wide.importance_weighted, exact, rtol=0, atol=0.05)


def test_flags_and_fill_are_read_where_the_frame_is():
    net, x = net_of(covariate_dim=K), random_frames()
    c = known()
    u = net.inputs(x, None, c, PARTS)
    filled = torch.where(PARTS, x, 0.0)
    assert torch.equal(u[:, 2], torch.cat([filled[:, 1], c[:, 2], PARTS[:, 1].double()], -1))
    assert torch.equal(u[:, 0, :2], torch.zeros(3, 2, dtype=x.dtype))
    assert (u[:, 0, -2:] == 1).all(), "the start frame counts as seen"
    symbols, net = random_frames("categorical"), net_of("categorical")
    u = net.inputs(symbols, None, None, WHOLE)
    assert u[0, 2].tolist() == [4.0, 0.0]  # the start token, and the flag of a frame that was not seen
    assert torch.equal(beside(net, symbols[:, 0], None, 1, WHOLE[:, 0])[0], u[0, 1])


# What must not matter ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("emission", "observed"), [("gaussian", PARTS), ("categorical", WHOLE)], ids=["elements", "symbols"]
)
def test_what_was_not_seen_and_padding_change_nothing(emission, observed, member):
    net, x = net_of(emission, **member), random_frames(emission)
    real = (torch.arange(TIME) < LENGTHS.unsqueeze(1)).reshape(3, TIME, *[1] * (observed.dim() - 2))
    found = []
    for frames, flags in ((x, observed), (spoiled(x, observed & real), observed & real)):
        pyro.set_rng_seed(5)
        objective = ZForcingELBO(0.8, *((0.1, 0.2) if net.has_auxiliary else ()))
        loss = objective.differentiable_loss(net.model, net.guide, frames, LENGTHS, observed=flags)
        pyro.set_rng_seed(6)
        filtered = ParticleFilter(net, 4).run(frames, LENGTHS, observed=flags)
        found.append({"loss": loss, "evidence": filtered.log_evidence, **gradients(net, loss)})
    assert_same(*found)
    assert all(value.isfinite().all() for value in found[0].values())


def test_everything_seen_is_the_same_as_no_flags(member):
    net, x = net_of(**member), random_frames()
    everything = torch.ones_like(x, dtype=torch.bool)
    found = []
    for more in ({}, {"observed": everything}, {"observed": everything[..., 0]}):
        pyro.set_rng_seed(5)
        loss = ZForcingELBO().differentiable_loss(net.model, net.guide, x, LENGTHS, **more)
        found.append({"loss": loss, **gradients(net, loss)})
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])


def test_frames_of_which_nothing_was_seen_have_no_likelihood():
    net, x = net_of(), random_frames()
    z = torch.randn(3, 4, 3, dtype=x.dtype)
    values = {f"z_{t}": z[:, t] for t in range(4)}
    trace = pyro.poutine.trace(pyro.condition(net.model, data=values)).get_trace(spoiled(x, WHOLE), observed=WHOLE)
    trace.compute_log_prob()
    found = torch.stack([trace.nodes[f"x_{t}"]["log_prob"] for t in range(4)], 1)
    assert torch.equal(found == 0, ~WHOLE)


# Objectives and algorithms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("observed", [PARTS, pytest.param(WHOLE, marks=pytest.mark.slow)], ids=["parts", "frames"])
def test_segments_and_captured_objectives_give_the_loss_and_gradients_of_the_whole(observed, member):
    net, c = net_of(covariate_dim=K, **member), known(3, 6)
    x = random_frames(time=6)
    observed = torch.cat([observed, observed[:, 1:3]], 1)
    weights = (0.8, 0.1, 0.2) if net.has_auxiliary else (0.8,)
    graphed = GraphedELBO(ZForcingELBO(*weights), bucket=4, capture=Replay())
    objectives = [ZForcingELBO(*weights), SegmentedELBO(*weights, segment=2), ZForcingELBO(*weights)]
    given = {"covariates": c, "observed": observed}
    found = losses(net, objectives, spoiled(x, observed), torch.tensor([6, 5, 2]), **given)
    assert_same(found[0], found[1])
    assert losses(net, [graphed], spoiled(x, observed), **given)[0]["loss"].isfinite()
    assert graphed.num_graphs == 1


def test_a_context_may_have_gaps_too():
    """One more step in front of the flags is that of the context, as of a part of a sequence that goes on."""
    net, x = net_of(), random_frames(time=4)
    z = torch.randn(3, 4, 3, dtype=x.dtype)
    frames = spoiled(x, PARTS)
    first = net.states(frames[:, :2], z[:, :2], observed=PARTS[:, :2])
    carried = type(first)(*(field[-1] for field in first))
    second = net.states(frames[:, 2:], z[:, 2:], frames[:, 1], carried, observed=PARTS[:, 1:])
    whole = net.states(frames, z, observed=PARTS)
    torch.testing.assert_close(torch.cat([first.hidden, second.hidden]), whole.hidden, **EXACT)
    values = {f"z_{t}": z[:, t + 2] for t in range(2)}
    given = (frames[:, 2:], None, frames[:, 1], carried)
    trace = pyro.poutine.trace(
        pyro.condition(lambda: net.model(*given, observed=PARTS[:, 1:]), data=values)
    ).get_trace()
    trace.compute_log_prob()
    emission = seen_alone(net.emission(type(first)(*(field[3] for field in whole))), PARTS[:, 3])
    expected = emission.log_prob(frame_for_density(x[:, 3], PARTS[:, 3]))
    torch.testing.assert_close(trace.nodes["x_1"]["log_prob"], expected, **EXACT)
    with pytest.raises(ValueError, match="one more in front says what was seen of a context, and there is none"):
        net.model(frames[:, 2:], observed=PARTS[:, 1:])


@pytest.mark.parametrize("objective", [ImportanceWeightedELBO(3), FIVO(3), SIXO], ids=["iwae", "fivo", "sixo"])
def test_other_objectives_score_what_was_seen_alone(objective):
    net, x = net_of(), random_frames()
    if objective is SIXO:
        objective = SIXO(3, twist=zf_pyro.inference.Twist(net))
    ours, again, other = (
        losses(net, [objective], frames, LENGTHS, observed=seen)[0]["loss"]
        for frames, seen in ((x, PARTS), (spoiled(x, PARTS), PARTS), (x, PARTS.flip(-1)))
    )
    assert ours == again != other


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@algorithms
def test_every_algorithm_takes_gaps(name):
    pyro.set_rng_seed(3)
    dtype = torch.float32 if name in DEFAULT_DTYPE else torch.float64
    net, row = net_of(dtype=dtype), ALGORITHMS[name]
    call = getattr(row.build(net, **QUICK.get(name, {})), row.call)
    lengths = None if name in MARKOV else LENGTHS
    before = [p.detach().clone() for p in net.parameters()]
    call(spoiled(random_frames(dtype=dtype), PARTS), lengths, observed=PARTS)
    changed = any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert changed == row.trains
    assert all(p.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", ["ZForcing", "ZForcing, latents see the input", "VRNN", "SRNN"])
def test_every_form_of_a_filters_step_scores_what_was_seen(name):
    from zf_pyro.paths import prepare_inputs
    from zf_pyro.smc import gaps_of, steps_of

    from .conftest import FAMILY

    model, settings = FAMILY[name]
    net, x = random_net(model=model, missing="fill", **settings), random_frames()
    run = prepare_inputs(net, x, None, None, None, observed=PARTS)
    b, noise = net.scan_backward(run.read, None, None), torch.randn(3, 5, 3, dtype=x.dtype)
    state = type(random_state(net))(*(f.unsqueeze(1).expand(-1, 5, -1) for f in net.initial_state((3,))))
    found = []
    with torch.no_grad():
        for form in (FilterSteps, steps_of):
            steps = form(net, run.u, b, run.x, gaps_of(run))
            moved = steps.move(steps.start(state), 1, noise)
            found.append({"z": moved.z, "log p": moved.log_likelihood, "ratio": moved.log_ratio})
    assert_same(*found)


def test_refined_and_fitted_guides_know_the_gaps():
    net, x = shrunk(net_of()).eval(), random_frames()
    frames = spoiled(x, PARTS)
    refined = refine(net, frames, LENGTHS, observed=PARTS, steps=20, num_particles=2)
    assert bounds(net, frames, LENGTHS, num_particles=4, guide=refined, observed=PARTS).elbo.isfinite().all()
    with pytest.raises(ValueError, match="sequences that the guide was refined for"):
        bounds(net, x, LENGTHS, num_particles=4, guide=refined, observed=PARTS.flip(-1))
    assert fit_guide(net, frames, LENGTHS, observed=PARTS, steps=2, num_particles=2).parameters
    assert set(smc_filter(net, frames, observed=PARTS, num_particles=5).get_empirical()) == {"hidden", "cell", "z"}


# Training, files, evaluation -----------------------------------------------------------------------------------------


def test_batches_with_gaps_train(tmp_path):
    x = random_frames(batch=6, dtype=torch.float32)
    seen = torch.cat([PARTS, PARTS.flip(1)])
    frames = spoiled(x, seen)
    batches = [{"x": frames[:3], "lengths": LENGTHS, "observed": seen[:3]}, {"x": frames[3:], "observed": seen[3:]}]
    net = net_of(dtype=torch.float32, spread=0.0)
    before = net.embedding[0].weight.clone()
    module = Training(net.model, net.guide, ZForcingELBO())
    fit(module, batches, batches, out=tmp_path, max_steps=3, progress=False)
    assert not torch.equal(before, net.embedding[0].weight)
    assert all(parameter.isfinite().all() for parameter in net.parameters())


def test_a_saved_network_reads_its_gaps(member, tmp_path):
    net, x = net_of(**member), random_frames()
    net.save(tmp_path)
    again = type(net).load(tmp_path)
    assert again.missing == "fill"
    found = [losses(one.eval(), [ZForcingELBO()], x, observed=PARTS)[0]["loss"] for one in (net, again)]
    assert found[0] == found[1]


@pytest.mark.parametrize("emission", ["gaussian", "mixture"])
def test_the_start_counts_what_was_seen_and_reads_gaps_as_the_mean(emission, member):
    """Whatever the unit of the frames, and the values that were not seen, a new network embeds the same."""
    x, seen, found = random_frames(emission, batch=40), PARTS.repeat(14, 1, 1)[:40], []
    seen = seen if emission == "gaussian" else seen[..., 0]
    for frames in (x, 50.0 * x + 1e3):
        net = net_of(emission, spread=0.0, **member)
        assert net.initialise(spoiled(frames, seen), observed=seen) == 160
        u = net.inputs(spoiled(frames, seen), frames[:, 0], None, seen)
        found.append(net.embedding(u))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match="observed must be True at least once"):
        net.initialise(x, observed=torch.zeros_like(seen))


def test_generation_counts_every_frame_as_seen(member):
    net, x = net_of(**member).eval(), random_frames()
    assert net.generate(3, 5, prompt=(x, LENGTHS)).isfinite().all()
    assert net.reconstruct(x, LENGTHS, teacher_forcing=False).isfinite().all()
    assert net.model(num_steps=3, batch_shape=2).shape == (2, 3, 2)


def test_evaluation_neither_scores_nor_counts_what_was_not_seen():
    net, x, first = net_of().eval(), random_frames(), "first_frame_given"
    frames = spoiled(x, PARTS)
    for settings in ({}, {"reset_every": 2}, {"protocol": first}, {"protocol": first, "reset_every": 2}):
        found = evaluate(net, frames, observed=PARTS, num_particles=2, filter_particles=3, **settings)
        again = evaluate(net, [{"x": x, "observed": PARTS}], num_particles=2, **settings)
        assert found.num_frames == int(PARTS[:, int("protocol" in settings) :].any(-1).sum())
        values = [one.bounds["prior_mean"].nats_per_frame.value for one in (found, again)]
        assert values[0] == pytest.approx(values[1])
    assert particle_bound(net, frames, num_particles=3, observed=PARTS).isfinite().all()
    assert math.isfinite(latent_use(net, frames, observed=PARTS).log_likelihood)
    assert check_steps(net, frames[:2], observed=PARTS[:2], num_samples=25).efficiency.shape == (2, 4)


def test_arviz_data_have_nan_where_nothing_was_seen():
    net, x = net_of().eval(), random_frames()
    for posterior in ("guide", "smoother"):
        data = to_arviz(net, spoiled(x, PARTS, 7.0), LENGTHS, observed=PARTS, num_samples=3, posterior=posterior)
        seen = ~torch.as_tensor(group(data, "observed_data")["x"].values).isnan()
        real = (torch.arange(TIME) < LENGTHS.unsqueeze(1)).unsqueeze(-1)
        assert torch.equal(seen, PARTS & real)
        assert torch.as_tensor(group(data, "sample_stats")["log_weight"].values).isfinite().all()


def test_a_network_without_latents_reads_gaps():
    torch.manual_seed(0)
    net = DeterministicRNN(zf_pyro.emissions.Gaussian(2), embed_dim=3, hidden_dim=4, missing="fill").double()
    x = random_frames()
    found = net.log_prob(x, LENGTHS, observed=PARTS)
    torch.testing.assert_close(found, net.log_prob(spoiled(x, PARTS), LENGTHS, observed=PARTS))
    alone = [net.log_prob(x[i : i + 1, :n], observed=PARTS[i : i + 1, :n]) for i, n in enumerate(LENGTHS)]
    torch.testing.assert_close(found, torch.cat(alone))
    scores = score_density(net, spoiled(x, PARTS), LENGTHS, observed=PARTS, batch_size=2)
    torch.testing.assert_close(scores.bounds["log_likelihood"], found.detach())
    plain = DeterministicRNN(zf_pyro.emissions.Gaussian(2), embed_dim=3, hidden_dim=4).double()
    with pytest.raises(ValueError, match=r"observed must be left out for a model of missing='draw'.*missing='fill'"):
        plain.log_prob(x, observed=PARTS)


def test_imputations_agree_with_what_was_seen_and_lie_in_the_support():
    net, x = net_of("bernoulli").eval(), random_frames("bernoulli")
    seen = torch.cat([PARTS, PARTS[..., :1]], -1)
    found = torch.as_tensor(net.impute(spoiled(x, seen), LENGTHS, observed=seen, num_samples=7, num_particles=9).values)
    real = (torch.arange(TIME) < LENGTHS.unsqueeze(1)).unsqueeze(-1)
    assert torch.equal(found[:, seen & real], x[seen & real].expand(7, -1))
    assert found[:, ~real.expand_as(x)].isnan().all()
    rest = found[:, ~seen & real]
    assert ((rest == 0) | (rest == 1)).all()
    assert 0 < rest.mean() < 1


def test_unknown_treatments_are_refused_by_name():
    with pytest.raises(ValueError, match=r"^missing must be one of"):
        random_net(missing="zero")


@pytest.mark.slow
def test_a_third_of_the_elements_missing_in_training_costs_less_than_a_tenth_of_the_score():
    """The score is in nats per frame above independent frames, which a network without memory reaches."""
    generator = torch.Generator().manual_seed(0)
    angle = 6.28 * torch.rand(1200, 1, generator=generator) + 0.5 * torch.arange(16)
    x = torch.stack([angle.sin(), angle.cos()], -1) + 0.3 * torch.randn(1200, 16, 2, generator=generator)
    seen, held_out = torch.rand(1000, 16, 2, generator=generator) > 0.3, x[1000:]
    x = x[:1000]
    marginal = torch.distributions.Normal(x.mean((0, 1)), x.std((0, 1)))
    baseline, found = marginal.log_prob(held_out).sum(-1).mean().item(), []
    for frames, more in ((x, {}), (spoiled(x, seen), {"observed": seen})):
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        sizes = {"embed_dim": 12, "hidden_dim": 16, "latent_dim": 2, "mlp_dim": 16}
        net = zf_pyro.ZForcing(zf_pyro.emissions.Gaussian(2), **sizes, missing="fill")
        net.initialise(frames, **more)
        svi = pyro.infer.SVI(net.model, net.guide, pyro.optim.ClippedAdam({"lr": 0.01}), ZForcingELBO())
        for _ in range(200):
            rows = torch.randint(1000, (50,), generator=generator)
            svi.step(frames[rows], **{name: value[rows] for name, value in more.items()})
        net.eval()
        score = evaluate(net, held_out, num_particles=8).bounds["importance_weighted"].nats_per_frame.value
        found.append(score - baseline)
    assert found[0] > 1.0, "nothing was learnt: the test would have no power"
    assert found[1] > 0.9 * found[0]
