"""Comparison of algorithms on one model: training, inference and evaluation."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from zf_pyro.evaluation import bounds, infer_and_judge, train_and_judge

from .conftest import random_frames, random_net
from .exact import log_evidence, small

ROOT = Path(__file__).parent.parent
LENGTHS = torch.tensor([4, 2, 3])


@pytest.mark.slow
def test_training_continues_and_is_evaluated_on_other_sequences():
    net, batch = random_net(), (random_frames(), LENGTHS)
    before = [p.detach().clone() for p in net.parameters()]
    outcome = train_and_judge(
        "TraceMeanField_ELBO", net, [batch] * 3, (random_frames(seed=7), None), num_particles=20, repeats=20
    )
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    scores = bounds(net, random_frames(seed=7), num_particles=2000)
    assert outcome.bound == pytest.approx(scores.elbo.mean().item(), abs=5 * outcome.error + 0.1)
    assert outcome.bound < outcome.yardstick
    assert 1.0 <= outcome.ess <= outcome.draws == 20


@pytest.mark.slow
def test_wake_sleeps_bound_is_that_of_its_model_loss():
    net, batch = random_net(), (random_frames(batch=1), None)
    outcome = train_and_judge("ReweightedWakeSleep", net, [], batch, num_particles=8, repeats=40)
    exact = bounds(net, *batch, num_particles=8).importance_weighted.item()
    assert outcome.bound == pytest.approx(exact, abs=5 * outcome.error + 1.0)


def test_what_has_no_loss_has_no_bound():
    net, batch = random_net(), (random_frames(), LENGTHS)
    outcome = train_and_judge("TraceTailAdaptive_ELBO", net, [batch], batch, num_particles=4)
    assert math.isnan(outcome.bound)
    assert math.isfinite(outcome.yardstick)


@pytest.mark.parametrize("name", ["ParticleFilter", "Importance", "AnnealedImportanceSampling"])
def test_estimates_of_the_evidence_are_near_it(name):
    net, x = small("gaussian", "concatenate", 2)
    settings = {"Importance": {"num_samples": 100}, "AnnealedImportanceSampling": {"num_temperatures": 5}}.get(name, {})
    outcome = infer_and_judge(name, net, (x, None), num_particles=100, repeats=2, **settings)
    assert outcome.bound == pytest.approx(log_evidence(net, x).mean().item(), abs=0.5)
    assert 1.0 <= outcome.ess <= outcome.draws


def test_inference_leaves_the_parameters():
    net, x = random_net(), random_frames()
    before = [p.detach().clone() for p in net.parameters()]
    for name in ("AutoNormal", "SVGD"):
        infer_and_judge(name, net, (x, LENGTHS), steps=2, num_particles=2, repeats=2)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_an_algorithm_of_the_other_kind_is_refused():
    net, batch = random_net(), (random_frames(), LENGTHS)
    with pytest.raises(ValueError, match="trains on new sequences at every call, got 'NUTS'"):
        train_and_judge("NUTS", net, [batch], batch)
    with pytest.raises(ValueError, match="got 'RenyiELBO', which trains"):
        infer_and_judge("RenyiELBO", net, batch)


def run(*arguments):
    command = [sys.executable, str(ROOT / "examples" / "swap_inference.py"), "--smoke", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_example_refuses_an_unknown_algorithm_before_it_trains(tmp_path):
    done = run("--inference", "Nuts", "--out", tmp_path)
    assert done.returncode != 0
    assert "Trace_ELBO" in done.stderr
    assert "warm-up" not in done.stderr


@pytest.mark.slow
def test_the_example_takes_sequences_of_the_users(tmp_path):
    symbols = np.random.default_rng(0).integers(0, 5, (20, 6))
    np.savez(tmp_path / "own.npz", x=symbols, lengths=np.full(20, 6))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- inference table -->\nold\n<!-- end of inference table -->\nafter\n")
    done = run("--inference", "ParticleFilter", "--data", tmp_path / "own.npz", "--out", tmp_path, "--page", page)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "table.md").read_text()
    assert "| ParticleFilter | -" in table
    assert page.read_text() == f"before\n<!-- inference table -->\n{table}<!-- end of inference table -->\nafter\n"
    assert (tmp_path / "figure.png").stat().st_size > 5000
