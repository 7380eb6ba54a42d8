"""Every file of a source is used, or refused by name, or named in the record as left out with its reason."""

import os

import pytest

from zf_pyro.data import prepare_imdb, prepare_mnist, read_record
from zf_pyro.data.folders.files import list_files, summary
from zf_pyro.data.prepare import main as command
from zf_pyro.data.speech.listings import blizzard, folder, timit
from zf_pyro.data.text.reviews import read_reviews

from .prepared import sounds
from .test_data_images import binary_mnist
from .test_data_listings import prompts
from .test_data_text import tree


def everything(corpus):
    return sorted(name for names in corpus.splits.values() for name in names)


# Splits of a folder ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["val", "validation", "valid", "dev", "development", "VAL", "Dev"])
def test_every_usual_name_of_a_validation_folder_is_the_validation_split(tmp_path, name):
    corpus = folder(sounds(tmp_path, "train/a.wav", "train/b.wav", f"{name}/c.wav", "test/d.wav"))
    assert corpus.splits == {
        "train": ["train/a.wav", "train/b.wav"],
        "validation": [f"{name}/c.wav"],
        "test": ["test/d.wav"],
    }
    assert corpus.left_out == []


@pytest.mark.parametrize(("train", "test"), [("training", "test"), ("train", "testing"), ("Training", "TESTING")])
def test_training_and_testing_are_the_splits_of_that_name(tmp_path, train, test):
    corpus = folder(sounds(tmp_path, f"{train}/a.wav", f"{train}/b.wav", "val/c.wav", f"{test}/d.wav"))
    assert (corpus.splits["train"], corpus.splits["test"]) == ([f"{train}/a.wav", f"{train}/b.wav"], [f"{test}/d.wav"])


def test_two_folders_of_one_split_are_both_used(tmp_path):
    corpus = folder(sounds(tmp_path, "train/a.wav", "dev/b.wav", "val/c.wav", "test/d.wav"))
    assert corpus.splits["validation"] == ["dev/b.wav", "val/c.wav"]


def test_audio_beside_the_folders_of_the_splits_is_named_as_left_out(tmp_path):
    corpus = folder(sounds(tmp_path, "train/a.wav", "val/b.wav", "test/c.wav", "extra/d.wav", "e.wav"))
    assert corpus.left_out == [(name, "outside of the folders of the splits") for name in ("e.wav", "extra/d.wav")]


def test_without_a_folder_train_the_test_files_are_no_training_files(tmp_path):
    corpus = folder(sounds(tmp_path, "speaker/a.wav", "b.wav", "speaker/c.wav", "test/d.wav"))
    assert corpus.splits["test"] == ["test/d.wav"]
    assert sorted(corpus.splits["train"] + corpus.splits["validation"]) == ["b.wav", "speaker/a.wav", "speaker/c.wav"]


def test_test_files_alone_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds audio for validation and test alone, in dev: put the training files"):
        folder(sounds(tmp_path, "dev/a.wav", "test/b.wav", "test/c.wav"))


# Links ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_that_is_a_link_is_that_split(tmp_path, split):
    root = sounds(tmp_path / "root", *(f"{name}/{i}.wav" for name in ("train", "val", "test") for i in "ab"))
    (root / split).rename(tmp_path / "elsewhere")
    (root / split).symlink_to(tmp_path / "elsewhere")
    corpus = folder(root)
    assert corpus.splits["validation" if split == "val" else split] == [f"{split}/a.wav", f"{split}/b.wav"]
    assert len(everything(corpus)) == 6


def test_linked_speakers_are_read(tmp_path):
    sounds(tmp_path / "store", *(f"F{who}AA0/SX1.WAV" for who in "ABCDE"))
    for who in "ABCDE":
        (tmp_path / "root/TRAIN/DR1").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"root/TRAIN/DR1/F{who}AA0").symlink_to(tmp_path / f"store/F{who}AA0")
    assert len(everything(timit(tmp_path / "root"))) == 5


def test_a_linked_prompts_file_and_its_linked_folder_are_read(tmp_path):
    prompts(tmp_path / "store", "a", "b", "c")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "segmented").symlink_to(tmp_path / "store")
    for name in "abc":
        (tmp_path / f"store/wavn/{name}.wav").write_text(name)
    assert everything(blizzard(tmp_path / "root", "segmented")) == [f"segmented/wavn/{name}.wav" for name in "abc"]


@pytest.mark.parametrize("target", [".", "..", "../..", "/"])
def test_a_link_to_a_folder_above_ends_the_walk_there(tmp_path, target):
    root = sounds(tmp_path / "all/root", "sub/a.wav")
    sounds(tmp_path / "all", "other/b.wav")
    (root / "sub" / "up").symlink_to(target)
    listing = list_files(root)
    assert listing.files == ["sub/a.wav"]
    assert listing.left_out == [("sub/up/", "a link to a folder above it")]


def test_links_to_each_other_are_followed_once(tmp_path):
    root = sounds(tmp_path / "root", "a.wav")
    for name, other in (("one", "two"), ("two", "one")):
        sounds(tmp_path / name, f"{name}.wav")
        (tmp_path / name / "next").symlink_to(tmp_path / other)
    (root / "start").symlink_to(tmp_path / "one")
    assert list_files(root).files == ["a.wav", "start/next/two.wav", "start/one.wav"]


def test_one_file_is_never_in_two_splits(tmp_path):
    root = sounds(tmp_path, *(f"train/{i}.wav" for i in "abc"))
    (root / "test").mkdir()
    (root / "test/x.wav").symlink_to(root / "train/a.wav")
    os.link(root / "train/b.wav", root / "train/z.wav")
    (root / "val").symlink_to(root / "train")
    corpus = folder(root, validation=0.3, test=0.3)
    assert everything(corpus) == ["train/a.wav", "train/b.wav", "train/c.wav"]
    assert dict(corpus.left_out) == {
        "test/x.wav": "the same file: train/a.wav",
        "train/z.wav": "the same file: train/b.wav",
        "val/": "the same folder: train",
    }


def test_a_split_that_links_into_another_split_takes_its_part_of_it(tmp_path):
    root = sounds(tmp_path, "train/a.wav", "train/b.wav", "train/held/c.wav")
    (root / "test").symlink_to(root / "train/held")
    corpus = folder(root)
    assert corpus.splits["test"] == ["test/c.wav"]
    assert len(everything(corpus)) == 3


def test_a_broken_link_is_named(tmp_path):
    (sounds(tmp_path, "a.wav") / "b.wav").symlink_to(tmp_path / "gone.wav")
    assert list_files(tmp_path).left_out == [("b.wav", "a broken link")]


def test_what_is_no_regular_file_is_named(tmp_path):
    os.mkfifo(sounds(tmp_path, "a.wav") / "b.wav")
    assert list_files(tmp_path).left_out == [("b.wav", "no regular file")]


# Hidden files and others, counted -------------------------------------------------------------------------------------


def test_hidden_files_are_skipped_in_audio_and_text_alike(tmp_path):
    audio = sounds(tmp_path / "audio", "a.wav", "b.wav", "c.wav", "._a.wav", ".cache/d.wav", "sub/.e.wav")
    corpus = folder(audio)
    assert everything(corpus) == ["a.wav", "b.wav", "c.wav"]
    assert sorted(corpus.left_out) == [("._a.wav", "hidden"), (".cache/", "hidden"), ("sub/.e.wav", "hidden")]
    source = tree(tmp_path / "aclImdb")
    expected = read_reviews(source)
    for path in list(source.rglob("*.txt")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    found = read_reviews(source)
    assert found[:3] == expected[:3]
    assert [reason for _, reason in found.left_out] == ["hidden"] * 16


def test_the_record_and_the_command_name_what_was_left_out(tmp_path, capsys):
    root = sounds(tmp_path / "root", "train/a.wav", "train/b.wav", "val/c.wav", "test/d.wav", "e.wav", "._a.wav")
    (root / "notes.txt").write_text("notes")
    command(["folder", "--source", str(root), "--out", str(tmp_path / "out")])
    said = "left out: 3 (1 hidden, 1 outside of the folders of the splits, 1 no audio); named in record.json"
    assert said in capsys.readouterr().out
    assert read_record(tmp_path / "out").left_out == [
        ["._a.wav", "hidden"], ["e.wav", "outside of the folders of the splits"], ["notes.txt", "no audio"]
    ]  # fmt: skip


def test_reasons_are_counted_without_the_other_file():
    assert summary([("a", "a copy: b"), ("c", "a copy: d"), ("e", "hidden")]) == "3 (2 a copy, 1 hidden)"


def test_copies_and_foreign_files_of_timit_are_named(tmp_path):
    root = sounds(tmp_path, *(f"TRAIN/DR1/F{who}AA0/{s}.WAV" for who in "ABCDE" for s in ("SA1", "SX1")))
    sounds(root, "TRAIN/DR1/FAAA0/SX1.WAV.wav", "TRAIN/DR1/FAAA0/noise.wav")
    (root / "README.DOC").write_text("read me")
    corpus = timit(root, sa=False)
    assert len(everything(corpus)) == 5
    assert sorted(corpus.left_out) == [
        ("README.DOC", "no audio"),
        *((f"TRAIN/DR1/F{who}AA0/SA1.WAV", "a sentence all speakers read") for who in "A"),
        ("TRAIN/DR1/FAAA0/SX1.WAV.wav", "a copy: TRAIN/DR1/FAAA0/SX1.WAV"),
        ("TRAIN/DR1/FAAA0/noise.wav", "no utterance of TIMIT"),
        *((f"TRAIN/DR1/F{who}AA0/SA1.WAV", "a sentence all speakers read") for who in "BCDE"),
    ]


def test_utterances_that_no_prompts_list_are_named(tmp_path):
    prompts(tmp_path, "a", "b", "c")
    for name in ("a", "b", "c", "d"):
        (tmp_path / f"wavn/{name}.wav").write_text(name)
    (tmp_path / "chapter.mp3").write_text("sound")
    assert blizzard(tmp_path, "segmented").left_out == [
        ("chapter.mp3", "not in a prompts.gui"), ("wavn/d.wav", "not in a prompts.gui")
    ]  # fmt: skip


def test_audio_that_is_not_read_is_named_as_such(tmp_path):
    corpus = folder(sounds(tmp_path, "a.wav", "b.oga", "c.SND", "d.m4a", "e.webm", "f.txt"))
    assert everything(corpus) == ["a.wav", "b.oga", "c.SND"]
    assert dict(corpus.left_out) == {
        **dict.fromkeys(("d.m4a", "e.webm"), "audio in a format that is not read"), "f.txt": "no audio"
    }  # fmt: skip


def test_reviews_in_other_places_of_the_tree_are_named(tmp_path):
    source = tree(tmp_path / "aclImdb", unsup=2)
    (source / "README").write_text("read me")
    (source / "train/pos/more").mkdir()
    (source / "train/pos/more/9_9.txt").write_text("A film.")
    (source / "train/neg/77_1.TXT").write_text("Not a film.")
    reviews = read_reviews(source)
    assert "train/neg/77_1.TXT" in [review.name for review in reviews.train]
    assert dict(reviews.left_out) == {
        "README": "no review of the tree",
        "train/pos/more/9_9.txt": "no review of the tree",
        "train/unsup/0_0.txt": "a review without rating",
        "train/unsup/1_0.txt": "a review without rating",
    }
    assert len(prepare_imdb(tmp_path / "out", source).left_out) == 4


def test_a_linked_folder_of_reviews_is_read_and_a_double_one_named(tmp_path):
    source = tree(tmp_path / "aclImdb")
    (source / "train/pos").rename(tmp_path / "elsewhere")
    (source / "train/pos").symlink_to(tmp_path / "elsewhere")
    assert len(read_reviews(source).train) == 12
    for path in (source / "test/pos").iterdir():
        path.unlink()
    (source / "test/pos").rmdir()
    (source / "test/pos").symlink_to(source / "train/neg")
    with pytest.raises(FileNotFoundError, match=r"test/pos holds no reviews .* the same folder: train/neg"):
        read_reviews(source)


def test_other_files_beside_those_of_mnist_are_named(tmp_path):
    source = binary_mnist(tmp_path / "mnist")
    (source / "notes.txt").write_text("notes")
    (source / ".DS_Store").write_text("")
    record = prepare_mnist(tmp_path / "out", source, check_hashes=False)
    assert record.left_out == [[".DS_Store", "hidden"], ["notes.txt", "not read for fixed"]]
