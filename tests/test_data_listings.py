"""Listings of corpora: their files, and the speakers and files of each split."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zf_pyro.data.speech.listings import blizzard, draw_groups, folder, timit

SENTENCES = ("SA1", "SA2", "SI943", "SX133")


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def tree(root, train=10, test=3, case=str):
    """Create the LDC's tree with empty files."""
    for part, count in (("TRAIN", train), ("TEST", test)):
        for i in range(count):
            speaker = f"{'FM'[i % 2]}{part[1:3]}{chr(65 + i)}0"
            touch(
                root,
                *(case(f"TIMIT/{part}/DR{i % 8 + 1}/{speaker}/{s}.{e}") for s in SENTENCES for e in ("WAV", "PHN")),
            )
    return root


def speakers(names):
    return {name.split("/")[-2].lower() for name in names}


@pytest.mark.parametrize("case", [str.upper, str.lower, str.title])
def test_the_official_parts_are_kept_in_any_casing(tmp_path, case):
    corpus = timit(tree(tmp_path, case=case))
    sizes = {name: len(names) for name, names in corpus.splits.items()}
    assert sizes == {"train": 36, "validation": 4, "test": 12}
    assert all("/test/" in name.lower() for name in corpus.splits["test"])
    assert not any("/test/" in name.lower() for name in corpus.splits["train"] + corpus.splits["validation"])
    assert all(name.lower().endswith(".wav") for names in corpus.splits.values() for name in names)
    assert corpus.notes["test"] == "official"
    for split, names in corpus.splits.items():
        assert corpus.notes["speakers"][split] == sorted(speakers(names))


def test_sentences_that_all_read_can_be_left_out(tmp_path):
    corpus = timit(tree(tmp_path), sa=False)
    names = [name for names in corpus.splits.values() for name in names]
    assert len(names) == 13 * 2
    assert not any("/SA" in name for name in names)


def test_validation_speakers_are_drawn_by_the_seed_alone(tmp_path):
    tree(tmp_path, train=20)
    drawn = [timit(tmp_path, seed=seed, validation=0.25).notes["speakers"]["validation"] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 5


def test_without_a_test_part_test_speakers_are_held_out(tmp_path):
    corpus = timit(tree(tmp_path, train=16, test=0))
    assert {name: len(names) for name, names in corpus.notes["speakers"].items()} == {
        "train": 11, "validation": 2, "test": 3
    }  # fmt: skip
    assert sum(map(len, corpus.splits.values())) == 64
    assert "held out" in corpus.notes["test"]


def test_copies_beside_the_original_are_ignored(tmp_path):
    tree(tmp_path)
    folder = "TIMIT/TRAIN/DR1/FRAA0"
    touch(tmp_path, *(f"{folder}/{s}.{e}" for s in SENTENCES for e in ("WAV.wav", "flac")), f"{folder}/._SA1.WAV")
    names = [name for names in timit(tmp_path).splits.values() for name in names]
    assert len(names) == 52
    assert not any(name.endswith((".WAV.wav", ".flac")) for name in names)


def test_copies_alone_are_taken(tmp_path):
    touch(tmp_path, *(f"TRAIN/DR1/F{who}AA0/SA1.WAV.wav" for who in "ABCDE"))
    assert sum(map(len, timit(tmp_path).splits.values())) == 5


def test_the_layout_of_nltk_is_known(tmp_path):
    touch(tmp_path, *(f"timit/dr{i}-f{who}aa0/{s}.wav" for i, who in enumerate("abcdef", 1) for s in ("sa1", "sx3")))
    corpus = timit(tmp_path)
    assert sum(map(len, corpus.splits.values())) == 12
    assert set.union(*map(set, corpus.notes["speakers"].values())) == {f"f{who}aa0" for who in "abcdef"}


def test_two_copies_of_the_tree_are_refused(tmp_path):
    tree(tmp_path / "a")
    tree(tmp_path / "b")
    with pytest.raises(
        ValueError, match=r"holds an utterance twice, a/TIMIT/.* and b/TIMIT/.*: give the folder of one"
    ):
        timit(tmp_path)
    touch(tmp_path / "c", "TRAIN/DR1/FAAA0/SA1.WAV", "TEST/DR1/FAAA0/SA1.WAV", "TRAIN/DR1/FABA0/SA1.WAV")
    with pytest.raises(ValueError, match="mixes copies of TIMIT, see speaker faaa0"):
        timit(tmp_path / "c")


def test_folders_without_timit_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing is no folder: give the folder of TIMIT audio.*--source"):
        timit(tmp_path / "missing")
    touch(tmp_path / "text", "TRAIN/DR1/FAAA0/SA1.TXT")
    with pytest.raises(FileNotFoundError, match=r"text holds no audio \(.wav, .flac,"):
        timit(tmp_path / "text")
    touch(tmp_path / "other", "music/song.flac")
    with pytest.raises(FileNotFoundError, match=r"holds audio, but none of TIMIT's.*corpus folder"):
        timit(tmp_path / "other")
    with pytest.raises(ValueError, match=r"1 speakers are too few to hold out validation 0.1"):
        timit(tree(tmp_path / "one", train=1))


def prompts(root, *names, wav="wavn"):
    touch(root, *(f"{wav}/{name}.wav" for name in names))
    (root / "prompts.gui").write_text("".join(f"{name}\nSome words.\n||\n" for name in names))
    return root


def test_blizzard_segmented_goes_by_its_prompts(tmp_path):
    names = [f"CB-AA-01-{i:02}" for i in range(20)]
    prompts(tmp_path / "segmented", *names)
    touch(tmp_path, "segmented/wavn/not-listed.wav", "unsegmented/book/ch01.mp3")
    corpus = blizzard(tmp_path, "segmented")
    assert {name: len(files) for name, files in corpus.splits.items()} == {"train": 18, "validation": 1, "test": 1}
    files = sorted(name for names in corpus.splits.values() for name in names)
    assert files == [f"segmented/wavn/{name}.wav" for name in names]


def test_blizzard_unsegmented_takes_every_mp3(tmp_path):
    touch(tmp_path, *(f"unsegmented/book{i % 3}/ch{i}.MP3" for i in range(9)), "segmented/wavn/a.wav")
    corpus = blizzard(tmp_path, "unsegmented", validation=0.2, test=0.3)
    assert {name: len(files) for name, files in corpus.splits.items()} == {"train": 4, "validation": 2, "test": 3}


def test_blizzard_says_what_is_missing(tmp_path):
    prompts(tmp_path, "a", "b", "c")
    (tmp_path / "wavn" / "b.wav").unlink()
    with pytest.raises(FileNotFoundError, match=r"prompts.gui lists 3 utterances, of which 1 have no .wav .* b.wav"):
        blizzard(tmp_path, "segmented")
    with pytest.raises(FileNotFoundError, match=r"holds no .mp3 files"):
        blizzard(tmp_path, "unsegmented")
    with pytest.raises(ValueError, match="part must be 'segmented' or 'unsegmented', got 'both'"):
        blizzard(tmp_path, "both")
    (tmp_path / "prompts.gui").write_text("a\ntext\n\nno name at all\ntext\n\n")
    with pytest.raises(ValueError, match=r"prompts.gui line 4 is no utterance's name, 'no name at all'"):
        blizzard(tmp_path, "segmented")
    (tmp_path / "prompts.gui").write_text("")
    with pytest.raises(ValueError, match=r"prompts.gui is empty"):
        blizzard(tmp_path, "segmented")
    (tmp_path / "prompts.gui").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no prompts.gui"):
        blizzard(tmp_path, "segmented")


def test_a_folder_of_audio_is_split_at_random(tmp_path):
    touch(tmp_path, *(f"a/{i}.wav" for i in range(10)), *(f"{i}.FLAC" for i in range(10)), "notes.txt")
    corpus = folder(tmp_path)
    assert {name: len(files) for name, files in corpus.splits.items()} == {"train": 16, "validation": 2, "test": 2}
    assert corpus.notes == {"validation": "drawn", "test": "drawn"}


def test_a_folders_own_splits_are_kept(tmp_path):
    touch(tmp_path, *(f"Train/{i}.wav" for i in range(10)), "DEV/a.wav", "test/b.wav")
    corpus = folder(tmp_path)
    assert (corpus.splits["validation"], corpus.splits["test"]) == (["DEV/a.wav"], ["test/b.wav"])
    assert len(corpus.splits["train"]) == 10
    (tmp_path / "test" / "b.wav").unlink()
    corpus = folder(tmp_path)
    assert corpus.notes == {"validation": "the folder's own", "test": "drawn"}
    assert (len(corpus.splits["train"]), len(corpus.splits["test"])) == (9, 1)


def test_a_folder_without_audio_is_refused(tmp_path):
    touch(tmp_path, "a.txt")
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(str(tmp_path))} holds no audio .* as --source"):
        folder(tmp_path)


@given(st.integers(3, 60), st.floats(0.01, 0.3), st.floats(0.01, 0.3), st.integers(0, 5))
def test_groups_are_disjoint_and_complete(count, validation, test, seed):
    members = [f"m{i}" for i in range(count)]
    groups = draw_groups(members, {"validation": validation, "test": test}, seed, "files")
    assert sorted(itertools.chain(*groups.values())) == sorted(members)
    assert len(groups["validation"]) == max(1, round(validation * count))
    assert groups == draw_groups(members[::-1], {"validation": validation, "test": test}, seed, "files")


@pytest.mark.parametrize("part", [0.0, 1.0, -0.5])
def test_a_part_that_is_none_is_refused(part):
    with pytest.raises(ValueError, match="validation must be between 0 and 1, a part of the files"):
        draw_groups(["a", "b", "c"], {"validation": part}, 0, "files")
