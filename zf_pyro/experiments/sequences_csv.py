"""Scores of each validation and test sequence of a run, as a table beside results.json."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..evaluation import Scores

TABLE = "sequences.csv"
"""File in a run's folder: a line per sequence, with its split, its scored frames and nats."""
Nats = dict[str, Tensor]
"""Columns of the table, (sequences,), float64."""
SPLITS = ("validation", "test")


def write_sequences(path: Path, scores: Mapping[str, Scores]) -> None:
    """Write the scores of each sequence: ``split``, ``num_frames``, and nats by the name of the bound.

    Args:
        path: the table.
        scores: scores of one model on each split, by its name.
    """
    lines: list[list[Any]] = []
    names: list[str] = []
    for split, found in scores.items():
        columns = {"num_frames": found.num_frames.long(), **found.bounds}
        if found.kl is not None:
            columns["kl"] = found.kl
        names = list(columns)
        lines += [[split, *row] for row in zip(*(column.tolist() for column in columns.values()), strict=True)]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["split", *names])
        table.writerows(lines)


def read_sequences(path: Path, split: str) -> Nats:
    """Read a split of the table of :func:`write_sequences`.

    Raises:
        OSError: it cannot be read.
        ValueError: it has no sequences of that split.
    """
    with path.open(encoding="utf-8", newline="") as file:
        names, *rows = csv.reader(file)
    rows = [row[1:] for row in rows if names[0] == "split" and row[0] == split]
    if not rows:
        raise ValueError(f"{path} has no sequences of split {split!r}: run the experiment again to write them")
    values = torch.tensor([[float(value) for value in row] for row in rows], dtype=torch.float64)
    return dict(zip(names[1:], values.T, strict=True))
