"""Speech from audio files to standardised frames: bit by bit, in bounded memory, in one move."""

import functools
import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from zf_pyro.data import LengthBatches, Loader, Sequences, Windows
from zf_pyro.data.folders import download
from zf_pyro.data.folders.record import read_record
from zf_pyro.data.prepare import main
from zf_pyro.data.speech import prepare
from zf_pyro.data.speech.prepare import prepare_blizzard, prepare_folder, prepare_timit

from .real_data import unpack
from .test_data_audio import sphere


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return unpack("timit_sample/TIMIT_nltk_sample_sphere.tar.xz", tmp_path_factory.mktemp("timit")) / "TIMIT"


@pytest.fixture(scope="module")
def blizzard(tmp_path_factory):
    return unpack("blizzard_shaped/blizzard_shaped.tar.xz", tmp_path_factory.mktemp("blizzard"))


def read_sphere(path):
    """Read 16-bit NIST SPHERE independently of soundfile: a header of the stated size, then samples to the end."""
    data = path.read_bytes()
    magic, size, *lines = data.split(b"end_head")[0].decode().splitlines()
    fields = dict(line.split(" ", 2)[::2] for line in lines)
    assert magic == "NIST_1A"
    assert (fields["sample_n_bytes"], fields["channel_count"], fields["sample_byte_format"]) == ("2", "1", "01")
    samples = np.frombuffer(data[int(size) :], "<i2")
    assert len(samples) == int(fields["sample_count"])
    return samples


def small_timit(root, speakers=6):
    """Write a tree with two SPHERE utterances per speaker."""
    random = np.random.default_rng(0)
    for i in range(speakers):
        part = root / "TIMIT" / "TRAIN" / "DR1" / f"F{chr(65 + i)}AA0"
        part.mkdir(parents=True)
        for sentence in ("SA1", "SX3"):
            sphere(part / f"{sentence}.WAV", (random.normal(size=1000 + 10 * i) * 500 + 20).astype(np.int16))
    return root


def test_all_utterances_of_the_sample_are_read_bit_by_bit(sample, tmp_path):
    record = prepare_timit(tmp_path / "out", sample)
    assert {name: split.num_sequences for name, split in record.splits.items()} == {
        "train": 110, "validation": 20, "test": 30
    }  # fmt: skip
    assert {name: len(who) for name, who in record.notes["speakers"].items()} == {
        "train": 11, "validation": 2, "test": 3
    }  # fmt: skip
    read = 0
    for split in record.splits:
        data = Sequences(tmp_path / "out", split, frame=1)
        stored, offsets = np.load(tmp_path / "out" / f"{split}.npy"), np.load(tmp_path / "out" / f"{split}.offsets.npy")
        for i, name in enumerate(data.names):
            expected = read_sphere(sample / name)
            assert np.array_equal(stored[offsets[i] : offsets[i + 1]], expected), name
            standardised = (expected.astype(np.float64) - data.mean) / data.scale
            torch.testing.assert_close(data[i][:, 0].double(), torch.from_numpy(standardised), atol=1e-5, rtol=1e-5)
            read += 1
    assert read == 160
    training = np.load(tmp_path / "out" / "train.npy").astype(np.float64)
    np.testing.assert_allclose((record.mean, record.scale), (training.mean(), training.std()), rtol=1e-12)


def test_no_speaker_of_the_sample_is_in_two_splits(sample, tmp_path):
    record = prepare_timit(tmp_path / "out", sample, sa=False, seed=1)
    assert sum(split.num_sequences for split in record.splits.values()) == 128
    groups = [set(who) for who in record.notes["speakers"].values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 16
    for split, who in record.notes["speakers"].items():
        assert {name.split("/")[-2].lower() for name in record.splits[split].names} == set(who)


def test_training_windows_and_whole_test_utterances_go_into_batches(sample, tmp_path):
    out = tmp_path / "out"
    prepare_timit(out, sample)
    train, test = Sequences(out, "train"), Sequences(out, "test")
    windows = Windows(train, 40)
    assert int(windows.lengths.sum()) == int(train.lengths.sum())
    assert int(windows.lengths.max()) == 40
    x, lengths = next(iter(Loader(windows, LengthBatches(windows.lengths, 32))))
    assert x.shape == (32, int(lengths.max()), 200)
    assert x.dtype == torch.float32
    samples = torch.cat(list(Sequences(out, "train", frame=1))).double()
    assert abs(float(samples.mean())) < 1e-6
    assert abs(float(samples.std()) - 1) < 1e-6
    seen = sum(int(lengths.sum()) for _, lengths in Loader(test, LengthBatches(test.lengths, 8, shuffle=False)))
    assert seen == int(test.lengths.sum())


def test_blizzard_is_resampled_to_16_khz(blizzard, tmp_path):
    record = prepare_blizzard(tmp_path / "segmented", blizzard)
    assert sum(split.num_sequences for split in record.splits.values()) == 32
    for split, stored in record.splits.items():
        data = Sequences(tmp_path / "segmented", split)
        for length, name in zip(data.lengths, data.names, strict=True):
            seconds = soundfile.info(next(blizzard.rglob(Path(name).name))).duration
            assert abs(int(length) * 200 / 16_000 - seconds) < 200 / 16_000
        assert stored.names == sorted(stored.names)
    record = prepare_blizzard(tmp_path / "unsegmented", blizzard, part="unsegmented")
    assert sum(split.num_sequences for split in record.splits.values()) == 12
    for split in record.splits:
        stored = np.load(tmp_path / "unsegmented" / f"{split}.npy")
        offsets = np.load(tmp_path / "unsegmented" / f"{split}.offsets.npy")
        for start, stop, name in zip(offsets[:-1], offsets[1:], record.splits[split].names, strict=True):
            whole = soundfile.read(next(blizzard.rglob(Path(name).name)), dtype="float32")[0] * 32768.0
            assert np.abs(stored[start:stop] - np.clip(np.rint(whole), -32768, 32767)).max() <= 1


def test_any_folder_of_audio_is_a_corpus(tmp_path):
    noise = np.random.default_rng(0).normal(size=30_000) * 0.1
    for name, rate in (("a.flac", 44_100), ("b/c.ogg", 48_000), ("b/d.wav", 16_000), ("e.mp3", 22_050)):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "source" / name, noise, rate)
    record = prepare_folder(tmp_path / "out", tmp_path / "source", frame=160)
    assert [split.num_sequences for split in record.splits.values()] == [2, 1, 1]
    assert Sequences(tmp_path / "out", "train")[0].shape[1] == 160
    assert record.settings["resampler"] == "soxr HQ"
    assert {"python", "zf-pyro", "numpy", "soundfile", "soxr"} <= record.versions.keys()
    assert [name for name, _ in record.sources] == ["a.flac", "b/c.ogg", "b/d.wav", "e.mp3"]


def test_a_repeated_preparation_is_not_made_again(tmp_path):
    source, out = small_timit(tmp_path / "source"), tmp_path / "out"
    first = prepare_timit(out, source)
    changed = (out / "train.npy").stat().st_mtime_ns
    assert prepare_timit(out, source) == first
    assert (out / "train.npy").stat().st_mtime_ns == changed
    with pytest.raises(FileExistsError, match="seed 0 there, 1 now"):
        prepare_timit(out, source, seed=1)
    assert prepare_timit(out, source, seed=1, overwrite=True).settings["seed"] == 1
    sphere(source / "TIMIT/TRAIN/DR1/FAAA0/SX4.WAV", np.arange(999, dtype=np.int16))
    with pytest.raises(FileExistsError, match="other source files: 12 there, 13 now"):
        prepare_timit(out, source, seed=1)


def damage(path, kind):
    good = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(good[:-100])
    elif kind == "shorten":
        sphere(path, sample_coding="pcm,embedded-shorten-v2.00")
    elif kind == "short":
        sphere(path, np.arange(199, dtype=np.int16))
    elif kind == "rate":
        sphere(path, sample_rate=8000)
    elif kind == "stereo":
        soundfile.write(path, np.zeros((4000, 2)), 16_000, format="WAV")
    elif kind == "flac":  # its header is intact: the damage shows in decoding, after other files are written
        soundfile.write(path, np.random.default_rng(0).normal(size=90_000) * 0.1, 16_000, format="FLAC")
        path.write_bytes(path.read_bytes()[:-20_000])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", r"is empty"),
        ("cut", r"is cut short: 1000 samples of 1050|is cut short: 1000|is cut short"),
        ("shorten", r"compressed with shorten.*sph2pipe"),
        ("short", r"has 199 samples, a frame 200"),
        ("rate", r"has a sampling rate of 8000 Hz, expected 16000 Hz"),
        ("stereo", r"has 2 channels"),
        ("flac", r"is damaged or cut short"),
    ],
)
def test_one_bad_file_is_named_and_nothing_is_kept(tmp_path, kind, message):
    source = small_timit(tmp_path / "source")
    bad = source / "TIMIT/TRAIN/DR1/FFAA0/SX3.WAV"
    damage(bad, kind)
    with pytest.raises(ValueError, match=rf"SX3.WAV.*{message}|{message}") as info:
        prepare_timit(tmp_path / "out", source)
    assert str(bad) in str(info.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_importing_the_data_package_brings_in_no_extras():
    program = (
        "import sys, pyro; before = set(sys.modules); import zf_pyro.data.prepare\n"
        "extras = {'soundfile', 'soxr', 'pooch', 'tokenizers', 'sklearn', 'jsonargparse', 'sktime', 'pandas'}\n"
        "assert not extras & (set(sys.modules) - before), extras & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_silence_is_no_speech(tmp_path):
    for name in "abc":
        (tmp_path / "source").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "source" / f"{name}.wav", np.zeros(4000), 16_000)
    with pytest.raises(ValueError, match="hold one value throughout, silence"):
        prepare_folder(tmp_path / "out", tmp_path / "source")
    with pytest.raises(ValueError, match="frame must be positive, got 0"):
        prepare_folder(tmp_path / "out", tmp_path / "source", frame=0)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def command(*arguments, **settings):
    return subprocess.run(
        [sys.executable, "-m", "zf_pyro.data.prepare", *map(str, arguments)], capture_output=True, text=True, **settings
    )


@pytest.mark.slow
def test_one_command_prepares_a_corpus(tmp_path):
    done = command("timit", "--source", small_timit(tmp_path / "source"), "--out", tmp_path / "out", "--sa", "false")
    assert done.returncode == 0, done.stderr
    assert "train: 4 sequences, 20 frames of 200" in done.stdout
    assert "100%" in done.stderr
    assert read_record(tmp_path / "out").settings["sa"] is False
    again = command("timit", "--source", tmp_path / "source", "--out", tmp_path / "out")
    assert again.returncode == 1
    assert again.stderr.startswith("error: ")
    assert "sa False there, True now" in again.stderr
    assert "Traceback" not in again.stderr


def test_help_describes_every_flag(capsys):
    for corpus in ("timit", "blizzard", "folder"):
        with pytest.raises(SystemExit) as done:
            main([corpus, "--help"])
        assert done.value.code == 0
        text = capsys.readouterr().out
        assert all(
            flag in text for flag in ("--source", "--out", "--frame", "--seed", "--overwrite", "Samples of a frame")
        )


@pytest.mark.slow
def test_a_killed_command_leaves_nothing_half_made_and_can_be_repeated(tmp_path):
    source, out = tmp_path / "source", tmp_path / "data" / "out"
    source.mkdir()
    noise = np.random.default_rng(0).normal(size=200_000) * 0.1
    for i in range(40):
        soundfile.write(source / f"{i}.flac", noise, 44_100)
    run = subprocess.Popen(
        [sys.executable, "-m", "zf_pyro.data.prepare", "folder", "--source", source, "--out", out],
        stderr=subprocess.DEVNULL,
    )
    partial = []
    while run.poll() is None and not partial:
        time.sleep(0.002)
        partial = [path for path in out.parent.glob(".out.*.partial") if (path / "train.npy").exists()]
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL, "it was done before it could be killed"
    assert not out.exists()
    prepare_folder(out, source)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert len(Sequences(out, "train")) == 32


@pytest.mark.slow
@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only the system's administrator can mount a small disk"
)
def test_a_small_disk_runs_full_without_leaving_anything(tmp_path):
    source, disk = small_timit(tmp_path / "source"), tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        done = command("timit", "--source", source, "--out", disk / "out")
        assert done.returncode == 1
        assert f"no space left to prepare {disk / 'out'}; nothing was kept: free some" in done.stderr
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve an archive in the layout of NLTK's on the local machine; yields its address and hash."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    root = tmp_path / "served"
    root.mkdir()
    with zipfile.ZipFile(root / "timit.zip", "w") as packed:
        for i, who in enumerate("abcdef", 1):
            path = sphere(tmp_path / "sa1.wav", np.arange(500 + i, dtype=np.int16))
            packed.write(path, f"timit/dr{i}-f{who}aa0/sa1.wav")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=root)) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        digest = hashlib.md5((root / "timit.zip").read_bytes()).hexdigest()
        yield f"http://127.0.0.1:{served.server_port}/timit.zip", f"md5:{digest}"
        served.shutdown()


def test_without_a_source_the_sample_is_downloaded_and_checked(server, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "NLTK_TIMIT", server[0])
    monkeypatch.setattr(prepare, "NLTK_TIMIT_HASH", server[1])
    monkeypatch.setattr(prepare, "fetch", functools.partial(download.fetch, cache=tmp_path / "cache"))
    record = prepare_timit(tmp_path / "out")
    assert sum(split.num_sequences for split in record.splits.values()) == 6
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["timit.zip"]
    monkeypatch.setattr(prepare, "NLTK_TIMIT", server[0].replace("127.0.0.1", "nowhere.invalid"))
    assert prepare_timit(tmp_path / "out") == record  # from the cache, without a connection


def test_a_download_with_another_hash_is_refused_and_not_kept(server, tmp_path):
    with pytest.raises(ValueError, match=r"timit.zip is not the file that was expected, md5:0{32}.*--source"):
        download.fetch(server[0], "md5:" + "0" * 32, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(ConnectionError, match=r"could not be downloaded .*: get it by other means"):
        download.fetch(server[0] + "x", server[1], tmp_path / "cache")


PEAK = """
import re
from pathlib import Path
def peak():  # in MiB; getrusage can report the parent's peak
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
"""

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")

SPARSE = """
import json, sys
import numpy as np, torch
from zf_pyro.data import Sequences, Windows, LengthBatches, Loader
data = Sequences(sys.argv[1], "train")
windows = Windows(data, 40)
for i in range(20):
    data[i]
before = peak()
total = sum(float(data[i].sum()) for i in range(0, len(data), 100))
for _, (x, lengths) in zip(range(300), Loader(windows, LengthBatches(windows.lengths, 32))):
    total += float(x.sum())
print(json.dumps({"before": before, "after": peak(), "hours": int(data.lengths.sum()) * 200 / 16_000 / 3600}))
"""


@pytest.mark.slow
@needs_proc
def test_memory_stays_flat_while_300_hours_are_read(tmp_path):
    """A sparse file of 300 hours in utterances of ten seconds: its size is 35 GB, and it takes no space on disk."""
    from .prepared import prepare

    count, size = 108_000, 160_000
    out = prepare(tmp_path / "out", [np.arange(size, dtype=np.int16)], frame=200)
    path = out / "train.npy"
    header = path.stat().st_size - 2 * size
    with open(path, "r+b") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i2", "fortran_order": False, "shape": (count * size,)})
        assert file.tell() == header
        file.truncate(header + 2 * count * size)
    np.save(out / "train.offsets.npy", np.arange(count + 1, dtype=np.int64) * size)
    text = json.loads((out / "record.json").read_text())
    train = text["splits"]["train"]
    train |= {"num_sequences": count, "num_values": count * size}
    train["files"]["values"]["bytes"] = path.stat().st_size
    train["files"]["offsets"]["bytes"] = (out / "train.offsets.npy").stat().st_size
    (out / "record.json").write_text(json.dumps(text))
    done = subprocess.run([sys.executable, "-c", PEAK + SPARSE, str(out)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["hours"] == 300
    assert found["after"] - found["before"] < 150, found


@pytest.mark.slow
@needs_proc
def test_memory_stays_flat_while_hours_are_prepared(tmp_path):
    """One file of three hours, 345 MB."""
    source = tmp_path / "source"
    source.mkdir()
    noise = (np.random.default_rng(0).normal(size=16_000) * 1000).astype(np.int16)
    for name, seconds in (("a", 3 * 3600), ("b", 5), ("c", 5)):
        with soundfile.SoundFile(source / f"{name}.wav", "w", 16_000, 1, "PCM_16") as file:
            for _ in range(seconds):
                file.write(noise)
    program = (
        "import sys, soundfile, soxr, tqdm; from zf_pyro.data.speech.prepare import prepare_folder; before = peak()\n"
        "prepare_folder(Path(sys.argv[1]), Path(sys.argv[2]), rate=8000); print(peak() - before)"
    )
    run = [sys.executable, "-c", PEAK + program, str(tmp_path / "out"), str(source)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50
