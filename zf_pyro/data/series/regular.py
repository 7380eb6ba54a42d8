"""Sequences on a regular grid of times: rows that are missing become frames without values."""

from itertools import pairwise
from typing import Any

import numpy as np

from .rows import Steps
from .times import CLOSE, MOST, TimeAxis

FREE = 1_000_000
"""Steps of a grid that are never too many."""


def inserted(steps: Steps, offsets: np.ndarray, axis: TimeAxis, ids: list[Any]) -> tuple[Steps, np.ndarray, np.ndarray]:
    """Steps on the grid of the axis' frequency, from the first to the last time of each sequence.

    Args:
        steps: steps of all sequences.
        offsets: first step of each sequence, and the end; (sequences + 1,).
        axis: times, with a frequency.
        ids: identifiers of the sequences, for errors.

    Returns:
        The steps, NaN in inserted rows; their offsets; and False for inserted rows, (steps,).

    Raises:
        ValueError: a time off the grid, or a grid of far more steps than rows.
    """
    first, last = steps.times[offsets[:-1]], steps.times[offsets[1:] - 1]
    expected = axis.steps_at_most(first, last)
    if expected > max(FREE, MOST * len(steps.times)):
        raise ValueError(
            f"frequency {axis.frequency!r} makes about {expected:.3g} steps of {len(steps.times)} rows: give a longer "
            "step, or no frequency and time_gap=True"
        )
    sources, times, lengths = [], [], []
    for i, (start, stop) in enumerate(pairwise(offsets)):
        own = steps.times[start:stop]
        grid = axis.grid(own[0], own[-1])
        if axis.kind == "float":
            place = np.rint((own - own[0]) / float(axis.frequency or 1)).astype(np.int64)
            place = place.clip(0, len(grid) - 1)
            fits = np.abs(own - grid[place]) <= CLOSE * float(axis.frequency or 1)
            fits[1:] &= np.diff(place) > 0
        else:
            place = np.searchsorted(grid, own).clip(0, max(len(grid) - 1, 0))
            fits = grid[place] == own if len(grid) else np.zeros(len(own), bool)
        if not fits.all():
            off = int(np.argmin(fits))
            before = f", {axis.show(own[off - 1])} before it" if off else ""
            raise ValueError(
                f"times of sequence {ids[i]!r} do not all lie on a grid of frequency {axis.frequency!r}: "
                f"{axis.show(own[off])} does not{before}. Round or resample them, as in "
                f"frame[{axis.name!r}].dt.floor(...), or give no frequency, and time_gap=True for irregular times"
            )
        source = np.full(len(grid), -1)
        source[place] = np.arange(start, stop)
        grid = grid.copy()
        grid[place] = own
        sources.append(source)
        times.append(grid)
        lengths.append(len(grid))
    source = np.concatenate(sources)
    there = source >= 0
    values = np.where(there[:, None], steps.values[source], np.nan)
    covariates = np.where(there[:, None], steps.covariates[source], np.nan)
    return Steps(values, covariates, np.concatenate(times)), np.concatenate([[0], np.cumsum(lengths)]), there
