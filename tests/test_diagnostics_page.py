"""Figures of the diagnostics on README.md and docs/diagnostics.md: those of the committed numbers, and not stale."""

import json
import runpy
from pathlib import Path

import pytest

from zf_pyro.diagnostics import remedies

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "diagnostics_page.py"
CLOSE = {"kl": 0.5, "lost_at_prior_mean": 6.0, "lost_by_shuffling": 12.0, "elbo": 0.5, "evidence": 1.0, "earned": 8.0}
"""Greatest differences by chance from one seed to another, nats per sequence."""


@pytest.fixture(scope="module")
def page():
    pytest.importorskip("jsonargparse", reason="the script needs jsonargparse")
    return runpy.run_path(str(BENCHMARK))


def test_the_pages_show_the_committed_numbers(page):
    numbers = json.loads(BENCHMARK.with_suffix(".json").read_text())
    for path, text in page["pages"](numbers).items():
        assert path.read_text(encoding="utf-8") == text, "run python benchmarks/diagnostics_page.py --render true"


def test_the_table_of_repairs_shows_the_committed_numbers():
    pytest.importorskip("jsonargparse", reason="the script needs jsonargparse")
    script = runpy.run_path(str(BENCHMARK.parent / "refine.py"))
    page = BENCHMARK.parent.parent / "docs" / "inference.md"
    expected = script["table"](json.loads((BENCHMARK.parent / "refine.json").read_text()))
    assert f"\n{expected}\n" in page.read_text(encoding="utf-8"), (
        "run python benchmarks/refine.py --page docs/inference.md"
    )


def test_remedies_name_the_committed_cost_and_gain():
    rows = json.loads((BENCHMARK.parent / "refine.json").read_text())
    by_guide = {row["guide"]: row for row in rows if row["net"] == "Z-Forcing"}
    before = by_guide["trained"]
    for guide, text in (("refined", remedies.REFINED), ("fitted", remedies.FITTED)):
        after = by_guide[guide]
        flagged = [round(100 * row["flagged_steps"] / row["steps"]) for row in (before, after)]
        assert text == (
            f"gap {before['gap']:.1f} to {after['gap']:.1f} nats, flagged steps {flagged[0]} to {flagged[1]} %, in "
            f"{after['processor']:.0f} seconds for the quickstart's 370 utterances"
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vowels-elbo", "vowels-annealing", "vowels"])
def test_the_committed_numbers_are_those_of_the_code(page, name):
    pytest.importorskip("sktime", reason="the data set is in sktime")
    pytest.importorskip("safetensors", reason="saved models need safetensors")
    kept = json.loads(BENCHMARK.with_suffix(".json").read_text())[name]
    found = page["measured"](name)
    assert found.keys() == kept.keys()
    for key, distance in CLOSE.items():
        assert found[key] == pytest.approx(kept[key], abs=distance), key
    for key in ("used", "sequences", "steps"):
        assert found[key] == kept[key]
    assert abs(found["bad_sequences"] - kept["bad_sequences"]) <= 30
    assert abs(found["active_units"] - kept["active_units"]) <= 1
    assert found["auxiliary_r2"] == pytest.approx(kept["auxiliary_r2"], abs=0.05)
