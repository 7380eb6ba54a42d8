"""``zf-pyro search``: settings of zf-pyro train, chosen on validation."""

import json
import shlex
from pathlib import Path
from typing import Any

from ..plan import Sweep, arguments_of
from ..planned_runs import TRAIN
from ..search import search as find
from ..search import series_row


def search(
    data: Path,
    space: dict[str, list[Any]] | None = None,
    trials: int = 20,
    flags: dict[str, Any] | None = None,
    seed: int = 0,
    out: Path = Path("runs/search"),
) -> None:
    """Search settings of zf-pyro train by Optuna, by the validation bound. A search that was cut off goes on.

    Args:
        data: Folder that zf-pyro prepare has written.
        space: Needed. JSON of the flags to search, as in '{"learning_rate":[0.0003,0.03,"log"],"hidden_dim":[16,64]}'.
            Lists of two numbers are ranges, other lists are values to choose from.
        trials: Runs, one after the other.
        flags: JSON of flags of all runs, as in '{"model":"vrnn","objective":"elbo"}'.
        seed: Seed of the proposals and of the runs.
        out: Folder of the runs, and in results/ of their figures and search.json.
    """
    row = series_row(data, flags or {}, seed)
    best = find(Sweep(TRAIN, out, out / "results", []), row, space or {}, trials, seed)
    print(f"best: {json.dumps(best)}")
    words = arguments_of({**(flags or {}), **best, "seed": seed})
    print(f"zf-pyro train {data} {shlex.join(words)}")
