"""The filter that goes on with time: covariates of each step, and models that read gaps as a fill and flags."""

import math

import pyro
import pytest
import torch

from zf_pyro import DMM, STORN, VRNN, ZForcing, export_step
from zf_pyro.inference import ParticleFilter
from zf_pyro.networks import State
from zf_pyro.smc import FilterSettings, FilterStep, OnlineFilter

from .comparing import EXACT, assert_same
from .conftest import random_frames, random_net

TIME, HORIZON = 5, 3


def known(steps=TIME, batch=3):
    return torch.randn(batch, steps, 2, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


def seeded(function, *args, **settings):
    pyro.set_rng_seed(3)
    return function(*args, **settings)


@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
def test_steps_with_covariates_equal_the_filter_over_whole_sequences(emission, member):
    net, c = random_net(emission, covariate_dim=2, **member), known()
    x = random_frames(emission, 3, TIME)
    filter = ParticleFilter(net, 7, proposal="prior", threshold=0.9)
    whole = seeded(filter.run, x, covariates=c)
    run = seeded(filter.start, 3)
    pyro.set_rng_seed(3)
    found = torch.stack([run.step(x[:, t], c[:, t]).log_likelihood for t in range(TIME)])
    torch.testing.assert_close(found, whole.log_increments, **EXACT)
    other = ParticleFilter(net, 7, proposal="prior", threshold=0.9).start(3)
    pyro.set_rng_seed(3)
    changed = torch.stack([other.step(x[:, t], c[:, t] + 1.0).log_likelihood for t in range(TIME)])
    assert (changed - found).abs().max() > 1e-3


@pytest.mark.parametrize(("model", "settings"), [(VRNN, {}), (STORN, {}), (STORN, {"cell": "gru", "num_layers": 2})])
def test_guides_that_filter_read_covariates_too(model, settings):
    net, x, c = (
        random_net("gaussian", model=model, covariate_dim=2, **settings),
        random_frames("gaussian", 3, TIME),
        known(),
    )
    filter = ParticleFilter(net, 7, threshold=0.9)
    whole = seeded(filter.run, x, covariates=c)
    pyro.set_rng_seed(3)
    run = filter.start(3)
    found = torch.stack([run.step(x[:, t], c[:, t]).log_likelihood for t in range(TIME)])
    torch.testing.assert_close(found, whole.log_increments, **EXACT)
    pyro.set_rng_seed(3)
    run = filter.start({"x": x[:, :3], "covariates": c[:, :3]})
    found = torch.stack([run.step(x[:, t], c[:, t]).log_likelihood for t in (3, 4)])
    torch.testing.assert_close(found, whole.log_increments[3:], **EXACT)


def test_frames_already_seen_have_covariates(member):
    net, x, c = random_net("gaussian", covariate_dim=2, **member), random_frames("gaussian", 3, TIME), known()
    filter = ParticleFilter(net, 7, threshold=0.9)
    whole = seeded(filter.run, x, covariates=c)
    torch.testing.assert_close(seeded(filter.start, x, covariates=c).log_evidence, whole.log_increments.sum(0), **EXACT)


def test_forecasts_read_the_covariates_of_their_steps(member):
    net, x, c = (
        random_net("gaussian", covariate_dim=2, **member),
        random_frames("gaussian", 3, TIME),
        known(TIME + HORIZON),
    )
    run = ParticleFilter(net, 5).start(x, covariates=c[:, :TIME])
    found = seeded(run.forecast, HORIZON, c[:, TIME:], num_samples=4)
    pyro.set_rng_seed(3)
    index = torch.multinomial(run.log_weights.exp(), 4, replacement=True).T
    state = State(*(field[torch.arange(3), index] for field in run.states))
    u_t, frames = x[:, -1].expand(4, 3, 2), []
    with torch.no_grad():
        for t in range(HORIZON):
            read = torch.cat([u_t, c[:, TIME + t].expand(4, 3, 2)], dim=-1)
            past = net.past(state, read)
            prior = net.prior(past).base_dist
            state = net.transition(past, read, prior.loc + prior.scale * torch.randn_like(prior.loc))
            base = net.emission(state).base_dist
            u_t = base.loc + base.scale * torch.randn_like(base.loc)
            frames.append(u_t)
    torch.testing.assert_close(found, torch.stack(frames, 2), **EXACT)


def test_each_sequence_has_the_covariates_after_its_own_end(monkeypatch):
    net, x = random_net("gaussian", covariate_dim=2), random_frames("gaussian", 3, TIME)
    c = known(TIME + HORIZON)
    lengths, asked = torch.tensor([5, 2, 3]), []
    own = OnlineFilter.forecast

    def spied(self, horizon, covariates, **settings):
        asked.append((self.frames.tolist(), covariates))
        return own(self, horizon, covariates, **settings)

    monkeypatch.setattr(OnlineFilter, "forecast", spied)
    c[1, 2 + HORIZON :] = torch.nan  # no step of the second sequence
    found = net.forecast(x, lengths, horizon=HORIZON, num_samples=2, num_particles=4, covariates=c, batch_size=2)
    assert found.shape == (2, 3, HORIZON, 2)
    ends = {5: 0, 2: 1, 3: 2}
    for frames, covariates in asked:
        for end, given in zip(frames, covariates, strict=True):
            torch.testing.assert_close(given, c[ends[end], end : end + HORIZON], rtol=0.0, atol=0.0)
    assert sorted(end for frames, _ in asked for end in frames) == [2, 3, 5]


def test_scores_read_covariates():
    net, x, c = random_net("gaussian", covariate_dim=2), random_frames("gaussian", 3, TIME), known()
    found = seeded(net.anomaly_scores, x, num_samples=0, num_particles=8, covariates=c)
    expected = seeded(ParticleFilter(net, 8, proposal="prior").run, x, covariates=c)
    torch.testing.assert_close(torch.as_tensor(found["score"].values), -expected.log_increments.T, **EXACT)
    lengths = torch.tensor([5, 2, 3])
    padded = c.masked_fill((torch.arange(TIME) >= lengths.unsqueeze(1)).unsqueeze(-1), torch.nan)
    scores = net.anomaly_scores({"x": x, "lengths": lengths, "covariates": padded}, num_samples=3, num_particles=8)
    assert scores["score"].notnull().sum("step").values.tolist() == lengths.tolist()


@pytest.mark.parametrize("covariate_dim", [0, 2])
@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
def test_a_model_that_reads_gaps_weighs_what_was_seen(emission, covariate_dim, member):
    """Against a loop over its step functions, on inputs of whole sequences; without resampling."""
    net = random_net(emission, missing="fill", covariate_dim=covariate_dim, **member)
    x, c = random_frames(emission, 3, TIME), known() if covariate_dim else None
    observed = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    run, total = ParticleFilter(net, 5, proposal="prior", threshold=0.0).start(3), 0.0
    pyro.set_rng_seed(3)
    shown = x.masked_fill(~observed, -1 if net.emission_family.integer else torch.nan)
    for t in range(TIME):
        run.step(shown[:, t], None if c is None else c[:, t], observed=observed[:, t])
    pyro.set_rng_seed(3)
    u, state = net.inputs(x, None, c, observed), net.initial_state((3, 5))
    with torch.no_grad():
        for t in range(TIME):
            noise, _ = torch.randn(3, 5, 3, dtype=torch.float64), torch.rand(3, 5, dtype=torch.float64)
            past = net.past(state, u[:, t].unsqueeze(1))
            prior = net.prior(past).base_dist
            state = net.transition(past, u[:, t].unsqueeze(1), prior.loc + prior.scale * noise)
            emitted, frame = net.emission(state), x[:, t].unsqueeze(1)
            each = emitted.base_dist.log_prob(frame) if emission == "gaussian" else emitted.log_prob(frame)
            each = each.where(observed[:, t].unsqueeze(1), 0.0)
            total = total + (each.sum(-1) if emission == "gaussian" else each)
    torch.testing.assert_close(run.log_evidence, total.logsumexp(-1) - math.log(5), **EXACT)


@pytest.mark.parametrize("proposal", ["posterior", "prior"])
def test_a_run_of_a_model_that_reads_gaps_is_saved_and_forecasts(proposal, tmp_path):
    net, x = random_net("gaussian", model=DMM, missing="fill", bidirectional=True), random_frames("gaussian", 3, TIME)
    observed = torch.tensor([[True, False], [True, True], [False, False]])
    run = ParticleFilter(net, 5).start(3, proposal=proposal)
    for t in range(TIME):
        run.step(x[:, t], observed=observed)
    run.save(tmp_path / "run")
    again = ParticleFilter(net, 5).start(1, proposal=proposal)
    found = []
    for one in (run, again.load(tmp_path / "run")):
        pyro.set_rng_seed(4)
        found.append({"next": one.forecast(2), "step": one.step(x[:, 0]).log_likelihood, "sum": one.log_evidence})
    assert_same(*found, rtol=0.0, atol=0.0)


def test_the_first_frame_of_a_forecast_knows_that_the_last_one_was_missing():
    net, x = random_net("gaussian", missing="fill"), random_frames("gaussian", 3, TIME)
    found = []
    for observed in (torch.zeros(3, dtype=torch.bool), None):
        run = ParticleFilter(net, 5, proposal="prior", threshold=0.0).start(3)
        pyro.set_rng_seed(3)
        run.step(0.0 * x[:, 0], observed=observed)
        with torch.no_grad():  # the same weights, so that flags alone differ
            run._particles = run._particles._replace(log_weights=torch.full((3, 5), -math.log(5)).double())
        found.append(seeded(run.forecast, 1, num_samples=4))
    assert (found[0] - found[1]).abs().max() > 1e-6


@pytest.mark.slow
def test_exported_steps_read_covariates():
    net, x, c = random_net("gaussian", covariate_dim=2).eval(), random_frames("gaussian", 3, 1), known()
    inputs = FilterStep(net, FilterSettings(4, "prior")).start(3)
    inputs |= {"x_t": x[:, 0], "covariates_t": c[:, 0]}
    found = export_step(net, num_particles=4).module()(**inputs)
    with torch.no_grad():
        expected = FilterStep(net, FilterSettings(4, "prior"))(**inputs)
        other = FilterStep(net, FilterSettings(4, "prior"))(**inputs | {"covariates_t": c[:, 1]})
    assert_same(found, expected)
    assert (other["log_likelihood"] != expected["log_likelihood"]).all()


def test_covariates_that_do_not_fit_are_refused_by_name():
    net, x, c = random_net("gaussian", model=ZForcing, covariate_dim=2), random_frames("gaussian", 3, TIME), known()
    run = ParticleFilter(net, 3).start(3)
    for arguments, error, message in (
        ((), ValueError, r"covariates_t must be given, \(3, 2\), to a model of covariate_dim=2, got None"),
        ((c,), ValueError, r"covariates_t must have shape \(3, 2\), got \(3, 5, 2\)"),
        ((c[:, 0].tolist(),), TypeError, "covariates_t must be a torch.Tensor, got list"),
        ((c[:, 0].long(),), TypeError, "covariates must hold floats, got torch.int64"),
        ((c[:, 0].float(),), ValueError, "covariates must be torch.float64 on cpu"),
        ((c[:, 0] * math.nan,), ValueError, "covariates must be finite at every real step"),
    ):
        with pytest.raises(error, match=message):
            run.step(x[:, 0], *arguments)
    with pytest.raises(ValueError, match="covariates end after 5 steps, and 6 need them"):
        run.forecast(6, c)
    with pytest.raises(ValueError, match="covariates must be given"):
        run.forecast(2)
    with pytest.raises(ValueError, match="covariates must be given"):
        ParticleFilter(net, 3).start(x)
    with pytest.raises(ValueError, match="covariates end after 5 steps, and 7 need them"):
        net.forecast(x, horizon=2, covariates=c)
    with pytest.raises(ValueError, match="covariates must be given"):
        net.forecast(x, horizon=2)
    with pytest.raises(ValueError, match="covariates must be given"):
        net.anomaly_scores(x)
    assert run.frames.tolist() == [0, 0, 0]
