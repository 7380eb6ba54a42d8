"""SIXO and filters with a twist: unbiased for any twist, exact for the exact one, and trained by density ratios."""

import functools
import math

import pyro
import pytest
import torch
from pyro.infer import SVI

import zf_pyro.inference
from zf_pyro import FIVO, SIXO, State, objectives
from zf_pyro.inference import ALGORITHMS, ParticleFilter, Twist
from zf_pyro.objectives.density_ratio import density_ratio_loss
from zf_pyro.paths import prepare_inputs
from zf_pyro.smc.resampling import SCHEMES
from zf_pyro.training import Training, fit

from .comparing import assert_same, gradients, parameter_grads
from .conftest import random_frames, random_net, random_state
from .exact import assert_gradient, fivo_bound, flat, log_evidence, small
from .linear_gaussian import C, LinearGaussian, exact_evidence, simulated
from .own_emissions import OWN, own_frames
from .training_runs import loader, tiny_net

LENGTHS = torch.tensor([4, 2, 3])
PROPOSALS = ("posterior", "prior")
RESAMPLING = ["multinomial", pytest.param("stratified", marks=pytest.mark.slow), "systematic"]


def copies(x, count):
    return x.repeat(count, *[1] * (x.dim() - 1))


def random_twist(net, spread=2.0, seed=7):
    """Build a twist whose log r differs by nats from particle to particle."""
    twist = Twist(net, 5)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in twist.parameters():
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return twist


class ExactTwist(Twist):
    """log p(x_{t+1}..x_T | z_t) of the linear-Gaussian model, up to a constant, from b_{t+1} = (precision, slope)."""

    def forward(self, hidden, b_next):
        precision, slope = b_next.unbind(-1)
        z = hidden[..., 0]
        return (C * slope * z - 0.5 * precision * (C * z).square()) / (1 + precision)


def assert_unbiased(log_evidence, exact):
    """Assert that the mean of exp(estimates), (count, batch), is the evidence, within three small standard errors."""
    ratio = (log_evidence - exact).exp()
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert (error < 0.05).all(), "too few runs: the test would have no power"
    assert ((ratio.mean(0) - 1.0).abs() < 3 * error + 1e-4).all()


# The filter ---------------------------------------------------------------------------------------------------------


@functools.cache
def with_evidence(emission):
    """Return a network, two sequences of three and two frames, and their log p(x)."""
    net, x = small(emission, "concatenate", 3)
    with torch.no_grad():
        return net, x, torch.cat([log_evidence(net, x[:1]), log_evidence(net, x[1:, :2])])


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("resampling", RESAMPLING)
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_the_evidence_estimate_is_unbiased_for_any_twist(proposal, resampling, threshold):
    net, x, exact = with_evidence("gaussian" if proposal == "prior" else "categorical")
    settings = {"proposal": proposal, "resampling": resampling, "threshold": threshold}
    lengths = torch.tensor([3, 2]).repeat(1000)
    found = ParticleFilter(net, 8, twist=random_twist(net, 1.0), **settings).run(copies(x, 1000), lengths)
    assert_unbiased(found.log_evidence.reshape(1000, 2), exact)


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_the_twist_changes_a_filter_that_resamples_and_no_other(proposal):
    net, x = random_net("gaussian"), random_frames("gaussian")
    for threshold in (0.0, 1.0):
        found = []
        for twist in (None, random_twist(net)):
            pyro.set_rng_seed(3)
            result = ParticleFilter(net, 6, proposal=proposal, threshold=threshold, twist=twist).run(x, LENGTHS)
            found.append({"evidence": result.log_evidence, "weights": result.log_weights, "z": result.z})
        if threshold == 0.0:
            assert_same(*found)
        else:
            assert (found[0]["z"] != found[1]["z"]).any()


def test_the_exact_twist_and_guide_estimate_the_evidence_without_error():
    net, lengths = LinearGaussian(), torch.tensor([6, 1, 4])
    x = simulated(3, 6)
    exact = torch.cat([exact_evidence(x[i : i + 1, :length]) for i, length in enumerate(lengths.tolist())])
    for resampling in SCHEMES:
        for threshold in (0.0, 0.5, 1.0):
            settings = {"resampling": resampling, "threshold": threshold}
            twisted = ParticleFilter(net, 3, twist=ExactTwist(net), **settings).run(x, lengths)
            torch.testing.assert_close(twisted.log_evidence, exact, rtol=1e-12, atol=1e-12)
            elbo = SIXO(3, twist=ExactTwist(net), **settings)
            elbo.loss(net.model, net.guide, x, lengths)
            torch.testing.assert_close(elbo.bound, exact, rtol=1e-12, atol=1e-12)
    plain = ParticleFilter(net, 3, threshold=1.0).run(x, lengths).log_evidence
    assert (plain - exact).abs().max() > 0.05


def test_the_exact_twist_helps_a_guide_that_is_blind_for_later_frames():
    net, x = LinearGaussian(blind=True), simulated(100, 10, seed=4)
    gaps = []
    for twist in (None, ExactTwist(net)):
        found = ParticleFilter(net, 8, threshold=1.0, twist=twist).run(copies(x, 50)).log_evidence
        gaps.append((exact_evidence(x) - found.reshape(50, 100)).mean(1))
    difference = gaps[0] - gaps[1]
    assert difference.mean() > 5 * difference.std() / math.sqrt(50)
    assert gaps[1].mean() > 0.0


@pytest.mark.parametrize("fill", [float("nan"), 1e30])
def test_padding_never_changes_an_estimate(fill):
    net, x = random_net("gaussian"), random_frames("gaussian")
    padding = (torch.arange(6) >= LENGTHS.unsqueeze(1)).unsqueeze(-1)
    longer = torch.cat([x, x[:, :2]], dim=1)
    found = []
    for frames in (x, torch.where(padding, fill, longer)):
        pyro.set_rng_seed(3)
        result = ParticleFilter(net, 5, threshold=0.9, twist=random_twist(net)).run(frames, LENGTHS)
        found.append({"evidence": result.log_evidence, "weights": result.log_weights, "z": result.z[:4]})
    assert_same(*found)


def test_a_few_sequences_at_a_time_have_the_estimates_of_the_exact_twist(monkeypatch):
    net, x, lengths = LinearGaussian(), simulated(4, 5), torch.tensor([3, 5, 2, 5])
    exact = torch.cat([exact_evidence(x[i : i + 1, :length]) for i, length in enumerate(lengths.tolist())])
    monkeypatch.setattr("zf_pyro.smc.filter.ELEMENTS_PER_CHUNK", 1)
    found = ParticleFilter(net, 4, threshold=1.0, twist=ExactTwist(net)).run(x, lengths)
    torch.testing.assert_close(found.log_evidence, exact, rtol=1e-12, atol=1e-12)


# The objective ------------------------------------------------------------------------------------------------------


def test_sixo_is_exported_by_objectives_and_by_inference():
    assert zf_pyro.inference.SIXO is objectives.SIXO is SIXO


def test_a_new_twist_has_the_value_and_the_gradients_of_fivo_bit_for_bit(transition):
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    found = []
    for elbo in (FIVO(4, threshold=0.9), SIXO(4, twist=Twist(net), threshold=0.9)):
        pyro.set_rng_seed(5)
        net.zero_grad()
        loss = elbo.loss_and_grads(net.model, net.guide, x, LENGTHS)
        found.append({"loss": torch.tensor(loss), "bound": elbo.bound, **parameter_grads(net)})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("resampling", [pytest.param("multinomial", marks=pytest.mark.slow), "systematic"])
def test_the_objective_of_two_particles_is_its_exact_expectation(resampling):
    net = random_net("categorical", transition="concatenate", latent_dim=1, spread=0.6, seed=4)
    x = random_frames("categorical", 2, 2, seed=5)
    twist = random_twist(net)
    elbo = SIXO(2, twist=twist, threshold=1.0, resampling=resampling)
    with torch.no_grad():
        exact = fivo_bound(net, x, 30, scheme=resampling, twist=twist)
        elbo.loss(net.model, net.guide, copies(x, 20_000))
        plain = fivo_bound(net, x, scheme=resampling)
    bound = elbo.bound.reshape(-1, 2)
    error = bound.std(0) / math.sqrt(len(bound))
    assert ((bound.mean(0) - exact).abs() < 3 * error + 1e-3).all()
    assert ((plain - exact).abs() > 5 * error).any(), "the twist does too little for the test to mean anything"


@pytest.mark.slow
def test_with_the_resampling_gradient_model_guide_and_twist_have_the_gradient_of_the_exact_expectation():
    net = random_net("categorical", transition="concatenate", latent_dim=1, spread=0.6, seed=4)
    x = random_frames("categorical", 2, 2, seed=5)
    both = torch.nn.ModuleDict({"net": net, "twist": random_twist(net, 1.0)})
    exact = flat(gradients(both, fivo_bound(net, x, 20, twist=both["twist"]).sum()))
    elbo = SIXO(2, twist=both["twist"], threshold=1.0, resampling_gradient=True)
    many, found = copies(x, 1500), []
    for _ in range(40):
        elbo.differentiable_loss(net.model, net.guide, many).backward()
        found.append(-flat(parameter_grads(both)) / 1500)
    assert_gradient(torch.stack(found), exact, precision=0.03)


def test_padding_never_changes_loss_or_gradient(transition):
    """Samples of the model, as long as the batch, follow the filter's. They reach the twist alone."""
    net, x = random_net("gaussian", transition=transition), random_frames("gaussian")
    longer = torch.cat([x, x[:, :2]], dim=1)
    padding = (torch.arange(6) >= LENGTHS.unsqueeze(1)).unsqueeze(-1)
    found = []
    for frames in (x, torch.where(padding, float("nan"), longer)):
        elbo = SIXO(4, twist=random_twist(net), threshold=1.0)
        pyro.set_rng_seed(5)
        loss = elbo.differentiable_loss(net.model, net.guide, frames, LENGTHS)
        found.append({"bound": elbo.bound, **gradients(net, loss)})
        assert all(p.grad is None or p.grad.isfinite().all() for p in elbo.twist.parameters())
    assert_same(*found)


def test_svi_trains_net_and_twist_and_validation_samples_nothing():
    net, x = random_net("gaussian"), random_frames("gaussian")
    twist = random_twist(net, 0.3)
    elbo = SIXO(4, twist=twist, threshold=1.0)
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 0.01}), loss=elbo)
    before = [p.detach().clone() for p in (*net.emission_layer.parameters(), *twist.parameters())]
    loss = svi.step(x, LENGTHS, random_frames("gaussian", 3, 1, seed=8)[:, 0], random_state(net))
    assert loss == pytest.approx(-elbo.bound.sum().item())
    after = [*net.emission_layer.parameters(), *twist.parameters()]
    assert [p.shape for p, q in zip(before, after, strict=True) if torch.equal(p, q)] in ([], [torch.Size([1])])
    generator = torch.random.get_rng_state()
    svi.evaluate_loss(x, LENGTHS)
    noise = torch.random.get_rng_state()
    torch.random.set_rng_state(generator)
    with torch.no_grad():
        FIVO(4, threshold=1.0).loss(net.model, net.guide, x, LENGTHS)
    assert torch.equal(noise, torch.random.get_rng_state())


def test_training_and_the_module_hold_the_parameters_of_the_twist():
    net = random_net("gaussian")
    elbo = SIXO(2, twist=Twist(net, name="ahead"))
    expected = {id(p) for p in (*net.parameters(), *elbo.twist.parameters())}
    module = elbo(net.model, net.guide)
    assert {id(p) for p in module.parameters()} == expected
    training = Training(net.model, net.guide, elbo)
    assert {id(p) for p in training.trained().values()} == expected
    assert "ahead.network.first.weight" in training.trained()


@pytest.mark.slow
def test_a_run_in_two_parts_ends_with_the_same_network_and_twist(tmp_path):
    found = []
    for parts in ([4], [2, 4]):
        out = tmp_path / str(len(parts))
        for i, steps in enumerate(parts):
            net = tiny_net()
            twist = random_twist(net, 0.5).float()
            module = Training(net.model, net.guide, SIXO(2, twist=twist, threshold=1.0))
            start = [p.detach().clone() for p in twist.parameters()]
            pyro.set_rng_seed(3)
            settings = {"progress": False, "accelerator": "cpu", "checkpoint_every": 2, "resume": i > 0}
            fit(module, loader(), out=out, max_steps=steps, **settings)
        assert not all(map(torch.equal, start, twist.parameters()))
        found.append([*net.parameters(), *twist.parameters()])
    assert all(map(torch.equal, *found))


def test_a_twist_is_saved_and_loaded_by_its_state():
    net, x = random_net("gaussian"), random_frames("gaussian")
    twist, other = random_twist(net), Twist(net, 5)
    other.load_state_dict(twist.state_dict())
    found = []
    for each in (twist, other):
        pyro.set_rng_seed(1)
        found.append(ParticleFilter(net, 4, threshold=1.0, twist=each).run(x)._asdict())
    assert_same(*found)


# Density ratios -----------------------------------------------------------------------------------------------------


def ratio_loss(twist, net, x, lengths=None, num_negatives=8):
    return density_ratio_loss(twist, net, prepare_inputs(net, x, lengths, None, None), lengths, num_negatives)


@pytest.mark.parametrize("num_negatives", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_the_exact_twist_is_the_optimum_of_the_classification(num_negatives):
    """The gradient with respect to scale and tilt of the exact log r is zero there, and only there."""
    net, x = LinearGaussian(), torch.zeros(1000, 3, 1, dtype=torch.float64)

    class Scaled(ExactTwist):
        def __init__(self, net, scale, tilt):
            super().__init__(net)
            self.scale, self.tilt = (torch.nn.Parameter(torch.tensor(float(v)).double()) for v in (scale, tilt))

        def forward(self, hidden, b_next):
            return self.scale * super().forward(hidden, b_next) + self.tilt * hidden[..., 0] * b_next[..., 1]

    def slopes(scale, tilt):
        runs = []
        for _ in range(20):
            twist = Scaled(net, scale, tilt)
            loss = ratio_loss(twist, net, x, num_negatives=num_negatives)
            runs.append(torch.stack(torch.autograd.grad(loss, [twist.scale, twist.tilt])))
        runs = torch.stack(runs)
        return runs.mean(0) / (runs.std(0) / math.sqrt(20))

    assert (slopes(1.0, 0.0).abs() < 4).all()
    assert (slopes(0.7, 0.0).abs() > 6).any()
    assert (slopes(1.0, 0.1).abs() > 6).any()


@pytest.mark.slow
def test_a_trained_twist_tightens_the_bound_of_a_blind_guide():
    net, x = LinearGaussian(blind=True).requires_grad_(False), simulated(32, 10, seed=4)
    twist = Twist(net, 16)
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 0.02}), loss=SIXO(8, twist=twist, threshold=1.0))
    for _ in range(300):
        svi.step(x)
    exact, gaps = exact_evidence(x), []
    for each in (None, twist, ExactTwist(net)):
        bound = ParticleFilter(net, 8, threshold=1.0, twist=each).run(copies(x, 200)).log_evidence
        gaps.append((exact - bound.reshape(200, -1).mean(0)).mean().item())
    assert gaps[2] < gaps[0]
    assert gaps[1] < gaps[0] - 0.5 * (gaps[0] - gaps[2]), gaps


@pytest.mark.parametrize("emission", ["gaussian", "categorical", "bernoulli", "mixture"])
def test_one_sequence_of_one_or_more_steps_has_a_finite_loss(emission):
    net = random_net(emission, dropout=0.5)
    twist = random_twist(net)
    for time in (1, 3):
        net.zero_grad()
        x = random_frames(emission, 1, time)
        loss = ratio_loss(twist, net, x, torch.tensor([time]))
        assert loss.isfinite()
        assert (loss > 0) == (time > 1)
        assert not any(p.grad is not None for p in net.parameters())
        SIXO(2, twist=twist).loss_and_grads(net.model, net.guide, x)
    assert net.training


def test_ratios_ignore_frames_beyond_a_length():
    """Sequences of one frame have no pairs: they add nothing to the loss."""
    net, x = random_net("gaussian"), random_frames("gaussian")
    twist = random_twist(net)
    pyro.set_rng_seed(2)
    assert ratio_loss(twist, net, x, torch.tensor([1, 1, 1])) == 0.0
    alone = ratio_loss(twist, net, x, torch.tensor([4, 1, 1]))
    assert 0.0 < alone < ratio_loss(twist, net, x, torch.tensor([4, 4, 4]))


def test_initial_states_of_every_allowed_shape_start_the_samples():
    net, x = random_net("gaussian"), random_frames("gaussian")
    each = State(*(torch.stack([field, field + 1.0]) for field in random_state(net)))
    for state in (each, State(*(field[:1] for field in each)), State(*(field[0, :1] for field in each))):
        elbo = SIXO(2, twist=random_twist(net))
        assert math.isfinite(elbo.loss_and_grads(net.model, net.guide, x, None, None, state))
        assert all(p.grad.isfinite().all() for p in elbo.twist.parameters())


@pytest.mark.parametrize("emission", ["gaussian", "bernoulli", "mixture"])
def test_autocast_samples_in_the_dtype_of_the_frames(emission):
    net = random_net(emission, dtype=torch.float32)
    x, twist = random_frames(emission, dtype=torch.float32), random_twist(net).float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = SIXO(2, twist=twist).loss_and_grads(net.model, net.guide, x, LENGTHS)
    assert math.isfinite(loss)


@pytest.mark.parametrize("name", OWN)
def test_emissions_of_the_users_own_are_sampled(name):
    net = random_net(OWN[name])
    twist = random_twist(net)
    assert ratio_loss(twist, net, own_frames(name)) > 0.0


def test_without_the_resampling_gradient_the_bound_teaches_a_twist_the_opposite():
    """The reason for density ratios: the gradient that FIVO leaves out outweighs the one that it keeps."""
    net = random_net("categorical", transition="concatenate", latent_dim=1, spread=0.6, seed=4)
    x, twist = random_frames("categorical", 2, 2, seed=5), random_twist(net)
    kept, whole = (
        flat(gradients(twist, fivo_bound(net, x, resampling_gradient=choice, twist=twist).sum()))
        for choice in (False, True)
    )
    assert torch.nn.functional.cosine_similarity(kept, whole, dim=0) < -0.5


# Bad input ----------------------------------------------------------------------------------------------------------


def test_bad_settings_are_refused():
    net, x = random_net("gaussian"), random_frames("gaussian")
    twist = Twist(net)
    for call, kind, message in (
        (lambda: SIXO(2, twist=net), TypeError, "twist must be a zf_pyro.inference.Twist.*got ZForcing"),
        (lambda: SIXO(2, twist=Twist), TypeError, "got the class Twist"),
        (lambda: ParticleFilter(net, 2, twist=lambda h, b: 0.0), TypeError, "twist must be .*got function"),
        (lambda: Twist(3), TypeError, "net must be a model of zf_pyro.models, got int"),
        (lambda: Twist(net, 0), ValueError, "mlp_dim must be a positive integer, got 0"),
        (lambda: SIXO(2, twist=twist, num_negatives=0), ValueError, "num_negatives must be a positive integer"),
        (lambda: SIXO(2, twist=twist, free_nats=1.0), ValueError, "free_nats must be 0"),
        (lambda: SIXO(0, twist=twist), ValueError, "num_particles must be a positive integer"),
        (lambda: ALGORITHMS["SIXO"].build(net, twist=3), TypeError, "twist must be"),
        (lambda: SIXO(2, twist=twist.float()).loss(net.model, net.guide, x), ValueError, "twist must fit the model"),
        (lambda: ParticleFilter(net, 2, twist=twist.float()).run(x), ValueError, "float32 on cpu: make it by Twist"),
        (lambda: SIXO(2, twist=twist).loss(net.guide, net.guide, x), TypeError, "model and guide must be"),
    ):
        with pytest.raises(kind, match=message):
            call()
    wide = Twist(random_net("gaussian", hidden_dim=7))
    with pytest.raises(ValueError, match=r"with sizes \(4, 4\) .*got sizes \(7, 7\)"):
        SIXO(2, twist=wide).loss(net.model, net.guide, x)
