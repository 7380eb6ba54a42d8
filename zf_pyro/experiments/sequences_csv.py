"""Scores of each test sequence of a run, as a table beside results.json."""

import csv
from pathlib import Path

import torch
from torch import Tensor

from ..evaluation import Scores

TABLE = "sequences.csv"
"""File in a run's folder: a line per test sequence, with its scored frames and nats."""
Nats = dict[str, Tensor]
"""Columns of the table, (sequences,), float64."""


def write_sequences(path: Path, scores: Scores) -> None:
    """Write the scores of each sequence: ``num_frames``, and nats by the name of the bound."""
    columns = {"num_frames": scores.num_frames.long(), **scores.bounds}
    if scores.kl is not None:
        columns["kl"] = scores.kl
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))


def read_sequences(path: Path) -> Nats:
    """Read the table of :func:`write_sequences`.

    Raises:
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8", newline="") as file:
        names, *rows = csv.reader(file)
    values = torch.tensor([[float(value) for value in row] for row in rows], dtype=torch.float64)
    return dict(zip(names, values.T, strict=True))
