"""Polyphonic music as prepared folders: the JSB chorales, an .npz file of piano rolls, or a folder of MIDI files."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..folders.files import Listing, for_record, list_files, require_names, sha256_of
from ..folders.preparing import existing, preparing, require_place, require_same
from ..folders.record import Record, versions_of
from ..folders.splits import split_folders
from .midi import MidiPiece, read_midi, require_steps
from .rolls import LOWEST_NOTE, NUM_NOTES, Rolls, read_rolls
from .sets import CORPUS, JSB, facts, request_of

SUFFIXES = (".mid", ".midi")
"""Suffixes of MIDI files, in any casing."""
VALIDATION = TEST = 0.1
"""Default fractions of the files of a MIDI folder that are held out."""


def prepare_polyphonic(
    out: Path,
    source: Path | None = None,
    steps_per_quarter: int | None = None,
    step_seconds: float | None = None,
    validation: float | None = None,
    test: float | None = None,
    seed: int | None = None,
    overwrite: bool = False,
) -> Record:
    """Prepare polyphonic music, one sequence per piece: frames of zeros and ones, one for each note.

    Args:
        out: Folder to write.
        source: File of piano rolls, .npz with the splits train, validation and test; or folder of MIDI files, whose top
            folders train, validation and test are the splits. By default the JSB chorales, which the package holds.
        steps_per_quarter: Of MIDI files: steps per quarter note, 4 by default.
        step_seconds: Of MIDI files: length of a step in seconds instead.
        validation: Of MIDI files: fraction to hold out for validation, 0.1 by default.
        test: Of MIDI files: fraction to hold out for the test split, 0.1 by default.
        seed: Of MIDI files: seed of the sampling of files, 0 by default.
        overwrite: Replace an earlier preparation.

    Raises:
        FileNotFoundError, ValueError: a source or file cannot be used; the message names it and the remedy.
        FileExistsError: ``out`` holds something else.
        ImportError: MIDI files without mido.
        OSError: the disk is full.
    """
    require_place(out, overwrite=overwrite)
    if source is not None and not source.exists():
        raise FileNotFoundError(f"{source} does not exist: give an .npz file or a folder of MIDI files as --source")
    options = {"validation": validation, "test": test, "seed": seed}
    if source is not None and source.is_dir():
        per_quarter, seconds = require_steps(steps_per_quarter, step_seconds)
        step = {"steps_per_quarter": per_quarter} if seconds is None else {"step_seconds": seconds}
        defaults: dict[str, Any] = {"validation": VALIDATION, "test": TEST, "seed": 0}
        chosen = {name: defaults[name] if value is None else value for name, value in options.items()}
        return _prepare_midi(out, source, step, chosen, overwrite)
    options |= {"steps_per_quarter": steps_per_quarter, "step_seconds": step_seconds}
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ValueError(
            f"{', '.join(given)} is for folders of MIDI files, and {source or 'the JSB chorales'} has its steps and "
            "splits already: leave it out"
        )
    path = JSB if source is None else source
    music = read_rolls(path)
    request = request_of(path, music)
    found = existing(out, request, overwrite=overwrite)
    return found if found is not None else _write(out, request, music.parts, None, overwrite)


def _prepare_midi(out: Path, root: Path, step: dict[str, Any], options: dict[str, Any], overwrite: bool) -> Record:
    """Prepare a folder of MIDI files. All are read before anything is written; their rolls stay in memory, packed."""
    files, left_out = _midi_below(root)
    groups = {name: options[name] for name in ("validation", "test")}
    splits, origin, outside = split_folders(root, files, groups, options["seed"], "MIDI files")
    left_out = left_out + [(name, "outside of the folders of the splits") for name in outside]
    names = sorted(name for found in splits.values() for name in found)
    require_names(root, names)
    settings = {"lowest_note": LOWEST_NOTE, **step, **options}
    sources: list[list[Any]] = [[name, (root / name).stat().st_size] for name in names]
    request = Record(CORPUS, "uint8", NUM_NOTES, settings, sources, versions=versions_of(["mido"]))
    if not overwrite:
        require_same(out, request, hashes=False)  # before all files are read
    hashes = {name: sha256_of(root / name) for name in _progress(names, "hashing")}
    request = dataclasses.replace(request, hashes=hashes)
    found = existing(out, request, overwrite=overwrite)
    if found is not None:
        return found
    parts, kept = dict[str, Rolls](), dict[str, list[str]]()
    ignored: dict[str, dict[str, int]] = {"drums": {}, "outside": {}, "unended": {}}
    for split, members in splits.items():
        packed, kept[split] = list[np.ndarray](), []
        for name in _progress(members, f"reading {split}"):
            piece = read_midi(root / name, **step)
            for kind, counts in ignored.items():
                counts |= {name: getattr(piece, kind)} if getattr(piece, kind) else {}
            if piece.notes:
                kept[split].append(name)
                packed.append(np.packbits(piece.roll, axis=1))
            else:
                left_out = [*left_out, (name, _silent(piece))]
        if not packed:
            raise ValueError(f"{root} holds no notes for {split} in its {len(members)} files: give more files")
        parts[split] = Rolls(np.concatenate(packed), np.array([len(bits) for bits in packed]), NUM_NOTES)
    request = dataclasses.replace(request, left_out=for_record(left_out), notes={**origin, "ignored_notes": ignored})
    return _write(out, request, parts, kept, overwrite)


def _write(
    out: Path, request: Record, parts: dict[str, Rolls], names: dict[str, list[str]] | None, overwrite: bool
) -> Record:
    counts = facts(parts)
    origin = {name: {"split": request.notes[name]} for name in counts if name in request.notes}
    notes = {**request.notes, **{name: {**origin.get(name, {}), **found} for name, found in counts.items()}}
    with preparing(out, dataclasses.replace(request, notes=notes), overwrite=overwrite) as preparation:
        for split, rolls in parts.items():
            with preparation.split(split) as writer:
                for index in range(len(rolls)):
                    writer.add(rolls.roll(index), names[split][index] if names else None)
    return preparation.record


def _midi_below(root: Path) -> Listing:
    """List the MIDI files below a folder; all other files are left out."""
    files, left_out = list_files(root)
    midi = [name for name in files if Path(name).suffix.lower() in SUFFIXES]
    if not midi:
        rolls = next((name for name in files if name.lower().endswith(".npz")), None)
        hint = f"the file {root / rolls}, not its folder," if rolls else "the folder that holds them"
        raise FileNotFoundError(f"{root} holds no MIDI files ({', '.join(SUFFIXES)}): give {hint} as --source")
    others = [(name, "no MIDI file") for name in files if Path(name).suffix.lower() not in SUFFIXES]
    return Listing(midi, left_out + others)


def _silent(piece: MidiPiece) -> str:
    """The reason to leave out a piece without notes."""
    if piece.outside:
        return f"no notes between {LOWEST_NOTE} and {LOWEST_NOTE + NUM_NOTES - 1}"
    return "drums alone" if piece.drums else "no notes"


def _progress(names: list[str], title: str) -> Iterator[str]:
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("preparing shows its progress by tqdm: pip install zf-pyro[data]") from error
    yield from tqdm(names, title, unit="file", leave=False)
