"""Every example runs from its command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .test_data_text import tree

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=300)


SLOW = (
    "blizzard",
    "diagnose",
    "imdb",
    "polyphonic",
    "quickstart",
    "sequential_mnist",
    "series",
    "swap_inference",
    "timit",
)
"""Examples that take more than six seconds or run the same code as another. The quickstart has its own test."""
BY_NAME = pytest.mark.parametrize(
    "script",
    [pytest.param(path, marks=pytest.mark.slow) if path.stem in SLOW else path for path in EXAMPLES],
    ids=lambda script: script.stem,
)


@BY_NAME
def test_an_example_runs_to_its_end(script: Path, tmp_path: Path) -> None:
    done = run(script, "--smoke", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model"), [("sequential_mnist", "vrnn"), ("timit", "srnn"), ("imdb", "storn"), ("polyphonic", "dmm")]
)
def test_every_model_goes_through_the_experiments(name: str, model: str, tmp_path: Path) -> None:
    script = next(path for path in EXAMPLES if path.stem == name)
    done = run(script, "--smoke", "--model", model, "--objective", "kl_annealing", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "results.json").read_text())["model"] == model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sequential_mnist", "timit", "imdb", "polyphonic"])
def test_the_test_set_can_wait_until_the_setting_is_chosen(name: str, tmp_path: Path) -> None:
    """Scoring it later, from the weights of the finished run, gives what scoring it at once gives."""
    script, found = next(path for path in EXAMPLES if path.stem == name), {}
    for folder, flags in (("at_once", []), ("later", ["--test_sequences", "0"]), ("later", ["--resume"])):
        out = tmp_path / folder
        done = run(script, "--smoke", "--objective", "kl_annealing", *flags, "--out", str(out))
        assert done.returncode == 0, done.stderr
        results = json.loads((out / "results.json").read_text())
        found[(folder, *flags)] = results["evaluations"]
        left_alone = "0" in flags
        assert any(evaluation.startswith("test") for evaluation in results["evaluations"]) is not left_alone
        assert ("active_units" in results) is not left_alone
    later = found["later", "--resume"]
    assert later.keys() == found["at_once",].keys()
    assert found["later", "--test_sequences", "0"].keys() == {part for part in later if part.startswith("validation")}
    for evaluation, bounds in found["at_once",].items():
        prior = [
            each[evaluation]["bounds"]["prior_mean"]["nats_per_frame"]["value"]
            for each in (later, {evaluation: bounds})
        ]
        assert prior[0] == pytest.approx(prior[1], rel=1e-6), "no samples: the same weights"


@pytest.mark.slow
def test_feeling_is_read_off_the_latents_of_labelled_reviews(tmp_path: Path) -> None:
    source, out = tree(tmp_path / "aclImdb", num_train=20, num_test=8), tmp_path / "out"
    script = next(path for path in EXAMPLES if path.stem == "imdb")
    flags = ("--preset", "small", "--max_steps", "2", "--options.frame_dropout", "0.3", "--out", str(out))
    done = run(script, "--data", str(source), *flags)
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "results.json").read_text())
    assert found["sentiment"].keys() == {"accuracy", "baseline", "error", "num_labels"}
    assert found["sentiment"]["num_labels"] == 2
    assert found["sentiment"]["baseline"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
def test_densities_of_speech_are_comparable_between_emissions(tmp_path: Path) -> None:
    script, bits = next(path for path in EXAMPLES if path.stem == "timit"), []
    for name in ("gaussian", "gaussian_mixture", "discretized_logistic_mixture"):
        out = tmp_path / name
        done = run(script, "--smoke", "--baseline", "rnn", "--emission", name, "--components", "2", "--out", str(out))
        assert done.returncode == 0, done.stderr
        found = json.loads((out / "results.json").read_text())["evaluations"]
        bound = found["test, first_frame_given, whole, raw waveform"]["bounds"]["log_likelihood"]
        bits.append(bound["bits_per_value"]["value"])
        assert_speech_is_scored_three_times(found)
    assert max(bits) - min(bits) < 0.5  # bits of a sample, after three steps from the same marginals


def assert_speech_is_scored_three_times(found: dict) -> None:
    """Assert the two definitions of the released scripts, which score the same frames, and the other protocol."""
    whole, reset, other = (
        found[f"test, {name}"]
        for name in ("first_frame_given, whole", "first_frame_given, reset every 40", "full_density, whole")
    )
    assert [one["reset_every"] for one in (whole, reset, other)] == [None, 40, None]
    assert [one["protocol"] for one in (whole, reset, other)] == ["first_frame_given"] * 2 + ["full_density"]
    assert whole["num_sequences"] == reset["num_sequences"] == other["num_sequences"]
    assert whole["num_frames"] == reset["num_frames"] == other["num_frames"] - whole["num_sequences"]
    nats = [one["bounds"]["log_likelihood"]["nats_per_frame"]["value"] for one in (whole, reset, other)]
    assert len(set(nats)) == 3


@BY_NAME
def test_help_describes_every_flag(script: Path) -> None:
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert "--smoke" in done.stdout
    assert "Folder for" in done.stdout


@pytest.mark.slow
def test_the_quickstart_leaves_figure_weights_and_results(tmp_path: Path) -> None:
    script = next(path for path in EXAMPLES if path.stem == "quickstart")
    done = run(script, "--smoke", "--out", str(tmp_path / "deep" / "folder"))
    assert done.returncode == 0, done.stderr
    out = tmp_path / "deep" / "folder"
    assert (out / "figure.png").stat().st_size > 10_000
    objectives = ["plain ELBO", "KL annealing", "Z-Forcing"]
    results = json.loads((out / "results.json").read_text())
    assert list(results["test"]) == objectives
    assert all(name in done.stdout for name in objectives)
    weights = torch.load(out / "weights.pt", weights_only=True)
    assert list(weights) == objectives
    assert all(torch.isfinite(tensor).all() for state in weights.values() for tensor in state.values())
