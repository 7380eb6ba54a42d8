"""The quickstart and the experiments train on a GPU when asked to, from their command lines."""

import json

import pytest
import torch

from ..test_examples import EXAMPLES, run
from .common import NEEDS_CUDA

pytestmark = NEEDS_CUDA
NEEDS = {
    "quickstart": "sktime",
    "timit": "soundfile",
    "blizzard": "soundfile",
    "sequential_mnist": "sklearn",
    "imdb": "tokenizers",
}
"""The package that each script's data needs."""
SCRIPTS = {path.stem: path for path in EXAMPLES if path.stem in NEEDS}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_on_the_device(name, tmp_path):
    pytest.importorskip(NEEDS[name])
    done = run(SCRIPTS[name], "--device", "cuda", "--smoke", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "results.json").exists()
    if name == "quickstart":
        weights = torch.load(tmp_path / "weights.pt", weights_only=True)
        assert all(tensor.is_cuda for state in weights.values() for tensor in state.values())
    else:
        assert json.loads((tmp_path / "results.json").read_text())["flags"]["device"] == "cuda"


@pytest.mark.parametrize(("flag", "value"), [("baseline", "rnn"), ("precision", "bf16-mixed")])
def test_an_experiment_runs_with_a_baseline_and_in_bfloat16(flag, value, tmp_path):
    pytest.importorskip(NEEDS["sequential_mnist"])
    flags = "--device", "cuda", "--smoke", "--out", str(tmp_path), f"--{flag}", value
    done = run(SCRIPTS["sequential_mnist"], *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "results.json").read_text())["flags"][flag] == value
