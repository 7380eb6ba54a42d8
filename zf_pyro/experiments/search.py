"""Search over settings by Optuna, chosen on validation. A trial is a run of a sweep; finished ones are skipped."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checks import require_count, require_seed
from ..saving import write_atomically
from .plan import Flags, PlannedRow, Sweep
from .planned_results import figure, is_scored, result_of
from .planned_runs import execute

LOG = "log"
"""Third entry of a range that is searched by its logarithm."""
FOUND = "search.json"
"""File of the trials, in the folder of the results."""


def search(plan: Sweep, row: PlannedRow, space: Mapping[str, Sequence[Any]], trials: int = 20, seed: int = 0) -> Flags:
    """The setting with the best validation figure among those that Optuna proposes.

    Trials leave the test set alone; the best one is scored on it at the end. The same space and seed propose the same
    settings for the same figures, so that a search that was cut off goes on where it was. All trials are in
    ``search.json`` in the plan's folder of results.

    Args:
        plan: the plan, for the script and the folders.
        row: the flags that all runs share, the seed of the runs, and the validation figure to choose by.
        space: flags to search: a range [low, high] or [low, high, "log"] of two integers or two floats; any other list
            is of values to choose from.
        trials: runs.
        seed: seed of the proposals.

    Raises:
        ImportError: Optuna is not installed.
        ValueError: an empty space, a range that is none, or no trial that ended.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError("a search needs Optuna: pip install zf-pyro[search]") from error
    trials, seed = require_count("trials", trials), require_seed("seed", seed)
    require_space(space)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    done: list[dict[str, Any]] = []
    for number in range(trials):
        trial = study.ask()
        setting = {flag: _proposed(trial, flag, values) for flag, values in space.items()}
        run = row.run(setting, row.seeds[0], scored=False)
        failure = execute(plan, run) if result_of(plan, run) is None else None
        result = result_of(plan, run)
        value = None if result is None else figure(result, *row.select)
        if value is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, value)
        done.append({"setting": setting, "value": value, "run": run.name, "failure": failure})
        print(f"{number + 1:>4} of {trials}: {failure or f'{value} nats per frame'}, {json.dumps(setting)}", flush=True)
    ended = [one for one in done if one["value"] is not None]
    if not ended:
        raise ValueError(f"no trial ended with a figure {row.select}: {done[-1]['failure'] or 'the results lack it'}")
    best = max(ended, key=lambda one: one["value"])
    found = {"select": list(row.select), "best": best, "trials": done}
    plan.results.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1) + "\n"
    write_atomically(plan.results / FOUND, lambda file: file.write(text.encode()))
    chosen = row.run(best["setting"], row.seeds[0])
    result = result_of(plan, chosen)
    if result is not None and not is_scored(result) and (failure := execute(plan, chosen)) is not None:
        raise ValueError(f"the best trial could not be scored on the test set: {failure}")
    return dict(best["setting"])


def require_space(space: Mapping[str, Sequence[Any]]) -> None:
    """Refuse what is no space.

    Raises:
        ValueError: no flags, values that are no list, or a range whose ends do not ascend, or are not above 0 under
            ``"log"``.
    """
    if not isinstance(space, Mapping) or not space:
        raise ValueError(f"space must hold flags with their ranges or values, got {space!r}")
    for flag, values in space.items():
        if not isinstance(values, list | tuple) or not values:
            raise ValueError(f"space[{flag!r}] must be [low, high], [low, high, 'log'] or values, got {values!r}")
        if _is_range(values) and (not values[0] < values[1] or (values[-1] == LOG and values[0] <= 0)):
            raise ValueError(f"space[{flag!r}] must ascend, from above 0 with 'log', got {values!r}")


def series_row(data: Path, flags: Mapping[str, Any], seed: int) -> PlannedRow:
    """Runs of ``zf-pyro train`` on a prepared folder, chosen by the importance-weighted validation bound."""
    fixed = {"data": str(data), **flags}
    return PlannedRow("trial", "search", fixed, [{}], [seed], ("validation", "importance_weighted"), None)


def _is_range(values: Sequence[Any]) -> bool:
    ends = values[:2]
    kinds = {type(end) for end in ends}
    return len(ends) == 2 and kinds <= {int, float} and (len(values) == 2 or list(values[2:]) == [LOG])


def _proposed(trial: Any, flag: str, values: Sequence[Any]) -> Any:
    if not _is_range(values):
        return trial.suggest_categorical(flag, list(values))
    whole = all(isinstance(end, int) for end in values[:2])
    suggest = trial.suggest_int if whole else trial.suggest_float
    return suggest(flag, values[0], values[1], log=values[-1] == LOG)
