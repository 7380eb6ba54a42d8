"""Further parts of Pyro on the model: compiled objectives, enumeration, wake-sleep, user-defined guides, chains."""

import pyro
import pyro.distributions as dist
import pyro.infer.autoguide as autoguide
import pyro.poutine as poutine
import pytest
import torch
from pyro.contrib.easyguide import EasyGuide
from pyro.infer import (
    HMC,
    MCMC,
    NUTS,
    SVI,
    JitTrace_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)
from pyro.infer.autoguide.initialization import init_to_feasible

from zf_pyro import State
from zf_pyro.inference import ALGORITHMS, WakeSleepPrograms, latent_mcmc, stack_latents, with_padding_prior

from .comparing import EXACT, assert_same, gradients, parameter_grads
from .conftest import random_frames, random_net
from .textbook import Textbook

LENGTHS = torch.tensor([4, 2, 3])
VECTORISED = {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 1}


def loss_and_gradients(net, model, guide, elbo, *args, own=()):
    pyro.set_rng_seed(5)
    loss = elbo.loss_and_grads(model, guide, *args)
    loss = torch.as_tensor(loss, dtype=torch.float64)
    return {"loss": loss, **{name: pyro.param(name).detach() for name in own}, **parameter_grads(net)}


# Objectives ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"num_sleep_particles": 2}], ids=["wake", "sleeping twice as often"])
@pytest.mark.parametrize("insomnia", [1.0, 0.3, 0.0])
def test_wake_sleep_is_that_of_the_textbook(insomnia, settings):
    net, x = random_net(), random_frames()
    loss = {"num_particles": 3, "insomnia": insomnia, "vectorize_particles": False, **settings}

    class Dreaming:
        """The textbook programs with a sleep phase, as WakeSleepPrograms."""

        def __init__(self):
            self.textbook = Textbook(net)

        def model(self, x, lengths, observations=None):
            return self.textbook.model(x, lengths)

        def guide(self, x, lengths, observations=None):
            if observations:
                x = torch.stack([observations[f"x_{t}"] for t in range(4)], dim=1)
            return self.textbook.guide(x, lengths)

    def run(programs):
        pyro.set_rng_seed(5)
        losses = ReweightedWakeSleep(**loss).loss_and_grads(programs.model, programs.guide, x, LENGTHS)
        return {"losses": torch.tensor(losses, dtype=torch.float64), **parameter_grads(net)}

    assert_same(run(WakeSleepPrograms(net)), run(Dreaming()))


def test_the_wake_phase_needs_no_adapter():
    net, x = random_net(), random_frames()

    def run(programs):
        pyro.set_rng_seed(5)
        losses = ReweightedWakeSleep(**VECTORISED).loss_and_grads(programs.model, programs.guide, x, LENGTHS)
        return {"losses": torch.tensor(losses, dtype=torch.float64), **parameter_grads(net)}

    assert_same(run(net), run(Textbook(net)))


def test_the_tail_adaptive_divergence_is_that_of_the_textbook(transition):
    net, x = random_net(transition=transition), random_frames()
    runs = [
        loss_and_gradients(net, p.model, p.guide, TraceTailAdaptive_ELBO(**VECTORISED), x, LENGTHS)
        for p in (net, Textbook(net))
    ]
    assert_same(*runs)
    assert runs[0]["loss"] == float("inf")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("compiled", [JitTrace_ELBO, JitTraceGraph_ELBO, JitTraceMeanField_ELBO])
def test_compiled_objectives_are_those_of_the_compiled_textbook(compiled, transition):
    """Repeatedly, on other frames and lengths of the compiled shape."""
    net = random_net(transition=transition)
    runs = []
    for programs in (net, Textbook(net)):
        elbo = compiled(max_plate_nesting=1, ignore_jit_warnings=True)
        for seed, lengths in ((2, LENGTHS), (3, torch.tensor([1, 4, 4]))):
            runs.append(
                loss_and_gradients(net, programs.model, programs.guide, elbo, random_frames(seed=seed), lengths)
            )
    assert_same(runs[0], runs[2])
    assert_same(runs[1], runs[3])
    assert runs[0]["loss"] != runs[1]["loss"]


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_compiled_objective_does_not_take_sequences_of_another_length():
    net = random_net()
    svi = ALGORITHMS["JitTrace_ELBO"].build(net)
    svi.step(random_frames(time=4))
    with pytest.raises(RuntimeError):
        svi.step(random_frames(time=6))


class Regimes:
    """Model with a user-defined discrete latent, which selects one of two initial states of a sequence."""

    def __init__(self, net):
        self.net = net
        state = torch.linspace(-1, 1, 2 * net.hidden_dim, dtype=torch.float64).reshape(2, -1)
        self.states = State(state, state.flip(0))
        self.probs = torch.tensor([0.3, 0.7], dtype=torch.float64)

    def model(self, x, lengths):
        with pyro.plate("sequences", x.shape[0], dim=-1):
            k = pyro.sample("regime", dist.Categorical(self.probs), infer={"enumerate": "parallel"})
            state = State(*(field[k].expand(*k.shape[:-1], x.shape[0], -1) for field in self.states))
            return self.net.model(x, lengths, initial_state=state)


def test_a_discrete_latent_of_the_users_is_summed_out_of_each_sequence(transition):
    net, x = random_net(transition=transition), random_frames()
    regimes = Regimes(net)
    found = loss_and_gradients(net, regimes.model, net.guide, TraceEnum_ELBO(max_plate_nesting=1), x, LENGTHS)

    pyro.set_rng_seed(5)
    guide = poutine.trace(net.guide).get_trace(x, LENGTHS)
    branches = []
    for k, prob in enumerate(regimes.probs):
        state = State(*(field[k].expand(3, -1) for field in regimes.states))
        with poutine.replay(trace=guide):
            model = poutine.trace(net.model).get_trace(x, LENGTHS, None, state)
        model.compute_log_prob()
        total = sum(site["log_prob"] for name, site in model.nodes.items() if name[:2] in ("z_", "x_"))
        branches.append(prob.log() + total)
    loss = guide.log_prob_sum() - torch.stack(branches).logsumexp(0).sum()
    assert_same(found, {"loss": loss.detach(), **gradients(net, loss)})


@pytest.mark.parametrize(("size", "dim"), [(4, -1), (3, -2)])
def test_a_plate_of_sequences_around_the_program_must_fit_it(size, dim):
    net = random_net()
    with pyro.plate("sequences", size, dim=dim), pytest.raises(ValueError, match=r"plate\('sequences', 3, dim=-1\)"):
        net.model(random_frames())


# Guides -------------------------------------------------------------------------------------------------------------

START = {"init_loc_fn": init_to_feasible}  # Pyro's default, the median, needs univariate sites
AUTOGUIDES = {
    "AutoDelta": START,
    "AutoNormal": {},
    "AutoDiagonalNormal": START,
    "AutoMultivariateNormal": START,
    "AutoLowRankMultivariateNormal": {"rank": 2, **START},
    "AutoIAFNormal": {"hidden_dim": [40]},
    "AutoLaplaceApproximation": START,
    "AutoStructured": {},
    "AutoGaussian": {},
}


@pytest.mark.parametrize("name", AUTOGUIDES)
def test_autoguides_train_as_on_the_textbook(name):
    """In float32, the dtype of some parameters that Pyro makes."""
    x = random_frames(dtype=torch.float32)

    def trained(textbook):
        pyro.clear_param_store()
        pyro.set_rng_seed(7)
        net = random_net(dtype=torch.float32, name=f"net_{textbook}")
        model = Textbook(net).model if textbook else net.model
        guide = getattr(autoguide, name)(model, **AUTOGUIDES[name])
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), loss=Trace_ELBO())
        losses = [torch.tensor(svi.step(x)) for _ in range(3)]
        return {"losses": torch.stack(losses), **{name: p.detach() for name, p in net.named_parameters()}}

    assert_same(trained(False), trained(True), rtol=1e-3, atol=1e-3)


class OneNormal(EasyGuide):
    """One normal over all latents of a sequence."""

    def guide(self, x):
        group = self.group(match="z_.*")
        with self.plate("sequences", x.shape[0], dim=-1):
            shape = (x.shape[0], *group.event_shape)
            loc = pyro.param("loc", lambda: 0.1 * torch.ones(shape, dtype=x.dtype), event_dim=1)
            group.sample("all", dist.Normal(loc, 0.5).to_event(1))


def test_an_easyguide_trains_as_on_the_textbook(transition):
    net, x = random_net(transition=transition), random_frames()
    runs = []
    for programs in (net, Textbook(net)):
        guide = OneNormal(programs.model)
        runs.append(loss_and_gradients(net, programs.model, guide, Trace_ELBO(), x, own=["loc"]))
        runs[-1]["loc.grad"] = pyro.param("loc").grad.clone()
        pyro.clear_param_store()
    assert_same(*runs)
    assert runs[0]["loc.grad"].abs().min() > 0


def smoother(x, lengths):
    """User-defined guide: the mean of each latent depends on the mean of its frame alone."""
    gain = pyro.param("gain", torch.tensor(0.3, dtype=x.dtype))
    with pyro.plate("sequences", x.shape[0], dim=-1):
        for t in range(x.shape[1]):
            loc = (gain * x[:, t].mean(-1, keepdim=True)).expand(-1, 3)
            with poutine.mask(mask=t < lengths):
                pyro.sample(f"z_{t}", dist.Normal(loc, 0.7).to_event(1))


@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO])
def test_a_hand_written_guide_trains_as_on_the_textbook(kind, transition):
    net, x = random_net(transition=transition), random_frames()
    runs = []
    for programs in (net, Textbook(net)):
        runs.append(loss_and_gradients(net, programs.model, smoother, kind(), x, LENGTHS))
        runs[-1]["gain.grad"] = pyro.param("gain").grad.clone()
        pyro.clear_param_store()
    assert_same(*runs)
    assert runs[0]["gain.grad"] != 0


def test_a_guide_of_the_users_goes_into_every_row_that_needs_one():
    net, x = random_net(), random_frames()
    for name in ("Trace_ELBO", "RenyiELBO", "ZForcingELBO"):
        svi = ALGORITHMS[name].build(net, guide=smoother)
        before = pyro.param("gain").item() if "gain" in pyro.get_param_store() else 0.3
        svi.step(x, LENGTHS)
        assert pyro.param("gain").item() != before
    assert 1 <= ALGORITHMS["Importance"].build(net, guide=smoother, num_samples=4).run(x, LENGTHS).get_ESS() <= 4


# Samplers -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [NUTS, HMC])
def test_chains_are_those_of_the_textbook(kernel, transition):
    net, x = random_net(transition=transition), random_frames(batch=2)

    def draws(model):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        settings = {"max_tree_depth": 3} if kernel is NUTS else {"num_steps": 4}
        mcmc = MCMC(kernel(model, **settings), num_samples=6, warmup_steps=6, disable_progbar=True)
        mcmc.run(x)
        return mcmc.get_samples()

    assert_same(draws(net.model), draws(Textbook(net).model), rtol=1e-7, atol=1e-7)


def test_chains_start_from_the_guide_and_leave_the_net_as_it_was():
    net, x = random_net(dropout=0.5), random_frames(batch=2)
    net.cell.eval()
    net.embedding[0].weight.requires_grad_(False)
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    pyro.set_rng_seed(0)
    mcmc = latent_mcmc(net, x, torch.tensor([4, 4]), num_samples=2, warmup_steps=1, max_tree_depth=2)
    assert stack_latents(mcmc.get_samples()).shape == (2, 2, 4, 3)
    assert net.training
    assert not net.cell.training
    assert {name for name, p in net.named_parameters() if p.requires_grad} == trained
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:num_chains=2 is more than available_cpu")
def test_chains_run_side_by_side():
    net, x = random_net(), random_frames(batch=2)
    mcmc = latent_mcmc(net, x, num_samples=5, warmup_steps=5, num_chains=2, max_tree_depth=3)
    draws = stack_latents(mcmc.get_samples(group_by_chain=True))
    assert draws.shape == (2, 5, 2, 4, 3)
    assert not torch.equal(draws[0], draws[1])


def test_padding_has_a_normal_density_and_nothing_else_changes():
    net, x = random_net(), random_frames()
    values = {f"z_{t}": torch.randn(3, 3, dtype=torch.float64) for t in range(4)}
    traces = []
    for model in (net.model, with_padding_prior(net.model)):
        traces.append(poutine.trace(poutine.condition(model, values)).get_trace(x, LENGTHS))
        traces[-1].compute_log_prob()
    plain, padded = traces
    normal = dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1)
    expected = sum(torch.where(t < LENGTHS, 0.0, normal.log_prob(values[f"z_{t}"])) for t in range(4))
    torch.testing.assert_close(padded.nodes["padding"]["log_prob"], expected, **EXACT)
    for name in [f"{kind}_{t}" for kind in "zx" for t in range(4)]:
        torch.testing.assert_close(padded.nodes[name]["log_prob"], plain.nodes[name]["log_prob"], **EXACT)
    whole = poutine.trace(with_padding_prior(net.model)).get_trace(x)
    assert "padding" not in whole.nodes or torch.equal(whole.nodes["padding"]["log_prob"], torch.zeros(3))


def test_stacked_latents_are_in_the_order_of_time():
    draws = {f"z_{t}": torch.full((5, 3, 2), float(t)) for t in reversed(range(12))} | {"x_0": torch.zeros(5, 3)}
    stacked = stack_latents(draws)
    assert stacked.shape == (5, 3, 12, 2)
    assert stacked[0, 0, :, 0].tolist() == list(map(float, range(12)))
