"""Every benchmark runs from its command line, and one training step crosses few borders between wings."""

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TABLES = {
    "bfloat16": [
        "timit: ",
        "mnist_512: ",
        " s with products in float32, ",
        " s in ",
        "ratio ",
        "last losses ",
        "careful loop, allowed the same: ",
    ],
    "compilers": ["hidden_128 ", "1.000 [1.000, 1.000] of the first"],
    "ddp": ["one process ", "sequences per second", "ratio ", "goal 1.6"],
    "diagnostics": ["median seconds  (a) ", "(b) / (a) ", "(d) / (c) ", "(e) / (c) ", "(d) / (a) "],
    "diagnostics_page": ["latent use", "plain ELBO | ", "Z-Forcing | ", "weights"],
    "family": ["music   VRNN ", "music   STORN ", "speech  DMM ", "(a) / (z) ", "(b) / (a) "],
    "flows": ["2 sequences of 3 frames", "2 flows ", "ratio "],
    "inference": ["RenyiELBO / enlarged batch ", "textbook / latent_mcmc ", "SMCFilter per sequence / ParticleFilter "],
    "proposals": ["| prior | ", "| guide, one frame at a time | ", "| guide of whole sequences | "],
    "refine": ["utterances, filter of ", "untrained  trained ", "refined ", "fitted "],
    "scale": [f"| {row} | " for row in ("plain_10000", "truncated_10000", "batch_1000", "stream", "processes_2")],
    "sixo": ["objective ", "FIVO ", "SIXO ", "test, no twist"],
    "small": ["1 sequences, ", " steps per second, ", "1.000 [1.000, 1.000] of the first", "time loops in C: "],
    "start": ["steps to ", "released ", "data "],
    "train_step": [
        "timit: ",
        "mnist_128: ",
        "mnist_512: ",
        "(g) the whole time loop is compiled, in ",
        "(f) / (d) ",
        "(g) / (d) ",
        "(a) / (d) ",
        "(b) / (c) ",
        "growth ",
        "(a) MiB ",
        "(d) MiB ",
    ],
}
"""Parts of the printed table of each script."""
OTHERS = {
    "careful",
    "compiled",
    "contenders",
    "fused_machine",
    "hand_written",
    "jax_models",
    "jax_scan",
    "measuring",
    "released_form",
    "textbook",
    "step_trace",
}
"""Modules of the scripts, and the script that has its own test."""
SLOW = (
    "bfloat16",
    "compilers",
    "ddp",
    "diagnostics",
    "diagnostics_page",
    "family",
    "inference",
    "refine",
    "scale",
    "sixo",
    "small",
    "start",
    "train_step",
)
"""Scripts that take more than six seconds on one core, most of it for importing in each process."""


def run(name: str, *arguments: str) -> str:
    """Standard output of a script that must succeed."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_script_is_known():
    assert {path.stem for path in BENCHMARKS.glob("*.py")} == TABLES.keys() | OTHERS


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in TABLES])
def test_a_benchmark_prints_its_table(name: str) -> None:
    printed = run(name, "--smoke")
    assert [part for part in TABLES[name] if part not in printed] == []


@pytest.mark.parametrize("machine", ["fused", "persistent"])
def test_a_contender_chooses_its_machine_for_its_step_alone(machine, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    step = importlib.import_module("fused_machine").on_machine(machine, lambda: os.environ["ZF_PYRO_MACHINE"])
    for before in (None, "pytorch"):
        monkeypatch.delenv("ZF_PYRO_MACHINE", raising=False)
        if before is not None:
            monkeypatch.setenv("ZF_PYRO_MACHINE", before)
        assert step() == machine
        assert os.environ.get("ZF_PYRO_MACHINE") == before


@pytest.mark.slow
@pytest.mark.exhaustive
def test_contenders_run_in_their_own_processes() -> None:
    printed = run("train_step", "--smoke", "--work", "timit", "--apart", "true")
    assert "each contender in its own process" in printed
    assert "(a) / (d) " in printed


@pytest.mark.slow
@pytest.mark.exhaustive
def test_every_model_has_a_compiled_contender() -> None:
    printed = run("family", "--smoke", "--work", "music", "--model", "VRNN", "--compiled", "true")
    assert "(g) the whole time loop is compiled, in " in printed
    assert "(g) / (a) " in printed


@pytest.mark.slow
def test_networks_are_trained_in_both_precisions() -> None:
    printed = run("bfloat16", "--smoke", "--work", "training")
    assert printed.startswith("seed 0: ELBO -")
    assert " in float32, -" in printed


@pytest.mark.slow
def test_a_row_of_the_table_of_scale_runs_alone() -> None:
    printed = run("scale", "--smoke", "--row", "[recomputed_10000]")
    assert len(printed.splitlines()) == 3
    assert "| recomputed_10000 | " in printed


@pytest.mark.slow
def test_a_training_step_changes_wing_at_most_250_times(tmp_path: Path) -> None:
    printed = run("step_trace", "--smoke", "--json", str(tmp_path / "counts.json"))
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert all(f"  {name} " in printed for name in counts)
    assert 0 < counts["changes of wing"] <= 250


def test_the_check_on_a_gpu_asks_for_flags_that_there_are_and_waits_for_no_compiler(monkeypatch) -> None:
    """Each of its sizes may wait for two forms under torch.compile."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    text = (BENCHMARKS / "gpu_check.sh").read_text()
    (words,) = re.findall(r"benchmarks/train_step\.py (.*)", text)
    flags = dict(re.findall(r"--(\w+) (\S+)", words))
    module = importlib.import_module("train_step")
    assert flags.keys() <= inspect.signature(module.main).parameters.keys()
    (works,) = re.findall(r"for work in (.*); do", text)
    assert set(works.split()) == set(module.WORKS)
    assert 2 * len(module.WORKS) * float(flags["limit"]) <= 10
