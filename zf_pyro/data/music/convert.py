"""Command line that converts other files of piano rolls: ``python -m zf_pyro.data.music.convert SOURCE OUT.npz``.

Sources, none of which is run:

- .pickle: the files of Boulanger-Lewandowski, Bengio and Vincent, "Modeling temporal dependencies in high-dimensional
  sequences", ICML 2012 (https://arxiv.org/abs/1206.6392). They hold a dictionary of ``train``, ``valid`` and ``test``:
  lists of pieces, each a list of steps, each a tuple or list of MIDI notes;
- .json: the same in JSON;
- .mat: the same as MATLAB cells ``traindata``, ``validdata`` and ``testdata`` of rolls, (time, 88) zeros and ones.
"""

import argparse
import io
import json
import reprlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..folders.files import read_bytes
from .pickles import read_pickle
from .rolls import LOWEST_NOTE, NUM_NOTES, SPLITS, Music, check_roll, write_rolls

MOST_STEPS = 1 << 24
"""Steps of all pieces. Above it a file is taken for damaged; the largest published corpus has 392,296."""
_NAMES = {"train": "train", "valid": "validation", "validation": "validation", "test": "test"}
_READERS = "a .pickle (.pkl, .p), .json or .mat file"


def convert(source: Path, out: Path) -> Music:
    """Convert a file to the .npz layout of :mod:`zf_pyro.data.music.rolls`; nothing in the file is run.

    Args:
        source: a .pickle (.pkl, .p), .json or .mat file, plain or compressed by gzip.
        out: the .npz file to write.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: no such file.
        FileExistsError: ``out`` exists.
        ValueError: another kind of file, or anything but notes in it; the message names it.
        ImportError: a .mat file without scipy.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists: remove it, or give another file to write")
    suffix = Path(source.name.lower().removesuffix(".gz")).suffix
    if suffix in (".pickle", ".pkl", ".p"):
        parts = rolls_of(read_pickle(source), source)
    elif suffix == ".json":
        parts = rolls_of(_json(source), source)
    elif suffix == ".mat":
        parts = _mat(source)
    else:
        raise ValueError(f"{source} must be {_READERS}, got {suffix or 'no suffix'}: rename it if it is one")
    return write_rolls(out, parts)


def rolls_of(data: Any, source: Path) -> dict[str, list[np.ndarray]]:
    """Make rolls, each (time, 88) uint8, of the MIDI notes of each step.

    Args:
        data: ``train``, ``valid`` (or ``validation``) and ``test``: lists of pieces, each a list of steps, each a list
            of MIDI notes between 21 and 108, as lists or tuples. A note named twice in a step counts once.
        source: the file, for errors.

    Raises:
        ValueError: anything else; the message names the piece and step.
    """
    if not isinstance(data, dict) or sorted(_NAMES.get(name, "") for name in data) != sorted(SPLITS):
        got = ", ".join(map(reprlib.repr, data)) if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{source} must hold a dictionary of train, valid and test, got {got or 'an empty one'}")
    pieces = {_NAMES[name]: _items(found, f"{source}: {name}", "pieces") for name, found in data.items()}
    total = sum(len(piece) for found in pieces.values() for piece in found if isinstance(piece, list | tuple))
    if total > MOST_STEPS:
        raise ValueError(f"{source} holds {total} steps, more than {MOST_STEPS}: it is damaged, or convert it in parts")
    return {
        split: [_roll(piece, f"{source}: piece {i} of {split}") for i, piece in enumerate(found)]
        for split, found in pieces.items()
    }


def _roll(piece: Any, what: str) -> np.ndarray:
    steps = _items(piece, what, "steps")
    roll = np.zeros((len(steps), NUM_NOTES), np.uint8)
    for t, step in enumerate(steps):
        if not isinstance(step, list | tuple):
            raise ValueError(f"{what}, step {t} must be a list of MIDI notes, got {type(step).__name__}")
        for note in step:
            if type(note) is not int or not 0 <= note - LOWEST_NOTE < NUM_NOTES:
                raise ValueError(
                    f"{what}, step {t} must hold MIDI notes between {LOWEST_NOTE} and {LOWEST_NOTE + NUM_NOTES - 1}, "
                    f"got {reprlib.repr(note)}: leave it out of the file"
                )
            roll[t, note - LOWEST_NOTE] = 1
    return roll


def _items(value: Any, what: str, kind: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{what} must be a list of {kind}, got {value if value in ([], ()) else type(value).__name__}")
    return value


def _json(source: Path) -> Any:
    try:
        return json.loads(read_bytes(source).decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is no JSON ({error}): copy or download it anew") from error


def _mat(source: Path) -> dict[str, list[np.ndarray]]:
    """Rolls of the cells of a MATLAB file."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError("reading .mat files needs scipy: pip install zf-pyro[data]") from error
    content = read_bytes(source)
    try:
        found = loadmat(io.BytesIO(content))
    except Exception as error:  # scipy's reader raises errors of many kinds for damaged files
        raise ValueError(f"{source} is no MATLAB file that can be read ({error}): copy or download it anew") from error
    parts = dict[str, list[np.ndarray]]()
    for name, split in (("traindata", "train"), ("validdata", "validation"), ("testdata", "test")):
        cells = found.get(name)
        if not isinstance(cells, np.ndarray) or cells.dtype != object or not cells.size:
            raise ValueError(f"{source} must hold a cell of rolls {name}, as those of traindata, validdata, testdata")
        parts[split] = [
            check_roll(cell, f"{source}: {name}[{i}]", NUM_NOTES) for i, cell in enumerate(cells.reshape(-1))
        ]
    return parts


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert the file that the command line names, and print what it holds."""
    parser = argparse.ArgumentParser(
        prog="python -m zf_pyro.data.music.convert", description="Convert piano rolls to .npz; nothing in them is run."
    )
    parser.add_argument("source", type=Path, help=_READERS)
    parser.add_argument("out", type=Path, help="the .npz file to write")
    given = parser.parse_args(arguments)
    try:
        music = convert(given.source, given.out)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
    for split, rolls in music.parts.items():
        print(f"{split:>10}: {len(rolls):,} pieces, {int(rolls.lengths.sum()):,} steps")
    print(f"in {given.out}")


if __name__ == "__main__":
    main()
