"""The polyphonic example: corpora, files to hear and to see, and every model, objective and baseline."""

import importlib.util
import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from zf_pyro import ZForcing
from zf_pyro.data import load_polyphonic, read_midi
from zf_pyro.data.music.rolls import write_rolls
from zf_pyro.emissions import Bernoulli
from zf_pyro.experiments import MODELS, Run
from zf_pyro.experiments.choices import CHOICES

SCRIPT = Path(__file__).parent.parent / "examples" / "polyphonic.py"
SIZES = {"embed_dim": 4, "hidden_dim": 5, "latent_dim": 3, "mlp_dim": 4}


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("polyphonic_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rolls(count, seed):
    generator = np.random.default_rng(seed)
    return [(generator.random((6, 88)) < 0.05).astype(np.uint8) for _ in range(count)]


def corpus(path):
    write_rolls(path, {"train": rolls(5, 0), "validation": rolls(2, 1), "test": rolls(3, 2)})
    return path


def test_a_file_of_rolls_is_prepared_in_out(example, tmp_path):
    run = Run(out=tmp_path / "run")
    sets = example.load(run, corpus(tmp_path / "mine.npz"), "other")
    assert torch.equal(sets.test[1], torch.from_numpy(rolls(3, 2)[1]).float())
    assert (sets.num_notes, sets.lowest_note) == (88, 21)
    again = example.load(run, tmp_path / "run" / "data", "other")
    assert torch.equal(again.test[1], sets.test[1])


def test_a_corpus_that_is_not_in_the_package_is_asked_for(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = "python -m zf_pyro.data.prepare polyphonic --source FILE --out DIR"
    with pytest.raises(FileNotFoundError, match=message):
        example.load(Run(out=tmp_path), None, "nottingham")
    with pytest.raises(FileNotFoundError, match=r"missing.npz does not exist"):
        example.load(Run(out=tmp_path), tmp_path / "missing.npz", "nottingham")


def test_results_are_not_named_after_another_corpus(example, tmp_path):
    with pytest.raises(ValueError, match=r"corpus must be 'nottingham', as .* was prepared from that, got 'jsb'"):
        example.load(Run(out=tmp_path), corpus(tmp_path / "nottingham.npz"), "jsb")


def test_bad_rolls_and_pickles_are_refused(example, tmp_path):
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps({"train": [[(60,)]], "valid": [[(60,)]], "test": [[(60,)]]}))
    with pytest.raises(ValueError, match=r"python -m zf_pyro.data.music.convert .*a.pickle OUT.npz reads its data"):
        example.load(Run(out=tmp_path / "a"), path, "other")
    with pytest.raises(ValueError, match=r"train\[0\] must be zeros and ones, got 2 at step 0, note 0"):
        write_rolls(
            tmp_path / "b.npz", {"train": [np.full((3, 88), 2)], "validation": rolls(1, 0), "test": rolls(1, 0)}
        )
    cut = corpus(tmp_path / "c.npz").read_bytes()[:-40]
    (tmp_path / "c.npz").write_bytes(cut)
    with pytest.raises(ValueError, match=r"c.npz is cut short or damaged"):
        example.load(Run(out=tmp_path / "c"), tmp_path / "c.npz", "other")


def test_samples_can_be_heard_and_seen(example, tmp_path):
    """MIDI files of the right length; the original is the test piece, the continuation begins with its half."""
    sets = load_polyphonic("jsb")
    torch.manual_seed(0)
    net = ZForcing(Bernoulli(88), **SIZES)
    net.initialise(sets.train[0].unsqueeze(0))
    example.write_samples(net, sets, tmp_path, per_quarter=1, count=1)
    piece = sets.test[0][:128].numpy()
    names = ("original", "reconstruction", "from_latents", "continued", "generated")
    assert {path.name for path in tmp_path.iterdir()} == {"0.png", *(f"0_{name}.mid" for name in names)}
    found = {name: read_midi(tmp_path / f"0_{name}.mid", steps_per_quarter=1).roll for name in names}
    assert np.array_equal(found["original"], piece)
    half = len(piece) // 2
    assert np.array_equal(found["continued"][:half], piece[:half])
    assert 0 < found["generated"].sum() < found["generated"].size / 4
    assert (tmp_path / "0.png").stat().st_size > 5_000


def called(tmp_path, *arguments):
    command = [sys.executable, str(SCRIPT), "--smoke", "--out", str(tmp_path / "run"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "run" / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "objective", "emission"),
    [
        *itertools.product(["zforcing"], CHOICES["objective"], ["bernoulli", "nade"]),
        *itertools.product([name for name in MODELS if name != "zforcing"], ["kl_annealing", "fivo"], ["bernoulli"]),
    ],
)
def test_every_model_runs_under_every_objective(model, objective, emission, tmp_path):
    given = f"--corpus jsb --model {model} --emission {emission} --objective {objective} --particles 3"
    results = called(tmp_path, *given.split(), "--transpose", "true", "--window", "20")
    assert (results["model"], results["objective"]) == (model, objective)
    assert set(results["evaluations"]) == {"test, 2 particles", "validation, 2 particles"}
    assert set(results["evaluations"]["test, 2 particles"]["bounds"]) >= {"elbo", "importance_weighted", "particle"}
    assert (results["steps"], results["best_step"]) == (3, 3)
    assert (tmp_path / "run" / "samples" / "0.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("emission", ["bernoulli", "nade"])
@pytest.mark.parametrize("baseline", ["rnn", "rnn_layer_norm"])
def test_every_baseline_runs(baseline, emission, tmp_path):
    results = called(tmp_path, "--baseline", baseline, "--emission", emission)
    assert (results["model"], results["objective"]) == (baseline, None)
    assert set(results["evaluations"]) == {"test", "validation"}
    assert set(results["evaluations"]["test"]["bounds"]) == {"log_likelihood"}
