"""Piano rolls: zeros and ones of (time, notes), one bit per note, and the .npz file that holds three splits of them.

Layout of the file, which holds no pickles:

- ``train_packed``, ``validation_packed``, ``test_packed``: uint8, (steps of all pieces, bytes), ``numpy.packbits`` of
  the rolls along their notes;
- ``train_lengths`` and so on: integers, (pieces,), the steps of each piece;
- ``lowest_midi_note``: the MIDI note of the first column, 21 (A0) for a piano;
- ``num_notes``: the number of columns. It may be missing if it is a multiple of 8.
"""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...checks import require_count

LOWEST_NOTE, NUM_NOTES = 21, 88
"""MIDI note of a piano's lowest key, and its number of keys."""
MIDI_NOTES = 128
SPLITS = ("train", "validation", "test")
_CONVERT = "python -m zf_pyro.data.music.convert"


class Rolls(Dataset[Tensor]):
    """Pieces of one split, in memory at one bit per note and step.

    An item is one whole piece, (time, notes) float32 zeros and ones.

    Attributes:
        num_notes: notes per step.
        lengths: steps of each piece; (len(self),) int64.
        labels, names: None, as of sequences without them.
        record: record of the corpus, if it is one.
    """

    labels: Tensor | None = None
    record: Any = None
    names: list[str] | None = None

    def __init__(self, packed: np.ndarray, lengths: np.ndarray, num_notes: int = NUM_NOTES) -> None:
        """Take the steps of all pieces, (steps, bytes) uint8, and the steps of each, (pieces,) integers."""
        self.packed, self.num_notes = packed, num_notes
        self.lengths = torch.from_numpy(lengths.astype(np.int64))
        self._ends = np.cumsum(lengths, dtype=np.int64)

    @classmethod
    def of(cls, rolls: Iterable[Any], num_notes: int = NUM_NOTES, what: str = "rolls") -> "Rolls":
        """Pack pieces, each zeros and ones of (time, notes); see :func:`check_roll`."""
        checked = [check_roll(roll, f"{what}[{i}]", num_notes) for i, roll in enumerate(rolls)]
        if not checked:
            raise ValueError(f"{what} must hold one piece at least, got none")
        packed = np.concatenate([np.packbits(roll, axis=1) for roll in checked])
        return cls(packed, np.array([len(roll) for roll in checked]), num_notes)

    def __len__(self) -> int:
        return len(self.lengths)

    def bits(self, index: int) -> np.ndarray:
        """Return the piece at ``index``, packed; (time, bytes) uint8."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must be between 0 and {len(self) - 1}, got {index}")
        end, length = int(self._ends[index]), int(self.lengths[index])
        return self.packed[end - length : end]

    def roll(self, index: int) -> np.ndarray:
        """Unpack the piece at ``index``; (time, notes) uint8."""
        return np.unpackbits(self.bits(index), axis=1, count=self.num_notes)

    def read(self, index: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Unpack steps ``start`` to ``stop`` (None: the end) of the piece at ``index``; (time, notes) float32."""
        return torch.from_numpy(self.roll(index)[start:stop].astype(np.float32))

    def __getitem__(self, index: int) -> Tensor:
        """Unpack the piece at ``index``; (time, notes) float32."""
        return self.read(index)


class Music(NamedTuple):
    """Splits of piano rolls."""

    parts: dict[str, Rolls]
    """``train``, ``validation`` and ``test``."""
    lowest_note: int
    """MIDI note of the first column."""
    num_notes: int
    """Number of columns."""


def check_roll(roll: Any, what: str = "roll", num_notes: int | None = None) -> np.ndarray:
    """Return a piano roll as uint8 zeros and ones, (time, notes).

    Args:
        roll: a tensor, an array or nested lists of zeros and ones, (time, notes), with one step at least.
        what: the name of ``roll`` in errors.
        num_notes: the number of notes it must have.

    Raises:
        ValueError: another shape, no steps, or a value other than 0 and 1.
    """
    try:
        if isinstance(roll, Tensor):
            roll = roll.detach().cpu()
            roll = (roll.double() if roll.is_floating_point() else roll).numpy()  # NumPy has no bfloat16
        values = np.asarray(roll)
    except ValueError as error:
        raise ValueError(
            f"{what} must have as many notes in every step ({error}): give an array (time, notes)"
        ) from error
    notes = "notes" if num_notes is None else str(num_notes)
    if values.ndim != 2 or not values.shape[1] or values.shape[1] != (num_notes or values.shape[1]):
        raise ValueError(f"{what} must be one piece of shape (time, {notes}), got shape {values.shape}")
    if not len(values):
        raise ValueError(f"{what} must hold one step at least, got an empty piece: leave it out")
    wrong = ~np.isin(values, (0, 1)) if values.dtype.kind in "biuf" else np.ones(values.shape, bool)
    if wrong.any():
        step, note = (int(index) for index in np.argwhere(wrong)[0])
        raise ValueError(
            f"{what} must be zeros and ones, got {values[step, note]} at step {step}, note {note}: compare "
            "velocities with 0, and sample from probabilities"
        )
    return values.astype(np.uint8, order="C")


def read_rolls(path: Path) -> Music:
    """Read an .npz file of piano rolls, in the layout above; nothing is ever unpickled.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no .npz file, a truncated one, arrays missing, unknown or of another form, or an empty piece.
    """
    arrays = _arrays(path)
    lowest, found = (_whole(path, arrays, name) for name in ("lowest_midi_note", "num_notes"))
    packed = {split: _array(path, arrays, f"{split}_packed", 2) for split in SPLITS}
    width = packed["train"].shape[1]
    num_notes = 8 * width if found is None else found
    if lowest is None:
        raise ValueError(f"{path} holds no lowest_midi_note: add it, {LOWEST_NOTE} for the 88 keys of a piano")
    if width != -(-num_notes // 8) or num_notes < 1 or not 0 <= lowest <= MIDI_NOTES - num_notes:
        raise ValueError(
            f"{path} has {num_notes} notes from MIDI note {lowest} in {width} bytes per step, expected notes between 0 "
            f"and {MIDI_NOTES - 1}, eight per byte: write it with zf_pyro.data.music.rolls.write_rolls"
        )
    return Music({split: _split(path, arrays, packed, split, num_notes) for split in SPLITS}, lowest, num_notes)


def write_rolls(path: Path, parts: Mapping[str, Iterable[Any]], *, lowest_note: int = LOWEST_NOTE) -> Music:
    """Write piano rolls as an .npz file that :func:`read_rolls` reads, completely or not at all.

    Args:
        path: the file to write.
        parts: the pieces of ``train``, ``validation`` and ``test``, each zeros and ones of (time, notes).
        lowest_note: MIDI note of the first column.

    Returns:
        What was written.

    Raises:
        ValueError: other splits, a piece of another form or number of notes, or notes beyond 127.
    """
    if set(parts) != set(SPLITS):
        raise ValueError(f"parts must be {', '.join(SPLITS)}, got {', '.join(parts) or 'none'}")
    pieces = {split: list(parts[split]) for split in SPLITS}
    num_notes = check_roll(pieces["train"][0], "train[0]").shape[1] if pieces["train"] else NUM_NOTES
    if require_count("lowest_note", lowest_note, 0) > MIDI_NOTES - num_notes:
        raise ValueError(
            f"lowest_note must be between 0 and {MIDI_NOTES - num_notes} for {num_notes} notes, got {lowest_note}"
        )
    music = Music({split: Rolls.of(pieces[split], num_notes, split) for split in SPLITS}, lowest_note, num_notes)
    arrays = {"lowest_midi_note": np.array(lowest_note), "num_notes": np.array(num_notes)}
    for split, rolls in music.parts.items():
        arrays |= {f"{split}_packed": rolls.packed, f"{split}_lengths": rolls.lengths.numpy().astype(np.int32)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_whole(path, buffer.getvalue())
    return music


def write_whole(path: Path, content: bytes) -> None:
    """Write a file completely or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file by name; object arrays and pickles are refused."""
    content = path.read_bytes()
    if not content.startswith(b"PK"):
        raise ValueError(f"{path} is no .npz file of piano rolls: {_remedy(path, content)}")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # damaged archives and headers raise errors of many kinds
        if "allow_pickle" in str(error):
            raise ValueError(
                f"{path} holds pickled objects, which could run code and are not read: write it with "
                "zf_pyro.data.music.rolls.write_rolls where you trust it"
            ) from error
        raise ValueError(f"{path} is cut short or damaged ({error}): copy or download it anew") from error
    known = {
        "lowest_midi_note",
        "num_notes",
        *(f"{split}_{kind}" for split in SPLITS for kind in ("packed", "lengths")),
    }
    unknown = sorted(set(arrays) - known)
    if unknown:
        raise ValueError(
            f"{path} holds {', '.join(unknown)}, expected only {', '.join(sorted(known))}: take the others out"
        )
    return arrays


def _remedy(path: Path, content: bytes) -> str:
    """The way to read a file of another kind."""
    if not content:
        return "it is empty; copy or download it anew"
    if content.startswith(b"MThd"):
        return "a MIDI file; give the folder that holds it as --source"
    pickled = content.startswith((b"\x80", b"(d", b"(l", b"}", b"]")) and content.rstrip().endswith(b".")
    if pickled or path.suffix.lower() in (".pickle", ".pkl", ".p"):
        return f"pickles could run code and are not read here; {_CONVERT} {path} OUT.npz reads its data, runs nothing"
    if content.startswith(b"MATLAB") or path.suffix.lower() in (".json", ".mat"):
        return f"convert it by {_CONVERT} {path} OUT.npz"
    return (
        f"convert a .pickle, .json or .mat file by {_CONVERT}, or write one with zf_pyro.data.music.rolls.write_rolls"
    )


def _array(path: Path, arrays: dict[str, np.ndarray], name: str, num_axes: int) -> np.ndarray:
    """The array of this name, checked for its form: bytes of all steps (2 axes), or lengths (1 axis)."""
    if name not in arrays:
        raise ValueError(
            f"{path} holds no {name}: it needs NAME_packed and NAME_lengths for each of {', '.join(SPLITS)}"
        )
    found = arrays[name]
    fits = found.dtype == np.uint8 if num_axes == 2 else found.dtype.kind in "iu"
    if not fits or found.ndim != num_axes or not found.size:
        expected = "uint8 of shape (steps, bytes)" if num_axes == 2 else "integers of shape (pieces,)"
        raise ValueError(f"{path}: {name} is {found.dtype} of shape {found.shape}, expected {expected}")
    return found


def _whole(path: Path, arrays: dict[str, np.ndarray], name: str) -> int | None:
    """The integer of this name; None if missing."""
    found = arrays.get(name)
    if found is not None and (found.ndim or found.dtype.kind not in "iu"):
        raise ValueError(f"{path}: {name} is {found.dtype} of shape {found.shape}, expected one integer")
    return None if found is None else int(found)


def _split(
    path: Path, arrays: dict[str, np.ndarray], packed: dict[str, np.ndarray], split: str, num_notes: int
) -> Rolls:
    bits, lengths = packed[split], _array(path, arrays, f"{split}_lengths", 1)
    if bits.shape[1] != packed["train"].shape[1]:
        raise ValueError(
            f"{path}: {split}_packed has {bits.shape[1]} bytes per step, train_packed {packed['train'].shape[1]}: "
            "all splits need the same notes"
        )
    if (lengths < 1).any():
        index = int((lengths < 1).argmax())
        raise ValueError(f"{path}: piece {index} of {split} has {lengths[index]} steps, an empty piece: leave it out")
    if (lengths > len(bits)).any() or lengths.sum(dtype=np.int64) != len(bits):
        raise ValueError(
            f"{path}: the lengths of {split} add up to {sum(lengths.tolist())} steps, {split}_packed has "
            f"{len(bits)}: write it anew"
        )
    rest = 8 * bits.shape[1] - num_notes
    if (bits[:, -1] & ((1 << rest) - 1)).any():
        raise ValueError(f"{path}: {split}_packed has notes beyond the {num_notes} of num_notes: write it anew")
    return Rolls(bits, lengths, num_notes)
