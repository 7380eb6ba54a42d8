"""Covariates of every step in every model: programs, objectives, inference, generation, files, diagnostics."""

import pyro
import pytest
import torch
from pyro.infer import Predictive

import zf_pyro
from zf_pyro import FIVO, SIXO, ImportanceWeightedELBO, ZForcingELBO, to_arviz
from zf_pyro.data import collate
from zf_pyro.diagnostics import calibrate, check_steps, latent_use, leave_future_out, mutual_information
from zf_pyro.diagnostics.arviz_versions import group
from zf_pyro.evaluation import active_units, bounds, evaluate, particle_bound, score_density, step_kl
from zf_pyro.inference import ALGORITHMS, ParticleFilter, WakeSleepPrograms, fit_guide, refine, smc_filter
from zf_pyro.models import DeterministicRNN
from zf_pyro.objectives import GraphedELBO, SegmentedELBO
from zf_pyro.training import Training, fit

from .comparing import EXACT, assert_same, gradients, parameter_grads, weighted_sum
from .conftest import FAMILY, FIRST, random_frames, random_net, random_state
from .exact import log_evidence, small_of
from .handlers import BATCH, HANDLERS, REDRAWN, TIME
from .test_inference_table import DEFAULT_DTYPE, MARKOV, QUICK
from .test_models_exact import log_weights
from .test_models_family import shrunk
from .test_objectives_graphed import Replay
from .test_paths_equivalence import arguments, assert_equivalent
from .textbook import beside

K = 2
LENGTHS = torch.tensor([4, 3, 1])


def known(batch=BATCH, time=TIME, *, seed=7, dtype=torch.float64):
    """Sample covariates, (batch, time, K)."""
    return torch.randn(batch, time, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def net_of(emission="gaussian", **settings):
    return random_net(emission, covariate_dim=K, **settings)


# Model and guide against the textbook programs -----------------------------------------------------------------------


OFTEN = ("replay", "condition on x_1")
every_handler = pytest.mark.parametrize(
    "handler", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in HANDLERS]
)


@every_handler
def test_every_handler_sees_the_textbook_program(handler, member):
    net, x = net_of(**member), random_frames()
    kwargs = {"covariates": known()}
    if "condition on x" not in handler and "generation" not in handler:
        kwargs |= arguments("all", net, "gaussian")
    assert_equivalent(net, HANDLERS[handler], x, kwargs, REDRAWN.get(handler, TIME))


@pytest.mark.parametrize(
    "emission", ["categorical", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mixture", "bernoulli"))]
)
def test_every_emission_sees_the_textbook_program(emission, member):
    net, x = net_of(emission, **member), random_frames(emission)
    for handler in ("replay", "generation", "condition on x_1"):
        assert_equivalent(net, HANDLERS[handler], x, {"covariates": known()}, REDRAWN.get(handler, TIME))


@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
def test_fast_scans_equal_the_plain_loops_in_values_and_gradients(emission, member):
    x, found = random_frames(emission, 3, 5), []
    noise = torch.randn(5, 2, 3, 3, dtype=torch.float64)
    for kind in ("deferred", "reference"):
        net, c = net_of(emission, spread=0.8, recurrence=kind, **member), known(3, 5).requires_grad_()
        u, b = net.inputs(x, None, c).transpose(0, 1), net.backward_states(x, None, c)
        start = type(random_state(net))(*(field.expand(2, 3, -1) for field in random_state(net)))
        scan, states = net.scan_posterior(start, u, b, noise), net.scan_states(start, u, noise)
        values = {"b": b, "h": states.hidden, "c": states.cell}
        values |= {"z": scan.z, "loc": scan.loc, "scale": scan.scale, "before": scan.before.hidden}
        loss = weighted_sum(values)
        (grad,) = torch.autograd.grad(loss, c, retain_graph=True)
        found.append({**values, "covariates": grad, **gradients(net, loss)})
    assert_same(*found)
    assert (found[0]["covariates"] != 0).all(), "some covariate is not read"


def test_a_linear_embedding_of_frames_and_covariates_is_one_layer_and_symbols_get_a_sum():
    frames, c = random_frames(), known()
    layer = net_of().embedding[0]
    assert type(layer) is torch.nn.Linear
    assert layer.in_features == 2 + K
    symbols, net = random_frames("categorical"), net_of("categorical")
    embedded = net.embedding(torch.cat([symbols.unsqueeze(-1).double(), c], -1))
    parts = net.embedding[0]
    torch.testing.assert_close(embedded, parts.frames(symbols) + c @ parts.extras.weight.T + parts.extras.bias)
    assert frames.shape[-1] == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_symbols_are_exact_beside_covariates_of_half_precision(dtype):
    family = zf_pyro.emissions.Categorical(3000)
    net = random_net(family, covariate_dim=K, dtype=dtype)
    x = torch.tensor([[2049, 2051, 2999]])
    assert net.inputs(x, None, known(1, 3, dtype=dtype))[0, 1:, 0].tolist() == [2049, 2051]


# Exact answers -------------------------------------------------------------------------------------------------------


def test_filters_and_importance_estimates_agree_with_the_evidence(member):
    net, x = small_of("gaussian", 2, 0.1, covariate_dim=K, **member)
    shrunk(net)
    with torch.no_grad():
        for layer, first in net.covariate_readers():  # of a DMM, whose shrunk transition would hardly see them
            layer.weight[:, first : first + K] *= 2.0
    c = 4.0 * known(2, 2)
    with torch.no_grad():
        u = torch.stack([beside(net, net.inputs(x, None, c)[:, t, :2], c, t) for t in range(2)], 1)
        exact = log_evidence(net, x, u=u)
        other = log_evidence(net, x, u=torch.stack([beside(net, u[:, t, :2], c.flip(1), t) for t in range(2)], 1))
    assert (exact - other).abs().max() > 1e-3, "the covariates do not matter: the test would have no power"
    found = ParticleFilter(net, 20_000).run(x, covariates=c).log_evidence
    torch.testing.assert_close(found, exact, rtol=0, atol=0.03)
    wide = bounds(net, x, num_particles=10_000, covariates=c, chunk_particles=10_000)
    torch.testing.assert_close(wide.importance_weighted, exact, rtol=0, atol=0.05)


def test_later_covariates_change_no_density_of_earlier_frames(member):
    """The model sees them in order; only the guide looks ahead."""
    net, x, c = net_of(**member), random_frames(time=5), known(3, 5)
    z, later = torch.randn(3, 5, 3, dtype=torch.float64), c.clone()
    later[:, 3:] += 1.0
    one, other = (
        net.emission(net.states(x, z, covariates=covariates)).log_prob(x.transpose(0, 1)) for covariates in (c, later)
    )
    assert torch.equal(one[:3], other[:3])
    if not isinstance(net, zf_pyro.DMM):  # whose covariates enter the transition, so the density of z
        assert (one[3:] != other[3:]).all()


@pytest.mark.parametrize("fill", [float("nan"), pytest.param(1e30, marks=pytest.mark.slow)])
def test_covariates_beyond_a_length_change_nothing(fill, member):
    net, x, c = net_of(**member), random_frames(), known()
    spoiled = torch.where((torch.arange(TIME) < LENGTHS.unsqueeze(1)).unsqueeze(-1), c, fill)
    found = []
    for covariates in (c, spoiled):
        pyro.set_rng_seed(5)
        loss = ZForcingELBO().differentiable_loss(net.model, net.guide, x, LENGTHS, covariates=covariates)
        pyro.set_rng_seed(6)
        filtered = ParticleFilter(net, 4).run(x, LENGTHS, covariates=covariates)
        frames = net.reconstruct(x, LENGTHS, covariates=covariates, teacher_forcing=False)
        found.append({"loss": loss, "evidence": filtered.log_evidence, "frames": frames, **gradients(net, loss)})
    assert_same(*found)


def test_two_chunks_have_the_density_of_the_whole(member):
    net, x, c = net_of(**member), random_frames(time=6), known(3, 6)
    z = torch.randn(3, 6, 3, dtype=torch.float64)
    first = net.states(x[:, :2], z[:, :2], covariates=c[:, :2])
    carried = type(first)(*(field[-1] for field in first))
    second = net.states(x[:, 2:], z[:, 2:], x[:, 1], carried, c[:, 2:])
    whole = net.states(x, z, covariates=c)
    torch.testing.assert_close(torch.cat([first.hidden, second.hidden]), whole.hidden, **EXACT)


# Objectives and algorithms -------------------------------------------------------------------------------------------


def losses(net, objectives, x, *given, **more):
    found = []
    for objective in objectives:
        pyro.set_rng_seed(7)
        loss = objective.loss_and_grads(net.model, net.guide, x, *given, **more)
        found.append({"loss": torch.tensor(loss), **parameter_grads(net)})
    return found


def test_segments_and_captured_objectives_give_the_loss_and_gradients_of_the_whole(member):
    net, x, c = net_of(**member), random_frames(time=6), known(3, 6)
    graphed = GraphedELBO(ZForcingELBO(0.8), bucket=6, capture=Replay())
    found = losses(
        net, [ZForcingELBO(0.8), SegmentedELBO(0.8, segment=2), graphed], x, torch.tensor([6, 5, 2]), covariates=c
    )
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])
    assert graphed.num_graphs == 1


def test_truncated_segments_carry_covariates():
    net, x, c = net_of(), random_frames(time=6), known(3, 6)
    ours, other = (
        losses(net, [SegmentedELBO(segment=3, truncate=True)], x, covariates=covariates)[0]["loss"]
        for covariates in (c, c.flip(1))
    )
    assert ours != other
    assert ours.isfinite()


@pytest.mark.parametrize("objective", [ImportanceWeightedELBO(3), FIVO(3), SIXO], ids=["iwae", "fivo", "sixo"])
def test_other_objectives_read_covariates(objective):
    net, x, c = net_of(), random_frames(), known()
    if objective is SIXO:
        objective = SIXO(3, twist=zf_pyro.inference.Twist(net))
    ours, again, other = (
        losses(net, [objective], x, LENGTHS, covariates=covariates)[0]["loss"] for covariates in (c, c, c + 1.0)
    )
    assert ours == again != other


algorithms = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=() if name in ("NUTS", "ParticleFilter", "Importance", "SMCFilter") else pytest.mark.slow
        )
        for name in ALGORITHMS
    ],
)
"""Every row of the table, a few by default."""


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@algorithms
def test_every_algorithm_takes_covariates(name):
    pyro.set_rng_seed(3)
    dtype = torch.float32 if name in DEFAULT_DTYPE else torch.float64
    net, row = net_of(dtype=dtype), ALGORITHMS[name]
    call = getattr(row.build(net, **QUICK.get(name, {})), row.call)
    lengths = None if name in MARKOV else LENGTHS
    before = [p.detach().clone() for p in net.parameters()]
    call(random_frames(dtype=dtype), lengths, covariates=known(dtype=dtype))
    changed = any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert changed == row.trains


def test_a_refined_guide_knows_its_covariates():
    net, x, c = shrunk(net_of()).eval(), random_frames(batch=8), known(8)
    lengths = torch.tensor([4, 4, 3, 3, 2, 4, 1, 4])
    refined = refine(net, x, lengths, covariates=c, steps=8, num_particles=2, batch_size=3)
    assert refined.bounds.weighted_after.isfinite().all()
    found = bounds(net, x, lengths, num_particles=4, guide=refined, covariates=c)
    assert found.elbo.isfinite().all()
    with pytest.raises(ValueError, match="sequences that the guide was refined for"):
        bounds(net, x, lengths, num_particles=4, guide=refined, covariates=c + 1.0)


def test_a_guide_is_fitted_with_covariates():
    net, x, c = net_of(), random_frames(batch=8), known(8)
    fitted = fit_guide(net, x, torch.full((8,), 4), covariates=c, steps=2, num_particles=2)
    again = fit_guide(net, [{"x": x, "covariates": c}], steps=1, num_particles=2)
    assert fitted.parameters == again.parameters


def test_wake_sleep_programs_and_pyros_filter_take_covariates():
    net, x, c = net_of(), random_frames(), known()
    programs = WakeSleepPrograms(net)
    pyro.set_rng_seed(1)
    z = programs.guide(x, LENGTHS, covariates=c)
    pyro.set_rng_seed(1)
    assert torch.equal(z, net.guide(x, LENGTHS, covariates=c))
    assert set(smc_filter(net, x, covariates=c, num_particles=5).get_empirical()) == {"hidden", "cell", "z"}


# Training, files, generation -----------------------------------------------------------------------------------------


def test_batches_with_covariates_train(tmp_path):
    x, c = random_frames(batch=6, dtype=torch.float32), known(6, dtype=torch.float32)
    batches = [{"x": x[:3], "lengths": LENGTHS, "covariates": c[:3]}, {"x": x[3:], "covariates": c[3:]}]
    net = net_of(dtype=torch.float32, spread=0.0)
    before = net.embedding[0].weight.clone()
    module = Training(net.model, net.guide, ZForcingELBO())
    fit(module, batches, batches, out=tmp_path, max_steps=3, progress=False)
    assert not torch.equal(before, net.embedding[0].weight)


def test_a_saved_network_reads_its_covariates(member, tmp_path):
    net, x, c = net_of(**member), random_frames(), known()
    net.save(tmp_path)
    again = type(net).load(tmp_path)
    assert again.covariate_dim == K
    assert (
        losses(net.eval(), [ZForcingELBO()], x, covariates=c)[0]["loss"]
        == (losses(again, [ZForcingELBO()], x, covariates=c)[0]["loss"])
    )


def test_generation_is_ancestral_sampling_with_the_covariates_of_each_step(member):
    net, c = net_of(**member).eval(), known(3, 5)
    pyro.set_rng_seed(4)
    ours = net.generate(3, 5, latent_temperature=0.0, greedy=True, covariates=c)
    state, u_t, frames = net.initial_state((3,)), torch.zeros(3, 2, dtype=torch.float64), []
    with torch.no_grad():
        for t in range(5):
            read = beside(net, u_t, c, t)
            past = net.past(state, read)
            prior = net.prior(past)
            state = net.transition(past, read, prior.mean)
            u_t = net.emission(state).mean
            frames.append(u_t)
    torch.testing.assert_close(ours, torch.stack(frames, 1), **EXACT)


def test_a_prompt_is_continued_with_the_covariates_after_its_own_length(member):
    """Each prompt of a batch goes on as it does alone."""
    net, x, c = shrunk(net_of(**member)).eval(), random_frames(), known(3, 4 + 5)
    settings = {"latent_temperature": 0.0, "greedy": True}
    for i, length in enumerate(LENGTHS.tolist()):
        noise = torch.zeros(length, 1, 3, dtype=torch.float64)
        with torch.no_grad():
            u, b = (f(x[i : i + 1, :length], None, c[i : i + 1, :length]) for f in (net.inputs, net.backward_states))
            scan = net.scan_posterior(net.initial_state((1,)), u.transpose(0, 1), b, noise)
        assert scan.z.isfinite().all()
        pyro.set_rng_seed(4)
        alone = net.generate(1, 5, prompt=x[i : i + 1, :length], covariates=c[i : i + 1, : length + 5], **settings)
        assert alone.shape == (1, 5, 2)
    more = net.generate(3, 5, prompt=(x, LENGTHS), covariates=c, **settings)
    spoiled = c.clone()
    spoiled[2, 1 + 5 :] = torch.nan
    pyro.set_rng_seed(4)
    one = net.generate(3, 5, prompt=(x, LENGTHS), covariates=c, **settings)
    pyro.set_rng_seed(4)
    assert torch.equal(one, net.generate(3, 5, prompt=(x, LENGTHS), covariates=spoiled, **settings))
    assert more.shape == (3, 5, 2)


def test_reconstructions_and_interpolations_follow_covariates(member):
    net, x, c = net_of(**member).eval(), random_frames(), known()
    free = net.reconstruct(x, LENGTHS, covariates=c, teacher_forcing=False)
    lengths = {"lengths_a": LENGTHS, "lengths_b": LENGTHS.flip(0)}
    ends = net.interpolate(x, x.flip(0), 3, **lengths, covariates_a=c, covariates_b=c.flip(0))
    torch.testing.assert_close(ends.x[0], free, **EXACT)


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_the_start_takes_out_centre_and_scale_of_covariates(shift, member):
    """A network that starts at data has the same densities whatever the units of the covariates."""
    x, c, found = random_frames(batch=40), known(40), []
    for covariates in (c, 50.0 * c + shift):
        net = net_of(spread=0.0, **member)
        assert net.initialise(x, covariates=covariates) == 160
        found.append(losses(net, [ZForcingELBO()], x, covariates=covariates)[0]["loss"])
    torch.testing.assert_close(*found, rtol=1e-8, atol=0)


def test_symbols_start_at_centred_covariates_and_loaders_give_theirs():
    x, c, found = random_frames("categorical", batch=40), known(40), []
    for covariates in (c, 50.0 * c + 7.0):
        net = net_of("categorical", spread=0.0)
        net.initialise([{"x": x[:20], "covariates": covariates[:20]}, {"x": x[20:], "covariates": covariates[20:]}])
        found.append(losses(net, [ZForcingELBO()], x, covariates=covariates)[0]["loss"])
    torch.testing.assert_close(*found, rtol=1e-8, atol=0)


# Evaluation and diagnostics ------------------------------------------------------------------------------------------


def test_evaluation_reads_covariates_whole_in_chunks_and_with_a_first_frame():
    net, x, c = net_of().eval(), random_frames(batch=5, time=6), known(5, 6)
    lengths = torch.tensor([6, 5, 3, 2, 6])
    data = [
        {"x": x[:2], "lengths": lengths[:2], "covariates": c[:2]},
        {"x": x[2:], "lengths": lengths[2:], "covariates": c[2:]},
    ]
    for settings in ({}, {"reset_every": 2}, {"protocol": "first_frame_given"}):
        settings |= {"num_particles": 2, "filter_particles": 4}
        whole = evaluate(net, x, lengths, covariates=c, **settings)
        assert whole.num_frames == int((lengths - int("protocol" in settings)).sum())
        assert evaluate(net, data, **settings).bounds["prior_mean"].nats_per_frame.value == pytest.approx(
            whole.bounds["prior_mean"].nats_per_frame.value
        )
    pieces = [net.initial_state((1,)), x[:1, 2:4], c[:1, 2:4]]
    alone = evaluate(net, pieces[1], covariates=pieces[2], num_particles=2).bounds["prior_mean"].nats_per_frame.value
    parts = evaluate(net, x[:1], covariates=c[:1], reset_every=2, num_particles=2)
    first = [evaluate(net, x[:1, s : s + 2], covariates=c[:1, s : s + 2], num_particles=2) for s in (0, 2, 4)]
    mean = sum(one.bounds["prior_mean"].nats_per_frame.value for one in first) / 3
    assert parts.bounds["prior_mean"].nats_per_frame.value == pytest.approx(mean)
    assert alone == first[1].bounds["prior_mean"].nats_per_frame.value


def test_a_network_without_latents_reads_covariates():
    torch.manual_seed(0)
    net = DeterministicRNN(zf_pyro.emissions.Gaussian(2), embed_dim=3, hidden_dim=4, covariate_dim=K).double()
    x, c = random_frames(), known()
    spoiled = torch.where((torch.arange(TIME) < LENGTHS.unsqueeze(1)).unsqueeze(-1), c, torch.nan)
    found = net.log_prob(x, LENGTHS, covariates=c)
    torch.testing.assert_close(found, net.log_prob(x, LENGTHS, covariates=spoiled))
    alone = [net.log_prob(x[i : i + 1, :n], covariates=c[i : i + 1, :n]) for i, n in enumerate(LENGTHS)]
    torch.testing.assert_close(found, torch.cat(alone))
    scores = score_density(net, x, LENGTHS, covariates=c, batch_size=2)
    torch.testing.assert_close(scores.bounds["log_likelihood"], found.detach())
    assert net.initialise(x, LENGTHS, covariates=c) == 8
    pyro.infer.SVI(net.model, net.guide, pyro.optim.Adam({}), pyro.infer.Trace_ELBO()).step(x, LENGTHS, covariates=c)


def test_diagnostics_take_covariates():
    net, x, c = shrunk(net_of(spread=0.1)).eval(), random_frames(batch=30), known(30)
    assert particle_bound(net, x, num_particles=4, covariates=c).isfinite().all()
    assert step_kl(net, x, covariates=c).isfinite().all()
    assert active_units(net, x, covariates=c) <= 3
    assert latent_use(net, x, covariates=c).elbo == pytest.approx(
        bounds(net, x, covariates=c).elbo.mean().item(), abs=1.0
    )
    assert check_steps(net, x[:2], covariates=c[:2], num_samples=25).efficiency.shape == (2, 4)
    assert leave_future_out(net, x, covariates=c, num_particles=8).densities.shape == (30, 3)
    assert mutual_information(net, x, covariates=c).num_steps == 4
    assert calibrate(net, 10, 4, 3, covariates=c[:10]).ranks.max() <= 3


def test_arviz_data_hold_the_covariates():
    net, x, c = net_of().eval(), random_frames(), known()
    for posterior in ("guide", "smoother", "importance"):
        data = to_arviz(net, x, LENGTHS, covariates=c, num_samples=3, posterior=posterior)
        kept = group(data, "constant_data")["covariates"]
        assert kept.shape == (3, 4, K)
        assert kept.values[0].tolist() == c[0].tolist()
    samples = Predictive(net.model, guide=net.guide, num_samples=3)(x, covariates=c)
    assert samples["z_3"].isfinite().all()


# Bad input -----------------------------------------------------------------------------------------------------------

BAD = {
    "none": (
        None,
        ValueError,
        r"covariates must be given, \(batch, time, 2\), to a model of covariate_dim=2, got None",
    ),
    "other steps": (known(3, 3), ValueError, r"covariates end after 3 steps, and 4 need them: .* future ones"),
    "too many steps": (known(3, 5), ValueError, r"covariates must have shape \(3, 4, 2\), got \(3, 5, 2\)"),
    "static": (known(3, 1)[:, 0], ValueError, r"covariates must have shape .*expand\(-1, time, -1\)"),
    "other features": (known()[..., :1], ValueError, r"covariates must have shape \(3, 4, 2\), got \(3, 4, 1\)"),
    "integers": (known().long(), TypeError, r"covariates must hold floats, got torch.int64: .*one_hot"),
    "another dtype": (known().float(), ValueError, r"covariates must be torch.float64 on cpu"),
    "an array": (known().numpy(), TypeError, r"covariates must be a torch.Tensor, got ndarray"),
    "gaps": (
        known().index_fill(1, torch.tensor([2]), float("nan")),
        ValueError,
        r"finite.*got \[nan, nan\] at sequence 0, step 2",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_covariates_are_refused_by_name(name):
    covariates, kind, message = BAD[name]
    net, x = net_of(), random_frames()
    for call in (net.model, net.guide, ParticleFilter(net, 3).run):
        with pytest.raises(kind, match=message):
            call(x, covariates=covariates)
    if name != "gaps":
        for call in (bounds, net.initialise, net.reconstruct, net.states, net.backward_states):
            more = (torch.zeros(3, 4, 3, dtype=x.dtype),) if call == net.states else ()
            with pytest.raises(kind, match=message):
                call(*((net,) if call is bounds else ()), x, *more, covariates=covariates)


def test_covariates_that_end_before_the_horizon_are_refused():
    net, x = net_of(), random_frames()
    for settings, needed in (({}, 5), ({"prompt": (x, LENGTHS)}, 9)):
        with pytest.raises(ValueError, match=f"covariates end after {needed - 1} steps, and {needed} need them"):
            net.generate(3, 5, covariates=known(3, needed - 1), **settings)
        assert net.generate(3, 5, covariates=known(3, needed + 2), **settings).shape == (3, 5, 2)
    with pytest.raises(ValueError, match="covariates end after 3 steps, and 4 need them"):
        net.model(num_steps=4, batch_shape=3, covariates=known(3, 3))


@pytest.mark.parametrize("name", FIRST)
def test_models_without_covariates_refuse_them(name):
    model, settings = FAMILY[name]
    net, x = random_net(model=model, **settings), random_frames()
    for call in (net.model, net.guide, ParticleFilter(net, 3).run, net.reconstruct):
        with pytest.raises(ValueError, match="build the model with covariate_dim=2"):
            call(x, covariates=known())
    for value in (-1, 1.5):
        with pytest.raises((TypeError, ValueError), match=r"^covariate_dim must be"):
            random_net(model=model, covariate_dim=value, **settings)


def test_a_collated_batch_takes_covariates_as_a_field():
    net, batch = net_of().eval(), collate(list(random_frames()))
    module = Training(net.model, net.guide, ZForcingELBO())
    assert module.gradients({**batch._asdict(), "covariates": known()})["loss"].isfinite()
    with pytest.raises(TypeError, match="got the field 'speed'"):
        module.gradients({**batch._asdict(), "speed": known()})
    assert log_weights(random_net(), random_frames(), 2).shape == (2, 3)
