"""Training on a GPU: no synchronisation within steps, resumed runs, bfloat16, and skipped steps."""

import functools
import os

import pyro
import pytest
import torch

from zf_pyro import ZForcing, ZForcingELBO, emissions
from zf_pyro.objectives import GraphedELBO

from .common import NEEDS_CUDA

lightning = pytest.importorskip("lightning")
from zf_pyro.training import NonFiniteError, Training, fit  # noqa: E402

from ..training_runs import loader, objective, tiny_net, weights  # noqa: E402

pytestmark = NEEDS_CUDA
SIZES = {"embed_dim": 16, "hidden_dim": 32, "latent_dim": 8, "mlp_dim": 16}
QUIET = {"accelerator": "gpu", "progress": False}


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
@pytest.mark.parametrize("graphs", [False, True])
def test_a_step_never_waits_for_the_device(graphs):
    net = ZForcing(emissions.Gaussian(3), **SIZES).cuda()
    elbo = ZForcingELBO(0.7, 0.1, 0.1)
    elbo = GraphedELBO(elbo) if graphs else elbo
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    arguments = torch.randn(4, 16, 3).cuda(), torch.tensor([16, 16, 2, 1]).cuda()
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


def run(out, max_steps, graphs=True, resume=False, dropout=0.2, bucket=2, **settings):
    net = tiny_net(dropout=dropout)
    elbo = GraphedELBO(objective(), bucket=bucket) if graphs else objective()
    module = Training(net.model, net.guide, elbo, functools.partial(torch.optim.Adam, lr=1e-2), plateau=1)
    settings = QUIET | {"validate_every": 3, "checkpoint_every": 2, "resume": resume} | settings
    trainer = fit(module, loader(), loader(7, shuffle=False), out=out, max_steps=max_steps, **settings)
    assert trainer.global_step == max_steps
    return elbo, weights(net)


@pytest.mark.parametrize("graphs", [False, True])
def test_a_resumed_run_ends_as_the_undisturbed_one(graphs, tmp_path):
    """Although the resumed run captures its graphs again."""
    _, whole = run(tmp_path / "whole", 8, graphs)
    run(tmp_path / "parts", 5, graphs)
    elbo, resumed = run(tmp_path / "parts", 8, graphs, resume=True)
    assert elbo.step == 8
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=1e-5, atol=1e-6)


def test_a_run_in_graphs_ends_as_one_without(tmp_path):
    """Their samples are equal, as lengths are not padded to buckets."""
    graphed, plain = (run(tmp_path / str(graphs), 8, graphs, bucket=1)[1] for graphs in (True, False))
    for name, value in plain.items():
        torch.testing.assert_close(graphed[name], value, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_without_graphs_resumes_with_graphs(tmp_path):
    run(tmp_path, 4, graphs=False)
    elbo, _ = run(tmp_path, 8, graphs=True, resume=True)
    assert elbo.step == 8


@pytest.mark.parametrize("graphs", [False, True])
def test_bfloat16_trains_and_leaves_float32(graphs, tmp_path):
    _, mixed = run(tmp_path / "mixed", 8, graphs, precision="bf16-mixed", dropout=0.0)
    _, full = run(tmp_path / "full", 8, graphs, dropout=0.0)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in mixed.values())
    assert any(not torch.equal(mixed[name], value) for name, value in full.items())
    for name, value in full.items():
        assert (mixed[name] - value).abs().max() < 0.1, name  # eight steps of at most 0.01


def test_float64_trains(tmp_path):
    _, found = run(tmp_path, 3, precision="64-true")
    assert all(value.dtype == torch.float64 for value in found.values())


def test_steps_that_are_not_finite_leave_the_parameters(tmp_path):
    """The fused optimiser skips them itself, without a synchronisation with the host."""
    net = tiny_net()
    before = weights(net)
    module = Training(net.model, net.guide, GraphedELBO(ZForcingELBO()), max_nonfinite=3)
    bad = [(torch.full((2, 3, 2), float("inf")), torch.tensor([3, 2]))]
    with pyro.validation_enabled(False), pytest.raises(NonFiniteError):
        fit(module, bad, out=tmp_path, max_steps=40, **QUIET)
    assert all(torch.equal(value, weights(net)[name].cpu()) for name, value in before.items())


def test_pyros_optimiser_and_accumulation_train(tmp_path):
    net = tiny_net()
    before = weights(net)
    optimiser = pyro.optim.ClippedAdam({"lr": 1e-2})
    module = Training(net.model, net.guide, GraphedELBO(objective(), bucket=2), optimiser, accumulate=2)
    trainer = fit(module, loader(), out=tmp_path, max_steps=4, **QUIET)
    assert trainer.global_step == 4
    assert module.objective.step == 4
    assert any(not torch.equal(value, weights(net)[name].cpu()) for name, value in before.items())


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_workers_and_pinned_memory_do_not_disturb_captures(tmp_path):
    net, batches = tiny_net(), loader(workers=2)
    batches.pin_memory = True
    module = Training(net.model, net.guide, GraphedELBO(objective(), bucket=1))
    trainer = fit(module, batches, out=tmp_path, max_steps=12, **QUIET)
    assert trainer.global_step == 12
    assert module.objective.num_graphs > 1
    assert os.path.exists(tmp_path / "logs")
