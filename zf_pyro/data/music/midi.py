"""MIDI files as piano rolls, and piano rolls as MIDI files; read and written by mido (https://mido.readthedocs.io)."""

import io
import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ...checks import require_count
from .rolls import LOWEST_NOTE, MIDI_NOTES, NUM_NOTES, check_roll, write_whole

STEPS_PER_QUARTER = 4
"""Default steps per quarter note: sixteenth notes."""
MOST_STEPS = 1_000_000
"""Steps of a file. Above it a file is taken for damaged: 35 hours of sixteenth notes at 120 quarter notes a minute."""
DRUMS = 9
"""Channel of drums, counted from 0 (General MIDI's channel 10)."""
_DEFAULT_TEMPO = 500_000
"""Microseconds per quarter note until a file sets a tempo, by the MIDI standard."""
_GRID = 120
"""Ticks per step of files written here."""
_Time = Callable[[int], float]


class MidiPiece(NamedTuple):
    """A MIDI file as a piano roll."""

    roll: np.ndarray
    """Zeros and ones, (time, 88) uint8; of no steps if the file has no notes between 21 and 108."""
    notes: int
    """Number of notes in ``roll``."""
    drums: int
    """Number of notes on the channel of drums, which are left out."""
    outside: int
    """Number of notes below 21 or above 108, which are left out."""
    unended: int
    """Number of notes that never end. They are in ``roll`` until the end of their track."""


class _Note(NamedTuple):
    start: int
    """In ticks."""
    end: int
    channel: int
    pitch: int


def require_steps(steps_per_quarter: int | None, step_seconds: float | None) -> tuple[int | None, float | None]:
    """Check the size of a step, and return it with its default: 4 steps per quarter note.

    Raises:
        ValueError: both are given, or one of them is not positive.
    """
    if steps_per_quarter is not None and step_seconds is not None:
        raise ValueError(
            f"give steps_per_quarter or step_seconds, not both, got {steps_per_quarter!r} and {step_seconds!r}"
        )
    if step_seconds is None:
        given = STEPS_PER_QUARTER if steps_per_quarter is None else steps_per_quarter
        return require_count("steps_per_quarter", given), None
    if isinstance(step_seconds, bool) or not isinstance(step_seconds, Real) or not 0 < step_seconds < math.inf:
        raise ValueError(f"step_seconds must be a positive number of seconds, got {step_seconds!r}")
    return None, float(step_seconds)


def read_midi(
    path: Path | str, *, steps_per_quarter: int | None = None, step_seconds: float | None = None
) -> MidiPiece:
    """Read a MIDI file as a piano roll of the notes 21 to 108.

    All tracks and channels sound together, drums left out. Starts and ends of notes are rounded to the nearest step. A
    note sounds for one step at least, so none is lost. A roll cannot tell a held note from a repeated one. It begins
    with the file and ends with the last note. Pedals and velocities are ignored.

    Args:
        path: a MIDI file of type 0 or 1.
        steps_per_quarter: steps per quarter note, whatever the tempo; 4 by default.
        step_seconds: length of a step in seconds instead, by the file's tempo changes.

    Raises:
        FileNotFoundError: no such file.
        ImportError: mido is not installed.
        ValueError: an empty, damaged or truncated file; several in one; type 2; SMPTE time without ``step_seconds``; a
            piece of over 1,000,000 steps; or a size of steps out of range.
    """
    per_quarter, seconds = require_steps(steps_per_quarter, step_seconds)
    path = Path(path)
    file = _parsed(path)
    notes, unended = _notes(file)
    time = _steps(file, path, per_quarter, seconds)
    kept = [note for note in notes if note.channel != DRUMS and 0 <= note.pitch - LOWEST_NOTE < NUM_NOTES]
    drums = sum(note.channel == DRUMS for note in notes)
    spans = []
    for note in kept:
        start, end = (math.floor(time(tick) + 0.5) for tick in (note.start, note.end))
        spans.append((start, max(end, start + 1), note.pitch - LOWEST_NOTE))
    length = max((end for _, end, _ in spans), default=0)
    if length > MOST_STEPS:
        raise ValueError(
            f"{path} lasts {length} steps, more than {MOST_STEPS}: it is damaged, or takes longer steps, or must be cut"
        )
    roll = np.zeros((length, NUM_NOTES), np.uint8)
    for start, end, column in spans:
        roll[start:end, column] = 1
    return MidiPiece(roll, len(kept), drums, len(notes) - len(kept) - drums, unended)


def write_midi(
    path: Path | str,
    roll: Any,
    *,
    steps_per_quarter: int = STEPS_PER_QUARTER,
    quarters_per_minute: float = 120.0,
    lowest_note: int = LOWEST_NOTE,
    program: int = 0,
    velocity: int = 80,
) -> None:
    """Write a piano roll as a MIDI file of one track, completely or not at all.

    A note that sounds in successive steps is one held note. The track ends with the roll.

    Args:
        path: the file to write.
        roll: zeros and ones of one piece, (time, notes): a tensor, an array or nested lists.
        steps_per_quarter: steps per quarter note; 1 for the JSB chorales.
        quarters_per_minute: the tempo, 4 to 60,000,000.
        lowest_note: MIDI note of the first column.
        program: General MIDI's instrument, from 0; 0 is a piano, 19 a church organ.
        velocity: loudness of all notes, 1 to 127.

    Raises:
        ImportError: mido is not installed.
        ValueError: values other than 0 and 1, another shape, or a number out of range.
        OSError: the file cannot be written.
    """
    values = check_roll(roll)
    width = values.shape[1]
    for name, value, low, high in (
        ("steps_per_quarter", steps_per_quarter, 1, 32_767 // _GRID),
        ("lowest_note", lowest_note, 0, MIDI_NOTES - width),
        ("program", program, 0, 127),
        ("velocity", velocity, 1, 127),
    ):
        if require_count(name, value, low) > high:
            notes = f" for {width} notes" if name == "lowest_note" else ""
            raise ValueError(f"{name} must be at most {high}{notes}, got {value!r}")
    if not isinstance(quarters_per_minute, Real) or not 4 <= quarters_per_minute <= 60_000_000:
        raise ValueError(f"quarters_per_minute must be between 4 and 60,000,000, got {quarters_per_minute!r}")
    mido = _mido()
    tempo = round(60e6 / quarters_per_minute)
    track = [mido.MetaMessage("set_tempo", tempo=tempo), mido.Message("program_change", program=program)]
    padded = np.pad(values.astype(np.int8), ((1, 1), (0, 0)))
    written = 0
    for step, changes in enumerate(np.diff(padded, axis=0)):
        for kind, columns in (("note_off", np.flatnonzero(changes < 0)), ("note_on", np.flatnonzero(changes > 0))):
            for column in columns:
                delta, written = (step - written) * _GRID, step
                loudness = velocity if kind == "note_on" else 0
                track.append(mido.Message(kind, note=lowest_note + int(column), velocity=loudness, time=delta))
    track.append(mido.MetaMessage("end_of_track", time=(len(values) - written) * _GRID))
    file = mido.MidiFile(type=0, ticks_per_beat=steps_per_quarter * _GRID, tracks=[mido.MidiTrack(track)])
    buffer = io.BytesIO()
    file.save(file=buffer)
    write_whole(Path(path), buffer.getvalue())


def _parsed(path: Path) -> Any:
    """The file as mido reads it, refused if it cannot be laid out in time."""
    mido = _mido()
    content = path.read_bytes()
    if not content:
        raise ValueError(f"{path} is empty (0 bytes): fetch it again or leave it out")
    stream = io.BytesIO(content)
    try:
        file = mido.MidiFile(file=stream)
    except Exception as error:  # mido's decoders raise errors of many kinds for damaged files
        reason = str(error) or "it ends within a track" if isinstance(error, EOFError) else str(error)
        raise ValueError(
            f"{path} cannot be read as MIDI ({reason}): it is damaged, cut short or of another kind; fetch it again or "
            "leave it out"
        ) from error
    rest = content[stream.tell() :]
    if b"MThd" in rest or b"MTrk" in rest:
        raise ValueError(
            f"{path} goes on after the {len(file.tracks)} tracks that its header announces, and the rest would be "
            "dropped: cut it into its parts"
        )
    if file.type == 2:
        raise ValueError(
            f"{path} is of MIDI type 2, patterns that have no common time: write each as a file of its own"
        )
    if file.type not in (0, 1) or not file.ticks_per_beat:
        raise ValueError(
            f"{path} has a damaged header, type {file.type} and {file.ticks_per_beat} ticks per quarter note: fetch it "
            "again or leave it out"
        )
    return file


def _notes(file: Any) -> tuple[list[_Note], int]:
    """All notes of a file, and the number of those that never end. The first of equal notes to start ends first."""
    found, unended = list[_Note](), 0
    for track in file.tracks:
        tick, sounding = 0, defaultdict[tuple[int, int], list[int]](list)
        for message in track:
            tick += message.time
            if message.type not in ("note_on", "note_off"):
                continue
            starts = sounding[message.channel, message.note]
            if message.type == "note_on" and message.velocity:
                starts.append(tick)
            elif starts:
                found.append(_Note(starts.pop(0), tick, message.channel, message.note))
        for (channel, pitch), starts in sounding.items():
            unended += len(starts)
            found += [_Note(start, tick, channel, pitch) for start in starts]
    return found, unended


def _steps(file: Any, path: Path, per_quarter: int | None, seconds: float | None) -> _Time:
    """The function from ticks to steps, not rounded."""
    division = file.ticks_per_beat
    if division < 0:  # SMPTE: minus the frames per second in the high byte, ticks per frame in the low one
        rate, ticks = -(division >> 8), division & 0xFF
        if rate not in (24, 25, 29, 30) or not ticks:
            raise ValueError(f"{path} has a damaged header, {rate} SMPTE frames per second of {ticks} ticks")
        if seconds is None:
            raise ValueError(
                f"{path} counts time in SMPTE frames, which have no quarter notes: give --step_seconds, or leave it out"
            )
        per_second, step = ticks * (30_000 / 1001 if rate == 29 else rate), seconds
        return lambda tick: tick / per_second / step
    if seconds is None:
        per = per_quarter or STEPS_PER_QUARTER
        return lambda tick: tick * per / division
    changes, tempos, times = _tempos(file, path)
    size = seconds

    def time(tick: int) -> float:
        last = int(np.searchsorted(changes, tick, side="right")) - 1
        return (times[last] + (tick - changes[last]) * tempos[last]) / (1e6 * division) / size

    return time


def _tempos(file: Any, path: Path) -> tuple[list[int], list[int], list[int]]:
    """Ticks of the tempo changes of all tracks, the first at 0; the tempo from there on; and the time there.

    Tempos are in microseconds per quarter note, times in microseconds times ticks per quarter note.
    """
    found = [(0, _DEFAULT_TEMPO)]
    for track in file.tracks:
        tick = 0
        for message in track:
            tick += message.time
            if message.type == "set_tempo":
                if not message.tempo:
                    raise ValueError(f"{path} sets a tempo of 0 microseconds per quarter note: it is damaged")
                found.append((tick, message.tempo))
    found.sort(key=lambda change: change[0])
    times = [0]
    for (tick, tempo), (following, _) in itertools.pairwise(found):
        times.append(times[-1] + (following - tick) * tempo)
    return [tick for tick, _ in found], [tempo for _, tempo in found], times


def _mido() -> ModuleType:
    try:
        import mido
    except ImportError as error:
        raise ImportError("MIDI files need mido: pip install zf-pyro[data]") from error
    module: ModuleType = mido
    return module
