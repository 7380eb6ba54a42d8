"""A run of a plan: its command, and the small copies of its results and of the scores of its test sequences."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..saving import RUN, write_atomically
from .curves import LOGGED, thinned
from .plan import PlannedRun, Sweep
from .planned_results import Results, sequences_of
from .results import logged
from .sequences_csv import TABLE, shorten_sequences

RESULTS = "results.json"
TRAIN = Path("zf-pyro train")
"""In place of a script: the command, with the prepared folder as the flag ``data``."""
KEPT = (
    *("command", "model", "objective", "parameters", "training_seconds", "steps", "best_step", "best_bound"),
    *("active_units", "sentiment", "flags", "preset", "data", "versions"),
)
"""Fields of a run's results that its small copy has, beside the evaluations."""


def execute(plan: Sweep, run: PlannedRun) -> str | None:
    """Run the script in one thread, going on with what is in its folder, and keep its results.

    A finished run that lacks the test set is only scored.

    Returns:
        None, or a sentence about the failure. The output is in ``output.log`` of the run's folder.
    """
    out = plan.runs / run.name
    out.mkdir(parents=True, exist_ok=True)
    arguments = [*run.arguments, *([] if run.scored else ["--test_sequences", "0"])]
    command = [*program(plan, arguments), "--out", str(out)]
    if (out / RUN).is_file():
        command.append("--resume")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with (out / "output.log").open("ab") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env={**os.environ, **threads}, check=False)
    if done.returncode:
        return f"{run.name} ended with code {done.returncode}: see {out / 'output.log'}"
    results = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    small = shortened(results) | {"arguments": run.arguments, "scored": run.scored}
    small["command"] = shlex.join(["python", str(plan.script), *arguments])
    curves = {name: thinned(curve) for name, curve in logged(out).items() if name in LOGGED}
    text = f'{json.dumps(small, indent=1)[:-2]},\n "curves": {json.dumps(curves)}\n}}\n'  # a line for all curves
    plan.results.mkdir(parents=True, exist_ok=True)
    if any(name.startswith("test") for name in small["evaluations"]):  # a series may have no test part
        shorten_sequences(out / TABLE, sequences_of(plan, run))
    write_atomically(plan.results / f"{run.name}.json", lambda file: file.write(text.encode()))
    return None


def program(plan: Sweep, arguments: list[str]) -> list[str]:
    """Command of a run: its script, or ``zf-pyro train``, whose data are no flag."""
    if plan.script != TRAIN:
        return [sys.executable, str(plan.script), *arguments]
    place = arguments.index("--data")
    data, rest = arguments[place + 1], [*arguments[:place], *arguments[place + 2 :]]
    return [sys.executable, "-m", "zf_pyro", "train", data, *rest]


def shortened(results: Mapping[str, Any]) -> Results:
    """Results without figures in other units than nats per frame."""
    evaluations = {}
    for name, evaluation in results["evaluations"].items():
        bounds = {bound: values["nats_per_frame"] for bound, values in evaluation["bounds"].items()}
        kl = evaluation["kl"] and evaluation["kl"]["nats_per_frame"]
        counts = {key: evaluation[key] for key in ("num_sequences", "num_frames", "num_particles", "filter_particles")}
        evaluations[name] = {"bounds": bounds, "kl": kl, **counts}
    return {name: results[name] for name in KEPT if name in results} | {"evaluations": evaluations}
