"""The filter that goes on with time: it equals the filter over whole sequences, and its state is all that it needs."""

import gc
import math
import resource
import warnings
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch

from zf_pyro import SRNN, STORN, VRNN, ZForcing
from zf_pyro.inference import OnlineFilter, ParticleFilter, Twist, refine
from zf_pyro.networks import PlainLoopWarning, State
from zf_pyro.paths import prepare_inputs
from zf_pyro.smc import FilterSettings, random_numbers, run_filter, start_states, steps_of

from .comparing import EXACT, assert_same
from .conftest import EMISSIONS, FAMILY, random_frames, random_net, random_state
from .linear_gaussian import LinearGaussian, conditional, exact_evidence, simulated
from .own_emissions import OWN

LENGTHS = torch.tensor([6, 2, 4])
TIME = 6
ALL_EMISSIONS = {**EMISSIONS, **OWN}
QUICK = {"gaussian", "mixture", "categorical", "NADE", "MatrixFrames"}
"""Emissions in the default suite."""
every_emission = pytest.mark.parametrize(
    "emission", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ALL_EMISSIONS]
)
FILTERING = {
    "VRNN": (VRNN, {}),
    "VRNN, GRU of two layers": (VRNN, {"cell": "gru", "num_layers": 2}),
    "STORN": (STORN, {}),
    "STORN, GRU of two layers": (STORN, {"cell": "gru", "num_layers": 2}),
    "STORN, LSTM of two layers": (STORN, {"num_layers": 2}),
    "SRNN, filtering": (SRNN, {"filtering": True}),
}
"""Models whose guide reads the frames up to now alone."""


def seeded(function, *args, **settings):
    pyro.set_rng_seed(3)
    return function(*args, **settings)


def online(filter, x, **settings):
    """Run step by step: log-likelihoods (time, batch), effective sample sizes, and log-weights after the last."""
    run = filter.start(len(x), **settings)
    steps = [run.step(frame) for frame in x.unbind(1)]
    log_likelihood, ess = (torch.stack([getattr(step, name) for step in steps]) for name in ("log_likelihood", "ess"))
    return {"increments": log_likelihood, "ess": ess, "weights": run.log_weights.T}


def batch(result):
    return {"increments": result.log_increments, "ess": result.ess, "weights": result.log_weights}


# The filter over whole sequences ------------------------------------------------------------------------------------


@pytest.mark.parametrize("resampling", ["systematic", pytest.param("multinomial", marks=pytest.mark.slow)])
def test_it_equals_the_filter_over_whole_sequences_step_by_step(resampling, member):
    net, x = random_net("gaussian", spread=1.0, **member), random_frames("gaussian", 3, TIME)
    filter = ParticleFilter(net, 7, proposal="prior", threshold=1.0, resampling=resampling)
    whole = seeded(filter.run, x)
    assert (whole.ancestors != torch.arange(7).view(1, 7, 1)).any()
    assert_same(seeded(online, filter, x), batch(whole))


@every_emission
def test_every_emission_has_the_weights_of_whole_sequences(emission):
    net = random_net(ALL_EMISSIONS[emission])
    x = net.generate(3, TIME)
    filter = ParticleFilter(net, 5, proposal="prior", threshold=1.0)
    assert_same(seeded(online, filter, x), batch(seeded(filter.run, x)))


@pytest.mark.parametrize("name", FILTERING)
def test_a_guide_that_reads_the_frames_up_to_now_is_that_of_whole_sequences(name):
    model, settings = FILTERING[name]
    net, x = random_net("gaussian", model=model, **settings), random_frames("gaussian", 3, TIME)
    filter = ParticleFilter(net, 7, threshold=0.9)
    whole = seeded(filter.run, x)
    assert_same(seeded(online, filter, x), batch(whole))
    torch.testing.assert_close(seeded(filter.start, x[:, :4]).log_evidence, whole.log_increments[:4].sum(0), **EXACT)
    later = torch.stack([filter.step(x[:, t]).log_likelihood for t in (4, 5)])
    torch.testing.assert_close(later, whole.log_increments[4:], **EXACT)


def up_to_now(net, x):
    """b_t of sequences that end at x_t, computed from all frames up to it; (time, batch, backward)."""
    return torch.cat([net.backward_states(x[:, t : t + 1]) for t in range(x.shape[1])])


@pytest.mark.parametrize(
    "name", [name for name in FAMILY if name.startswith(("ZF", "SRNN", "DMM")) and "filtering" not in name]
)
def test_a_guide_with_a_backward_rnn_reads_sequences_that_end_now(name):
    model, settings = FAMILY[name]
    net, x = random_net("gaussian", model=model, **settings), random_frames("gaussian", 3, TIME)
    run, b = prepare_inputs(net, x, None, None, None), up_to_now(net, x)
    if settings.get("bidirectional"):
        b[..., 4:] = net.forward_rnn(net.embedding(x.transpose(0, 1)))
    settings = FilterSettings(7, threshold=0.9)
    with torch.no_grad():
        pyro.set_rng_seed(3)
        numbers = random_numbers(b, TIME, (3, 7, net.latent_dim))
        expected = run_filter(steps_of(net, run.u, b, run.x), start_states(run, 7), None, numbers, settings)
    found = seeded(online, ParticleFilter(net, 7, threshold=0.9), x, proposal="posterior")
    torch.testing.assert_close(found["increments"], expected.log_increments, **EXACT)
    torch.testing.assert_close(found["ess"], expected.ess, **EXACT)


@pytest.mark.parametrize("step", ["prior", "transition", "emission"])
def test_a_step_function_set_on_the_instance_counts(step):
    net, x = random_net("gaussian"), random_frames("gaussian", 3, TIME)
    plain = seeded(online, ParticleFilter(net, 5, proposal="prior"), x)
    own = getattr(net, step)
    setattr(net, step, lambda state, *rest: own(state._replace(hidden=0.5 * state.hidden), *rest))
    filter = ParticleFilter(net, 5, proposal="prior")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlainLoopWarning)
        assert_same(seeded(online, filter, x), batch(seeded(filter.run, x)))
        torch.testing.assert_close(seeded(filter.start, x).log_weights.T, seeded(filter.run, x).log_weights, **EXACT)
    assert (seeded(online, filter, x)["increments"] - plain["increments"]).abs().max() > 1e-3


def test_the_prior_proposes_by_default_where_the_guide_has_a_backward_rnn(member):
    net = random_net("gaussian", **member)
    assert ParticleFilter(net, 3).start(2).settings.proposal == ("prior" if net.has_auxiliary else "posterior")
    assert ParticleFilter(net, 3, proposal="prior").start(2).settings.proposal == "prior"
    assert ParticleFilter(net, 3).start(2, proposal="posterior").settings.proposal == "posterior"


@pytest.mark.parametrize("proposal", ["posterior", "prior"])
def test_frames_already_seen_are_filtered_as_whole_sequences(proposal, member, monkeypatch):
    """In parts of two steps, with lengths, a context and a state; states go on in the model's own form."""
    monkeypatch.setattr("zf_pyro.smc.online_start.STEPS_AT_ONCE", 2)
    net, x = random_net("gaussian", **member), random_frames("gaussian", 3, TIME)
    context, start = x[:, 3], random_state(net)
    run = prepare_inputs(net, x, LENGTHS, context, start)
    b = net.backward_states(x, LENGTHS) if proposal == "posterior" else None
    with torch.no_grad():
        pyro.set_rng_seed(3)
        numbers = random_numbers(x, TIME, (3, 7, net.latent_dim))
        steps, settings = steps_of(net, run.u, b, run.x), FilterSettings(7, proposal, threshold=0.9)
        expected = run_filter(steps, start_states(run, 7), run.mask, numbers, settings)
    filter = ParticleFilter(net, 7, proposal=proposal, threshold=0.9)
    found = seeded(filter.start, (x, LENGTHS), context=context, initial_state=start)
    torch.testing.assert_close(found.log_evidence, expected.log_increments.sum(0), **EXACT)
    torch.testing.assert_close(found.log_weights, expected.log_weights, **EXACT)
    assert found.frames.tolist() == LENGTHS.tolist()


def test_later_steps_go_on_from_frames_already_seen(member):
    net, x = random_net("gaussian", **member), random_frames("gaussian", 3, TIME)
    filter, found = ParticleFilter(net, 7, proposal="prior", threshold=0.9), []
    for known in (0, 1, 4):
        pyro.set_rng_seed(3)
        run = filter.start(x[:, :known] if known else 3)
        steps = [run.step(x[:, t]).log_likelihood for t in range(known, TIME)]
        found.append({"later": torch.stack(steps[-2:]), "sum": run.log_evidence, "weights": run.log_weights})
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])


# Forecasts ----------------------------------------------------------------------------------------------------------


@every_emission
def test_a_forecast_is_ancestral_sampling_from_the_particles(emission):
    assert_ancestral(random_net(ALL_EMISSIONS[emission]))


def test_every_model_forecasts_by_ancestral_sampling(member):
    assert_ancestral(random_net("gaussian", **member))


def assert_ancestral(net):
    x = net.generate(2, 4)
    run = ParticleFilter(net, 5).start(x)
    found = seeded(run.forecast, 3, num_samples=4)
    pyro.set_rng_seed(3)
    index = torch.multinomial(run.log_weights.exp(), 4, replacement=True).T
    state = State(*(field[torch.arange(2), index] for field in run.states))
    u_t, frames = x[:, -1].expand(4, *x[:, -1].shape), []
    with torch.no_grad():
        for _ in range(3):
            past = net.past(state, u_t)
            prior = net.prior(past).base_dist
            state = net.transition(past, u_t, prior.loc + prior.scale * torch.randn_like(prior.loc))
            emission = net.emission(state)
            base = emission.base_dist if isinstance(emission, torch.distributions.Independent) else emission
            normal = type(base) is pyro.distributions.Normal
            u_t = base.loc + base.scale * torch.randn_like(base.loc) if normal else emission.sample()
            frames.append(u_t)
    assert found.shape == (4, 2, 3, *net.emission_family.event_shape)
    torch.testing.assert_close(found, torch.stack(frames, 2), **EXACT)


def test_samples_in_parts_are_all_there(monkeypatch):
    net, x = random_net("gaussian"), random_frames("gaussian")
    run = ParticleFilter(net, 5).start(x)
    monkeypatch.setattr("zf_pyro.smc.online.SAMPLES_PER_CHUNK", 100)
    found = run.forecast(2, num_samples=50)
    assert found.shape == (50, 3, 2, 2)
    assert len(found.flatten(1).unique(dim=0)) == 50


def test_a_forecast_changes_no_particle():
    net, x = random_net("gaussian"), random_frames("gaussian")
    run = ParticleFilter(net, 5).start(x)
    before = run.state()
    run.forecast(4, num_samples=3)
    after = run.state()
    assert_same(*({n: v for n, v in s.items() if n != "random"} for s in (before, after)), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("proposal", ["posterior", "prior"])
def test_means_and_forecasts_are_those_of_the_kalman_filter(proposal):
    net, x = LinearGaussian(), simulated(2, 5)
    run = ParticleFilter(net, 20_000).start(2, proposal=proposal)
    for t in range(5):
        step = run.step(x[:, t])
        mean, _ = conditional(5, [t], list(range(5, 6 + t)), x[:, : t + 1, 0])
        torch.testing.assert_close(step.z_mean, mean, rtol=0, atol=0.04)
    torch.testing.assert_close(run.log_evidence, exact_evidence(x), rtol=0, atol=0.05)
    mean, covariance = conditional(8, [13, 14, 15], list(range(8, 13)), x[..., 0])
    found = run.forecast(3, num_samples=20_000)[..., 0]
    torch.testing.assert_close(found.mean(0), mean, rtol=0, atol=0.06)
    for i in range(2):
        torch.testing.assert_close(found[:, i].T.cov(), covariance, rtol=0.05, atol=0.03)


# State --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proposal", ["posterior", "prior"])
def test_a_saved_state_goes_on_as_if_nothing_had_happened(proposal, member, tmp_path):
    net, x = random_net("gaussian", **member), random_frames("gaussian", 3, TIME)
    observed = torch.tensor([True, False, True])
    run = ParticleFilter(net, 5, threshold=0.9).start(3, proposal=proposal)
    for t in range(3):
        run.step(x[:, t], observed=observed if t == 2 else None)
    state = run.state()
    run.save(tmp_path / "run.safetensors")
    expected = rest(run, x)
    for again in (run.load_state(state), ParticleFilter(net, 5, threshold=0.9).start(1, proposal=proposal)):
        assert_same(rest(again.load(tmp_path / "run.safetensors"), x), expected, rtol=0.0, atol=0.0)
    assert_same(rest(ParticleFilter(net, 5, threshold=0.9).start(1, proposal=proposal).load_state(state), x), expected)


def rest(run, x):
    steps = [run.step(x[:, t]).log_likelihood for t in range(3, TIME)]
    return {"increments": torch.stack(steps), "sum": run.log_evidence, "frames": run.frames, "next": run.forecast(3)}


@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
def test_buffers_of_the_caller_may_be_used_again(emission):
    """A server reads each frame into one buffer. What the filter keeps is its own."""
    net, x = random_net(emission), random_frames(emission, 3, TIME)
    start = random_state(net)
    found = []
    for reused in (False, True):
        pyro.set_rng_seed(3)
        buffer, context, state = x[:, 0].clone(), x[:, 1].clone(), State(*(field.clone() for field in start))
        run, total = ParticleFilter(net, 1).start(3, context=context, initial_state=state), []
        if reused:
            for used in (context, *state):
                used.zero_()
        for t in range(TIME):
            total.append(run.step(buffer.copy_(x[:, t]) if reused else x[:, t]).log_likelihood)
            buffer.zero_()
        found.append({"increments": torch.stack(total), "next": run.forecast(2)})
    assert_same(*found, rtol=0.0, atol=0.0)


def test_states_that_do_not_fit_are_refused(tmp_path):
    net = random_net("gaussian")
    run = ParticleFilter(net, 5).start(2)
    state, file = run.state(), tmp_path / "run.safetensors"
    run.save(file)
    with pytest.raises(ValueError, match="state must be of this model and of 4 particles, with hidden of shape"):
        ParticleFilter(net, 4).start(2).load_state(state)
    with pytest.raises(ValueError, match=r"is of a model with class 'ZForcing', got one with 'VRNN'"):
        ParticleFilter(random_net("gaussian", model=VRNN), 5).start(2).load(file)
    with pytest.raises(TypeError, match=r"state must be a dictionary of an online filter's state\(\)"):
        run.load_state({"hidden": state["hidden"]})
    with pytest.raises(ValueError, match=r"state must be of a run on cpu.* bytes, got 16"):
        run.load_state({**state, "random": state["random"][:16]})
    with pytest.raises(TypeError, match=r"state\['cell'\] must be a torch.Tensor"):
        run.load_state({**state, "cell": 3})
    with pytest.raises(FileNotFoundError, match="there is no file"):
        run.load(tmp_path / "none")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="no safetensors file, or was cut short"):
        run.load(file)
    net.save(tmp_path)
    with pytest.raises(ValueError, match="is of the format None"):
        run.load(next(tmp_path.glob("weights-*")))


def test_memory_does_not_grow_with_time():
    assert growth(500) < 2**19


@pytest.mark.slow
def test_twenty_thousand_steps_take_no_more_memory_than_a_few():
    assert growth(20_000) < 2**21


def growth(num_steps):
    """Bytes by which the memory of the process grows after the first 200 steps of a run."""
    net, x = random_net("gaussian", dtype=torch.float32), random_frames("gaussian", 2, 4, dtype=torch.float32)
    run, before = ParticleFilter(net, 4).start(2), 0
    with pyro.validation_enabled(False):
        for t in range(num_steps):
            run.step(x[:, t % 4])
            before = resident() if t == 200 else before
    assert run.frames.tolist() == [num_steps] * 2
    assert run.log_evidence.isfinite().all()
    return resident() - before


def resident():
    """Resident memory of this process in bytes."""
    gc.collect()
    return resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[1])


# Bad input ----------------------------------------------------------------------------------------------------------


def zeros(*shape):
    return torch.zeros(shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x_t": zeros(3, 4, 2)}, ValueError, r"x_t must be one frame of each sequence, of shape \(3, 2\)"),
        ({"x_t": zeros(2, 2)}, ValueError, r"x_t must be one frame .* of shape \(3, 2\).* got \(2, 2\)"),
        ({"x_t": zeros(3, 2).float()}, TypeError, "x_t must be torch.float64"),
        ({"x_t": [[0.0, 0.0]] * 3}, TypeError, "x_t must be a torch.Tensor, got list"),
        (
            {"x_t": zeros(3, 2) * math.nan},
            ValueError,
            "x_t must hold finite numbers .* sequence 0: mark what is",
        ),
        ({"observed": torch.ones(3)}, TypeError, "observed must hold bools, True where x was seen, got torch.float32"),
        ({"observed": torch.ones(2).bool()}, ValueError, r"observed must have shape \(3,\), one value a frame, or"),
        ({"observed": [True] * 3}, TypeError, "observed must be a torch.Tensor"),
        (
            {"covariates_t": torch.zeros(3, 1)},
            ValueError,
            "covariates_t must be left out for a model",
        ),
        ({"tail_samples": -1}, ValueError, "tail_samples must be an integer of at least 0, got -1"),
    ],
)
def test_bad_frames_are_refused_by_name(arguments, error, message):
    run = ParticleFilter(random_net("gaussian"), 3, proposal="prior").start(3)
    with pytest.raises(error, match=message):
        run.step(**{"x_t": zeros(3, 2), **arguments})
    assert run.frames.tolist() == [0, 0, 0]


def test_a_frame_without_density_leaves_the_filter_as_it_was():
    net, x = random_net("gaussian"), random_frames("gaussian")
    run = ParticleFilter(net, 3).start(x)
    before = run.log_weights
    with pytest.raises(
        ValueError, match="x_t must have a density under some particle, got one of -inf nats at sequence 1"
    ):
        run.step(torch.stack([x[0, 0], torch.full_like(x[0, 0], 1e200), x[2, 0]]))
    torch.testing.assert_close(run.log_weights, before, rtol=0.0, atol=0.0)
    assert run.step(x[:, 0]).log_likelihood.isfinite().all()


def test_bad_starts_are_refused_by_name():
    net, x = random_net("gaussian"), random_frames("gaussian")
    filter = ParticleFilter(net, 3)
    with pytest.raises(RuntimeError, match=r"start\(batch\) comes before the first step"):
        filter.step(x[:, 0])
    for batch, error, message in (
        (0, ValueError, "batch must be a positive integer, got 0"),
        (True, ValueError, "batch must be a positive integer, got True"),
        ("3", TypeError, "batch must be x, .*got str"),
        (x.numpy(), TypeError, "batch must be x, .*got ndarray; convert it"),
        (x[0], ValueError, r"batch must have shape \(batch, time, 2\)"),
    ):
        with pytest.raises(error, match=message):
            filter.start(batch)
    with pytest.raises(ValueError, match="observed must be left out where batch is a number of sequences"):
        filter.start(3, observed=torch.ones(3, 4).bool())
    with pytest.raises(ValueError, match=r"observed must have shape \(3, 4\), one value a frame, or \(3, 4, 2\)"):
        filter.start(x, observed=torch.ones(3, 5).bool())
    with pytest.raises(ValueError, match="covariates must be left out where batch is a number of sequences"):
        filter.start(3, covariates=x)
    with pytest.raises(ValueError, match="covariates must be left out for a model of covariate_dim=0"):
        filter.start(x, covariates=x)
    with pytest.raises(ValueError, match="proposal must be one of"):
        filter.start(3, proposal="guide")
    with pytest.raises(TypeError, match="context must be left out where batch has one"):
        filter.start({"x": x, "context": x[:, 0]}, context=x[:, 0])
    with pytest.raises(MemoryError, match=r"num_particles must be at most \d+ to fit"):
        ParticleFilter(net, 10**12).start(3)
    with pytest.raises(TypeError, match="twist must be left out for an online run: it looks at later frames"):
        ParticleFilter(net, 3, twist=Twist(net)).start(3)
    guide = refine(net, x, steps=1, num_particles=2)
    with pytest.raises(TypeError, match="guide must be left out for an online run"):
        ParticleFilter(net, 3, guide=guide).start(3)
    run = filter.start(3, proposal="posterior")
    with pytest.raises(ValueError, match="tail_samples must be 0 where the guide proposes"):
        run.step(x[:, 0], tail_samples=3)
    for settings, message in (
        ({"horizon": 0}, "horizon must be a positive integer, got 0"),
        ({"horizon": 2, "num_samples": 1.5}, "num_samples must be a positive integer, got 1.5"),
        ({"horizon": 2, "covariates": x}, "covariates must be left out"),
    ):
        with pytest.raises(ValueError, match=message):
            run.forecast(**settings)
    with pytest.raises(MemoryError, match="num_samples must be at most"):
        run.forecast(2, num_samples=10**13)


def test_an_online_filter_goes_on_from_the_run_that_began_last():
    net, x = random_net("gaussian"), random_frames("gaussian")
    filter = ParticleFilter(net, 3)
    first, second = filter.start(3), filter.start(2)
    assert isinstance(first, OnlineFilter)
    filter.step(x[:2, 0])
    assert (first.frames.tolist(), second.frames.tolist()) == ([0, 0, 0], [1, 1])
    assert filter.forecast(3, num_samples=4).shape == (4, 2, 3, 2)


def test_numpy_counts_and_batches_with_names_are_taken():
    net, x = random_net("gaussian", model=ZForcing), random_frames("gaussian")
    filter = ParticleFilter(net, 3)
    assert filter.start(np.int64(3)).frames.tolist() == [0, 0, 0]
    assert filter.start({"x": x, "lengths": torch.tensor([1, 2, 4], dtype=torch.int8)}).frames.tolist() == [1, 2, 4]
    assert filter.start([x, None]).frames.tolist() == [4, 4, 4]
