"""MIDI files: notes, time, damage, folders of them, and piano rolls written and read back."""

import struct
import sys

import mido
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from zf_pyro.data import load_polyphonic, prepare_polyphonic, read_midi, write_midi
from zf_pyro.data.music import midi
from zf_pyro.data.music.sets import JSB
from zf_pyro.data.prepare import describe


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


# MIDI files -----------------------------------------------------------------------------------------------------------


def on(note, time=0, channel=0, velocity=64):
    return mido.Message("note_on", note=note, velocity=velocity, time=time, channel=channel)


def off(note, time=0, channel=0):
    return mido.Message("note_off", note=note, time=time, channel=channel)


def tempo(microseconds, time=0):
    return mido.MetaMessage("set_tempo", tempo=microseconds, time=time)


def save(path, *tracks, division=4, type=1):
    """Write a MIDI file; by default a tick is a sixteenth note."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = mido.MidiFile(type=type, ticks_per_beat=division, tracks=[mido.MidiTrack(track) for track in tracks])
    file.save(path)
    return path


def spans(roll):
    """(note, first step, step after the last) of each run of ones."""
    changes = np.diff(np.pad(roll.astype(int), ((1, 1), (0, 0))), axis=0)
    starts, ends = (np.argwhere(value == changes.T) for value in (1, -1))
    return [(int(n) + 21, int(a), int(b)) for (n, a), (_, b) in zip(starts, ends, strict=True)]


@settings(max_examples=25, deadline=None)
@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.just(88)), elements=st.integers(0, 1)),
    st.integers(1, 273),
    st.sampled_from([30, 120.0, 240]),
)
def test_rolls_come_back_from_midi_files(tmp_path_factory, roll, steps_per_quarter, tempo):
    roll[-1, 0] = 1  # a roll that is read ends with its last note
    path = tmp_path_factory.mktemp("midi") / "a.mid"
    write_midi(path, roll, steps_per_quarter=steps_per_quarter, quarters_per_minute=tempo)
    assert np.array_equal(read_midi(path, steps_per_quarter=steps_per_quarter).roll, roll)
    assert np.array_equal(read_midi(str(path), step_seconds=60 / tempo / steps_per_quarter).roll, roll)
    assert left_in(path.parent) == ["a.mid"]


def test_the_chorales_come_back_from_midi_files(tmp_path):
    for piece in (load_polyphonic("jsb").test[i] for i in (0, 40, 76)):
        write_midi(tmp_path / "a.mid", piece, steps_per_quarter=1, program=19)
        assert torch.equal(torch.from_numpy(read_midi(tmp_path / "a.mid", steps_per_quarter=1).roll).float(), piece)


def test_a_written_file_is_as_long_as_its_roll(tmp_path):
    write_midi(
        tmp_path / "a.mid", [[1, 0], [0, 0], [0, 0]], steps_per_quarter=1, quarters_per_minute=60, lowest_note=60
    )
    assert mido.MidiFile(tmp_path / "a.mid").length == pytest.approx(3.0)
    assert spans(read_midi(tmp_path / "a.mid", steps_per_quarter=1).roll) == [(60, 0, 1)]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"steps_per_quarter": 0}, "steps_per_quarter must be a positive integer, got 0"),
        ({"steps_per_quarter": 274}, "steps_per_quarter must be at most 273, got 274"),
        ({"quarters_per_minute": 0}, "quarters_per_minute must be between 4 and 60,000,000, got 0"),
        ({"quarters_per_minute": float("nan")}, "quarters_per_minute must be between"),
        ({"quarters_per_minute": "120"}, "quarters_per_minute must be between"),
        ({"lowest_note": 41}, "lowest_note must be at most 40 for 88 notes, got 41"),
        ({"lowest_note": -1}, "lowest_note must be an integer of at least 0, got -1"),
        ({"program": 128}, "program must be at most 127, got 128"),
        ({"velocity": 0}, "velocity must be a positive integer, got 0"),
    ],
)
def test_numbers_that_no_midi_file_holds_are_refused(tmp_path, given, complaint):
    with pytest.raises(ValueError, match=complaint):
        write_midi(tmp_path / "a.mid", np.ones((2, 88)), **given)
    assert left_in(tmp_path) == []


NOTES = {
    "a note": ([on(60, 4), off(60, 2)], [(60, 4, 6)]),
    "a note that velocity 0 ends": ([on(60), on(60, 3, velocity=0)], [(60, 0, 3)]),
    "notes together": ([on(60), on(64, 1), off(60, 1), off(64, 1)], [(60, 0, 2), (64, 1, 3)]),
    "a note struck again while it sounds": ([on(60), on(60, 2), off(60, 2), off(60, 2)], [(60, 0, 6)]),
    "a note repeated at once": ([on(60), off(60, 2), on(60), off(60, 2)], [(60, 0, 4)]),
    "an end without a start": ([off(60, 3), on(61), off(61, 1)], [(61, 3, 4)]),
    "a note without length": ([on(60, 3), off(60)], [(60, 3, 4)]),
    "one key on two channels": (
        [on(60), on(60, 1, 1), off(60, 1), off(60, 2, 1)],
        [(60, 0, 4)],
    ),
    "a note that never ends": ([on(60, 1), on(61, 1), off(61, 3)], [(60, 1, 5), (61, 2, 5)]),
}


@pytest.mark.parametrize("case", NOTES)
def test_notes_sound_from_their_start_to_their_end(tmp_path, case):
    messages, expected = NOTES[case]
    piece = read_midi(save(tmp_path / "a.mid", messages))
    assert spans(piece.roll) == expected
    assert piece.unended == (case == "a note that never ends")


def test_starts_and_ends_are_rounded_and_no_note_is_lost(tmp_path):
    messages = [on(60, 14), off(60, 3), on(61, 8), off(61, 10), on(62, 1), off(62, 2)]  # at 14-17, 25-35, 36-38
    path = save(tmp_path / "a.mid", messages, division=40)  # ten ticks a step
    assert spans(read_midi(path).roll) == [(60, 1, 2), (61, 3, 4), (62, 4, 5)]
    assert spans(read_midi(path, steps_per_quarter=1).roll) == [(60, 0, 1), (61, 1, 2), (62, 1, 2)]


def test_tracks_sound_together_without_drums_and_notes_outside(tmp_path):
    drums = [on(40, 0, 9), off(40, 2, 9), on(41, 0, 9), off(41, 2, 9)]
    outside = [on(20), off(20, 1), on(109), off(109, 9), on(108), off(108, 1), on(21), off(21, 1)]
    piece = read_midi(save(tmp_path / "a.mid", drums, outside, [on(60), off(60, 2)]))
    assert spans(piece.roll) == [(21, 11, 12), (60, 0, 2), (108, 10, 11)]
    assert piece[1:] == (3, 2, 2, 0)


def test_seconds_follow_the_tempo_changes_of_any_track(tmp_path):
    conductor = [tempo(1_000_000), tempo(250_000, 4), tempo(2_000_000, 8)]  # beats of 1 s, from 1 s on 0.25, then 2
    notes = [on(60), off(60, 4), on(61), off(61, 8), on(62), off(62, 4)]
    path = save(tmp_path / "a.mid", notes, conductor)
    assert spans(read_midi(path, step_seconds=0.25).roll) == [(60, 0, 4), (61, 4, 6), (62, 6, 14)]
    assert spans(read_midi(path).roll) == [(60, 0, 4), (61, 4, 12), (62, 12, 16)]
    unset = save(tmp_path / "b.mid", notes)  # 120 beats a minute
    assert spans(read_midi(unset, step_seconds=0.25).roll) == [(60, 0, 2), (61, 2, 6), (62, 6, 8)]


@pytest.mark.parametrize(("rate", "second"), [(24, 960), (25, 1000), (30, 1200)])
def test_smpte_time_is_in_seconds_alone(tmp_path, rate, second):
    path = save(tmp_path / "a.mid", [on(60, second), off(60, second)], division=-rate * 256 + 40)
    assert spans(read_midi(path, step_seconds=0.5).roll) == [(60, 2, 4)]
    with pytest.raises(ValueError, match=r"a\.mid counts time in SMPTE frames.*: give --step_seconds"):
        read_midi(path)


def test_drop_frames_are_29_97_a_second(tmp_path):
    ticks = 30_000 * 10
    path = save(tmp_path / "a.mid", [on(60, ticks), off(60, ticks)], division=-29 * 256 + 10)
    assert spans(read_midi(path, step_seconds=1.001).roll) == [(60, 1000, 2000)]


def header(kind=1, tracks=1, division=4):
    return b"MThd" + struct.pack(">IHHH", 6, kind, tracks, division)


def chunk(data, size=None):
    return b"MTrk" + struct.pack(">I", len(data) if size is None else size) + data


NOTE = b"\x00\x90\x3c\x40\x04\x80\x3c\x40\x00\xff\x2f\x00"


def test_running_status_is_read(tmp_path):
    (tmp_path / "a.mid").write_bytes(header() + chunk(b"\x00\x90\x3c\x40\x02\x3e\x40\x02\x3c\x00\x01\x3e\x00"))
    assert spans(read_midi(tmp_path / "a.mid").roll) == [(60, 0, 4), (62, 2, 5)]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"<html>Not found</html>", "cannot be read as MIDI .*MThd not found"),
        (header()[:10], "cannot be read as MIDI .*it ends within"),
        (header() + chunk(NOTE)[:-4], "cannot be read as MIDI .*it ends within a track"),
        (header(tracks=2) + chunk(NOTE), "cannot be read as MIDI"),
        (header() + chunk(NOTE, size=5), "cannot be read as MIDI"),
        (header() + b"XTrk" + chunk(NOTE)[4:], "cannot be read as MIDI"),
        (header() + chunk(b"\x00\x90\xbc\x40"), "cannot be read as MIDI .*data byte"),
        (header() + chunk(b"\x00\xff\x59\x02\x63\x63" + NOTE), "cannot be read as MIDI"),
        (header() + chunk(b"\x00\x3c\x40"), "cannot be read as MIDI .*running status"),
        (header(2) + chunk(NOTE), "is of MIDI type 2, patterns that have no common time"),
        (header(7) + chunk(NOTE), "damaged header, type 7"),
        (header(division=0) + chunk(NOTE), "damaged header, type 1 and 0 ticks"),
        (header(division=0x8104) + chunk(NOTE), "damaged header, 127 SMPTE frames"),
        ((header() + chunk(NOTE)) * 2, "goes on after the 1 tracks that its header announces"),
        (header() + chunk(NOTE) * 2, "goes on after the 1 tracks"),
        (header() + chunk(b"\xff\xff\xff\x7f" + NOTE[1:]), "lasts 268435459 steps, more than 1000000: it is damaged"),
    ],
)
def test_a_damaged_midi_file_is_refused_by_name(tmp_path, content, complaint):
    (tmp_path / "midi").mkdir()
    (tmp_path / "midi" / "a.mid").write_bytes(content)
    for function in (read_midi, lambda path: prepare_polyphonic(tmp_path / "out", midi_folder(path.parent))):
        with pytest.raises(ValueError, match=complaint) as caught:
            function(tmp_path / "midi" / "a.mid")
        assert str(caught.value).startswith(str(tmp_path / "midi" / "a.mid"))
    assert left_in(tmp_path) == ["midi"]


def test_a_tempo_of_zero_is_refused_and_bytes_after_the_last_track_are_no_music(tmp_path):
    path = save(tmp_path / "a.mid", [tempo(0), on(60), off(60, 2)])
    with pytest.raises(ValueError, match="sets a tempo of 0 microseconds per quarter note"):
        read_midi(path, step_seconds=0.1)
    (tmp_path / "b.mid").write_bytes(header() + chunk(NOTE) + b"\0 made by hand")
    assert spans(read_midi(tmp_path / "b.mid").roll) == [(60, 0, 4)]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"steps_per_quarter": 4, "step_seconds": 0.1}, "give steps_per_quarter or step_seconds, not both, got 4 and"),
        ({"steps_per_quarter": 0}, "steps_per_quarter must be a positive integer, got 0"),
        ({"steps_per_quarter": 0.5}, "steps_per_quarter must be a positive integer, got 0.5"),
        ({"step_seconds": 0}, "step_seconds must be a positive number of seconds, got 0"),
        ({"step_seconds": float("inf")}, "step_seconds must be a positive number of seconds, got inf"),
        ({"step_seconds": "0.1"}, "step_seconds must be a positive number of seconds, got '0.1'"),
    ],
)
def test_a_step_without_a_size_is_refused(tmp_path, given, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_midi(save(tmp_path / "midi" / "a.mid", [on(60), off(60, 2)]), **given)
    with pytest.raises(ValueError, match=complaint):
        prepare_polyphonic(tmp_path / "out", tmp_path / "midi", **given)


def test_midi_files_without_mido_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mido", None)
    with pytest.raises(ImportError, match=r"MIDI files need mido: pip install zf-pyro\[data\]"):
        write_midi(tmp_path / "a.mid", np.ones((2, 88)))
    assert len(load_polyphonic("jsb").test) == 77


# Folders of MIDI files ------------------------------------------------------------------------------------------------


def midi_folder(root, names=("b.mid", "c.midi", "d.MID", "e.mid", "f.mid")):
    """Write files of one note each; the note tells which file it is."""
    for index, name in enumerate(names):
        save(root / name, [on(60 + index), off(60 + index, 2 + index)])
    return root


def test_files_of_a_folder_are_drawn_by_the_seed(tmp_path):
    root = midi_folder(tmp_path / "midi", [f"{i}.mid" for i in range(20)])
    (root / "notes.txt").write_text("read me")
    (root / "._1.mid").write_bytes(b"\0\5\x16\7")  # as macOS leaves beside 1.mid
    (root / "2b.mid").symlink_to(root / "2.mid")
    record = prepare_polyphonic(tmp_path / "out", root, validation=0.2, seed=3)
    counts = {name: split.num_sequences for name, split in record.splits.items()}
    assert counts == {"train": 14, "validation": 4, "test": 2}
    assert record.left_out == [
        ["._1.mid", "hidden"], ["2b.mid", "the same file: 2.mid"], ["notes.txt", "no MIDI file"]
    ]  # fmt: skip
    assert record.settings == {
        "lowest_note": 21, "steps_per_quarter": 4, "validation": 0.2, "test": 0.1, "seed": 3
    }  # fmt: skip
    sets = load_polyphonic(tmp_path / "out")
    for split in record.splits:
        for x, name in zip(getattr(sets, split), record.splits[split].names, strict=True):
            index = int(name.removesuffix(".mid"))
            assert spans(x.numpy()) == [(60 + index, 0, 2 + index)]
    other = prepare_polyphonic(tmp_path / "other", root, validation=0.2, seed=4)
    assert other.splits["train"].names != record.splits["train"].names
    assert prepare_polyphonic(tmp_path / "out", root, validation=0.2, seed=3) == record
    with pytest.raises(FileExistsError, match="steps_per_quarter 4 there, 2 now"):
        prepare_polyphonic(tmp_path / "out", root, validation=0.2, seed=3, steps_per_quarter=2)


def test_top_folders_are_the_splits(tmp_path):
    root = midi_folder(tmp_path / "midi", ("Train/a.mid", "train/b/c.mid", "valid/d.mid", "test/e.mid", "other/f.mid"))
    record = prepare_polyphonic(tmp_path / "out", root)
    assert {name: split.names for name, split in record.splits.items()} == {
        "train": ["Train/a.mid", "train/b/c.mid"],
        "validation": ["valid/d.mid"],
        "test": ["test/e.mid"],
    }
    assert record.left_out == [["other/f.mid", "outside of the folders of the splits"]]
    assert record.notes["test"]["split"] == "the folder's own"


def test_files_without_notes_are_left_out_by_name_and_ignored_notes_are_counted(tmp_path):
    root = midi_folder(tmp_path / "midi", ("train/a.mid", "valid/b.mid", "test/c.mid"))
    save(root / "train" / "drums.mid", [on(40, 0, 9), off(40, 2, 9)])
    save(root / "train" / "low.mid", [on(10), off(10, 2)])
    save(root / "train" / "silent.mid", [tempo(500_000)])
    save(
        root / "train" / "mixed.mid",
        [on(10), off(10, 2), on(60), on(41, 0, 9), off(41, 2, 9), on(42, 0, 9), off(42, 1, 9)],
    )
    record = prepare_polyphonic(tmp_path / "out", root)
    assert record.left_out == [
        ["train/drums.mid", "drums alone"],
        ["train/low.mid", "no notes between 21 and 108"],
        ["train/silent.mid", "no notes"],
    ]
    assert record.splits["train"].names == ["train/a.mid", "train/mixed.mid"]
    assert record.notes["ignored_notes"] == {
        "drums": {"train/drums.mid": 1, "train/mixed.mid": 2},
        "outside": {"train/low.mid": 1, "train/mixed.mid": 1},
        "unended": {"train/mixed.mid": 1},
    }
    assert "outside: 2 notes; files in record.json" in describe(record)
    assert "left out: 3 (1 drums alone, 1 no notes between 21 and 108, 1 no notes)" in describe(record)


def test_folders_that_hold_too_little_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no MIDI files \(\.mid, \.midi\): give the folder that"):
        prepare_polyphonic(tmp_path / "out", tmp_path / "empty")
    (tmp_path / "empty" / "a.npz").write_bytes(JSB.read_bytes())
    with pytest.raises(FileNotFoundError, match=r"give the file .*a\.npz, not its folder, as --source"):
        prepare_polyphonic(tmp_path / "out", tmp_path / "empty")
    with pytest.raises(ValueError, match="2 files are too few to hold out"):
        prepare_polyphonic(tmp_path / "out", midi_folder(tmp_path / "two", ("a.mid", "b.mid")))
    with pytest.raises(ValueError, match="holds MIDI files for test alone, in test: put the training files into"):
        prepare_polyphonic(tmp_path / "out", midi_folder(tmp_path / "test", ("test/a.mid",)))
    for options, complaint in (
        ({"validation": 1.5}, "validation must be between 0 and 1, a part of the files, got 1.5"),
        ({"test": "0.1"}, "test must be between 0 and 1, a part of the files, got '0.1'"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=complaint):
            prepare_polyphonic(tmp_path / "out", midi_folder(tmp_path / "five"), **options)
    root = midi_folder(tmp_path / "silent", ("train/a.mid", "valid/b.mid", "test/c.mid"))
    save(root / "test" / "c.mid", [tempo(500_000)])
    with pytest.raises(ValueError, match="holds no notes for test in its 1 files: give more files"):
        prepare_polyphonic(tmp_path / "out", root)
    assert not (tmp_path / "out").exists()


def test_a_replaced_file_is_noticed(tmp_path):
    root = midi_folder(tmp_path / "midi")
    prepare_polyphonic(tmp_path / "out", root)
    save(root / "b.mid", [on(70), off(70, 2)])  # as many bytes as before
    with pytest.raises(FileExistsError, match=r"source files with other content, first b\.mid"):
        prepare_polyphonic(tmp_path / "out", root)


def test_a_longest_piece_is_a_setting_of_the_module(tmp_path, monkeypatch):
    monkeypatch.setattr(midi, "MOST_STEPS", 5)
    assert len(read_midi(save(tmp_path / "a.mid", [on(60), off(60, 5)])).roll) == 5
    with pytest.raises(ValueError, match="lasts 6 steps, more than 5"):
        read_midi(save(tmp_path / "a.mid", [on(60), off(60, 6)]))
