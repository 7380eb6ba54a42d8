"""Runs of a plan, some at a time: ``python -m zf_pyro.experiments.sweep PLAN``. Finished runs are skipped."""

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..saving import RUN, write_atomically
from .curves import LOGGED, late_mean, thinned
from .plan import TRAINING, Flags, PlannedRow, PlannedRun, Sweep, read_plan
from .results import logged

RESULTS = "results.json"
TRAIN = Path("zf-pyro train")
"""In place of a script: the command, with the prepared folder as the flag ``data``."""
KEPT = (
    *("command", "model", "objective", "parameters", "training_seconds", "steps", "best_step", "best_bound"),
    *("active_units", "flags", "preset", "data", "versions"),
)
"""Fields of a run's results that its small copy has, beside the evaluations."""
Results = dict[str, Any]


def result_of(plan: Sweep, run: PlannedRun) -> Results | None:
    """The small copy of a run's results; None if the run is not finished.

    Raises:
        ValueError: the file is of a run with other flags.
    """
    path = plan.results / f"{run.name}.json"
    try:
        found: Results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if found.get("arguments") != run.arguments:
        raise ValueError(
            f"{path} is of a run with other flags, {shlex.join(found.get('arguments', []))}, the plan has "
            f"{shlex.join(run.arguments)}: rename the row, or remove the file and the run's folder"
        )
    return found


def figure(result: Results, evaluation: str, bound: str) -> float | None:
    """Nats per frame of a bound in an evaluation; of a density without latents, its log-likelihood.

    Args:
        result: of :func:`result_of`.
        evaluation: name of the evaluation, such as "validation, 8 particles"; or "training", for what stands in the
            logs, in nats per sequence: see :func:`.late_mean`.
        bound: name of the bound, or kl; of training, auxiliary or earned.
    """
    if evaluation == TRAINING:
        return late_mean(result.get("curves", {}), bound)
    evaluations: Mapping[str, Any] = result["evaluations"]
    found = evaluations.get(evaluation, evaluations.get(evaluation.partition(",")[0], {}))
    bounds = found.get("bounds", {})
    value = found.get("kl") if bound == "kl" else bounds.get("log_likelihood", bounds.get(bound))
    return None if value is None else float(value["value"])


def chosen_setting(plan: Sweep, row: PlannedRow) -> Flags | None:
    """The setting of a row with the best validation figure under the first seed; None before all of them have run.

    Raises:
        ValueError: the results lack that figure.
    """
    figures = []
    for setting in row.settings:
        result = result_of(plan, row.run(setting, row.seeds[0]))
        if result is None:
            return None
        value = figure(result, *row.select)
        if value is None:
            known = ", ".join(result["evaluations"])
            raise ValueError(f"{row.name} is to be selected by {row.select}, which its results lack; they have {known}")
        figures.append(value)
    return row.settings[figures.index(max(figures))]


def finished(plan: Sweep, row: PlannedRow) -> dict[int, Results]:
    """Results of the chosen setting by seed; none before it is chosen."""
    chosen = chosen_setting(plan, row)
    if chosen is None:
        return {}
    results = {seed: result_of(plan, row.run(chosen, seed)) for seed in row.seeds}
    return {seed: result for seed, result in results.items() if result is not None}


def pending(plan: Sweep, pattern: str = "*") -> list[PlannedRun]:
    """Runs that can start now: all settings under the first seed, then the best one under the others.

    Args:
        plan: the plan.
        pattern: names of rows, with * and ?.
    """
    found = []
    for row in plan.rows:
        if not fnmatch(row.name, pattern):
            continue
        chosen = chosen_setting(plan, row)
        if chosen is None:
            found += [row.run(setting, row.seeds[0]) for setting in row.settings]
        else:
            found += [row.run(chosen, seed) for seed in row.seeds[1:]]
    return [run for run in found if result_of(plan, run) is None]


def execute(plan: Sweep, run: PlannedRun) -> str | None:
    """Run the script in one thread, going on with what is in its folder, and keep its results.

    Returns:
        None, or a sentence about the failure. The output is in ``output.log`` of the run's folder.
    """
    out = plan.runs / run.name
    out.mkdir(parents=True, exist_ok=True)
    command = [*program(plan, run), "--out", str(out)]
    if (out / RUN).is_file():
        command.append("--resume")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with (out / "output.log").open("ab") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env={**os.environ, **threads}, check=False)
    if done.returncode:
        return f"{run.name} ended with code {done.returncode}: see {out / 'output.log'}"
    results = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    small = shortened(results) | {"arguments": run.arguments}
    small["command"] = shlex.join(["python", str(plan.script), *run.arguments])
    curves = {name: thinned(curve) for name, curve in logged(out).items() if name in LOGGED}
    text = f'{json.dumps(small, indent=1)[:-2]},\n "curves": {json.dumps(curves)}\n}}\n'  # a line for all curves
    plan.results.mkdir(parents=True, exist_ok=True)
    write_atomically(plan.results / f"{run.name}.json", lambda file: file.write(text.encode()))
    return None


def program(plan: Sweep, run: PlannedRun) -> list[str]:
    """Command of a run: its script, or ``zf-pyro train``, whose data are no flag."""
    if plan.script != TRAIN:
        return [sys.executable, str(plan.script), *run.arguments]
    place = run.arguments.index("--data")
    data, rest = run.arguments[place + 1], [*run.arguments[:place], *run.arguments[place + 2 :]]
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


def sweep(plan: Sweep, jobs: int = 2, pattern: str = "*") -> list[str]:
    """Run what is pending until nothing is.

    Args:
        plan: the plan.
        jobs: runs at a time, each in one thread.
        pattern: names of rows, with * and ?.

    Returns:
        A sentence for each run that failed.
    """
    failed: dict[str, str] = {}
    lock = threading.Lock()

    def one(run: PlannedRun) -> None:
        start = time.perf_counter()
        failure = execute(plan, run)
        with lock:
            if failure is not None:
                failed[run.name] = failure
            minutes = (time.perf_counter() - start) / 60.0
            print(f"{failure or run.name}, {minutes:.1f} min", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        while todo := [run for run in pending(plan, pattern) if run.name not in failed]:
            print(f"{len(todo)} runs to go", flush=True)
            try:
                list(pool.map(one, todo))
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)
                raise
    return list(failed.values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the plan of the command line."""
    try:
        import jsonargparse
    except ImportError as error:
        raise ImportError("the command line needs jsonargparse: pip install zf-pyro[examples]") from error
    parser = jsonargparse.ArgumentParser(prog="python -m zf_pyro.experiments.sweep", description=__doc__)
    parser.add_argument("plan", type=Path, help="JSON file of the runs.")
    parser.add_argument("--jobs", type=int, default=2, help="Runs at a time, each in one thread.")
    parser.add_argument("--rows", type=str, default="*", help="Names of the rows to run, with * and ?.")
    parser.add_argument("--list", action="store_true", help="List what can run now, and run nothing.")
    flags = parser.parse_args(arguments)
    try:
        plan = read_plan(flags.plan)
        if flags.list:
            print("\n".join(f"{run.name}: {shlex.join(run.arguments)}" for run in pending(plan, flags.rows)))
            return
        failed = sweep(plan, flags.jobs, flags.rows)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
