"""Polyphonic music: piano rolls, pickles that are never run, MIDI files, prepared folders and errors."""

import copyreg
import gzip
import hashlib
import json
import os
import pickle
import struct
import sys
import tomllib
from pathlib import Path

import mido
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.io import savemat

from zf_pyro import ZForcing, ZForcingELBO
from zf_pyro.data import (
    LengthBatches,
    Loader,
    Sequences,
    Windows,
    collate,
    load_polyphonic,
    prepare_polyphonic,
    read_midi,
    write_midi,
)
from zf_pyro.data.music import midi
from zf_pyro.data.music.convert import convert, main
from zf_pyro.data.music.pickles import read_pickle
from zf_pyro.data.music.rolls import Rolls, check_roll, read_rolls, write_rolls
from zf_pyro.data.music.sets import JSB
from zf_pyro.data.prepare import describe
from zf_pyro.data.prepare import main as prepare
from zf_pyro.emissions import Bernoulli

from .prepared import prepare as prepare_frames
from .real_data import archive

ROOT = Path(__file__).parent.parent


def random_rolls(number, notes=88, seed=0):
    random = np.random.default_rng(seed)
    return [(random.random((random.integers(1, 20), notes)) < 0.05).astype(np.uint8) for _ in range(number)]


def random_parts(notes=88):
    return {split: random_rolls(n, notes, n) for split, n in (("train", 5), ("validation", 2), ("test", 3))}


def chords(parts):
    """Rolls as the published pickles have them: the MIDI notes of each step."""
    names = {"train": "train", "validation": "valid", "test": "test"}
    return {
        names[split]: [[tuple(int(note) + 21 for note in np.flatnonzero(step)) for step in roll] for roll in rolls]
        for split, rolls in parts.items()
    }


def arrays_of(parts):
    """The arrays of an .npz file."""
    found = {"lowest_midi_note": np.array(21)}
    for split, rolls in parts.items():
        found[f"{split}_packed"] = np.packbits(np.concatenate(rolls), axis=1)
        found[f"{split}_lengths"] = np.array([len(roll) for roll in rolls], np.int32)
    return found


def assert_same(music, parts):
    for split, rolls in parts.items():
        assert len(music.parts[split]) == len(rolls)
        assert all(np.array_equal(music.parts[split].roll(i), roll) for i, roll in enumerate(rolls))


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


# The chorales of the package ------------------------------------------------------------------------------------------


def test_the_chorales_come_with_the_package():
    sets = load_polyphonic("jsb")
    assert [len(part) for part in sets[:3]] == [229, 76, 77]
    assert [int(part.lengths.sum()) for part in sets[:3]] == [13_807, 4_602, 4_725]
    assert [sum(int(x.sum()) for x in part) for part in sets[:3]] == [53_824, 17_811, 18_367]
    lengths = torch.cat([part.lengths for part in sets[:3]])
    assert (lengths.min(), lengths.max()) == (25, 160)
    assert sets.lowest_note == 21
    assert sets.train[0].shape == (129, 88)
    assert sets.train[0].dtype == torch.float32
    assert set(sets.train[0].unique().tolist()) == {0.0, 1.0}
    assert (sets.train[0][0].nonzero().flatten() + 21).tolist() == [60, 72, 79, 88]
    assert sets.record.notes["test"]["also_in_train"] == 0


def test_the_file_of_the_chorales_is_the_one_that_was_made():
    digest = hashlib.sha256(JSB.read_bytes()).hexdigest()
    assert digest == "d73aff1423a756c4fcb8c4ed79b7b4ef09a43a4d6fdf4271113ffc0c02ce445a"
    assert load_polyphonic().record.hashes == {"jsb.npz": digest}


def test_the_chorales_and_their_licence_are_part_of_a_distribution():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["zf_pyro"]
    package = ROOT / "zf_pyro"
    music = [path for path in (package / "data" / "music").iterdir() if path.suffix not in (".py", "")]
    assert sorted(str(path.relative_to(package)) for path in music) == [p for p in sorted(project) if "music" in p]


def test_the_chorales_come_in_batches_by_length():
    part = load_polyphonic("jsb").validation
    for x, lengths in Loader(part, LengthBatches(part.lengths, batch_size=20)):
        assert x.shape == (len(lengths), int(lengths.max()), 88)
        assert all((x[i, n:] == 0).all() for i, n in enumerate(lengths))


def test_a_model_scores_the_chorales():
    part = load_polyphonic("jsb").test
    x, lengths = collate([part[i][:6] for i in range(3)])
    net = ZForcing(Bernoulli(88), embed_dim=4, hidden_dim=8, latent_dim=2, mlp_dim=4)
    loss = ZForcingELBO().differentiable_loss(net.model, net.guide, x, lengths)
    assert loss.isfinite()
    assert Windows(part, 40).lengths[:3].tolist() == [40, 40, 4]
    assert torch.equal(torch.cat(list(Windows(part, 40))), torch.cat(list(part)))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float64])
def test_rolls_may_be_of_any_dtype(dtype):
    roll = random_rolls(1)[0]
    assert np.array_equal(check_roll(torch.from_numpy(roll).to(dtype)), roll)


def test_a_prepared_folder_holds_the_same_chorales(tmp_path):
    record = prepare_polyphonic(tmp_path / "out")
    shipped, stored = load_polyphonic("jsb"), load_polyphonic(tmp_path / "out")
    for ours, theirs in zip(shipped[:3], stored[:3], strict=True):
        assert isinstance(theirs, Sequences)
        assert torch.equal(ours.lengths, theirs.lengths)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert shipped.record.same_request(record) == []
    assert shipped.record.notes == record.notes
    assert np.load(tmp_path / "out" / "test.npy").nbytes == 4_725 * 88
    assert "train: 229 sequences, 13,807 frames of 88" in describe(record)
    assert describe(record).endswith("notes: train 3.90, validation 3.87, test 3.89 per frame")


@pytest.mark.parametrize("index", [77, -78])
def test_an_index_out_of_range_is_refused(index):
    with pytest.raises(IndexError, match=f"index must be between 0 and 76, got {index}"):
        load_polyphonic("jsb").test[index]


def test_a_corpus_that_may_not_be_shipped_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nottingham does not come with the package.*prepare polyphonic"):
        load_polyphonic("nottingham")
    prepare_polyphonic(tmp_path / "nottingham")
    assert len(load_polyphonic("nottingham").test) == 77
    with pytest.raises(FileNotFoundError, match=r"holds no record\.json"):
        load_polyphonic("bach")
    prepare_frames(tmp_path / "digits")
    with pytest.raises(ValueError, match="holds test, no polyphonic music"):
        load_polyphonic("digits")


# Files of piano rolls -------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(st.data(), st.integers(1, 128))
def test_files_hold_any_rolls(tmp_path_factory, data, notes):
    piece = arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.just(notes)), elements=st.integers(0, 1))
    parts = {split: data.draw(st.lists(piece, min_size=1, max_size=4)) for split in ("train", "validation", "test")}
    lowest = data.draw(st.integers(0, 128 - notes))
    path = tmp_path_factory.mktemp("rolls") / "a.npz"
    write_rolls(path, parts, lowest_note=lowest)
    found = read_rolls(path)
    assert (found.lowest_note, found.num_notes) == (lowest, notes)
    assert_same(found, parts)
    assert left_in(path.parent) == ["a.npz"]


@pytest.mark.parametrize("notes", [12, 88])
def test_a_prepared_folder_has_as_many_notes_as_its_file(tmp_path, notes):
    parts = random_parts(notes)
    write_rolls(tmp_path / "a.npz", parts, lowest_note=30)
    record = prepare_polyphonic(tmp_path / "out", tmp_path / "a.npz")
    assert (record.frame, record.dtype, record.settings) == (notes, "uint8", {"lowest_note": 30})
    sets = load_polyphonic(tmp_path / "out")
    for split, rolls in parts.items():
        assert all(np.array_equal(x, roll) for x, roll in zip(getattr(sets, split), rolls, strict=True))
        assert record.notes[split]["notes_per_frame"] == pytest.approx(np.concatenate(rolls).sum(1).mean())


def test_pieces_that_are_also_in_train_are_counted(tmp_path):
    parts = random_parts()
    parts["test"] += parts["train"][:2]
    write_rolls(tmp_path / "a.npz", parts)
    notes = prepare_polyphonic(tmp_path / "out", tmp_path / "a.npz").notes
    assert [notes[split]["also_in_train"] for split in parts] == [None, 0, 2]


def test_a_repeated_preparation_is_recognised_and_another_one_refused(tmp_path):
    write_rolls(tmp_path / "a.npz", random_parts())
    record = prepare_polyphonic(tmp_path / "out", tmp_path / "a.npz")
    assert prepare_polyphonic(tmp_path / "out", tmp_path / "a.npz") == record
    with pytest.raises(FileExistsError, match="prepared otherwise"):
        prepare_polyphonic(tmp_path / "out")
    assert prepare_polyphonic(tmp_path / "out", overwrite=True).sources[0][0] == "jsb.npz"


@pytest.mark.parametrize(
    ("roll", "complaint"),
    [
        (np.full((3, 88), 0.5), r"roll must be zeros and ones, got .*0\.5.* at step 0, note 0: .*sample from probab"),
        (torch.tensor([[0.0, 1.0], [0.0, 64.0]]), r"got .*64\.0.* at step 1, note 1: compare velocities with 0"),
        (np.array([[0, -1]]), "at step 0, note 1"),
        (np.array([[0.0, np.nan]]), "nan"),
        (np.array([["0", "1"]]), "must be zeros and ones"),
        (np.array([[None, 1]]), "must be zeros and ones"),
        (np.zeros((0, 88)), "must hold one step at least, got an empty piece: leave it out"),
        (np.zeros((2, 5, 88)), r"must be one piece of shape \(time, notes\), got shape \(2, 5, 88\)"),
        (np.zeros(88), r"got shape \(88,\)"),
        ([[0, 1], [1]], "must have as many notes in every step"),
        ([], r"got shape \(0,\)"),
    ],
)
def test_what_is_no_piano_roll_is_refused(roll, complaint, tmp_path):
    for function in (check_roll, lambda roll: write_midi(tmp_path / "a.mid", roll)):
        with pytest.raises(ValueError, match=complaint):
            function(roll)
    assert left_in(tmp_path) == []


def test_rolls_of_another_form_are_not_written(tmp_path):
    parts = random_parts()
    for changes, complaint in (
        ({"test": []}, "test must hold one piece at least, got none"),
        ({"train": []}, "train must hold one piece at least, got none"),
        ({"test": random_rolls(1, 87)}, r"test\[0\] must be one piece of shape \(time, 88\), got shape \(\d+, 87\)"),
        ({"valid": parts["test"]}, "parts must be train, validation, test, got train, validation, test, valid"),
    ):
        with pytest.raises(ValueError, match=complaint):
            write_rolls(tmp_path / "a.npz", {**parts, **changes})
    with pytest.raises(ValueError, match="lowest_note must be between 0 and 40 for 88 notes, got 41"):
        write_rolls(tmp_path / "a.npz", parts, lowest_note=41)
    assert left_in(tmp_path) == []


DAMAGES = {
    "a split is missing": ({"test_packed": None}, "holds no test_packed: it needs NAME_packed and NAME_lengths"),
    "lengths are missing": ({"validation_lengths": None}, "holds no validation_lengths"),
    "the lowest note is missing": ({"lowest_midi_note": None}, "holds no lowest_midi_note: add it, 21"),
    "an empty piece": ({"test_lengths": np.array([0, 3])}, "piece 0 of test has 0 steps, an empty piece: leave it out"),
    "a negative length": ({"test_lengths": np.array([3, -1])}, "piece 1 of test has -1 steps"),
    "other lengths": ({"test_lengths": np.array([2, 2])}, "lengths of test add up to 4 steps, test_packed has"),
    "lengths that wrap round": ({"test_lengths": np.array([2**63 - 1, 2**63 - 1, 8])}, "lengths of test add up to 184"),
    "float lengths": ({"test_lengths": np.array([2.0])}, "test_lengths is float64 of shape"),
    "no pieces": ({"test_lengths": np.zeros(0, int)}, "test_lengths is int64 of shape"),
    "not packed": ({"train_packed": np.zeros((3, 88))}, "train_packed is float64 .* expected uint8 of shape"),
    "one axis": ({"train_packed": np.zeros(3, np.uint8)}, r"train_packed is uint8 of shape \(3,\), expected uint8"),
    "other notes": ({"test_packed": np.zeros((3, 10), np.uint8)}, "test_packed has 10 bytes per step, train_packed 11"),
    "other num_notes": ({"num_notes": np.array(12)}, "has 12 notes from MIDI note 21 in 11 bytes per step"),
    "notes beyond 127": ({"lowest_midi_note": np.array(41)}, "has 88 notes from MIDI note 41"),
    "a lowest note of two": ({"lowest_midi_note": np.array([21, 22])}, "lowest_midi_note is int64 .* expected one int"),
    "bits beyond the notes": (
        {"num_notes": np.array(87), "train_packed": np.full((3, 11), 255, np.uint8), "train_lengths": np.array([3])},
        "train_packed has notes beyond the 87 of num_notes",
    ),
    "an unknown array": ({"extra": np.zeros(3)}, "holds extra, expected only"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_of_another_layout_is_refused_by_name(tmp_path, damage):
    changes, complaint = DAMAGES[damage]
    found = {name: value for name, value in {**arrays_of(random_parts()), **changes}.items() if value is not None}
    np.savez(tmp_path / "a.npz", **found)
    with pytest.raises(ValueError, match=complaint) as caught:
        prepare_polyphonic(tmp_path / "out", tmp_path / "a.npz")
    assert str(caught.value).startswith(str(tmp_path / "a.npz"))
    assert left_in(tmp_path) == ["a.npz"]


class Bomb:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_pickled_objects_in_a_file_are_never_loaded(tmp_path):
    found = arrays_of(random_parts())
    np.savez(tmp_path / "a.npz", **{**found, "test_packed": np.array([Bomb(tmp_path / "exploded")], object)})
    with pytest.raises(ValueError, match=r"a\.npz holds pickled objects, which could run code and are not read"):
        read_rolls(tmp_path / "a.npz")
    assert left_in(tmp_path) == ["a.npz"]


@pytest.mark.parametrize("cut", [1, 30, 500, -500, -1])
def test_a_truncated_file_is_refused(tmp_path, cut):
    (tmp_path / "a.npz").write_bytes(JSB.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"a\.npz is (cut short or damaged|no \.npz file)"):
        read_rolls(tmp_path / "a.npz")


def test_a_changed_byte_is_found(tmp_path):
    content = bytearray(JSB.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz is cut short or damaged"):
        read_rolls(tmp_path / "a.npz")


def test_an_encrypted_archive_is_refused(tmp_path):
    content = bytearray(JSB.read_bytes())
    for at in (content.index(b"PK\x03\x04") + 6, content.index(b"PK\x01\x02") + 8):
        content[at] |= 1  # the flag of encryption, in both headers of the first array
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz is cut short or damaged .*encrypted"):
        read_rolls(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.npz", b"", "it is empty"),
        ("a.npz", b"<html>", r"is no \.npz file of piano rolls: convert a \.pickle"),
        ("a.pickle", pickle.dumps({}, 0), r"pickles could run code .*music\.convert .*a\.pickle OUT\.npz reads"),
        ("a.npz", pickle.dumps({}, 4), r"pickles could run code"),
        ("a.npz", pickle.dumps({"train": []}, 0), r"pickles could run code"),
        ("a.json", b"{}", r"convert it by .*music\.convert .*a\.json OUT\.npz"),
        ("a.mat", b"MATLAB 5.0", r"convert it by .*music\.convert"),
        ("a.mid", b"MThd", "a MIDI file; give the folder that holds it"),
    ],
)
def test_a_source_of_another_kind_says_what_to_do(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        prepare_polyphonic(tmp_path / "out", tmp_path / name)
    assert left_in(tmp_path) == [name]


def test_a_missing_source_and_flags_without_meaning_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz does not exist"):
        prepare_polyphonic(tmp_path / "out", tmp_path / "none.npz")
    with pytest.raises(ValueError, match="seed, step_seconds is for folders of MIDI files, and the JSB chorales has"):
        prepare_polyphonic(tmp_path / "out", seed=1, step_seconds=0.1)


# Conversion -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("form", [tuple, list])
def test_pickles_of_every_protocol_convert(tmp_path, protocol, form):
    parts = random_parts()
    data = {split: [list(map(form, piece)) for piece in pieces] for split, pieces in chords(parts).items()}
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(data, protocol))
    convert(tmp_path / "a.pickle", tmp_path / "a.npz")
    assert_same(read_rolls(tmp_path / "a.npz"), parts)


def test_a_pickle_of_python_2_converts(tmp_path):
    """As cPickle of Python 2 wrote it, in protocols 0 and 2."""
    old = b"(dp1\nS'test'\np2\n(lp3\n(lp4\n(I60\nI64\ntp5\naasS'train'\np6\ng3\nsS'valid'\np7\n(lp8\ng4\nas."
    new = b"\x80\x02}q\x01(U\x04testq\x02]q\x03]q\x04K<K@\x86q\x05aaU\x05trainq\x06h\x03U\x05validq\x07]q\x08h\x04au."
    for name, content in (("old.pkl", old), ("new.p.gz", gzip.compress(new))):
        (tmp_path / name).write_bytes(content)
        music = convert(tmp_path / name, tmp_path / f"{name}.npz")
        for rolls in music.parts.values():
            assert (rolls[0].nonzero() == torch.tensor([[0, 39], [0, 43]])).all()


@settings(max_examples=30, deadline=None)
@given(
    st.recursive(
        st.integers() | st.text() | st.just(()),
        lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
        max_leaves=12,
    ),
    st.integers(0, pickle.HIGHEST_PROTOCOL),
)
def test_plain_data_reads_as_pickle_reads_it(tmp_path_factory, data, protocol):
    path = tmp_path_factory.mktemp("pickle") / "a.pickle"
    path.write_bytes(pickle.dumps([data, data], protocol))
    assert read_pickle(path) == [data, data]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_code_does_not(tmp_path, protocol):
    bomb = Bomb(tmp_path / "exploded")
    for i, data in enumerate(({"train": bomb}, [bomb], bomb, {"train": [], "valid": [], "test": [[(bomb,)]]})):
        (tmp_path / "a.pickle").write_bytes(pickle.dumps(data, protocol))
        with pytest.raises(ValueError, match=r"a\.pickle holds (STACK_)?GLOBAL.* at byte \d+, .*nothing of it was run"):
            convert(tmp_path / "a.pickle", tmp_path / f"{i}.npz")
    assert left_in(tmp_path) == ["a.pickle"]


class Plain:
    """A class whose objects are pickled by their state."""


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"cos\nsystem\n(S'touch exploded'\ntR.", "GLOBAL 'os system'"),
        (b"(S'touch exploded'\nios\nsystem\n.", "INST 'os system'"),
        (b"(cos\nsystem\nS'touch exploded'\no.", "GLOBAL 'os system'"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "STACK_GLOBAL"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02\x83\x01\x00.", "EXT2"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
        (b"Pmine\n.", "PERSID 'mine'"),
        (b"I1\nQ.", "BINPERSID"),
        (b"I1\n)R.", "REDUCE"),
        (b"\x80\x02I1\n)\x81.", "NEWOBJ"),
        (b"I1\n}b.", "BUILD"),
        (b"I1\n0.", "POP"),
        (b"I1\n2.", "DUP"),
        (b"N.", "NONE"),
        (b"\x80\x02\x88.", "NEWTRUE"),
        (b"F1.5\n.", "FLOAT"),
        (b"\x80\x03C\x01a.", "SHORT_BINBYTES"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x04\x8f.", "EMPTY_SET"),
        (pickle.dumps(Plain(), 0), "GLOBAL 'copy_reg _reconstructor'"),
        (pickle.dumps(np.int64(3), 2), "GLOBAL"),
        (pickle.dumps(1.5, 2), "BINFLOAT"),
    ],
)
def test_every_opcode_that_is_no_plain_data_is_refused_by_name(tmp_path, monkeypatch, content, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(copyreg._inverted_registry, 1, ("os", "system"))
    (tmp_path / "a.pickle").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.pickle holds {name}.* at byte \d+, expected only dictionaries, lists"):
        read_pickle(tmp_path / "a.pickle")
    assert left_in(tmp_path) == ["a.pickle"]


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"",
            b".",
            b"(",
            b"(.",
            b"I1\nI2\n.",
            b"g5\n.",
            b"I1\nt.",
            b"I1\nI2\na.",
            b"]I1\n",
            b"I1x\n.",
            b"\x80\x02\x86.",
        ),
        *(b"]]\x85e.", b"(I1\nd.", b"}(I1\nu.", b"}]I1\ns.", b"S'a\n.", b"L" + b"9" * 5000 + b"\n.", b"(]e.", b"\x80"),
        *(
            b"\x8b\xff\xff\xff\x7f.",
            b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
            b"h\x00.",
            b"q\x00.",
            b"]q\x00h\x00a",
        ),
    ],
)
def test_a_damaged_pickle_is_refused(tmp_path, content):
    (tmp_path / "a.pickle").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pickle is no whole pickle"):
        read_pickle(tmp_path / "a.pickle")


def test_several_pickles_in_one_file_are_refused(tmp_path):
    (tmp_path / "a.pickle").write_bytes(pickle.dumps([], 2) + b"cos\nsystem\n.")
    with pytest.raises(ValueError, match=r"goes on for 12 bytes after its first pickle"):
        read_pickle(tmp_path / "a.pickle")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ([], "must hold a dictionary of train, valid and test, got list"),
        ({"train": []}, "must hold a dictionary of train, valid and test, got 'train'"),
        ({**chords(random_parts()), "train_mean": 1}, "got .*'train_mean'"),
        ({**chords(random_parts()), "test": []}, r"test must be a list of pieces, got \[\]"),
        ({**chords(random_parts()), "test": 3}, "test must be a list of pieces, got int"),
        ({**chords(random_parts()), "test": [[(60,)], []]}, r"piece 1 of test must be a list of steps, got \[\]"),
        ({**chords(random_parts()), "valid": [[(60,), 61]]}, "piece 0 of validation, step 1 must be a list of MIDI"),
        ({**chords(random_parts()), "train": [[(60, 20)]]}, "piece 0 of train, step 0 must hold MIDI .* got 20"),
        ({**chords(random_parts()), "train": [[(60, 109)]]}, "between 21 and 108, got 109"),
        ({**chords(random_parts()), "train": [[("60",)]]}, "between 21 and 108, got '60'"),
        ({**chords(random_parts()), "train": [["60"]]}, "must be a list of MIDI notes, got str"),
    ],
)
@pytest.mark.parametrize("form", ["pickle", "json"])
def test_data_of_another_form_is_refused_by_its_place(tmp_path, data, complaint, form):
    content = pickle.dumps(data) if form == "pickle" else json.dumps(data).encode()
    (tmp_path / f"a.{form}").write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        convert(tmp_path / f"a.{form}", tmp_path / "a.npz")
    assert left_in(tmp_path) == [f"a.{form}"]


def test_lists_that_hold_themselves_or_repeat_without_end_are_refused(tmp_path):
    endless: list = []
    endless.append(endless)
    (tmp_path / "a.pickle").write_bytes(pickle.dumps({"train": endless, "valid": endless, "test": endless}))
    with pytest.raises(ValueError, match=r"must hold MIDI notes between 21 and 108, got \["):
        convert(tmp_path / "a.pickle", tmp_path / "a.npz")
    piece = [()] * 50_000
    (tmp_path / "b.pickle").write_bytes(pickle.dumps({"train": [piece] * 1000, "valid": [piece], "test": [piece]}))
    with pytest.raises(ValueError, match="holds 50100000 steps, more than 16777216"):
        convert(tmp_path / "b.pickle", tmp_path / "b.npz")


def test_json_and_matlab_files_convert(tmp_path):
    parts = random_parts()
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(chords(parts)).encode()))
    cells = {}
    for name, rolls in zip(("traindata", "validdata", "testdata"), parts.values(), strict=True):
        cells[name] = np.empty((1, len(rolls)), object)
        cells[name][0] = rolls
    savemat(tmp_path / "a.mat", cells)
    for name in ("a.json.gz", "a.mat"):
        assert_same(convert(tmp_path / name, tmp_path / f"{name}.npz"), parts)
    assert (tmp_path / "a.json.gz.npz").read_bytes() == (tmp_path / "a.mat.npz").read_bytes()


def test_files_that_cannot_be_converted_say_why(tmp_path, capsys):
    for name, content, complaint in (
        ("a.mat", b"MATLAB 5.0 and no more", "is no MATLAB file that can be read"),
        ("a.json", b"{", "is no JSON"),
        ("b.json", b"[" * 100_000, "is no JSON"),
        ("a.txt", b"", r"must be a \.pickle .*, got \.txt"),
        ("a", b"", "got no suffix"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=complaint):
            convert(tmp_path / name, tmp_path / "a.npz")
    cells = np.empty((1, 2), object)
    cells[0] = [np.ones((3, 88)), np.full((3, 88), 2)]
    savemat(tmp_path / "b.mat", {"traindata": cells})
    with pytest.raises(ValueError, match=r"b\.mat: traindata\[1\] must be zeros and ones, got 2 at step 0, note 0"):
        convert(tmp_path / "b.mat", tmp_path / "a.npz")
    savemat(tmp_path / "c.mat", {"traindata": np.zeros(3)})
    with pytest.raises(ValueError, match="must hold a cell of rolls traindata"):
        convert(tmp_path / "c.mat", tmp_path / "a.npz")
    with pytest.raises(FileExistsError, match=r"a\.txt exists: remove it"):
        convert(tmp_path / "a.json", tmp_path / "a.txt")
    with pytest.raises(SystemExit, match=r"error: .*a\.json is no JSON"):
        main([str(tmp_path / "a.json"), str(tmp_path / "a.npz")])
    assert capsys.readouterr().out == ""


def test_the_command_converts_and_prepares(tmp_path, capsys):
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(chords(random_parts()), 2))
    main([str(tmp_path / "a.pickle"), str(tmp_path / "a.npz")])
    assert capsys.readouterr().out.splitlines()[0].startswith("     train: 5 pieces, ")
    prepare(["polyphonic", "--source", str(tmp_path / "a.npz"), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out.splitlines()[0].startswith("     train: 5 sequences, ")
    with pytest.raises(SystemExit, match=r"error: .*a\.pickle is no \.npz file of piano rolls: pickles could run code"):
        prepare(["polyphonic", "--source", str(tmp_path / "a.pickle"), "--out", str(tmp_path / "other")])


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


# The published corpora ------------------------------------------------------------------------------------------------

PUBLISHED = {
    "jsb": ((229, 76, 77), (13_807, 4_602, 4_725), (25, 160), (0, 0)),
    "nottingham": ((694, 173, 170), (176_561, 45_513, 44_463), (40, 1793), (1, 1)),
    "musedata": ((524, 135, 124), (245_202, 82_755, 64_339), (9, 4273), (0, 0)),
    "piano_midi": ((87, 12, 25), (75_911, 8_540, 19_036), (65, 3857), (0, 0)),
}
"""Pieces and steps of the splits, the shortest and longest piece, pieces of validation and test that train holds."""


@pytest.mark.parametrize("corpus", PUBLISHED)
def test_the_published_corpora_have_their_sizes(tmp_path, corpus):
    pieces, steps, longest, repeated = PUBLISHED[corpus]
    record = prepare_polyphonic(tmp_path / "out", archive(f"polyphonic/{corpus}.npz"))
    sets = load_polyphonic(tmp_path / "out")
    assert tuple(len(part) for part in sets[:3]) == pieces
    assert tuple(int(part.lengths.sum()) for part in sets[:3]) == steps
    lengths = torch.cat([part.lengths for part in sets[:3]])
    assert (int(lengths.min()), int(lengths.max())) == longest
    assert (record.notes["validation"]["also_in_train"], record.notes["test"]["also_in_train"]) == repeated
    assert (record.frame, sets.lowest_note) == (88, 21)


def test_the_chorales_of_the_package_are_the_published_ones():
    published, shipped = read_rolls(archive("polyphonic/jsb.npz")), read_rolls(JSB)
    for split, rolls in published.parts.items():
        assert np.array_equal(rolls.packed, shipped.parts[split].packed)
        assert torch.equal(rolls.lengths, shipped.parts[split].lengths)


def test_rolls_in_memory_take_a_bit_per_note():
    rolls = Rolls.of(random_rolls(4))
    assert rolls.packed.nbytes == 11 * int(rolls.lengths.sum())
