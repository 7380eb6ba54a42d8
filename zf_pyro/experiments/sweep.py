"""Runs of a plan, some at a time: ``python -m zf_pyro.experiments.sweep PLAN``. Finished runs are skipped."""

import shlex
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

from ..checks import require_count, require_jsonargparse
from .plan import PlannedRun, Sweep, read_plan
from .planned_results import pending
from .planned_runs import execute


def sweep(plan: Sweep, jobs: int = 2, pattern: str = "*") -> list[str]:
    """Run what is pending until nothing is.

    Args:
        plan: the plan.
        jobs: runs at a time, each in one thread.
        pattern: names of rows, with * and ?.

    Returns:
        A sentence for each run that failed.

    Raises:
        ValueError: ``jobs`` is no positive integer, or no row that runs has such a name.
    """
    jobs = require_count("--jobs", jobs)
    require_rows(plan, pattern)
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


def require_rows(plan: Sweep, pattern: str) -> None:
    """Refuse a pattern that no row matches, which would run nothing.

    Args:
        plan: the plan.
        pattern: names of rows, with * and ?.

    Raises:
        ValueError: no row that runs has such a name.
    """
    names = [row.name for row in plan.rows]
    if not any(fnmatch(name, pattern) for name in names):
        raise ValueError(f"--rows must be a pattern of {', '.join(map(repr, names))}, got {pattern!r}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the plan of the command line."""
    jsonargparse = require_jsonargparse("examples")
    parser = jsonargparse.ArgumentParser(prog="python -m zf_pyro.experiments.sweep", description=__doc__)
    parser.add_argument("plan", type=Path, help="JSON file of the runs.")
    parser.add_argument("--jobs", type=int, default=2, help="Runs at a time, each in one thread.")
    parser.add_argument("--rows", type=str, default="*", help="Names of the rows to run, with * and ?.")
    parser.add_argument("--list", action="store_true", help="List what can run now, and run nothing.")
    flags = parser.parse_args(arguments)
    try:
        plan = read_plan(flags.plan)
        require_rows(plan, flags.rows)
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
