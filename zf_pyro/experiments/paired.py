"""Paired comparison of runs by sequence: ``python -m zf_pyro.experiments.paired --of RUN... --against RUN...``.

It reads the validation set. Test figures are for settings that are chosen already: ``--split test``.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ..checks import require_jsonargparse
from ..evaluation import Estimate, ratio
from .sequences_csv import PARTICLES, SPLITS, TABLE, Nats, read_sequences

ALONE = "log_likelihood"
"""The only column of a density without latents. Every bound of another model is compared with it."""
NO_BOUND = ("num_frames", "kl", "prior_mean", *PARTICLES.values())
READS = {
    "validation": "on the validation set",
    "test": "on the test set: for models whose settings are chosen, never to choose them",
}
"""First line of what the command prints, by split."""


def differences(of: Sequence[Nats], against: Sequence[Nats]) -> dict[str, Estimate]:
    """Difference between two models on the same sequences in nats per frame, by the name of the bound.

    Args:
        of: tables of the first model, one per seed, with columns (sequences,). The nats of each sequence are averaged
            over the seeds.
        against: tables of the second model, likewise.

    Returns:
        First minus second model, with the standard error of paired differences over sequences.

    Raises:
        ValueError: no runs, runs that scored different sequences, or bounds of different numbers of particles.
    """
    for name, tables in (("of", of), ("against", against)):
        kind = isinstance(tables, tuple | list) and all(isinstance(t, Mapping) and "num_frames" in t for t in tables)
        if not kind:
            raise TypeError(
                f"{name} must be a list of tables with a column num_frames, as read_sequences gives them, got "
                f"{type(tables).__name__}"
            )
    if not of or not against:
        raise ValueError(f"of and against must name at least one run each, got {len(of)} and {len(against)}")
    frames = of[0]["num_frames"]
    for table in (*of, *against):
        if not torch.equal(table["num_frames"], frames):
            raise ValueError(
                f"runs must have scored the same sequences, got {len(frames)} of {int(frames.sum())} frames and "
                f"{len(table['num_frames'])} of {int(table['num_frames'].sum())}: take one corpus, one protocol and "
                "one number of test sequences"
            )
    for bound, name in PARTICLES.items():
        numbers = {int(table[name][0]) for table in (*of, *against) if name in table}
        if len(numbers) > 1:
            raise ValueError(
                f"runs must have as many particles behind {bound}, got {' and '.join(map(str, sorted(numbers)))}"
            )
    first, second = _mean(of), _mean(against)
    names = [name for name in {**first, **second} if name not in NO_BOUND]
    pairs = {name: (first.get(name, first.get(ALONE)), second.get(name, second.get(ALONE))) for name in names}
    return {name: ratio(a - b, frames) for name, (a, b) in pairs.items() if a is not None and b is not None}


def titled(bound: str, tables: Sequence[Nats]) -> str:
    """The name of a bound, with the number of its samples or particles where tables, of (sequences,), have it."""
    name = PARTICLES.get(bound, "")
    number = next((int(table[name][0]) for table in tables if name in table), None)
    return bound if number is None else f"{bound}, {number}"


def _mean(tables: Sequence[Nats]) -> Nats:
    """Nats of each sequence, averaged over runs, for the columns that all runs have."""
    shared = [name for name in tables[0] if all(name in table for table in tables)]
    return {name: torch.stack([table[name] for table in tables]).mean(0) for name in shared}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the differences between the runs of the command line: of their means, and of each pair."""
    jsonargparse = require_jsonargparse("examples")
    parser = jsonargparse.ArgumentParser(prog="python -m zf_pyro.experiments.paired", description=__doc__)
    parser.add_argument("--of", type=Path, nargs="+", required=True, help="Folders of runs, one a seed.")
    parser.add_argument("--against", type=Path, nargs="+", required=True, help="Folders to compare them with.")
    parser.add_argument("--split", choices=SPLITS, default=SPLITS[0], help="Sequences to compare on.")
    flags = parser.parse_args(arguments)
    try:
        of, against = (
            [read_sequences(out / TABLE, flags.split) for out in folders] for folders in (flags.of, flags.against)
        )
        print(READS[flags.split])
        print("difference of the means, nats/frame ± standard error over sequences, paired")
        for name, found in differences(of, against).items():
            print(f"{titled(name, of + against):>24} {found.value:+.4g} ± {found.standard_error:.2g}")
        if len(of) == len(against) > 1:
            print("of each pair of runs")
            for name in differences(of, against):
                pairs = (differences([a], [b])[name].value for a, b in zip(of, against, strict=True))
                print(f"{titled(name, of + against):>24} {' '.join(f'{value:+.4g}' for value in pairs)}")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
