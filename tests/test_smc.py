"""ParticleFilter: unbiased evidence, exact smoothing, and independence of the sequences of a batch."""

import math

import pyro
import pytest
import torch

from zf_pyro import State, ZForcing
from zf_pyro.inference import ParticleFilter
from zf_pyro.networks import PlainLoopWarning
from zf_pyro.paths.inputs import prepare_inputs
from zf_pyro.smc.filter import FilterSettings, run_filter, start_states
from zf_pyro.smc.forms import steps_of
from zf_pyro.smc.resampling import SCHEMES
from zf_pyro.smc.steps import FilterSteps, InPlaceSteps, PreparedSteps

from .comparing import EXACT, assert_same
from .conftest import EMISSIONS, random_frames, random_net, random_state
from .exact import log_evidence, posterior_moments, small

LENGTHS = torch.tensor([4, 2, 3])
PROPOSALS = ("posterior", "prior")


def copies(x, count):
    return x.repeat(count, *[1] * (x.dim() - 1))


def assert_unbiased(log_evidence, exact):
    """Assert that the mean of exp(estimates), (count, batch), is the evidence, within three small standard errors."""
    ratio = (log_evidence - exact).exp()
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert (error < 0.05).all(), "too few runs: the test would have no power"
    assert ((ratio.mean(0) - 1.0).abs() < 3 * error + 1e-4).all()


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("resampling", sorted(SCHEMES))
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_the_evidence_estimate_is_unbiased(proposal, resampling, threshold):
    """With only three particles, and another emission for each proposal."""
    emission = "gaussian" if proposal == "prior" else "categorical"
    net, x = small(emission, "concatenate", 3)
    with torch.no_grad():
        exact = log_evidence(net, x)
    settings = {"proposal": proposal, "resampling": resampling, "threshold": threshold}
    found = ParticleFilter(net, 3, **settings).run(copies(x, 3000)).log_evidence.reshape(3000, -1)
    assert_unbiased(found, exact)
    assert (found.mean(0) < exact + 3 * found.std(0) / math.sqrt(3000)).all()


@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_sequences_of_all_lengths_have_the_evidence_of_their_own_frames(proposal, emission, transition):
    net, x = small(emission, transition, 3)
    with torch.no_grad():
        exact = torch.cat([log_evidence(net, x[:1, :1]), log_evidence(net, x[1:, :2])])
    found = ParticleFilter(net, 32, proposal=proposal).run(copies(x, 400), torch.tensor([1, 2]).repeat(400))
    assert_unbiased(found.log_evidence.reshape(400, -1), exact)


@pytest.mark.parametrize("emission", ["gaussian", "categorical"])
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_smoothed_paths_have_the_moments_of_the_posterior(proposal, emission, transition):
    net, x = small(emission, transition, 3)
    with torch.no_grad():
        mean, variance = posterior_moments(net, x)
    filter = ParticleFilter(net, 256, proposal=proposal)
    z = filter.run(copies(x, 100)).smoothed(20).reshape(20, 100, 2, 3)
    # Paths of one filter share ancestors: the filters are the independent repetitions.
    for values, exact in ((z, mean), ((z - mean).square(), variance)):
        each = values.mean(0)
        error = each.std(0) / math.sqrt(len(each))
        assert (error < 0.1 * variance.sqrt()).all()
        assert ((each.mean(0) - exact).abs() < 4 * error + 0.01 * variance.sqrt()).all()


def test_a_single_particle_follows_the_guide():
    net, x = random_net("gaussian"), random_frames("gaussian")
    result = ParticleFilter(net, 1).run(x, LENGTHS)
    torch.testing.assert_close(result.log_weights, torch.zeros(1, 3, dtype=torch.float64))
    z = result.smoothed(2)
    torch.testing.assert_close(z[0], z[1], **EXACT)
    torch.testing.assert_close(z[0], result.z[:, 0].transpose(0, 1), **EXACT)


def hand_weights(net, x, z, num_steps=4):
    """Compute log p(x, z) - log q(z | x) over the first steps, z (..., batch, time, latent); (..., batch)."""
    u, b = net.inputs(x), net.backward_states(x, None)
    state = State(*(f.expand(*z.shape[:-2], -1) for f in net.initial_state((len(x),))))
    total = 0.0
    for t in range(num_steps):
        z_t = z[..., t, :]
        total = total + net.prior(state).log_prob(z_t) - net.posterior(state, b[t]).log_prob(z_t)
        state = net.transition(state, u[:, t], z_t)
        total = total + net.emission(state).log_prob(x[:, t])
    return total


@pytest.mark.parametrize("emission", ["gaussian", "categorical", "bernoulli", "mixture"])
def test_without_resampling_weights_are_importance_weights(emission, transition):
    net, x = random_net(emission, transition=transition), random_frames(emission)
    result = ParticleFilter(net, 5, threshold=0.0).run(x)
    with torch.no_grad():
        weights = hand_weights(net, x, result.z.permute(1, 2, 0, 3))
    torch.testing.assert_close(result.log_evidence, weights.logsumexp(0) - math.log(5), **EXACT)
    torch.testing.assert_close(result.log_weights, weights.log_softmax(0), **EXACT)
    torch.testing.assert_close(result.ess[-1], 1.0 / weights.softmax(0).square().sum(0), **EXACT)
    assert (result.ancestors == torch.arange(5).reshape(1, 5, 1)).all()


def test_smoothed_paths_follow_their_ancestors():
    """With resampling at every step, running the step functions along a path gives its weight in the filter."""
    net, x = random_net("gaussian"), random_frames("gaussian")
    result = ParticleFilter(net, 6, threshold=1.0).run(x)
    assert (result.ancestors[1:] != torch.arange(6).reshape(1, 6, 1)).any()
    index = torch.arange(6).reshape(6, 1).expand(6, 3)
    path = []
    for z, ancestors in zip(result.z.flip(0), result.ancestors.flip(0), strict=True):
        path.insert(0, z.gather(0, index.unsqueeze(-1).expand(6, 3, 3)))
        index = ancestors.gather(0, index)
    z = torch.stack(path, dim=2)
    with torch.no_grad():
        last = hand_weights(net, x, z) - hand_weights(net, x, z, 3)
    torch.testing.assert_close(result.log_weights, last.log_softmax(0), **EXACT)


def test_resampling_happens_only_below_the_threshold():
    net, x = random_net("gaussian"), random_frames("gaussian", 20, 6)
    result = ParticleFilter(net, 8, threshold=0.6).run(x)
    resampled = (result.ancestors != torch.arange(8).reshape(1, 8, 1)).any(1)[1:]
    poor = result.ess[:-1] < 0.6 * 8
    assert resampled.any()
    assert not (resampled & ~poor).any()


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_the_expected_number_of_offspring_is_that_of_the_weights(scheme):
    log_weights = torch.tensor([0.05, 0.0, 0.5, 0.45], dtype=torch.float64).log()
    uniforms = torch.rand(20_000, 4, dtype=torch.float64)
    ancestors = SCHEMES[scheme](log_weights.expand(20_000, 4), uniforms)
    counts = torch.nn.functional.one_hot(ancestors, 4).double().sum(1)
    expected = 4 * log_weights.exp()
    error = counts.std(0) / math.sqrt(20_000)
    assert ((counts.mean(0) - expected).abs() <= 4 * error).all()
    if scheme == "systematic":
        assert ((counts - expected).abs() < 1.0).all()


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@pytest.mark.parametrize("heaviest", [0, 3])
def test_a_particle_with_all_the_weight_has_all_the_offspring(scheme, heaviest):
    log_weights = torch.full((4,), -math.inf)
    log_weights[heaviest] = 0.0
    for edge in (0.0, 0.5, 1.0 - 2**-24):
        assert (SCHEMES[scheme](log_weights, torch.full((4,), edge)) == heaviest).all()


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_finished_sequences_keep_their_weights_and_particles(proposal):
    net, x = random_net("gaussian"), random_frames("gaussian")
    result = ParticleFilter(net, 5, proposal=proposal, threshold=1.0).run(x, LENGTHS)
    for i, length in enumerate(LENGTHS.tolist()):
        assert not result.z[length:, :, i].any()
        assert not result.log_increments[length:, i].any()
        assert (result.ancestors[length:, :, i] == torch.arange(5)).all()
        assert (result.ess[length:, i] == result.ess[length - 1, i]).all()
    assert not result.smoothed(7)[:, 1, 2:].any()
    assert result.smoothed(7).shape == (7, 3, 4, 3)


@pytest.mark.parametrize("fill", [float("nan"), float("inf"), 1e30])
def test_padding_never_changes_an_estimate(fill):
    net, x = random_net("gaussian"), random_frames("gaussian")
    padding = (torch.arange(6) >= LENGTHS.unsqueeze(1)).unsqueeze(-1)
    longer = torch.cat([x, x[:, :2]], dim=1)
    found = []
    for frames in (x, torch.where(padding, fill, longer)):
        pyro.set_rng_seed(3)
        result = ParticleFilter(net, 5, threshold=0.9).run(frames, LENGTHS)
        found.append({"evidence": result.log_evidence, "weights": result.log_weights, "z": result.z[:4]})
    assert_same(*found)


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_the_rest_of_a_batch_never_changes_a_sequences_estimate(proposal, transition):
    """Under the same random numbers, a sequence alone has the estimates that it has in a batch."""
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    settings = FilterSettings(5, proposal, "stratified", 0.8)
    numbers = [(torch.randn(3, 5, 3, dtype=torch.float64), torch.rand(3, 5, dtype=torch.float64)) for _ in range(4)]

    def filtered(rows):
        time = slice(0, int(LENGTHS[rows].max()))
        given = prepare_inputs(net, x[rows, time], LENGTHS[rows], None, random_state_of(rows))
        b = net.backward_states(x[rows, time], LENGTHS[rows])
        steps = steps_of(net, given.u, b if proposal == "posterior" else None, given.x)
        chosen = [(noise[rows], uniforms[rows]) for noise, uniforms in numbers[time]]
        return run_filter(steps, start_states(given, 5), given.mask, chosen, settings)

    def random_state_of(rows):
        return State(*(field[rows] for field in random_state(net)))

    with torch.no_grad():
        together = filtered(torch.arange(3))
        for i in range(3):
            alone = filtered(torch.tensor([i]))
            torch.testing.assert_close(alone.log_increments.sum(0)[0], together.log_increments.sum(0)[i], **EXACT)
            torch.testing.assert_close(alone.log_weights[0], together.log_weights[i], **EXACT)


def test_estimates_stay_unbiased_for_a_few_sequences_at_a_time(monkeypatch):
    net, x = small("gaussian", "concatenate", 3)
    with torch.no_grad():
        exact = log_evidence(net, x)
    monkeypatch.setattr("zf_pyro.smc.filter.ELEMENTS_PER_CHUNK", 1)
    found = ParticleFilter(net, 64).run(copies(x, 50), torch.tensor([3, 3]).repeat(50))
    assert_unbiased(found.log_evidence.reshape(50, -1), exact)


class Overridden(ZForcing):
    """A model with an overridden prior that computes the same."""

    def prior(self, state):
        return super().prior(state)


@pytest.mark.parametrize("settings", [{"recurrence": "reference"}, {}], ids=["reference", "own prior"])
@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("emission", sorted(EMISSIONS))
def test_step_functions_and_their_fast_forms_filter_alike(emission, proposal, settings, transition):
    net = random_net(emission, transition=transition)
    sizes = {"embed_dim": 5, "hidden_dim": 4, "latent_dim": 3, "mlp_dim": 6, "transition": transition}
    plain = Overridden(net.emission_family, **sizes, **settings).double()
    plain.load_state_dict(net.state_dict())
    x, found = random_frames(emission), []
    for each in (net, plain):
        pyro.set_rng_seed(4)
        result = ParticleFilter(each, 5, proposal=proposal, threshold=0.9).run(
            x, LENGTHS, random_frames(emission, 3, 1, seed=8)[:, 0], random_state(net)
        )
        found.append(result._asdict())
    assert_same(*found)


@pytest.mark.parametrize("sees", [False, True], ids=["", "latents see the input"])
@pytest.mark.parametrize("form", [PreparedSteps, InPlaceSteps])
@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("emission", sorted(EMISSIONS))
def test_each_fast_step_is_that_of_the_step_functions(emission, proposal, form, transition, sees):
    """Several steps are compared, so that a result overwritten too early is noticed."""
    net = random_net(emission, transition=transition, latents_see_input=sees)
    x = random_frames(emission)
    given = prepare_inputs(net, x, None, None, random_state(net))
    b = net.backward_states(x) if proposal == "posterior" else None
    noise = torch.randn(4, 3, 5, 3, dtype=torch.float64)
    with torch.no_grad():
        moves = []
        for each in (FilterSteps, form):
            steps, state, found = each(net, given.u, b, given.x), start_states(given, 5), {}
            for t in range(4):
                before = [field.clone() for field in (*state, noise[t])]
                z, moved, log_likelihood, log_ratio = steps.move(state, t, noise[t])
                assert all(map(torch.equal, before, (*state, noise[t]))), "a step must not change its inputs"
                state = moved
                fields = {"z": z, "h": state.hidden, "c": state.cell, "x": log_likelihood, "ratio": log_ratio}
                found |= {f"{name} {t}": field for name, field in fields.items()}
            moves.append(found)
    assert_same(*moves)


def test_a_step_takes_the_form_that_gradients_and_autocast_allow():
    net, x = random_net("gaussian", dtype=torch.float32), random_frames("gaussian", dtype=torch.float32)
    given = prepare_inputs(net, x, None, None, None)

    def form():
        return type(steps_of(net, given.u, None, given.x))

    assert form() is PreparedSteps
    with torch.no_grad():
        assert form() is InPlaceSteps
        with torch.autocast("cpu", torch.bfloat16):
            assert form() is PreparedSteps
            assert ParticleFilter(net, 3).run(x).log_evidence.isfinite().all()


def test_steps_are_taken_one_by_one_over_all_particles_and_sequences(monkeypatch):
    """A filter cannot score paths as a batch. It makes one call per step for all particles and sequences."""
    net, x = random_net("gaussian"), random_frames("gaussian")
    calls = dict.fromkeys(("prior", "posterior", "emission", "transition"), 0)
    for name in calls:
        plain = getattr(net, name)

        def counted(*args, name=name, plain=plain):
            calls[name] += 1
            return plain(*args)

        monkeypatch.setattr(net, name, counted)
    with pytest.warns(PlainLoopWarning, match="was set on the instance"):
        ParticleFilter(net, 7).run(x)
    assert calls == {"prior": 4, "posterior": 4, "emission": 4, "transition": 4}


def test_a_filter_leaves_no_gradients_and_no_parameters_behind():
    net, x = random_net("gaussian"), random_frames("gaussian")
    result = ParticleFilter(net, 3).run(x)
    assert not any(field.requires_grad for field in result)
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_particles": 0}, "num_particles must be a positive integer, got 0"),
        ({"num_particles": 2.0}, "num_particles must be a positive integer, got 2.0"),
        ({"threshold": 1.5}, r"threshold must be a share of the particles in \[0, 1\], got 1.5"),
        ({"threshold": -0.1}, "threshold must be a share"),
        ({"threshold": float("nan")}, "threshold must be a share"),
        ({"resampling": "residual"}, "resampling must be one of .*systematic.*got 'residual'"),
        ({"proposal": "guide"}, "proposal must be one of .*posterior.*got 'guide'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ParticleFilter(random_net("gaussian"), **{"num_particles": 4, **settings})


def test_bad_input_is_refused_as_by_the_guide():
    net, x = random_net("gaussian"), random_frames("gaussian")
    filter = ParticleFilter(net, 4)
    with pytest.raises(TypeError, match=r"net must be a model of zf_pyro.models"):
        ParticleFilter(net.model, 4)
    with pytest.raises(ValueError, match="lengths must be between 1 and 4"):
        filter.run(x, torch.tensor([4, 5, 1]))
    with pytest.raises(ValueError, match="initial_state must be one state a sequence"):
        filter.run(x, initial_state=State(*torch.zeros(2, 7, 3, 4, dtype=torch.float64)))
    with pytest.raises(ValueError, match="num_draws must be a positive integer"):
        filter.run(x).smoothed(0)


def test_particles_that_do_not_fit_are_refused_with_the_largest_number_that_would():
    net, x = random_net("gaussian"), random_frames("gaussian")
    with pytest.raises(MemoryError, match=r"num_particles must be at most \d+ to fit in the .* GiB free on cpu"):
        ParticleFilter(net, 10**12).run(x)
