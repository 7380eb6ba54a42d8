"""Autoregressive flows: their density, samples and inverse against integrals and against Pyro's own transform."""

import copy

import pytest
import torch
from pyro.distributions import MultivariateNormal, Normal, TransformedDistribution
from pyro.distributions.transforms import AffineAutoregressive
from torch.distributions import kl_divergence

from zf_pyro.networks import AutoregressiveFlow, FlowLayer

from .comparing import EXACT, assert_same


class Doubled(FlowLayer):
    """A layer with a forward of its own, whose inverse is that of another."""

    def forward(self, e):
        y, log_det = super().forward(e)
        return 2.0 * y, log_det


CHANGED_LAYERS = {
    "Doubled": lambda layer: Doubled(2, 4),
    "one with hooks": lambda layer: layer.register_forward_hook(lambda *args: None) and None,
    "one whose network is a Linear": lambda layer: setattr(layer, "network", torch.nn.Linear(2, 4)),
    "one whose forward was set on the instance": lambda layer: setattr(layer, "forward", lambda e: (e, e)),
}
"""Changes to a layer after which its two directions may disagree, by what the error says of them."""


def layers(count=2, latent_dim=2, flow_dim=8, spread=0.5, seed=0):
    """Flow layers with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = [FlowLayer(latent_dim, flow_dim, reverse=i % 2 == 1).double() for i in range(count)]
        with torch.no_grad():
            for layer in found:
                for parameter in layer.parameters():
                    parameter.add_(spread * torch.randn_like(parameter))
    return found


def flow(batch_shape=(), latent_dim=2, **settings):
    """A flow of a random normal whose loc and scale have gradients."""
    generator = torch.Generator().manual_seed(1)
    shape = (*batch_shape, latent_dim)
    loc = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    scale = (0.3 + torch.rand(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    return AutoregressiveFlow(loc, scale, layers(latent_dim=latent_dim, **settings))


def grid(reach=14.0, points=500):
    """Points (points^2, 2) of a square, and the area of each."""
    line = torch.linspace(-reach, reach, points, dtype=torch.float64)
    return torch.cartesian_prod(line, line), (line[1] - line[0]).item() ** 2


def test_the_density_integrates_to_one():
    z, area = grid()
    with torch.no_grad():
        assert (flow(spread=0.3).log_prob(z).exp().sum() * area).item() == pytest.approx(1.0, abs=1e-5)


def test_samples_have_the_moments_of_the_density():
    z, area = grid()
    q = flow(spread=0.3)
    with torch.no_grad():
        weights = (q.log_prob(z).exp() * area).unsqueeze(1)
        mean = (weights * z).sum(0)
        second = (weights.unsqueeze(2) * (z.unsqueeze(2) * z.unsqueeze(1))).sum(0)
        drawn = q.sample((200_000,))
    products = drawn.unsqueeze(2) * drawn.unsqueeze(1)
    for values, exact in ((drawn, mean), (products, second)):
        error = values.std(0) / len(values) ** 0.5
        assert ((values.mean(0) - exact).abs() < 4 * error + 1e-6).all()


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_the_density_by_inversion_is_that_by_the_noise_in_value_and_gradients(latent_dim):
    q = flow((4,), latent_dim)
    noise = torch.randn(3, 4, latent_dim, dtype=torch.float64)
    inputs = [q.base.loc, q.base.scale, *(p for layer in q.flows for p in layer.parameters())]
    z, known = q.from_noise(noise)
    again, inverted = q.to_noise(z)
    torch.testing.assert_close(again, noise, **EXACT)
    torch.testing.assert_close(inverted, known, **EXACT)
    weight = torch.rand_like(known)
    grads = [
        torch.autograd.grad((weight * value).sum(), inputs, retain_graph=True, allow_unused=True)
        for value in (known, inverted)
    ]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(
            *(torch.zeros(()) if g is None else g for g in (ours, theirs)), rtol=1e-8, atol=1e-9, check_dtype=False
        )


def test_the_map_is_that_of_pyros_transform():
    q = flow((4,))
    noise = torch.randn(4, 2, dtype=torch.float64)
    with torch.no_grad():
        transforms = [AffineAutoregressive(layer.network) for layer in q.flows]
        value = q.base.loc + q.base.scale * noise
        expected = Normal(q.base.loc, q.base.scale).to_event(1).log_prob(value)
        for transform in transforms:
            moved = transform(value)
            expected = expected - transform.log_abs_det_jacobian(value, moved)
            value = moved
        z, log_prob = q.from_noise(noise)
    torch.testing.assert_close(z, value, **EXACT)
    torch.testing.assert_close(log_prob, expected, **EXACT)


def test_samples_are_those_of_pyros_transformed_normal_under_the_same_seed():
    q = flow((4,))
    theirs = TransformedDistribution(
        Normal(q.base.loc, q.base.scale).to_event(1), [AffineAutoregressive(layer.network) for layer in q.flows]
    )
    torch.manual_seed(3)
    expected = theirs.sample((5,))
    torch.manual_seed(3)
    torch.testing.assert_close(q.sample((5,)), expected, **EXACT)


@pytest.mark.parametrize("reverse", [False, True])
def test_an_element_depends_on_those_before_it_alone(reverse):
    layer = layers(2, 5, flow_dim=40)[int(reverse)]
    e = torch.randn(5, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda e: layer(e)[0], e)
    triangle = jacobian.flip(0, 1) if reverse else jacobian
    assert torch.equal(triangle, triangle.tril())
    assert (triangle.tril(-1)[1:].abs().sum(1) > 0).all()
    torch.testing.assert_close(layer(e)[1], jacobian.diagonal().log().sum(), **EXACT)


def test_a_new_layer_is_the_identity():
    layer, e = FlowLayer(3, 4), torch.randn(2, 3)
    y, log_det = layer(e)
    assert torch.equal(y, e)
    assert torch.equal(log_det, torch.zeros(2))


def test_log_scales_beyond_the_bounds_are_clamped_in_both_directions():
    q = flow(spread=4.0)
    noise = 3.0 * torch.randn(200, 2, dtype=torch.float64)
    raw = q.flows[0].network(q.base.loc + q.base.scale * noise)[1]
    assert ((raw < -5.0) | (raw > 3.0)).any()
    z, known = q.from_noise(noise)
    found, inverted = q.to_noise(z)
    torch.testing.assert_close(found, noise, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(inverted, known, rtol=1e-6, atol=1e-6)


def test_shapes_are_those_of_a_distribution():
    q = flow((3,))
    assert (q.batch_shape, q.event_shape) == ((3,), (2,))
    wide = q.expand((4, 3))
    assert wide.sample((5,)).shape == (5, 4, 3, 2)
    z = torch.randn(4, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(wide.log_prob(z), q.log_prob(z), **EXACT)
    assert wide.sample()[:, 0].unique(dim=0).shape == (4, 2)
    assert q.rsample().requires_grad
    assert not q.sample().requires_grad


@pytest.mark.parametrize("what", ["mean", "variance", "stddev", "mode", "entropy"])
def test_what_a_flow_lacks_says_why(what):
    q = flow()
    with pytest.raises(NotImplementedError, match=r"no \w+ in closed form: estimate it from samples"):
        q.entropy() if what == "entropy" else getattr(q, what)


def test_a_flow_has_no_kl_to_a_normal_or_from_one():
    q, p = flow(), Normal(torch.zeros(2), 1.0).to_event(1)
    for pair in ((q, p), (p, q), (q, q)):
        with pytest.raises(NotImplementedError, match="No KL"):
            kl_divergence(*pair)


def test_wrong_layers_and_sizes_are_refused():
    loc, scale = torch.zeros(2), torch.ones(2)
    with pytest.raises(TypeError, match=r"flows must hold one or more layers.*got none: .*return dist\.Normal"):
        AutoregressiveFlow(loc, scale, [])
    with pytest.raises(TypeError, match=r"flows must hold.*got AffineAutoregressive"):
        AutoregressiveFlow(loc, scale, [AffineAutoregressive(FlowLayer(2, 4).network)])
    for told, change in CHANGED_LAYERS.items():
        layer = FlowLayer(2, 4)
        layer = change(layer) or layer
        with pytest.raises(TypeError, match=rf"flows must hold.*as they were built.*got {told}: change weights"):
            AutoregressiveFlow(loc, scale, [FlowLayer(2, 4), layer])
    with pytest.raises(
        ValueError, match=r"flows must be of the size of loc and scale, of shape \(2,\), got layers of \[3\]"
    ):
        AutoregressiveFlow(loc, scale, [FlowLayer(3, 4)])
    with pytest.raises(ValueError, match="flow_dim must be at least latent_dim, 5, got 4"):
        FlowLayer(5, 4)
    with pytest.raises(ValueError, match="scale"):
        AutoregressiveFlow(loc, -scale, [FlowLayer(2, 4)])
    with pytest.raises(ValueError, match="support"):
        AutoregressiveFlow(loc, scale, [FlowLayer(2, 4)]).log_prob(torch.tensor([0.0, float("nan")]))


def test_a_flow_that_was_used_can_be_copied():
    q = flow()
    q.log_prob(q.rsample()).sum().backward()
    twin = copy.deepcopy(q.flows)
    assert_same(twin[0].state_dict(), q.flows[0].state_dict())


def test_a_layer_on_the_meta_device_takes_no_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    with torch.device("meta"):
        layer = FlowLayer(3, 4)
    assert torch.equal(torch.rand(()), expected)
    assert {parameter.device.type for parameter in layer.parameters()} == {"meta"}


def test_autocast_changes_no_density():
    q = AutoregressiveFlow(torch.zeros(3), torch.ones(3), [layer.float() for layer in layers(2, 3)])
    z = torch.randn(4, 3)
    expected = q.log_prob(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = AutoregressiveFlow(torch.zeros(3).bfloat16(), torch.ones(3).bfloat16(), q.flows)
        assert torch.equal(narrow.log_prob(z), expected)
        assert narrow.from_noise(z)[0].dtype == torch.float32


def test_layers_that_do_not_bend_give_a_normal_with_full_covariance():
    """With linear layers, a flow is a normal, whose covariance follows from the matrices."""
    q = flow()
    with torch.no_grad():
        for layer in q.flows:
            for part in layer.network.layers:
                part.weight.mul_(0.1 if part is layer.network.layers[0] else 1.0)
            layer.network.layers[0].bias.fill_(10.0)  # every unit is active
            layer.network.layers[-1].weight[2:] = 0.0  # constant scales
    noise = torch.zeros(2, dtype=torch.float64)
    loc, matrix = q.from_noise(noise)[0], torch.autograd.functional.jacobian(lambda e: q.from_noise(e)[0], noise)
    exact = MultivariateNormal(loc, covariance_matrix=matrix @ matrix.T)
    z = q.sample((50,))
    torch.testing.assert_close(q.log_prob(z), exact.log_prob(z), **EXACT)
