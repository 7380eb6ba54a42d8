"""Small copies of the results of a plan's runs: what they say, the setting they choose, which runs are left."""

import json
import shlex
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from .curves import of_training
from .plan import TRAINING, Flags, PlannedRow, PlannedRun, Sweep
from .sequences_csv import Nats, read_sequences

Results = dict[str, Any]


def result_of(plan: Sweep, run: PlannedRun) -> Results | None:
    """The small copy of a run's results; None if the run is not finished.

    Raises:
        ValueError: the file is of a run with other flags, or no results.
    """
    path = plan.results / f"{run.name}.json"
    try:
        found: Results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): remove it, and run the sweep again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold the results of a run, got a {type(found).__name__}: remove it")
    if found.get("arguments") != run.arguments:
        raise ValueError(
            f"{path} is of a run with other flags, {shlex.join(found.get('arguments', []))}, the plan has "
            f"{shlex.join(run.arguments)}: rename the row, or remove the file and the run's folder"
        )
    return found


def sequences_of(plan: Sweep, run: PlannedRun) -> Path:
    """The file with the nats of each test sequence of a run, beside its results."""
    return plan.results / f"{run.name}.csv.gz"


def figure(result: Results, evaluation: str, bound: str) -> float | None:
    """Nats per frame of a bound in an evaluation; of a density without latents, its log-likelihood.

    Other groups of figures in results.json, such as sentiment of reviews, are read by their names, as they are.

    Args:
        result: of :func:`result_of`.
        evaluation: name of the evaluation, such as "validation, 8 particles", or of another group; or "training", for
            what the logs say: see :func:`.of_training`.
        bound: name of the bound, or kl; of training, auxiliary, earned or gradient.
    """
    if evaluation == TRAINING:
        return of_training(result.get("curves", {}), bound)
    evaluations: Mapping[str, Any] = result["evaluations"]
    group = result.get(evaluation)
    if isinstance(group, Mapping):
        return None if group.get(bound) is None else float(group[bound])
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
    """Results of the chosen setting by seed, test set included; none before it is chosen."""
    chosen = chosen_setting(plan, row)
    if chosen is None:
        return {}
    results = {seed: result_of(plan, row.run(chosen, seed)) for seed in row.seeds}
    return {seed: result for seed, result in results.items() if result is not None and is_scored(result)}


def is_scored(result: Results) -> bool:
    """Whether a run was scored on the test set too, where its data have one."""
    return bool(result.get("scored", True))


def sequences(plan: Sweep, row: PlannedRow) -> dict[int, Nats]:
    """Nats of each test sequence under the chosen setting, by seed; without the seeds that left none."""
    chosen = chosen_setting(plan, row)
    if chosen is None:
        return {}
    paths = {seed: sequences_of(plan, row.run(chosen, seed)) for seed in finished(plan, row)}
    return {seed: read_sequences(path, "test") for seed, path in paths.items() if path.is_file()}


def pending(plan: Sweep, pattern: str = "*") -> list[PlannedRun]:
    """Runs that can start now: all settings under the first seed, then the best one with the test set under each.

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
            found += [row.run(setting, row.seeds[0], scored=len(row.settings) == 1) for setting in row.settings]
        else:
            found += [row.run(chosen, seed) for seed in row.seeds]
    results = [(run, result_of(plan, run)) for run in found]
    return [run for run, result in results if result is None or (run.scored and not is_scored(result))]
