"""Sets of polyphonic music: the JSB chorales of the package, or a prepared folder."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..folders.record import Record, Split, read_record, versions_of
from ..sequences import Sequences
from .rolls import SPLITS, Music, Rolls, read_rolls

CORPUS = "polyphonic"
JSB = Path(__file__).parent / "jsb.npz"
"""The JSB chorales; jsb.LICENCE.txt beside it says where they come from."""
_PUBLISHED = ("jsb", "nottingham", "musedata", "piano_midi")


class PolyphonicSets(NamedTuple):
    """The three parts of a corpus of polyphonic music; items are (time, notes) float32 zeros and ones."""

    train: Sequences | Rolls
    validation: Sequences | Rolls
    test: Sequences | Rolls
    record: Record
    """Source, splits and facts about them."""

    @property
    def lowest_note(self) -> int:
        """MIDI note of the first of a frame's values."""
        return int(self.record.settings["lowest_note"])

    @property
    def num_notes(self) -> int:
        """Notes of a frame."""
        return int(self.record.frame or 0)


def load_polyphonic(source: Path | str = "jsb") -> PolyphonicSets:
    """Load the parts of a corpus of polyphonic music.

    Args:
        source: ``"jsb"`` for the chorales of J. S. Bach, which the package holds: nothing is downloaded or written.
            Otherwise a folder prepared by ``python -m zf_pyro.data.prepare polyphonic``.

    Returns:
        229 pieces for training, 76 for validation and 77 for testing of the chorales, (time, 88), and the record.

    Raises:
        FileNotFoundError: the folder was not prepared.
        ValueError: it holds no polyphonic music, or its files are truncated or foreign.
    """
    if source == "jsb":
        music = read_rolls(JSB)
        splits = {name: Split(len(rolls), _size(rolls), {}) for name, rolls in music.parts.items()}
        record = dataclasses.replace(request_of(JSB, music), splits=splits, notes=facts(music.parts))
        for rolls in music.parts.values():
            rolls.record = record
        return PolyphonicSets(music.parts["train"], music.parts["validation"], music.parts["test"], record)
    if source in _PUBLISHED and not Path(source).exists():
        raise FileNotFoundError(
            f"{source} does not come with the package, since its licence does not allow that: prepare it with "
            "python -m zf_pyro.data.prepare polyphonic --source FILE --out DIR, and give that folder"
        )
    record = read_record(Path(source))
    if record.corpus != CORPUS:
        raise ValueError(f"{source} holds {record.corpus}, no polyphonic music: give a folder prepared from polyphonic")
    train, validation, test = (Sequences(source, split) for split in SPLITS)
    return PolyphonicSets(train, validation, test, record)


def request_of(path: Path, music: Music) -> Record:
    """Return the record of an .npz file, as far as it is known before preparing."""
    content = path.read_bytes()
    return Record(
        CORPUS,
        "uint8",
        music.num_notes,
        {"lowest_note": music.lowest_note},
        [[path.name, len(content)]],
        versions=versions_of([]),
        hashes={path.name: hashlib.sha256(content).hexdigest()},
    )


def facts(parts: Mapping[str, Rolls]) -> dict[str, Any]:
    """Compute the mean notes per frame of each split, and count its pieces that ``train`` holds too, note for note."""
    known = {parts["train"].bits(i).tobytes() for i in range(len(parts["train"]))}
    notes: dict[str, Any] = {}
    for name, rolls in parts.items():
        steps = int(rolls.lengths.sum())
        repeated = None if name == "train" else sum(rolls.bits(i).tobytes() in known for i in range(len(rolls)))
        sounding = sum(int(rolls.roll(i).sum()) for i in range(len(rolls)))
        notes[name] = {"notes_per_frame": sounding / steps, "also_in_train": repeated}
    return notes


def _size(rolls: Rolls) -> int:
    return int(rolls.lengths.sum()) * rolls.num_notes
