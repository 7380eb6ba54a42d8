"""What only a GPU can show: captured objectives, and steps that never wait for the device."""

import copy
import functools

import pyro
import pytest
import torch

from zf_pyro import Linear, ZForcing, ZForcingELBO, emissions
from zf_pyro.graphs import GraphedELBO

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
SIZES = {"embed_dim": 16, "hidden_dim": 32, "latent_dim": 8, "mlp_dim": 16}


@pytest.fixture
def net():
    torch.manual_seed(1)
    return ZForcing(emissions.Gaussian(3), **SIZES).cuda()


def batch(num_steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, num_steps, 3, generator=generator)
    return x.cuda(), torch.tensor([num_steps, num_steps, 2, 1]).cuda()


def quiet(net):
    """The net without noise, so that losses can be compared: q's standard deviation is about 2 percent."""
    with torch.no_grad():
        net.posterior_network.second.bias[SIZES["latent_dim"] :] = -8.0
    return net


def test_a_replay_gives_the_loss_and_the_gradients_of_the_objective(net):
    quiet(net)
    plain, graphed = (cls for cls in (ZForcingELBO(0.7, 0.1, 0.1), GraphedELBO(ZForcingELBO(0.7, 0.1, 0.1), bucket=8)))
    for num_steps in (8, 7, 5, 8):
        found = []
        for elbo in (plain, graphed):
            net.zero_grad()
            loss = elbo.loss_and_grads(net.model, net.guide, *batch(num_steps))
            found.append((loss, torch.cat([p.grad.flatten() for p in net.parameters()])))
        assert found[0][0] == pytest.approx(found[1][0], rel=0.05)
        assert torch.nn.functional.cosine_similarity(found[0][1], found[1][1], dim=0) > 0.98
    assert graphed.num_graphs == 1


def test_each_replay_draws_new_numbers(net):
    elbo = GraphedELBO(ZForcingELBO())
    losses = {elbo.loss_and_grads(net.model, net.guide, *batch(8)) for _ in range(5)}
    assert len(losses) == 5


def test_a_seed_repeats_the_numbers_of_replays(net):
    elbo, found = GraphedELBO(ZForcingELBO()), []
    elbo.loss_and_grads(net.model, net.guide, *batch(8))
    for _ in range(2):
        torch.cuda.manual_seed(3)
        found.append([elbo.loss_and_grads(net.model, net.guide, *batch(8)) for _ in range(3)])
    assert found[0] == found[1]


def test_weights_and_data_of_the_step_are_used(net):
    """Not those of the capture."""
    quiet(net)
    elbo, plain = (cls(ZForcingELBO(Linear(0.0, 1.0, 4))) for cls in (GraphedELBO, copy.copy))
    for seed in range(5):
        arguments = batch(16, seed)
        ours, theirs = (objective.loss_and_grads(net.model, net.guide, *arguments) for objective in (elbo, plain))
        assert ours == pytest.approx(theirs, rel=0.05)
    assert elbo.num_graphs == 2  # the KL weight is zero in the first step


@pytest.mark.parametrize("graphs", [False, True])
def test_a_step_never_waits_for_the_device(net, graphs):
    elbo = ZForcingELBO(0.7, 0.1, 0.1)
    elbo = GraphedELBO(elbo) if graphs else elbo
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    arguments = batch(16)
    with pyro.validation_enabled(False):
        elbo.backward(net.model, net.guide, *arguments)  # captures, and fills the caches
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(2):
                elbo.backward(net.model, net.guide, *arguments)
                gradients = [p.grad for p in net.parameters() if p.grad is not None]
                norm = torch.nn.utils.get_total_norm(gradients)
                torch.nn.utils.clip_grads_with_norm_([*net.parameters()], 100.0, norm)
                optimiser.found_inf = (~norm.isfinite()).float()
                optimiser.step()
                torch._foreach_zero_(gradients)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_training_runs_and_resumes_on_the_gpu(tmp_path):
    pytest.importorskip("lightning")
    from zf_pyro.training import Training, fit

    from ..training_runs import loader, objective, tiny_net

    for stop in (4, 8):
        net = tiny_net()
        optimiser = functools.partial(torch.optim.Adam, lr=1e-2)
        module = Training(net.model, net.guide, GraphedELBO(objective(), bucket=2), optimiser, plateau=1)
        settings = {"accelerator": "gpu", "progress": False, "validate_every": 3, "resume": stop == 8}
        trainer = fit(module, loader(), loader(7, shuffle=False), out=tmp_path, max_steps=stop, **settings)
        assert trainer.global_step == stop
    assert all(parameter.isfinite().all() for parameter in net.parameters())


def test_steps_that_are_not_finite_leave_the_parameters(tmp_path):
    """By the fused optimiser itself, without a look from the host."""
    pytest.importorskip("lightning")
    from zf_pyro.training import NonFiniteError, Training, fit

    from ..training_runs import tiny_net

    net = tiny_net()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    module = Training(net.model, net.guide, ZForcingELBO(), max_nonfinite=3)
    bad = [(torch.full((2, 3, 2), float("inf")), torch.tensor([3, 2]))]
    with pyro.validation_enabled(False), pytest.raises(NonFiniteError):
        fit(module, bad, out=tmp_path, max_steps=40, accelerator="gpu", progress=False)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(before, net.parameters(), strict=True))
