"""The content of every file is read whole and unchanged, or the file is refused by its name."""

import gzip
import zipfile

import numpy as np
import pytest
import soundfile

from zf_pyro.data import prepare_folder
from zf_pyro.data.speech.audio import check_audio, read_audio
from zf_pyro.data.text.reviews import read_reviews

from .prepared import sounds
from .test_data_audio import NOISE, sphere, write

# Content of audio -----------------------------------------------------------------------------------------------------


def read(path):
    check_audio(path, 16_000, 1, resample=True)
    return np.concatenate(list(read_audio(path, 16_000)))


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_floats_in_the_scale_of_16_bits_are_refused(tmp_path, subtype, rate):
    path = write(tmp_path / "a.wav", NOISE.astype(np.float64), rate, subtype=subtype)
    with pytest.raises(
        ValueError, match=r"a.wav has \d+ samples .* beyond full scale.*16-bit integers.*sox -v 3.05e-05"
    ):
        read(path)


def test_floats_that_are_too_loud_are_refused_with_the_factor(tmp_path):
    path = write(tmp_path / "a.wav", NOISE / 3000.0, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"beyond full scale, -1 to 1, up to 3.*it is too loud; scale it .*volume=0"):
        read(path)


def test_a_trace_of_clipping_is_allowed(tmp_path):
    values = NOISE / 32768.0
    values[:8] = 1.5
    assert (read(write(tmp_path / "a.wav", values, subtype="FLOAT"))[:8] == 32767).all()
    values[:9] = 1.5
    with pytest.raises(ValueError, match="has 9 samples or more beyond full scale"):
        read(write(tmp_path / "a.wav", values, subtype="FLOAT"))


def test_full_scale_integers_are_never_clipping(tmp_path):
    loud = np.where(NOISE > 0, 32767, -32768).astype(np.int16)
    assert np.array_equal(read(write(tmp_path / "a.wav", loud)), loud)
    assert len(read(write(tmp_path / "a.wav", loud, 44_100))) == round(8000 / 44_100 * 16_000)


FORMATS = {
    "wav": {}, "flac": {}, "ogg": {"format": "OGG"}, "mp3": {"format": "MP3"}, "aiff": {}, "au": {}, "w64": {},
    "caf": {}, "opus": {"format": "OGG", "subtype": "OPUS"},
}  # fmt: skip


@pytest.mark.parametrize("suffix", FORMATS)
def test_two_recordings_in_one_file_are_refused(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", np.tile(NOISE, 5), **FORMATS[suffix])
    read(path)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(ValueError, match=rf"a.{suffix} (goes on after the|cannot be read as audio).*(sox|cut)"):
        read(path)


def test_two_sphere_files_in_one_are_refused(tmp_path):
    path = sphere(tmp_path / "SA1.WAV")
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(ValueError, match=r"SA1.WAV goes on after .*another recording starts at byte 17024"):
        read(path)


def test_an_mp3_followed_by_bare_frames_is_refused_and_by_tags_read(tmp_path):
    good = write(tmp_path / "a.mp3", np.tile(NOISE, 12), format="MP3").read_bytes()
    bare = good.replace(b"Xing", b"gniX", 1).replace(b"Info", b"ofnI", 1)
    for rest in (b"TAG" + b"x" * 125, b"\0" * 5000, b"APETAGEX" + b"x" * 9000):
        (tmp_path / "b.mp3").write_bytes(good + rest)
        assert len(read(tmp_path / "b.mp3")) == len(NOISE) * 12
    (tmp_path / "c.mp3").write_bytes(good + bare)
    with pytest.raises(ValueError, match=r"c.mp3 goes on after the 96000 samples .*bytes behind the .* of its header"):
        read(tmp_path / "c.mp3")


def test_an_mp3_behind_a_tag_is_measured_from_its_first_frame(tmp_path):
    good = write(tmp_path / "a.mp3", np.tile(NOISE, 12), format="MP3").read_bytes()
    tag = b"ID3\x04\x00\x00\x00\x00\x7f\x00" + b"\0" * (0x7F << 7)
    (tmp_path / "b.mp3").write_bytes(tag + good)
    assert len(read(tmp_path / "b.mp3")) == len(NOISE) * 12
    (tmp_path / "b.mp3").write_bytes(tag + good + tag + good)
    with pytest.raises(ValueError, match=r"b.mp3 goes on after"):
        read(tmp_path / "b.mp3")


def test_a_streamed_flac_is_refused_because_it_tells_no_length(tmp_path):
    path = write(tmp_path / "a.flac")
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = b"\0" * 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a.flac does not say how long it is.*written as a stream; .*ffmpeg"):
        check_audio(path, 16_000, 200, resample=True)


def test_replaced_audio_of_the_same_size_is_noticed_and_named(tmp_path):
    root, out = sounds(tmp_path / "root", "a.wav", "b.wav", "c.wav"), tmp_path / "out"
    record = prepare_folder(out, root)
    assert prepare_folder(out, root) == record
    sizes = [path.stat().st_size for path in sorted(root.iterdir())]
    soundfile.write(root / "b.wav", np.random.default_rng(9).normal(size=2000) * 0.1, 16_000)
    assert [path.stat().st_size for path in sorted(root.iterdir())] == sizes
    with pytest.raises(FileExistsError, match=r"source files with other content, first b.wav\): .*--overwrite"):
        prepare_folder(out, root)
    assert prepare_folder(out, root, overwrite=True).hashes != record.hashes


def test_exchanged_files_are_noticed(tmp_path):
    root, out = sounds(tmp_path / "root", "a.wav", "b.wav", "c.wav"), tmp_path / "out"
    prepare_folder(out, root)
    (root / "a.wav").rename(root / "x")
    (root / "c.wav").rename(root / "a.wav")
    (root / "x").rename(root / "c.wav")
    with pytest.raises(FileExistsError, match=r"source files with other content, first a.wav"):
        prepare_folder(out, root)


def test_a_file_of_another_size_is_named(tmp_path):
    root, out = sounds(tmp_path / "root", "a.wav", "b.wav", "c.wav"), tmp_path / "out"
    prepare_folder(out, root)
    soundfile.write(root / "b.wav", np.zeros(3000), 16_000)
    with pytest.raises(FileExistsError, match=r"other source files: 3 there, 3 now, first b.wav"):
        prepare_folder(out, root)


# Tables and lines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row", ["Good, but long,1", "Good,1,", "Good,1,2,3"], ids=["comma in the text", "trailing comma", "more"]
)
def test_a_row_with_more_fields_than_the_header_is_refused(tmp_path, row):
    (tmp_path / "a.csv").write_text(f"review,label\nFine,0\n{row}\n")
    with pytest.raises(ValueError, match=r"a.csv, line 3: a row of \d fields, the first line has 2: quote texts"):
        read_reviews(tmp_path / "a.csv")


def test_a_row_with_fewer_fields_than_the_header_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("review,label\nOne line\nand another,0\n")
    with pytest.raises(ValueError, match=r"a.csv, line 2: a row of 1 fields, the first line has 2"):
        read_reviews(tmp_path / "a.csv")


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("review,review\nOne,Two\n")
    with pytest.raises(ValueError, match=r"a.csv has 2 columns 'review'"):
        read_reviews(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
def test_a_review_of_any_length_is_read_and_the_process_keeps_its_limit(tmp_path, name):
    import csv

    limit, long = csv.field_size_limit(), "word " * 60_000
    (tmp_path / name).write_text(("review\n" if name != "a.txt" else "") + f"{long}\n")
    assert [review.text.strip() for review in read_reviews(tmp_path / name).train] == [long.strip()]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "A.CSV"])
def test_compressed_reviews_are_those_of_the_file(tmp_path, name):
    (tmp_path / name).write_text(("review\n" if name != "a.txt" else "") + "One film.\nTwo films.\n")
    expected = [review.text for review in read_reviews(tmp_path / name).train]
    assert expected == ["One film.", "Two films."]
    packed = tmp_path / (name + (".GZ" if name.isupper() else ".gz"))
    packed.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    assert [review.text for review in read_reviews(packed).train] == expected


def test_a_compressed_file_that_was_cut_is_refused(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"review\n" + b"A film.\n" * 99)[:-9])
    with pytest.raises(ValueError, match=r"a.csv.gz is corrupt gzip data"):
        read_reviews(tmp_path / "a.csv.gz")


def test_other_archives_are_refused_by_their_kind(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.csv", "w") as packed:
        packed.writestr("a.csv", "review\nA film.\n")
    with pytest.raises(ValueError, match=r"a.csv is zip data, expected text, or text compressed by gzip: unpack it"):
        read_reviews(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_every_system_are_reviews(tmp_path, name, end):
    lines = [*(["review"] if name == "a.csv" else []), "One film.", "Two films.", "Three."]
    (tmp_path / name).write_bytes((end.join(lines) + end).encode())
    assert [review.text for review in read_reviews(tmp_path / name).train] == ["One film.", "Two films.", "Three."]


def test_mixed_line_ends_are_refused_with_the_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"One.\r\nTwo.\nThree.\rFour.\n")
    with pytest.raises(ValueError, match=r"a.txt, line 3 holds a carriage return, and other lines .* tr '"):
        read_reviews(tmp_path / "a.txt")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_text_in_utf_16_without_its_mark_is_refused(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("A good film.\n".encode(encoding))
    with pytest.raises(ValueError, match=r"a.txt holds a NUL character at position [01]: .*iconv -f utf-16le"):
        read_reviews(tmp_path / "a.txt")


def test_wav_files_of_either_byte_order_and_with_other_chunks_are_whole(tmp_path):
    for endian in ("LITTLE", "BIG"):
        path = write(tmp_path / "a.wav", endian=endian)
        assert np.array_equal(read(path), NOISE)
        path.write_bytes(path.read_bytes() + b"LIST\4\0\0\0INFO")
        assert np.array_equal(read(path), NOISE)
        whole = path.read_bytes()
        path.write_bytes(whole + whole)
        with pytest.raises(ValueError, match=r"a.wav (goes on after|cannot be read)"):
            read(path)


def test_joined_files_with_byte_order_marks_hold_the_same_texts(tmp_path):
    (tmp_path / "a.txt").write_bytes("One film.\n".encode("utf-8-sig") * 2)
    assert [review.text for review in read_reviews(tmp_path / "a.txt").train] == ["One film."] * 2


def test_other_settings_are_refused_before_all_files_are_read(tmp_path, monkeypatch):
    root = sounds(tmp_path / "root", "a.wav", "b.wav", "c.wav")
    prepare_folder(tmp_path / "out", root)
    monkeypatch.setattr("zf_pyro.data.speech.prepare.sha256_of", None)
    with pytest.raises(FileExistsError, match="seed 0 there, 1 now"):
        prepare_folder(tmp_path / "out", root, seed=1)
