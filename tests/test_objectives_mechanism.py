"""The auxiliary at work: what z earns of it, the spread of its target, and gradient norms by term."""

import math

import pyro
import pytest
import torch

from zf_pyro import DMM, SRNN, State, ZForcing, ZForcingELBO, emissions
from zf_pyro.objectives import GraphedELBO, SegmentedELBO, mechanism, spread_of

from .comparing import EXACT, assert_same, gradients, parameter_grads
from .conftest import random_frames, random_net

LENGTHS = torch.tensor([4, 2, 3])
WEIGHTS = (0.7, 0.3, 0.2)


def terms_of(net, x, *args, elbo=None, seed=5, **settings):
    elbo = elbo or ZForcingELBO(*WEIGHTS, measure_earned=True, **settings)
    pyro.set_rng_seed(seed)
    with torch.no_grad():
        elbo.loss(net.model, net.guide, x, *args)
    return elbo.terms


def has_auxiliary(member):
    return random_net("gaussian", **member).has_auxiliary


# What z earns ---------------------------------------------------------------------------------------------------------


def normal_grid(count=301):
    """Nodes and weights of the standard normal; dense, since networks have kinks."""
    nodes = torch.linspace(-7.0, 7.0, count, dtype=torch.float64)
    return nodes, torch.softmax(-0.5 * nodes.square(), 0)


def earned_by_quadrature(net, x):
    """E_q[sum_t E_q log p(b_t | z_t, h) - E_p log p(b_t | z_t, h)] of one sequence of two frames and one latent."""
    nodes, weights = normal_grid()
    b, u = net.backward_states(x)[:, 0], net.inputs(x)[0]

    def earned(past, b_t):
        values = []
        for normal in (net.posterior(past, b_t).base_dist, net.prior(past).base_dist):
            z = normal.loc + normal.scale * nodes.view(-1, *[1] * normal.loc.dim())
            values.append(torch.tensordot(weights, net.auxiliary(z, past).log_prob(b_t), dims=1))
        return values[0] - values[1]

    start = net.initial_state((1,))
    first = net.past(start, u[:1])
    posterior = net.posterior(first, b[:1]).base_dist
    z = posterior.loc + posterior.scale * nodes.unsqueeze(1)
    after = net.transition(State(*(field.expand(len(nodes), -1) for field in first)), u[:1].expand(len(nodes), -1), z)
    second = net.past(after, u[1:].expand(len(nodes), -1))
    return earned(first, b[:1]).sum() + weights @ earned(second, b[1:].expand(len(nodes), -1))


@pytest.mark.parametrize("model", [ZForcing, *(pytest.param(m, marks=pytest.mark.slow) for m in (SRNN, DMM))])
def test_what_z_earns_has_the_mean_of_quadrature(model):
    net = random_net("gaussian", model=model, latent_dim=1, spread=0.2)
    x = random_frames(batch=1, time=2)
    with torch.no_grad():
        expected = earned_by_quadrature(net, x)
    found = terms_of(net, x.expand(20_000, -1, -1)).earned
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - expected) < 4 * error
    assert abs(expected) > 8 * error, "a test of a value that is not zero"


def test_z_earns_nothing_where_the_posterior_is_the_prior():
    class Blind(ZForcing):
        def posterior(self, past, b_t):
            return self.prior(past)

    net = Blind(emissions.Gaussian(2), embed_dim=4, hidden_dim=5, latent_dim=3, mlp_dim=4).double()
    assert terms_of(net, random_frames()).earned.abs().max() < 1e-9


def test_z_earns_nothing_where_the_auxiliary_does_not_read_it(transition):
    net = random_net("gaussian", transition=transition)
    with torch.no_grad():
        net.auxiliary_network.first.weight[:, : net.latent_dim] = 0.0
    assert not terms_of(net, random_frames()).earned.any()


def test_z_comes_to_earn_an_auxiliary_that_reads_it_alone():
    """Where b_t differs between sequences, and no step's likelihood is in the way."""
    net = random_net("gaussian", z_force=True, hidden_dim=3, spread=0.6)
    x = random_frames(batch=8, time=3)
    elbo = ZForcingELBO(0.01, aux_weight=1.0, measure_earned=True)
    svi = pyro.infer.SVI(net.model, net.guide, pyro.optim.Adam({"lr": 2e-2}), elbo)
    for _ in range(30):
        svi.step(x)
    assert elbo.terms.earned.mean() > 1.0


def test_measuring_changes_neither_loss_nor_gradients_nor_random_numbers(member):
    if not has_auxiliary(member):
        pytest.skip("no auxiliary")
    net, x = random_net("gaussian", **member), random_frames()
    found = []
    for measured in (False, True):
        pyro.set_rng_seed(3)
        elbo = ZForcingELBO(*WEIGHTS, measure_earned=measured)
        loss = elbo.loss_and_grads(net.model, net.guide, x, LENGTHS)
        state = torch.get_rng_state()
        found.append({"loss": torch.tensor(loss), "state": state, **elbo.terms._asdict(), **parameter_grads(net)})
        assert elbo.terms.earned.isnan().all() != measured
    assert_same(*found, rtol=0.0, atol=0.0)


def test_fast_and_reference_recurrence_earn_the_same(member):
    if not has_auxiliary(member):
        pytest.skip("no auxiliary")
    fast, plain = (random_net("gaussian", recurrence=way, **member) for way in ("deferred", "reference"))
    found = [terms_of(net, random_frames(), LENGTHS).earned for net in (fast, plain)]
    torch.testing.assert_close(*found, **EXACT)


@pytest.mark.parametrize("vectorize", [False, True])
def test_particles_earn_their_mean(vectorize):
    net, x = random_net(), random_frames()
    settings = {"num_particles": 3, "vectorize_particles": vectorize, "max_plate_nesting": 1}
    found = terms_of(net, x, LENGTHS, **settings).earned
    assert found.shape == (3,)
    if not vectorize:
        pyro.set_rng_seed(5)
        elbo = ZForcingELBO(*WEIGHTS, measure_earned=True)
        each = []
        for _ in range(3):
            elbo.loss(net.model, net.guide, x, LENGTHS)
            each.append(elbo.terms.earned.detach())
        torch.testing.assert_close(found, torch.stack(each).mean(0), **EXACT)


def test_segments_and_graphs_earn_what_the_plain_objective_earns():
    net, x = random_net(), random_frames(time=11)
    lengths = torch.tensor([11, 4, 5])
    plain = terms_of(net, x, lengths)
    for truncate, segment in ((False, 4), (True, 11)):
        elbo = SegmentedELBO(*WEIGHTS, measure_earned=True, segment=segment, truncate=truncate)
        torch.testing.assert_close(terms_of(net, x, lengths, elbo=elbo).earned, plain.earned, **EXACT)
        pyro.set_rng_seed(5)
        elbo.loss_and_grads(net.model, net.guide, x, lengths)
        torch.testing.assert_close(elbo.terms.earned, plain.earned, **EXACT)
    graphed = GraphedELBO(ZForcingELBO(*WEIGHTS, measure_earned=True), capture=lambda _: pytest.fail("captured"))
    pyro.set_rng_seed(5)
    graphed.backward(net.model, net.guide, x, lengths)
    torch.testing.assert_close(graphed.terms.earned, plain.earned, **EXACT)


# The spread of b_t ----------------------------------------------------------------------------------------------------


def test_the_spread_is_numpys_deviation_over_the_batch():
    b = torch.randn(5, 7, 3, dtype=torch.float64)
    assert spread_of(b).item() == pytest.approx(b.numpy().std(1).mean())
    assert spread_of(torch.ones(5, 7, 3)).item() == 0.0


def test_the_spread_counts_real_frames_alone():
    b = torch.randn(3, 3, 2, dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, False, True], [False, False, True]])
    whole, two, one = b[0].numpy().std(0).mean(), b[1, [0, 2]].numpy().std(0).mean(), 0.0
    expected = (3 * whole + 2 * two + 1 * one) / 6
    for padding in (0.0, 1e6):
        filled = torch.where(mask.unsqueeze(-1), b, padding)
        assert spread_of(filled, mask).item() == pytest.approx(expected)


# The measurement ------------------------------------------------------------------------------------------------------


def norm_of(net, loss):
    return torch.stack([grad.square().sum() for grad in gradients(net, loss).values()]).sum().sqrt()


def test_gradient_norms_are_those_of_separate_backward_passes(member):
    net, x = random_net("gaussian", **member), random_frames()
    kl, aux, bwd = WEIGHTS if net.has_auxiliary else (0.7, 0.0, 0.0)
    pyro.set_rng_seed(4)
    found = mechanism(ZForcingELBO(kl, aux, bwd), net.model, net.guide, x, LENGTHS)
    pyro.set_rng_seed(4)
    elbo = ZForcingELBO(kl, aux, bwd)
    state = torch.get_rng_state()

    def loss(*weights):
        torch.set_rng_state(state)
        return ZForcingELBO(*weights).differentiable_loss(net.model, net.guide, x, LENGTHS)

    frames = loss(0.0)
    expected = {"log_likelihood": frames, "kl": loss(kl) - frames}
    if net.has_auxiliary:
        expected |= {"auxiliary": loss(0.0, aux) - frames, "backward": loss(0.0, 0.0, bwd) - frames}
    assert found.gradient_norms.keys() == expected.keys()
    for name, term in expected.items():
        torch.testing.assert_close(found.gradient_norms[name], norm_of(net, term), rtol=1e-7, atol=1e-9)
    torch.set_rng_state(state)
    elbo.loss(net.model, net.guide, x, LENGTHS)
    torch.testing.assert_close(found.terms.log_likelihood, elbo.terms.log_likelihood.detach(), **EXACT)
    b = net.backward_states(x, LENGTHS)
    torch.testing.assert_close(found.spread, spread_of(b, torch.arange(4).unsqueeze(1) < LENGTHS), **EXACT)
    assert found.terms.earned.isnan().all() != net.has_auxiliary


def test_a_measurement_leaves_no_trace():
    net, x = random_net(), random_frames()
    elbo = ZForcingELBO(*WEIGHTS)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    kept = {name: (parameter.grad, parameter.grad.clone()) for name, parameter in net.named_parameters()}
    state, terms = torch.get_rng_state(), elbo.terms
    mechanism(elbo, net.model, net.guide, x, LENGTHS)
    assert torch.equal(torch.get_rng_state(), state)
    assert (elbo.step, elbo.terms, elbo.measure_earned) == (0, terms, False)
    for name, parameter in net.named_parameters():
        assert parameter.grad is kept[name][0]
        assert torch.equal(parameter.grad, kept[name][1])


@pytest.mark.parametrize("truncate", [False, True])
def test_segmented_and_graphed_objectives_are_measured_like_the_plain_one(truncate):
    net, x = random_net(), random_frames(time=7)
    found = []
    plain = ZForcingELBO(*WEIGHTS)
    segmented = SegmentedELBO(*WEIGHTS, segment=7 if truncate else 3, truncate=truncate)
    for elbo in (plain, segmented, GraphedELBO(ZForcingELBO(*WEIGHTS), capture=lambda _: pytest.fail("captured"))):
        pyro.set_rng_seed(1)
        result = mechanism(elbo, net.model, net.guide, x)
        found.append({**result.gradient_norms, "earned": result.terms.earned, "spread": result.spread})
        assert elbo.step == 0
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


def test_programs_around_those_of_a_network_are_measured():
    net, x = random_net(), random_frames()

    def model(x):
        return net.model(x)

    def guide(x):
        return net.guide(x)

    pyro.set_rng_seed(1)
    wrapped = mechanism(ZForcingELBO(*WEIGHTS), model, guide, x, parameters=net.parameters())
    pyro.set_rng_seed(1)
    assert_same(wrapped.gradient_norms, mechanism(ZForcingELBO(*WEIGHTS), net.model, net.guide, x).gradient_norms)


def test_what_cannot_be_measured_is_refused():
    net, x = random_net(), random_frames()
    with pytest.raises(TypeError, match="objective must be a ZForcingELBO, or hold one, got Trace_ELBO"):
        mechanism(pyro.infer.Trace_ELBO(), net.model, net.guide, x)
    with pytest.raises(TypeError, match=r"guide must run net\.guide"):
        mechanism(ZForcingELBO(), lambda x: None, lambda x: None, x)
    with pytest.raises(TypeError, match="measure_earned must be True or False"):
        ZForcingELBO(measure_earned=1)
