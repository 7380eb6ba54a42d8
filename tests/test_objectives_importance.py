"""ImportanceWeightedELBO: its value, its two gradients, and sites added by the user."""

import math

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, RenyiELBO

from zf_pyro import ImportanceWeightedELBO, Linear

from .comparing import EXACT, assert_same, gradients, parameter_grads
from .conftest import random_frames, random_net
from .counting import count_calls
from .exact import assert_gradient, flat, importance_weighted_bound, log_evidence, small
from .test_objectives_elbo import LENGTHS, WithGlobal
from .textbook import Textbook

CASES = [("gaussian", 1), ("gaussian", 2), ("categorical", 2)]


def loss_of(elbo, programs, *args, **kwargs):
    pyro.set_rng_seed(5)
    return elbo.differentiable_loss(programs.model, programs.guide, *args, **kwargs)


def renyi(num_particles):
    return RenyiELBO(alpha=0, num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1)


def copies(x, count):
    return x.repeat(count, *[1] * (x.dim() - 1))


def sampled_gradients(net, elbo, x, runs=30, count=1500):
    """Estimate gradients of the objective for x, each over ``count`` copies of it; (runs, parameters)."""
    many = copies(x, count)
    found = []
    for _ in range(runs):
        elbo.differentiable_loss(net.model, net.guide, many).backward()
        found.append(-flat(parameter_grads(net)) / count)
    return torch.stack(found)


@pytest.mark.parametrize("emission", ["gaussian", "categorical", "mixture"])
@pytest.mark.parametrize("num_particles", [1, 5])
def test_loss_and_gradients_are_those_of_the_textbook_under_renyi(num_particles, emission, transition):
    net, x = random_net(emission, transition=transition), random_frames(emission)
    loss = loss_of(ImportanceWeightedELBO(num_particles, max_plate_nesting=1), net, x, LENGTHS)
    pyro.set_rng_seed(5)
    theirs = renyi(num_particles).loss_and_grads(Textbook(net).model, Textbook(net).guide, x, LENGTHS)
    torch.testing.assert_close(loss.item(), theirs, **EXACT)
    assert_same(gradients(net, loss), parameter_grads(net))


@pytest.mark.parametrize(("emission", "time"), CASES)
def test_bounds_lie_in_their_order_below_the_evidence(emission, time, transition):
    """ELBO <= IWAE-4 <= IWAE-64 <= log p(x), up to the standard errors."""
    net, x = small(emission, transition, time)
    means, errors = [], []
    with torch.no_grad():
        exact = log_evidence(net, x)
        for num_particles, count in ((1, 4000), (4, 2000), (64, 400)):
            elbo = ImportanceWeightedELBO(num_particles, max_plate_nesting=1)
            elbo.loss(net.model, net.guide, copies(x, count))
            bound = elbo.bound.reshape(count, -1)
            means.append(bound.mean(0))
            errors.append(bound.std(0) / math.sqrt(count))
    assert (means[0] + 2 * errors[0] < means[1] - 2 * errors[1]).all()
    assert (means[1] + 2 * errors[1] < means[2] + 2 * errors[2]).all()
    assert (means[2] < exact + 3 * errors[2]).all()
    assert (means[1] < exact - 3 * errors[1]).all()


@pytest.mark.parametrize(("emission", "time"), [("gaussian", 2), ("categorical", 2)])
def test_the_objective_of_two_particles_is_its_exact_expectation(emission, time):
    net, x = small(emission, "concatenate", time)
    elbo = ImportanceWeightedELBO(2, max_plate_nesting=1)
    with torch.no_grad():
        elbo.loss(net.model, net.guide, copies(x, 20_000))
        exact = importance_weighted_bound(net, x)
    bound = elbo.bound.reshape(-1, 2)
    assert ((bound.mean(0) - exact).abs() < 3 * bound.std(0) / math.sqrt(len(bound)) + 1e-5).all()


@pytest.mark.parametrize("beta", [1.0, 0.4])
@pytest.mark.parametrize("doubly", [False, True])
@pytest.mark.parametrize("emission", ["gaussian", pytest.param("categorical", marks=pytest.mark.slow)])
def test_both_gradients_are_those_of_the_exact_expectation(emission, doubly, beta):
    """All parameters: those of the model, of the guide, and of the recurrence that both share."""
    net, x = small(emission, "concatenate", 2)
    exact = flat(gradients(net, importance_weighted_bound(net, x, beta=beta).sum()))
    elbo = ImportanceWeightedELBO(2, doubly_reparameterised=doubly, kl_weight=beta, max_plate_nesting=1)
    assert_gradient(sampled_gradients(net, elbo, x), exact)


@pytest.mark.slow
def test_both_gradients_agree_on_every_part_of_the_network():
    net, x = small("gaussian", "conditional_layer_norm", 2)
    found = [
        sampled_gradients(net, ImportanceWeightedELBO(4, doubly_reparameterised=doubly, max_plate_nesting=1), x, 20)
        for doubly in (False, True)
    ]
    for part in ("posterior_network", "cell", "backward_rnn", "prior_network", "emission_layer"):
        chosen = torch.cat([torch.full((p.numel(),), name.startswith(part)) for name, p in net.named_parameters()])
        direction = found[0][:, chosen].mean(0)
        shares = [runs[:, chosen] @ direction / direction.norm() for runs in found]
        error = math.sqrt(sum(share.var().item() / len(share) for share in shares))
        assert abs(shares[0].mean() - shares[1].mean()) < 4 * error, part
        assert error < 0.1 * direction.norm(), part


@pytest.mark.slow
def test_the_doubly_reparameterised_gradient_of_the_guide_is_less_noisy_with_many_particles():
    net, x = small("gaussian", "concatenate", 2)
    spread = []
    for doubly in (False, True):
        elbo = ImportanceWeightedELBO(64, doubly_reparameterised=doubly, max_plate_nesting=1)
        runs = []
        for _ in range(60):
            elbo.differentiable_loss(net.model, net.guide, x).backward()
            runs.append(parameter_grads(net)["posterior_network.second.weight"])
        spread.append(torch.stack(runs).var(0).sum())
    assert spread[1] < 0.5 * spread[0]


@pytest.mark.parametrize("doubly", [False, True])
def test_the_loss_is_the_same_with_either_gradient(doubly, transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    elbo = ImportanceWeightedELBO(3, doubly_reparameterised=doubly, max_plate_nesting=1)
    loss = loss_of(elbo, net, x, LENGTHS)
    torch.testing.assert_close(loss, loss_of(ImportanceWeightedELBO(3, max_plate_nesting=1), net, x, LENGTHS), **EXACT)
    torch.testing.assert_close(loss, -elbo.bound.sum(), **EXACT)


@pytest.mark.parametrize("doubly", [False, True])
def test_svi_and_the_module_have_equal_loss_and_gradients(doubly):
    net, x = random_net("gaussian"), random_frames("gaussian")
    settings = {"doubly_reparameterised": doubly, "kl_weight": Linear(0.5, 1.0, 10)}
    module = ImportanceWeightedELBO(4, **settings)(net.model, net.guide)
    assert sorted(map(id, module.parameters())) == sorted(map(id, net.parameters()))
    pyro.set_rng_seed(5)
    loss = module(x, LENGTHS)
    loss.backward()
    grads = parameter_grads(net)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    elbo = ImportanceWeightedELBO(4, **settings)
    svi = SVI(net.model, net.guide, pyro.optim.SGD({"lr": 0.1}), loss=elbo)
    pyro.set_rng_seed(5)
    assert svi.step(x, LENGTHS) == pytest.approx(loss.item(), rel=1e-12)
    after = {name: p.detach() for name, p in net.named_parameters()}
    assert_same(after, {name: before[name] - 0.1 * grad for name, grad in grads.items()})
    assert elbo.step == module.elbo.step == 1
    assert elbo.kl_weight == pytest.approx(0.55)
    elbo.step = 10  # from here on kl_weight is 1, and the loss is the negative bound
    assert svi.evaluate_loss(x, LENGTHS) == pytest.approx(-elbo.bound.sum().item())
    assert elbo.step == 10


def test_the_scale_of_the_plate_multiplies_the_bound_and_leaves_the_weights_alone():
    net, x = random_net("gaussian"), random_frames("gaussian")
    elbo = ImportanceWeightedELBO(4, max_plate_nesting=1)
    whole = loss_of(elbo, net, x, LENGTHS)
    scaled = Programs(poutine.scale(net.model, scale=2.5), poutine.scale(net.guide, scale=2.5))
    torch.testing.assert_close(loss_of(elbo, scaled, x, LENGTHS), 2.5 * whole, **EXACT)
    torch.testing.assert_close(elbo.bound.sum(), -whole, **EXACT)


class Programs:
    def __init__(self, model, guide):
        self.model, self.guide = model, guide


class WithLabel:
    """Programs with a user's latent and observation per sequence, in a plate of the same size and dim."""

    def __init__(self, net):
        self.net = net

    def model(self, x, lengths):
        self.net.model(x, lengths)
        with pyro.plate("labels", len(x), dim=-1):
            label = pyro.sample("label", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("seen", dist.Normal(label, 0.5), obs=x[:, 0, 0])

    def guide(self, x, lengths):
        self.net.guide(x, lengths)
        with pyro.plate("labels", len(x), dim=-1):
            pyro.sample("label", dist.Normal(0.5 * x[:, 0, 0], 0.7))


@pytest.mark.parametrize("doubly", [False, True])
def test_a_latent_that_all_sequences_share_makes_one_weight_per_particle_as_in_renyi(doubly):
    net, x = random_net("gaussian"), random_frames("gaussian")
    both = WithGlobal(net)
    elbo = ImportanceWeightedELBO(5, doubly_reparameterised=doubly, max_plate_nesting=1)
    loss = loss_of(elbo, both, x, LENGTHS)
    pyro.set_rng_seed(5)
    theirs = renyi(5).loss_and_grads(both.model, both.guide, x, LENGTHS)
    torch.testing.assert_close(loss.item(), theirs, **EXACT)
    if not doubly:
        assert_same(gradients(net, loss), parameter_grads(net))
    assert elbo.bound.shape == (1,)


@pytest.mark.parametrize("doubly", [False, True])
def test_a_latent_of_each_sequence_enters_the_weights_of_that_sequence(doubly):
    net, x = random_net("gaussian"), random_frames("gaussian")
    both = WithLabel(net)
    elbo = ImportanceWeightedELBO(5, doubly_reparameterised=doubly, max_plate_nesting=1)
    loss = loss_of(elbo, both, x, LENGTHS)
    pyro.set_rng_seed(5)
    with pyro.plate("particles", 5, dim=-2):
        guide = poutine.trace(both.guide).get_trace(x, LENGTHS)
        model = poutine.trace(poutine.replay(both.model, trace=guide)).get_trace(x, LENGTHS)
    weights = 0.0
    for trace, sign in ((model, 1.0), (guide, -1.0)):
        trace.compute_log_prob()
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and name not in ("sequences", "particles", "labels"):
                weights = weights + sign * site["log_prob"]
    bound = weights.logsumexp(0) - math.log(5)
    torch.testing.assert_close(elbo.bound, bound.detach(), **EXACT)
    torch.testing.assert_close(loss, -bound.sum(), **EXACT)
    if not doubly:
        assert_same(gradients(net, loss), gradients(net, -bound.sum()))


@pytest.mark.parametrize("doubly", [False, True])
def test_handled_sites_scored_one_by_one_give_the_same_loss(doubly):
    net, x = random_net("gaussian"), random_frames("gaussian")
    elbo = ImportanceWeightedELBO(4, doubly_reparameterised=doubly, kl_weight=0.7, max_plate_nesting=1)
    whole = loss_of(elbo, net, x, LENGTHS)
    grads = gradients(net, whole)
    real = {"mask": torch.tensor([True, True, True])}
    apart = loss_of(elbo, Programs(poutine.mask(net.model, **real), poutine.mask(net.guide, **real)), x, LENGTHS)
    torch.testing.assert_close(apart, whole, **EXACT)
    assert_same(gradients(net, apart), grads)


@pytest.mark.parametrize("doubly", [False, True])
def test_paths_are_scored_as_a_batch(doubly):
    net, x = random_net("gaussian"), random_frames("gaussian")
    calls = dict.fromkeys(("prior", "posterior", "emission", "transition"), 0)
    count_calls(net, calls, *calls)
    elbo = ImportanceWeightedELBO(4, doubly_reparameterised=doubly, max_plate_nesting=1)
    elbo.loss_and_grads(net.model, net.guide, x, LENGTHS)
    assert calls == {"prior": 1, "posterior": 1 if doubly else 0, "emission": 1, "transition": 0}


@pytest.mark.parametrize("doubly", [False, True])
def test_padding_never_changes_a_sequences_bound(doubly):
    net, x = random_net("gaussian"), random_frames("gaussian")
    padding = (torch.arange(4) >= LENGTHS.unsqueeze(1)).unsqueeze(-1)
    found = []
    for frames in (x, torch.where(padding, float("nan"), x)):
        pyro.clear_param_store()
        elbo = ImportanceWeightedELBO(4, doubly_reparameterised=doubly, max_plate_nesting=1)
        loss = loss_of(elbo, net, frames, LENGTHS)
        found.append({"bound": elbo.bound, **gradients(net, loss)})
    assert_same(*found)


def test_a_latent_that_the_guide_lacks_is_proposed_by_its_prior():
    net, x = random_net("gaussian"), random_frames("gaussian")
    guide = poutine.block(net.guide, hide=["z_3"])
    elbo = ImportanceWeightedELBO(3, max_plate_nesting=1)
    with pyro.validation_enabled(False):
        loss = loss_of(elbo, Programs(net.model, guide), x)
        pyro.set_rng_seed(5)
        with pyro.plate("particles", 3, dim=-2):
            drawn = poutine.trace(guide).get_trace(x)
            model = poutine.trace(poutine.replay(net.model, trace=drawn)).get_trace(x)
    model.compute_log_prob()
    drawn.compute_log_prob()
    total = sum(s["log_prob"] for n, s in model.nodes.items() if n[:2] in ("z_", "x_") and n != "z_3")
    total = total - sum(s["log_prob"] for n, s in drawn.nodes.items() if n[:2] == "z_")
    torch.testing.assert_close(loss, -(total.logsumexp(0) - math.log(3)).sum(), **EXACT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_particles": 0}, "num_particles must be a positive integer, got 0"),
        ({"num_particles": True}, "num_particles must be a positive integer, got True"),
        ({"kl_weight": -1.0}, "kl_weight must be a finite number of at least 0"),
        ({"free_nats": 0.5}, "free nats hold up the KL of each step"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ImportanceWeightedELBO(**settings)


def test_particles_that_do_not_fit_are_refused_with_the_largest_number_that_would():
    net, x = random_net("gaussian"), random_frames("gaussian")
    with pytest.raises(MemoryError, match=r"num_particles must be at most \d+ to fit"):
        ImportanceWeightedELBO(10**12).loss(net.model, net.guide, x)


def test_a_guide_that_is_not_reparameterised_is_refused():
    class Discrete:
        def model(self, x):
            with pyro.plate("sequences", len(x), dim=-1):
                pyro.sample("k", dist.Categorical(x.new_ones(2)))

        guide = model

    with pytest.raises(NotImplementedError, match="ImportanceWeightedELBO needs reparameterised"):
        loss_of(ImportanceWeightedELBO(2, max_plate_nesting=1), Discrete(), random_frames("gaussian"))


def test_the_doubly_reparameterised_gradient_refuses_dropout_and_unsupported_kl_weights():
    elbo, x = ImportanceWeightedELBO(2, doubly_reparameterised=True, max_plate_nesting=1), random_frames("gaussian")
    for kind in ("dropout", "frame_dropout"):
        net = random_net("gaussian", **{kind: 0.5})
        with pytest.raises(ValueError, match="dropout prevents"):
            loss_of(elbo, net, x, LENGTHS)
        loss_of(elbo, net.eval(), x, LENGTHS)
    elbo = ImportanceWeightedELBO(2, doubly_reparameterised=True, kl_weight=0.5, max_plate_nesting=1)
    with pytest.raises(ValueError, match="kl_weight must be 1 with doubly_reparameterised"):
        loss_of(elbo, WithLabel(net), x, LENGTHS)


def test_the_trial_run_for_the_nesting_of_plates_leaves_the_random_state():
    """The first loss of a new objective is that of one that knows the nesting, under the same seed."""
    net, x = random_net("gaussian"), random_frames("gaussian")
    losses = []
    for objective in (ImportanceWeightedELBO(3), ImportanceWeightedELBO(3, max_plate_nesting=2)):
        pyro.set_rng_seed(1)
        losses.append(objective.loss(net.model, net.guide, x))
    assert losses[0] == losses[1]
