"""Search over settings: the best validation figure is found, runs that are finished are not repeated."""

import json
from pathlib import Path

import pytest

from zf_pyro.experiments import commands
from zf_pyro.experiments import search as module
from zf_pyro.experiments.plan import Sweep
from zf_pyro.experiments.planned_runs import TRAIN, program
from zf_pyro.experiments.search import require_space, series_row

SPACE = {"learning_rate": [1e-4, 1e-1, "log"], "hidden_dim": [4, 64], "model": ["vrnn", "srnn", "dmm"]}


def worth(flags):
    """Best for a learning rate near 0.01 and vrnn."""
    rate = float(flags["learning_rate"])
    return -abs(rate - 0.01) * 100 - (flags["model"] != "vrnn") - int(flags["hidden_dim"]) / 1000


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """A plan, whose runs write a made-up figure; and the arguments of the trials, which leave the test set alone."""
    pytest.importorskip("optuna", reason="the search is by Optuna")
    ran = []

    def execute(plan, run):
        if not run.scored:
            ran.append(run.arguments)
        flags = dict(zip([word[2:] for word in run.arguments[::2]], run.arguments[1::2], strict=True))
        if flags["model"] == "dmm":
            return f"{run.name} ended with code 1"
        bounds = {"importance_weighted": {"value": worth(flags), "standard_error": 0.1}}
        plan.results.mkdir(parents=True, exist_ok=True)
        found = {"arguments": run.arguments, "scored": run.scored}
        parts = ("validation", "test") if run.scored else ("validation",)
        found["evaluations"] = {part: {"bounds": bounds} for part in parts}
        (plan.results / f"{run.name}.json").write_text(json.dumps(found))
        return None

    monkeypatch.setattr(module, "execute", execute)
    return Sweep(TRAIN, tmp_path, tmp_path / "results", []), ran


def test_the_best_validation_figure_is_chosen(searched):
    plan, ran = searched
    best = module.search(plan, series_row(Path("data"), {"objective": "elbo"}, 3), SPACE, trials=12)
    found = json.loads((plan.results / "search.json").read_text())
    values = [one["value"] for one in found["trials"] if one["value"] is not None]
    assert best == found["best"]["setting"]
    assert found["best"]["value"] == max(values) == pytest.approx(worth(best))
    assert all(arguments[:4] == ["--data", "data", "--objective", "elbo"] for arguments in ran)
    assert all(one["value"] is None and one["failure"] for one in found["trials"] if one["setting"]["model"] == "dmm")


def test_the_best_trial_alone_is_scored_on_the_test_set(searched):
    plan, _ = searched
    module.search(plan, series_row(Path("data"), {}, 0), {**SPACE, "model": ["vrnn", "srnn"]}, trials=5)
    best = json.loads((plan.results / "search.json").read_text())["best"]["run"]
    kept = {path.stem: json.loads(path.read_text()) for path in plan.results.glob("trial*.json")}
    assert len(kept) == 5
    assert [name for name, result in kept.items() if "test" in result["evaluations"]] == [best]


def test_a_search_goes_on_where_it_was(searched):
    plan, ran = searched
    row, space = series_row(Path("data"), {}, 0), {**SPACE, "model": ["vrnn", "srnn"]}
    module.search(plan, row, space, trials=4)
    first = list(ran)
    module.search(plan, row, space, trials=6)
    assert ran[:4] == first
    assert len(ran) == 6


@pytest.mark.parametrize("space", [{}, {"hidden_dim": 3}, {"hidden_dim": [8, 4]}, {"rate": [0.0, 1.0, "log"]}])
def test_what_is_no_space_is_refused(space):
    with pytest.raises(ValueError, match="space"):
        require_space(space)


def test_runs_of_the_command_have_their_data_as_its_argument():
    row = series_row(Path("prepared/x"), {"model": "vrnn"}, 1)
    command = program(Sweep(TRAIN, Path("runs"), Path("results"), []), row.run({"hidden_dim": 8}, 1).arguments)
    assert command[1:5] == ["-m", "zf_pyro", "train", "prepared/x"]
    assert command[5:] == ["--model", "vrnn", "--hidden_dim", "8", "--seed", "1"]


def test_the_command_reads_space_and_flags(searched, tmp_path, capsys):
    given = ["search", "prepared/x", "--space", json.dumps(SPACE | {"model": ["vrnn", "srnn"]}), "--trials", "2"]
    commands.main([*given, "--flags", '{"objective":"elbo"}', "--out", str(tmp_path)])
    assert len(searched[1]) == 2
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("zf-pyro train prepared/x --objective elbo --learning_rate ")
    with pytest.raises(SystemExit, match="error: space must hold flags"):
        commands.main(["search", "prepared/x"])
