"""Results of a run: scores and settings, the nats of each sequence, and a figure of the training curves."""

import csv
import importlib.metadata
import json
import math
import platform
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data import Record
from ..evaluation import Evaluation, Scores, report
from ..saving import data_of, read_run, require_same, write_atomically, write_run
from .gallery import draw_curves
from .presets import Preset
from .sequences_csv import TABLE, write_sequences
from .settings import Run

Curves = dict[str, list[tuple[float, float]]]
"""Logged (step, value) pairs, by name."""


def write_results(
    run: Run,
    preset: Preset,
    record: Record,
    evaluations: Mapping[str, Evaluation],
    scores: Mapping[str, Scores],
    **more: Any,
) -> None:
    """Print a table; write ``results.json``, ``sequences.csv`` and ``figure.png``.

    Results of a run with other flags or data are not replaced. ``run.json`` is written where training wrote none.

    Args:
        run: the flags.
        preset: sizes and schedules.
        record: how the data was prepared.
        evaluations: evaluations by name.
        scores: scores of the validation and the test set by ``validation`` and ``test``, for ``sequences.csv``.
        more: further results, of JSON's types.

    Raises:
        ValueError: ``out`` holds a run with other flags or data.
    """
    print(report(evaluations))
    found = {"about": run.about, "data": data_of(record)}
    if read_run(run.out) is not None:
        require_same(run.out, found)
    write_run(run.out, found)
    settings = {**asdict(run), "out": str(run.out)}
    data = {name: split.num_sequences for name, split in record.splits.items()}
    fields = {
        "command": " ".join([Path(sys.executable).name, *sys.argv]),
        "model": run.baseline or run.model,
        "objective": None if run.baseline else run.objective,
        "evaluations": {name: evaluation.to_json() for name, evaluation in evaluations.items()},
        **more,
        "flags": settings,
        "preset": asdict(preset),
        "data": {"corpus": record.corpus, "settings": record.settings, "sequences": data, "scale": record.scale},
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("torch", "pyro-ppl", "zf-pyro")},
        },
    }
    text = json.dumps(fields, indent=1) + "\n"
    write_atomically(run.out / "results.json", lambda file: file.write(text.encode()))
    write_sequences(run.out / TABLE, scores)
    draw_curves(run.out / "figure.png", logged(run.out), title=run.title)


def logged(out: Path) -> Curves:
    """Values logged in training over all starts of the run; of repeated steps the latest counts."""
    found: defaultdict[str, dict[float, float]] = defaultdict(dict)
    for table in sorted(out.glob("logs/version_*/metrics.csv"), key=lambda path: int(path.parent.name[8:])):
        with table.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name != "step" and math.isfinite(float(value)):
                        found[name][float(row["step"])] = float(value)
    return {name: sorted(points.items()) for name, points in found.items()}
