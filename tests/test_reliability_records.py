"""Names, records and places that could not be read, written or told apart are refused, by name and before the work."""

import json
from pathlib import Path

import numpy as np
import pytest

from zf_pyro.data import (
    Sequences,
    load_digits,
    prepare_folder,
    prepare_imdb,
    prepare_mnist,
    prepare_timit,
    preparing,
    read_record,
)
from zf_pyro.data.prepare import describe
from zf_pyro.data.speech.listings import blizzard, folder, timit

from .prepared import prepare, request, sounds
from .test_data_listings import prompts
from .test_data_text import tree


def everything(corpus):
    return sorted(name for names in corpus.splits.values() for name in names)


# Names ----------------------------------------------------------------------------------------------------------------


def latin(folder, name="caf\udce9.wav"):
    """Path of a file whose name is Latin-1."""
    return folder / name


def test_an_audio_file_with_a_latin_1_name_is_refused_before_the_work(tmp_path, monkeypatch):
    root = sounds(tmp_path / "root", "a.wav", "b.wav")
    latin(root).write_bytes((root / "a.wav").read_bytes())
    monkeypatch.setattr("zf_pyro.data.speech.prepare.check_audio", None)
    with pytest.raises(ValueError, match=r"caf\\udce9\.wav has a name that is not UTF-8: rename it, .*convmv"):
        prepare_folder(tmp_path / "out", root)


def test_a_latin_1_name_of_a_folder_is_refused(tmp_path):
    root = sounds(tmp_path / "root", "a.wav", "b.wav", "c.wav", "sub/d.wav")
    (root / "sub").rename(latin(root, "d\udce9j\udce0"))
    with pytest.raises(ValueError, match=r"has a name that is not UTF-8"):
        prepare_folder(tmp_path / "out", root)


def test_a_latin_1_name_that_is_not_used_is_named(tmp_path):
    root = sounds(tmp_path / "root", "a.wav", "b.wav", "c.wav")
    latin(root, "caf\udce9.txt").write_text("text")
    assert prepare_folder(tmp_path / "out", root).left_out == [["caf\\udce9.txt", "no audio"]]
    assert read_record(tmp_path / "out").left_out == [["caf\\udce9.txt", "no audio"]]


def test_a_review_with_a_latin_1_name_is_refused(tmp_path):
    source = tree(tmp_path / "aclImdb")
    latin(source / "train/pos", "7_9\udce9.txt").write_text("A film.")
    with pytest.raises(ValueError, match=r"7_9\\udce9\.txt has a name that is not UTF-8"):
        prepare_imdb(tmp_path / "out", source)
    latin(tmp_path, "\udce9.txt").write_text("A film.\n" * 9)
    with pytest.raises(ValueError, match=r"\\udce9\.txt has a name that is not UTF-8"):
        prepare_imdb(tmp_path / "out", latin(tmp_path, "\udce9.txt"))


def test_names_that_differ_only_in_case_are_two_files_of_a_folder_and_refused_in_timit(tmp_path):
    assert everything(folder(sounds(tmp_path / "a", "x.wav", "X.wav", "y.WAV"))) == ["X.wav", "x.wav", "y.WAV"]
    root = sounds(tmp_path / "b", *(f"TRAIN/DR1/F{who}AA0/SX1.WAV" for who in "ABCDE"), "TRAIN/DR1/FAAA0/sx1.wav")
    with pytest.raises(ValueError, match=r"FAAA0/SX1.WAV and .*FAAA0/sx1.wav, which differ only in case: remove one"):
        timit(root)


# Prompts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("wavn/b.wav", "wavs/b.wav"), ("wavn/b.wav", "wavn/B.wav")])
def test_two_recordings_of_one_name_under_one_prompts_file_are_refused(tmp_path, first, second):
    prompts(tmp_path, "a", "b", "c")
    sounds(tmp_path, "wavn/a.wav", "wavn/c.wav", first, second)
    with pytest.raises(ValueError, match=r"lists b, and 2 files have that name, .* and .*: move all but one"):
        blizzard(tmp_path, "segmented")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_prompts_are_read_in_any_encoding_and_with_any_line_ends(tmp_path, encoding, end):
    prompts(tmp_path, "a", "b", "c")
    sounds(tmp_path, "wavn/a.wav", "wavn/b.wav", "wavn/c.wav")
    text = "".join(f"{name}{end}caf\xe9 \x85 words{end}||{end}" for name in "abc")
    (tmp_path / "prompts.gui").write_bytes(text.encode(encoding))
    assert len(everything(blizzard(tmp_path, "segmented"))) == 3


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x85"])
def test_a_text_in_prompts_may_hold_other_separators(tmp_path, separator):
    prompts(tmp_path, "a", "b", "c")
    sounds(tmp_path, "wavn/a.wav", "wavn/b.wav", "wavn/c.wav")
    text = "".join(f"{name}\nOne.{separator}Two.\n||\n" for name in "abc")
    (tmp_path / "prompts.gui").write_text(text, encoding="utf-8")
    assert len(everything(blizzard(tmp_path, "segmented"))) == 3


# Records and places ---------------------------------------------------------------------------------------------------


def changed(out, **fields):
    path = out / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return out


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("scale", value) for value in (0, 0.0, -1.0, float("nan"), float("inf"), "2", None, True, [1.0])),
        *(("mean", value) for value in (float("nan"), float("-inf"), "0", None, {})),
        *(("frame", value) for value in ("2", 0, -4, 2.0, True, [4])),
        *(("dtype", value) for value in ("float16", 3, None)),
        *(("sources", value) for value in ({}, "a.wav", [["a.wav"]])),
        *(("left_out", value) for value in ("a", [["a", "b", "c"]], None)),
        *((name, "x") for name in ("settings", "notes", "hashes", "versions")),
    ],
)
def test_a_record_with_an_impossible_field_is_refused_by_its_name(tmp_path, field, value):
    out = changed(prepare(tmp_path / "out"), **{field: value})
    with pytest.raises(ValueError, match=rf"record.json cannot be used \(its {field} is .*, expected .*: prepare"):
        Sequences(out, "train")


@pytest.mark.parametrize("value", [-1, 0, "5", 2.5, None])
def test_a_split_with_an_impossible_size_is_refused(tmp_path, value):
    out = prepare(tmp_path / "out")
    splits = json.loads((out / "record.json").read_text())["splits"]
    splits["train"]["num_sequences"] = value
    with pytest.raises(ValueError, match=r"record.json cannot be used \(train has .* sequences"):
        Sequences(changed(out, splits=splits), "train")


@pytest.mark.parametrize("content", [b'{"format": "caf\xe9"}', b"\xff\xfe{\0}\0", b"[" * 100_000, b""])
def test_a_record_that_is_no_json_is_refused(tmp_path, content):
    (prepare(tmp_path / "out") / "record.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"record.json cannot be used"):
        Sequences(tmp_path / "out", "train")


def test_a_record_of_an_older_version_is_read(tmp_path):
    out = prepare(tmp_path / "out")
    fields = json.loads((out / "record.json").read_text())
    del fields["left_out"], fields["hashes"]
    (out / "record.json").write_text(json.dumps(fields))
    assert len(Sequences(out, "train")) == 5
    assert (read_record(out).left_out, read_record(out).hashes) == ([], {})
    assert "left out" not in describe(read_record(out))


def test_audio_without_hashes_is_not_taken_for_the_same_source(tmp_path):
    root = sounds(tmp_path / "root", "a.wav", "b.wav", "c.wav")
    prepare_folder(tmp_path / "out", root)
    changed(tmp_path / "out", hashes={})
    assert len(Sequences(tmp_path / "out", "train")) == 1
    with pytest.raises(FileExistsError, match=r"no hashes of the source files there: an older version prepared it"):
        prepare_folder(tmp_path / "out", root)


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 0.0), (float("nan"), 1.0), (0.0, float("inf")), (0.0, -2.0)])
def test_a_record_that_could_not_be_read_is_not_written(tmp_path, mean, scale):
    with pytest.raises(ValueError, match=r"out was not written: its (mean|scale) is .*, expected a finite number"):
        prepare(tmp_path / "out", mean=mean, scale=scale)
    assert list(tmp_path.iterdir()) == []


PREPARATIONS = {
    "folder": lambda out, **flags: prepare_folder(out, out.parent / "nowhere", **flags),
    "timit": lambda out, **flags: prepare_timit(out, out.parent / "nowhere", **flags),
    "imdb": lambda out, **flags: prepare_imdb(out, out.parent / "nowhere", **flags),
    "mnist": lambda out, **flags: prepare_mnist(out, out.parent / "nowhere", **flags),
}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("corpus", PREPARATIONS)
@pytest.mark.parametrize("target", ["empty", "missing"])
def test_an_out_that_is_a_link_is_refused_before_the_work(tmp_path, corpus, target, overwrite):
    (tmp_path / "empty").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / target)
    with pytest.raises(
        FileExistsError, match=rf"out is a symbolic link to .*{target}, .*give the folder that it leads"
    ):
        PREPARATIONS[corpus](tmp_path / "out", overwrite=overwrite)


@pytest.mark.parametrize("corpus", PREPARATIONS)
def test_an_out_of_other_content_is_refused_before_the_work_of_overwriting(tmp_path, corpus):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("all of it")
    with pytest.raises(FileExistsError, match="no prepared data, so it is not replaced"):
        PREPARATIONS[corpus](tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "mine.npy", "runs/best.ckpt", "train.npy.bak"])
def test_overwriting_deletes_no_file_of_the_users(tmp_path, name):
    out = prepare(tmp_path / "out")
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("all of it")
    with pytest.raises(
        FileExistsError, match=rf"holds what no preparation wrote: {name.partition('/')[0]}; move it away"
    ):
        prepare(out, overwrite=True)
    assert (out / name).read_text() == "all of it"
    assert len(Sequences(out, "train")) == 5


def test_a_file_that_appears_while_data_is_prepared_is_kept(tmp_path):
    out = prepare(tmp_path / "out")

    def prepared_again():
        with preparing(out, request(), overwrite=True) as preparation, preparation.split("train") as split:
            split.add(np.ones(4, dtype=np.int16))
            (out / "notes.txt").write_text("all of it")

    with pytest.raises(FileExistsError, match=r"no preparation wrote: notes\.txt"):
        prepared_again()
    assert (out / "notes.txt").read_text() == "all of it"
    assert len(Sequences(out, "train")) == 5


def test_a_damaged_record_can_be_overwritten_and_files_beside_it_are_kept(tmp_path):
    out = prepare(tmp_path / "out")
    (out / "record.json").write_text("{")
    (out / "notes.txt").write_text("all of it")
    with pytest.raises(FileExistsError, match=r"no preparation wrote: notes\.txt"):
        prepare(out, overwrite=True)
    (out / "notes.txt").unlink()
    prepare(out, overwrite=True)
    assert len(Sequences(out, "train")) == 5


def test_prepared_data_behind_a_link_is_read_and_not_replaced(tmp_path):
    load_digits(tmp_path / "store")
    (tmp_path / "out").symlink_to(tmp_path / "store")
    assert len(load_digits(tmp_path / "out").train) == 1257
    root = sounds(tmp_path / "root", "a.wav", "b.wav", "c.wav")
    with pytest.raises(FileExistsError, match="is a symbolic link"):
        prepare_folder(Path(tmp_path / "out"), root, overwrite=True)
    assert len(load_digits(tmp_path / "store").train) == 1257


@pytest.mark.parametrize("name", ["out[1]", "out*", "o?t"])
def test_a_killed_run_is_swept_by_the_next_one_of_the_same_name_alone(tmp_path, name):
    for other in (name, "out1"):
        (tmp_path / f".{other}.abc.partial").mkdir()
    prepare(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".out1.abc.partial", name])
