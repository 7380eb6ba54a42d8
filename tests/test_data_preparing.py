"""A prepared folder is complete or absent, and damaged or foreign files are refused."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zf_pyro.data import Sequences
from zf_pyro.data.folders import writer
from zf_pyro.data.folders.preparing import prepared, preparing
from zf_pyro.data.folders.record import RECORD, read_record
from zf_pyro.data.folders.writer import SplitWriter

from .prepared import SAMPLES, prepare, request


def left_beside(out):
    return [path.name for path in out.parent.iterdir() if path != out]


def test_the_record_says_what_was_done(tmp_path):
    out = prepare(tmp_path / "deep" / "out", names=list("abcde"), labels=[0] * 5, seed=3)
    record = read_record(out)
    assert (record.corpus, record.settings, record.sources) == ("test", {"seed": 3}, [["a.wav", 3]])
    assert (record.mean, record.scale, record.frame, record.dtype) == (1.0, 2.0, 4, "int16")
    split = record.splits["train"]
    assert (split.num_sequences, split.num_values, split.names) == (5, 53, list("abcde"))
    assert {kind: file.bytes for kind, file in split.files.items()} == {
        "values": (out / "train.npy").stat().st_size,
        "offsets": (out / "train.offsets.npy").stat().st_size,
        "labels": (out / "train.labels.npy").stat().st_size,
    }
    assert sorted(path.name for path in out.iterdir()) == [
        RECORD, "train.labels.npy", "train.npy", "train.offsets.npy"
    ]  # fmt: skip
    assert left_beside(out) == []
    assert json.loads((out / RECORD).read_text())["format"] == "zf_pyro sequences 1"


def test_any_tool_can_read_the_arrays(tmp_path):
    out = prepare(tmp_path / "out")
    assert np.array_equal(np.load(out / "train.npy"), np.concatenate(SAMPLES))
    assert np.load(out / "train.offsets.npy").tolist() == [0, 12, 17, 26, 49, 53]


@given(st.lists(st.lists(st.integers(-32768, 32767), min_size=1, max_size=50), min_size=1, max_size=8))
def test_running_moments_are_those_of_all_values(tmp_path_factory, pieces):
    split = SplitWriter(tmp_path_factory.mktemp("moments"), "train", "int16")
    split.add([np.array(piece, np.int16) for piece in pieces])
    split.finish()
    values = np.concatenate(pieces).astype(np.float64)
    assert split.count == len(values)
    np.testing.assert_allclose((split.mean, split.variance), (values.mean(), values.var()), rtol=1e-12, atol=1e-9)


def test_a_sequence_may_come_in_pieces(tmp_path):
    out = prepare(tmp_path / "out", [np.split(SAMPLES[3], [4, 4, 9]), SAMPLES[0]])
    assert np.load(out / "train.offsets.npy").tolist() == [0, 23, 35]
    assert np.array_equal(np.load(out / "train.npy"), np.concatenate([SAMPLES[3], SAMPLES[0]]))


def test_a_repeated_preparation_finds_its_data(tmp_path):
    out = prepare(tmp_path / "out", seed=1)
    assert prepared(out, request(seed=1))
    assert not prepared(tmp_path / "other", request(seed=1))
    (tmp_path / "empty").mkdir()
    assert not prepared(tmp_path / "empty", request(seed=1))


def test_a_preparation_with_other_settings_is_told_which(tmp_path):
    out = prepare(tmp_path / "out", seed=1)
    with pytest.raises(
        FileExistsError, match=r"seed 1 there, 2 now\): give another folder with --out, or .*--overwrite"
    ):
        prepared(out, request(seed=2))
    with pytest.raises(FileExistsError, match="frame 4 there, 5 now"):
        prepared(out, request(frame=5, seed=1))
    with pytest.raises(FileExistsError, match="holds prepared data"):
        prepare(out, seed=2)
    assert read_record(out).settings == {"seed": 1}


def test_overwriting_replaces_the_whole_folder(tmp_path):
    out = prepare(tmp_path / "out", labels=[1] * 5, seed=1)
    prepare(out, seed=2, overwrite=True)
    assert read_record(out).settings == {"seed": 2}
    assert not (out / "train.labels.npy").exists()
    assert left_beside(out) == []


def test_a_folder_of_the_users_is_never_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="no prepared data, so it is not replaced"):
            prepare(tmp_path / "mine", overwrite=overwrite)
    with pytest.raises(FileExistsError, match="no prepared data"):
        prepared(tmp_path / "mine", request())
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


def test_an_error_leaves_nothing(tmp_path):
    out = tmp_path / "out"

    def broken():
        with preparing(out, request()) as preparation, preparation.split("train") as split:
            split.add(SAMPLES[0])
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        broken()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_replacement_leaves_the_old_data(tmp_path):
    out = prepare(tmp_path / "out")
    with pytest.raises(TypeError, match="must be int16, got float64"):
        prepare(out, [np.zeros(5)], overwrite=True)
    assert len(Sequences(out, "train")) == 5
    assert left_beside(out) == []


KILLED = """
import os, signal, sys, numpy as np
from pathlib import Path
from zf_pyro.data.folders.record import Record
from zf_pyro.data.folders.preparing import preparing
with preparing(Path(sys.argv[1]), Record("test", "int16", 4, {}, [["a.wav", 3]])) as preparation:
    with preparation.split("train") as split:
        split.add(np.arange(100_000, dtype=np.int16))
        print("writing", flush=True)
        sys.stdin.read()
"""


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_half_made_and_can_be_repeated(tmp_path):
    out = tmp_path / "out"
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with run:
        assert run.stdout.readline() == "writing\n"
        assert not out.exists()
        assert len(left_beside(out)) == 1
        prepare(tmp_path / "out")  # the folder of a run that is alive must stay
        assert len(left_beside(out)) == 1
        os.kill(run.pid, signal.SIGKILL)
    assert len(left_beside(out)) == 1
    prepare(out, overwrite=True)
    assert left_beside(out) == []
    assert len(Sequences(out, "train")) == 5


def test_a_full_disk_is_reported_and_nothing_kept(tmp_path, monkeypatch):
    class Full:
        """A file on a disk with room for 200 bytes."""

        def __init__(self, *arguments):
            self.file = open(*arguments)  # noqa: SIM115

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            if self.file.tell() + memoryview(data).nbytes > 200:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

    monkeypatch.setattr(writer, "open", Full, raising=False)
    with pytest.raises(
        OSError, match=r"no space left to prepare .*out; nothing was kept: free some, or .*--out"
    ) as info:
        prepare(tmp_path / "out")
    assert info.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_missing_short_and_foreign_files_are_refused(tmp_path):
    out = prepare(tmp_path / "out")
    values = (out / "train.npy").read_bytes()
    (out / "train.npy").write_bytes(values[:-2])
    with pytest.raises(ValueError, match=r"train.npy has 232 bytes, its record says 234: the folder is incomplete"):
        Sequences(out, "train")
    (out / "train.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"train.npy is missing"):
        Sequences(out, "train")
    (out / "train.npy").write_bytes(b"\0" * len(values))
    with pytest.raises(ValueError, match=r"train.npy is no array that can be read"):
        Sequences(out, "train")
    np.save(out / "train.npy", np.zeros(53, np.uint16))
    with pytest.raises(ValueError, match=r"holds uint16 of shape \(53,\), its record says int16"):
        Sequences(out, "train")


def test_arrays_of_another_folder_are_refused(tmp_path):
    out = prepare(tmp_path / "out")
    other = prepare(tmp_path / "other", [np.zeros(10, np.int16), np.zeros(43, np.int16), *SAMPLES[:3]])
    (out / "train.offsets.npy").write_bytes((other / "train.offsets.npy").read_bytes())
    with pytest.raises(ValueError, match="do not belong to its record"):
        Sequences(out, "train")


def test_a_changed_byte_is_found_by_a_repeated_preparation(tmp_path):
    out = prepare(tmp_path / "out")
    values = bytearray((out / "train.npy").read_bytes())
    values[-1] ^= 1
    (out / "train.npy").write_bytes(values)
    with pytest.raises(ValueError, match=r"train.npy was changed after it was prepared: use --overwrite"):
        prepared(out, request())


def test_a_pickle_is_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    out = prepare(tmp_path / "out")
    np.save(out / "train.npy", np.array([Bomb()] * 3, dtype=object), allow_pickle=True)
    text = json.loads((out / RECORD).read_text())
    text["splits"]["train"]["files"]["values"]["bytes"] = (out / "train.npy").stat().st_size
    (out / RECORD).write_text(json.dumps(text))
    with pytest.raises(ValueError, match="no array that can be read"):
        Sequences(out, "train")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be used"),
        ("[]", "it is not of the format"),
        ('{"format": "zf_pyro sequences 0"}', "it is not of the format 'zf_pyro sequences 1'"),
        ('{"format": "zf_pyro sequences 1"}', "cannot be used"),
    ],
)
def test_a_record_that_says_nothing_is_refused(tmp_path, text, message):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(ValueError, match=message):
        Sequences(tmp_path, "train")


def test_a_folder_without_record_was_not_prepared(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no record.json.*python -m zf_pyro.data.prepare"):
        Sequences(tmp_path, "train")


def test_a_sequence_without_values_or_with_half_a_label_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"sequence 1 of train \(b\) holds no values"):
        prepare(tmp_path / "out", [SAMPLES[0], SAMPLES[0][:0]], names=["a", "b"])
    with pytest.raises(ValueError, match="give a label for every sequence of train or for none: see sequence 1"):
        prepare(tmp_path / "out", [SAMPLES[0], SAMPLES[0]], labels=[1, None])
    with pytest.raises(ValueError, match="train holds no sequences"):
        prepare(tmp_path / "out", [])
    with pytest.raises(ValueError, match="dtype must be one of float32, float64, int16, uint8, int64, got 'float16'"):
        prepare(tmp_path / "out", dtype="float16")
    assert list(tmp_path.iterdir()) == []
