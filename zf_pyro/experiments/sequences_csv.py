"""Scores of each validation and test sequence of a run, as a table beside results.json."""

import csv
import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..evaluation import Scores
from ..saving import write_atomically

TABLE = "sequences.csv"
"""File in a run's folder: a line per sequence, with its split, its scored frames and nats."""
Nats = dict[str, Tensor]
"""Columns of the table, (sequences,), float64."""
SPLITS = ("validation", "test")
PARTICLES = {"importance_weighted": "num_particles", "particle": "filter_particles"}
"""Columns that say how many samples or particles a bound has, by its name."""


def write_sequences(path: Path, scores: Mapping[str, Scores]) -> None:
    """Write the scores of each sequence: ``split``, ``num_frames``, and nats by the name of the bound.

    The numbers of samples and particles stand in columns of their own, :data:`PARTICLES`.

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
        for bound, name in PARTICLES.items():
            number = getattr(found, name)
            if bound in found.bounds and number is not None:
                columns[name] = torch.full_like(columns["num_frames"], number)
        names = list(columns)
        lines += [[split, *row] for row in zip(*(column.tolist() for column in columns.values()), strict=True)]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["split", *names])
        table.writerows(lines)


def shorten_sequences(path: Path, small: Path) -> None:
    """Write the test sequences of a table to a gzip file, with six digits: enough for paired differences.

    The same sequences give the same bytes.

    Raises:
        OSError: the table cannot be read.
        ValueError: it has no test sequences.
    """
    found = read_sequences(path, "test")
    rows = zip(*(column.tolist() for column in found.values()), strict=True)
    lines = [["split", *found], *(["test", *(f"{value:.6g}" for value in row)] for row in rows)]
    text = "".join(f"{','.join(line)}\n" for line in lines)
    write_atomically(small, lambda file: file.write(gzip.compress(text.encode(), mtime=0)))


def read_sequences(path: Path, split: str) -> Nats:
    """Read a split of the table of :func:`write_sequences` or :func:`shorten_sequences`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such table, or has no sequences of that split.
    """
    data = path.read_bytes()
    try:
        text = gzip.decompress(data) if path.suffix == ".gz" else data
        names, *lines = csv.reader(text.decode().splitlines())
        rows = [line[1:] for line in lines if names[0] == "split" and line[0] == split]
        values = torch.tensor([[float(value) for value in row] for row in rows], dtype=torch.float64)
        found = dict(zip(names[1:], values.T, strict=True)) if rows else {}
    except (EOFError, OSError, ValueError, IndexError, zlib.error) as error:
        raise ValueError(f"{path} is no table of sequences ({error}): run the experiment again to write it") from error
    if not found:
        raise ValueError(f"{path} has no sequences of split {split!r}: run the experiment again to write them")
    return found
