"""Polyphonic music: the JSB chorales, files of piano rolls, pickles that are never run, and errors."""

import copyreg
import gzip
import hashlib
import json
import os
import pickle
import tomllib
from pathlib import Path

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
    write_midi,
)
from zf_pyro.data.music.convert import convert, main
from zf_pyro.data.music.pickles import read_pickle
from zf_pyro.data.music.rolls import Rolls, check_roll, read_rolls, write_rolls
from zf_pyro.data.music.sets import JSB
from zf_pyro.data.prepare import describe
from zf_pyro.data.prepare import main as prepare
from zf_pyro.emissions import Bernoulli

from .conftest import of_the_sources
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


@of_the_sources
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
