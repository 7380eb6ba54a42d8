"""Audio of any format is read as its 16-bit samples; files that are not complete and mono are refused by name."""

import re

import numpy as np
import pytest
import soundfile

from zf_pyro.data.speech import audio
from zf_pyro.data.speech.audio import check_audio, check_length, read_audio

NOISE = (np.random.default_rng(0).normal(size=8000) * 3000).astype(np.int16)


def write(path, samples=NOISE, rate=16_000, **settings):
    soundfile.write(path, samples, rate, **settings)
    return path


def sphere(path, samples=NOISE, **fields):
    """Write a NIST SPHERE file, independently of soundfile."""
    lines = {
        "channel_count": 1,
        "sample_count": len(samples),
        "sample_rate": 16_000,
        "sample_n_bytes": 2,
        "sample_byte_format": "01",
        "sample_sig_bits": 16,
        **fields,
    }
    text = "NIST_1A\n   1024\n" + "".join(
        f"{name} -i {value}\n" if isinstance(value, int) else f"{name} -s{len(value)} {value}\n"
        for name, value in lines.items()
    )
    path.write_bytes((text + "end_head\n").encode().ljust(1024) + samples.astype("<i2").tobytes())
    return path


def samples_of(path, rate=16_000):
    check_audio(path, rate, 1, resample=True)
    blocks = list(read_audio(path, rate))
    assert all(block.dtype == np.int16 for block in blocks)
    return np.concatenate(blocks)


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "au", "caf", "w64"])
def test_sixteen_bit_formats_come_out_bit_by_bit(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(audio, "BLOCK", 999)
    assert np.array_equal(samples_of(write(tmp_path / f"a.{suffix}", subtype="PCM_16")), NOISE)


@pytest.mark.parametrize("order", ["01", "10"])
def test_sphere_of_either_byte_order_comes_out_bit_by_bit(tmp_path, order):
    stored = NOISE if order == "01" else NOISE.byteswap()
    assert np.array_equal(samples_of(sphere(tmp_path / "a.WAV", stored, sample_byte_format=order)), NOISE)


def test_floats_are_scaled_to_sixteen_bits_and_clipped(tmp_path):
    values = np.array([0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 1.4 / 32768, 1.6 / 32768], np.float32)
    found = samples_of(write(tmp_path / "a.wav", values, subtype="FLOAT"))
    assert found.tolist() == [0, 16384, -16384, 32767, -32768, 32767, -32768, 1, 2]


def test_an_mp3_read_in_pieces_is_the_mp3_read_at_once(tmp_path, monkeypatch):
    """SoundFile's reading in blocks seeks; samples after a seek are off by more than half of full scale."""
    path = write(tmp_path / "a.mp3", np.tile(NOISE, 12), format="MP3")
    whole = np.clip(np.rint(soundfile.read(path, dtype="float32")[0] * 32768.0), -32768, 32767)
    monkeypatch.setattr(audio, "BLOCK", 4096)
    assert np.abs(samples_of(path) - whole).max() <= 1


def test_resampling_in_pieces_is_resampling_at_once(tmp_path, monkeypatch):
    import soxr

    path = write(tmp_path / "a.wav", rate=22_050)
    expected = soxr.resample(NOISE.astype(np.float32) / 32768, 22_050, 16_000, quality="HQ")
    monkeypatch.setattr(audio, "BLOCK", 1000)
    found = samples_of(path)
    assert len(found) == len(expected) == round(8000 * 16_000 / 22_050)
    assert np.abs(found - np.clip(expected * 32768, -32768, 32767)).max() <= 1


def test_resampling_keeps_a_tone_where_it_is(tmp_path):
    tone = np.sin(2 * np.pi * 1000 * np.arange(44_100) / 44_100) * 0.5
    found = samples_of(write(tmp_path / "a.flac", tone, 44_100)) / 32768
    expected = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000) * 0.5
    assert np.abs(found - expected)[200:-200].max() < 1e-3


def test_shorten_is_refused_with_the_program_that_converts_it(tmp_path):
    path = sphere(tmp_path / "SA1.WAV", sample_coding="pcm,embedded-shorten-v2.00")
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is a SPHERE file compressed with shorten.*sph2pipe"):
        check_audio(path, 16_000, 200, resample=False)


FORMATS = {"wav": {}, "flac": {}, "ogg": {"format": "OGG"}, "mp3": {"format": "MP3"}, "aiff": {}, "au": {}}


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_was_cut_is_refused(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", np.tile(NOISE, 12), **FORMATS[suffix])
    samples_of(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        ValueError, match=rf"{re.escape(str(path))} is .*cut short.*: fetch it again|cut short: .*fetch"
    ):
        samples_of(path)


def test_a_cut_sphere_file_is_refused(tmp_path):
    path = sphere(tmp_path / "SA1.WAV")
    path.write_bytes(path.read_bytes()[:9024])
    with pytest.raises(ValueError, match=r"SA1.WAV is cut short: 4000 samples of 8000 are there"):
        check_audio(path, 16_000, 200, resample=False)


def test_a_header_of_a_pipe_that_knows_no_size_is_no_cut(tmp_path):
    path = write(tmp_path / "a.wav")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert np.array_equal(samples_of(path), NOISE)


def test_an_mp3_that_does_not_say_its_length_is_refused(tmp_path):
    path = write(tmp_path / "a.mp3", np.tile(NOISE, 12), format="MP3")
    data = path.read_bytes()
    tagged = b"ID3\x04\x00\x00\x00\x00\x02\x00" + b"\0" * 256 + data
    path.write_bytes(tagged)
    samples_of(path)
    path.write_bytes(data.replace(b"Xing", b"gniX", 1).replace(b"Info", b"ofnI", 1))
    with pytest.raises(ValueError, match=r"a.mp3 does not say how long it is.*ffmpeg"):
        check_audio(path, 16_000, 200, resample=True)


@pytest.mark.parametrize("data", [b"", b"NIST_1A\n   1024\n", b"RIFF1234WAVE", b"no audio at all" * 100])
def test_what_is_no_audio_is_refused(tmp_path, data):
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} (is empty|cannot be read as audio).*fetch it again"):
        check_audio(path, 16_000, 200, resample=False)


def test_stereo_other_rates_and_too_few_samples_are_refused(tmp_path):
    stereo = write(tmp_path / "stereo.wav", np.stack([NOISE, NOISE], 1))
    with pytest.raises(ValueError, match=r"stereo.wav has 2 channels, expected one: mix it down"):
        check_audio(stereo, 16_000, 200, resample=True)
    fast, slow = write(tmp_path / "fast.wav", rate=44_100), write(tmp_path / "slow.wav", rate=8_000)
    with pytest.raises(ValueError, match=r"fast.wav has a sampling rate of 44100 Hz, expected 16000 Hz"):
        check_audio(fast, 16_000, 200, resample=False)
    check_audio(fast, 16_000, 200, resample=True)
    with pytest.raises(ValueError, match=r"slow.wav has a sampling rate of 8000 Hz, below the 16000 Hz.*--rate 8000"):
        check_audio(slow, 16_000, 200, resample=True)
    with pytest.raises(
        ValueError, match=r"short.wav has 199 samples, a frame 200: leave the file out or give a shorter"
    ):
        check_audio(write(tmp_path / "short.wav", NOISE[:199]), 16_000, 200, resample=False)
    check_audio(write(tmp_path / "short.wav", NOISE[:200]), 16_000, 200, resample=False)
    with pytest.raises(ValueError, match=r"short.wav holds no samples"):
        check_audio(write(tmp_path / "short.wav", NOISE[:0]), 16_000, 200, resample=False)
    with pytest.raises(ValueError, match=r"short.wav has 72 samples"):
        check_length(tmp_path / "short.wav", 72, 200)


def test_values_that_are_not_finite_are_refused(tmp_path):
    path = write(tmp_path / "a.wav", np.array([0.1, np.nan, 0.2] * 100), subtype="FLOAT")
    with pytest.raises(ValueError, match=r"a.wav holds samples that are not finite"):
        samples_of(path)


@pytest.mark.parametrize("module", ["soundfile", "soxr"])
def test_without_its_library_the_error_names_the_extra(tmp_path, module, monkeypatch):
    path = write(tmp_path / "a.wav", rate=44_100)
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {module}: pip install zf-pyro\[data\]"):
        list(read_audio(path, 16_000))
