"""Several processes train as one process with all their data; results in reduced precision are close."""

import csv
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

from zf_pyro import ZForcing, ZForcingELBO, emissions
from zf_pyro.data import LengthBatches
from zf_pyro.evaluation import bounds
from zf_pyro.training import Training, fit
from zf_pyro.training.precision import BFloat16Products

from .comparing import assert_same
from .conftest import random_frames, random_net
from .training_runs import Sequences, final, join, loader, tiny_net, together, weights


class Noiseless(ZForcing):
    """Network with noise computed from the data, so that samples of a sequence do not depend on its batch."""

    def scan_posterior(self, state, u, b, noise):
        made = torch.cos(7.0 * u.sum(-1, keepdim=True) + torch.arange(noise.shape[-1]))
        return super().scan_posterior(state, u, b, made.to(noise).expand_as(noise))


class Shares:
    """Batches of 4 for one process; two processes take three and one sequence of each."""

    def __init__(self, rank, world):
        self.rank, self.world, self.data = rank, world, Sequences()

    def __iter__(self):
        for indices in LengthBatches(self.data.lengths, 4):
            cuts = [slice(0, 3), slice(3, 4)] if self.world == 2 else [slice(0, 4)]
            own = [self.data[i].double() for i in indices[cuts[self.rank]]]
            lengths = torch.tensor([len(sequence) for sequence in own])
            yield torch.nn.utils.rnn.pad_sequence(own, batch_first=True), lengths


def share(out, *, devices=1, **settings):
    """Train on this process's share in float64; rank 0 saves the parameters."""
    rank = int(os.environ["LOCAL_RANK"]) if devices > 1 else 0
    net = tiny_net(cls=Noiseless).double()
    optimiser = functools.partial(torch.optim.Adam, lr=1e-2)
    module = Training(net.model, net.guide, ZForcingELBO(0.7, 0.3, 0.2), optimiser, clip_norm=5.0, **settings)
    batches = Shares(rank, devices)
    quiet = {"progress": False, "accelerator": "cpu", "devices": devices, "validate_every": 4}
    net.initialise(Shares(0, 1))  # each process by itself would start at its own share
    fit(module, batches, Shares(rank, devices), out=out, max_steps=12 // module.accumulate, **quiet)
    if rank == 0:
        torch.save(weights(net), Path(out) / "final.pt")


def table(out):
    with open(Path(out) / "logs" / "version_0" / "metrics.csv") as file:
        return [{k: float(v) for k, v in row.items() if v and "second" not in k} for row in csv.DictReader(file)]


def of_all_processes(rows):
    """Rows without the measurements of MechanismLog, which are of the first process's share alone."""
    return [row for row in rows if not any(name.startswith("mechanism/") for name in row)]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 3])
def test_two_processes_train_as_one_with_the_same_global_batch(accumulate, tmp_path):
    """Losses, gradient norms, clipped steps and validations, with lengths and shares of unequal size, in float64."""
    share(tmp_path / "one", accumulate=accumulate)
    assert join(together(share, tmp_path / "two", accumulate=accumulate)) == [0, 0]
    assert_same(final(tmp_path / "two"), final(tmp_path / "one"))
    one, two = (of_all_processes(table(tmp_path / name)) for name in ("one", "two"))
    assert len(one) == len(two) > 12 // accumulate
    for row, other in zip(one, two, strict=True):
        assert row == pytest.approx(other, rel=1e-6)  # the table holds float32
    assert any(row.get("train/grad_norm", 0) > 5 for row in one), "no step was clipped"


@pytest.mark.slow
def test_only_one_process_writes(tmp_path):
    assert join(together(share, tmp_path)) == [0, 0]
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["version_0"]
    assert len([*(tmp_path / "logs" / "version_0").glob("metrics.csv")]) == 1
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step00000012.ckpt"]


SCRIPT = """
import os, sys
import torch
from tests.training_runs import loader, objective, tiny_net
from zf_pyro.training import Training, fit
torch.set_num_threads(1)
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
net = tiny_net()
module = Training(net.model, net.guide, objective())
batches = loader(batch_size=2, rank=rank, world_size=world)
trainer = fit(module, batches, out=sys.argv[1], max_steps=4, devices=world, accelerator="cpu", progress=False)
assert trainer.world_size == 2
torch.save([p.detach().clone() for p in net.parameters()], f"{sys.argv[1]}/rank{rank}.pt")
"""


@pytest.mark.slow
def test_torchrun_starts_it(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).parent.parent)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    ours, theirs = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.slow
def test_processes_draw_different_numbers(tmp_path):
    assert join(together(draws, tmp_path)) == [0, 0]
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert not torch.equal(one, two)


def draws(out, *, devices):
    net, rank = tiny_net(), os.environ["LOCAL_RANK"]
    fit(
        Training(net.model, net.guide, ZForcingELBO()),
        loader(batch_size=2, rank=int(rank), world_size=devices),
        out=out,
        max_steps=1,
        devices=devices,
        accelerator="cpu",
        progress=False,
    )
    torch.save(torch.rand(8), out / f"{rank}.pt")


def test_bfloat16_changes_products_of_whole_sequences_alone(transition):
    """Loops, densities and gradients stay in float32."""
    net, x = random_net("gaussian", dtype=torch.float32, transition=transition), random_frames(dtype=torch.float32)
    losses, grads = [], []
    for mixed in (False, True):
        torch.manual_seed(0)
        elbo = ZForcingELBO(aux_weight=0.3, backward_weight=0.2)
        if mixed:
            with BFloat16Products():
                losses.append(elbo.loss_and_grads(net.model, net.guide, x))
        else:
            losses.append(elbo.loss_and_grads(net.model, net.guide, x))
        assert all(term.dtype == torch.float32 for term in elbo.terms)
        assert all(
            parameter.grad.dtype == torch.float32 for parameter in net.parameters() if parameter.grad is not None
        )
        grads.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
        net.zero_grad()
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert torch.nn.functional.cosine_similarity(*grads, dim=0) > 0.999


@pytest.mark.slow
def test_bfloat16_moves_the_bound_on_the_vowels_by_less_than_a_hundredth_of_a_nat_a_frame(tmp_path):
    """For a network trained in float32. A network trained in bfloat16 reaches a similar bound."""
    pytest.importorskip("sktime")
    from zf_pyro.data.vowels import load_vowels

    vowels = load_vowels()
    frames = vowels.test.lengths.double().mean().item()
    batches = [(vowels.train.take(rows).x, vowels.train.take(rows).lengths) for rows in torch.arange(216).split(54)]
    nets = {}
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        nets[precision] = net = ZForcing(emissions.Gaussian(12), embed_dim=32, hidden_dim=32, latent_dim=8, mlp_dim=32)
        module = Training(net.model, net.guide, ZForcingELBO(), functools.partial(torch.optim.Adam, lr=3e-3))
        settings = {"progress": False, "accelerator": "cpu", "precision": precision}
        fit(module, batches, out=tmp_path / precision, max_steps=60, **settings)

    def bound(net):
        torch.manual_seed(9)
        return bounds(net, vowels.test.x, vowels.test.lengths, 1).elbo.mean().item() / frames

    exact = bound(nets["32-true"])
    with BFloat16Products():
        assert bound(nets["32-true"]) == pytest.approx(exact, abs=0.01)
    assert bound(nets["bf16-mixed"]) == pytest.approx(exact, abs=0.5)


def test_other_precisions_are_lightnings_own(tmp_path):
    net = tiny_net()
    module = Training(net.model, net.guide, ZForcingELBO())
    fit(module, loader(), out=tmp_path, max_steps=1, precision="64-true", progress=False, accelerator="cpu")
    assert net.emission_layer.weight.dtype == torch.float64
