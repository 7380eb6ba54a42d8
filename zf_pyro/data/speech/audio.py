"""Reader of audio files as 16-bit samples of a given rate, in blocks; unusable files are refused by name."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".aif", ".au", ".caf", ".w64", ".sph", ".nist")
"""Suffixes of audio files, in any casing."""
BLOCK = 1 << 18
"""Samples per block."""
_UNKNOWN = 0xFFFFFFF0
"""Sizes from this on are unknown: programs that write into a pipe leave them in their headers."""


def check_audio(path: Path, rate: int, frame: int, *, resample: bool) -> None:
    """Refuse a file from which :func:`read_audio` could not read whole frames, judged by its header.

    Args:
        path: a file in any format that libsndfile reads: NIST SPHERE, RIFF, FLAC, MP3 and more.
        rate: requested sampling rate, in Hz.
        frame: samples per frame at that rate.
        resample: accept files of higher rates.

    Raises:
        ImportError: soundfile is not installed.
        ValueError: the file is empty, truncated, compressed with shorten, of no known format, of several channels, of
            another rate, or shorter than a frame.
    """
    with _opened(path) as sound:
        found, channels, samples = sound.samplerate, sound.channels, sound.frames
    if channels != 1:
        raise ValueError(
            f"{path} has {channels} channels, expected one: mix it down, for example with sox IN OUT remix - "
            "or ffmpeg -i IN -ac 1 OUT"
        )
    if found != rate and not resample:
        raise ValueError(
            f"{path} has a sampling rate of {found} Hz, expected {rate} Hz: take the corpus's own files, or prepare "
            "them as corpus folder, which is resampled"
        )
    if found < rate:
        raise ValueError(
            f"{path} has a sampling rate of {found} Hz, below the {rate} Hz asked for, and a higher one adds no sound: "
            f"leave the file out, or give --rate {found}"
        )
    check_length(path, samples * rate // found, frame)


def check_length(path: Path, samples: int, frame: int) -> None:
    """Refuse a file of fewer samples than a frame.

    Raises:
        ValueError: ``samples`` is below ``frame``.
    """
    if not samples:
        raise ValueError(f"{path} holds no samples: leave it out")
    if samples < frame:
        raise ValueError(f"{path} has {samples} samples, a frame {frame}: leave the file out or give a shorter --frame")


def read_audio(path: Path, rate: int) -> Iterator[np.ndarray]:
    """Yield the samples of a file in blocks, each (samples,) int16.

    16-bit files of the requested rate are returned bit by bit. Others are read as floats, resampled by soxr at its high
    quality if their rate differs, rounded, and clipped to the range of 16 bits.

    Args:
        path: a mono file that passed :func:`check_audio`.
        rate: requested sampling rate, in Hz.

    Raises:
        ImportError: soundfile or soxr is not installed.
        ValueError: the file turns out to be damaged or truncated, or holds values that are not finite.
    """
    with _opened(path) as sound:
        exact = sound.subtype == "PCM_16" and sound.samplerate == rate
        blocks = _blocks(sound, path, "int16" if exact else "float32")
        if exact:
            yield from blocks
            return
        if sound.samplerate != rate:
            blocks = _resampled(blocks, sound.samplerate, rate)
        for block in blocks:
            if not np.isfinite(block).all():
                raise ValueError(f"{path} holds samples that are not finite: it is damaged, leave it out")
            yield np.clip(np.rint(block * 32768.0), -32768, 32767).astype(np.int16)


def _blocks(sound: Any, path: Path, dtype: str) -> Iterator[np.ndarray]:
    read = 0
    while True:
        try:
            block: np.ndarray = sound.read(BLOCK, dtype=dtype)
        except _soundfile().LibsndfileError as error:
            raise ValueError(
                f"{path} is damaged or cut short ({_reason(error)}): fetch it again or leave it out"
            ) from error
        read += len(block)
        if len(block):
            yield block
        if len(block) < BLOCK:
            break
    if read != sound.frames:
        raise ValueError(
            f"{path} is cut short: {read} samples of {sound.frames} are there; fetch it again or leave it out"
        )


def _resampled(blocks: Iterator[np.ndarray], found: int, rate: int) -> Iterator[np.ndarray]:
    try:
        import soxr
    except ImportError as error:
        raise ImportError("resampling needs soxr: pip install zf-pyro[data]") from error
    stream = soxr.ResampleStream(found, rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _opened(path: Path) -> Any:
    """Open the file for reading, or raise a ValueError that names its defect."""
    soundfile = _soundfile()
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty (0 bytes): fetch it again or leave it out")
    sphere = _sphere_header(path)
    if "shorten" in sphere.get("sample_coding", ""):
        raise ValueError(
            f"{path} is a SPHERE file compressed with shorten, which is not read here: convert it with the LDC's "
            "sph2pipe, sph2pipe -f rif IN.WAV OUT.wav"
        )

    class Forward(soundfile.SoundFile):  # type: ignore[name-defined]
        """Sound file read without seeking. SoundFile seeks after every read; an MP3 then decodes to other samples."""

        def seekable(self) -> bool:
            return False

    try:
        sound = Forward(path)
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"{path} cannot be read as audio ({_reason(error)}): it is damaged or of no known format; fetch it again, "
            "or convert it, for example with sox or ffmpeg"
        ) from error
    if sound.format == "MP3" and not _says_its_length(path):
        sound.close()
        raise ValueError(
            f"{path} does not say how long it is, so that nobody could tell if it is whole: add a header that does, "
            "for example with ffmpeg -i IN.mp3 -c copy OUT.mp3"
        )
    counted = sphere.get("sample_count", "")
    declared: int = int(counted) if counted.isdigit() else sound.frames
    # libsndfile reads the rest of a truncated file, and reports the truncation only in its log.
    for size, there in re.findall(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", sound.extra_info, re.M):
        if int(there) < int(size) < _UNKNOWN:
            declared = max(declared, sound.frames * int(size) // max(1, int(there)))
    if sound.frames < declared or "lacks an end-of-stream bit" in sound.extra_info:
        sound.close()
        raise ValueError(
            f"{path} is cut short: {sound.frames} samples of {declared} are there; fetch it again or leave it out"
            if sound.frames < declared
            else f"{path} is cut short: its end is missing; fetch it again or leave it out"
        )
    return sound


def _sphere_header(path: Path) -> dict[str, str]:
    """Read the fields of a NIST SPHERE header; empty if there is none."""
    with open(path, "rb") as file:
        head = file.read(16)
        if not head.startswith(b"NIST_1A\n"):
            return {}
        size = head[8:].strip()
        text = file.read(min(int(size), 1 << 16) if size.isdigit() else 1008).decode("latin-1")
    return dict(re.findall(r"^(\w+) -(?:i|r|s\d+) (.*)$", text.split("end_head")[0], re.M))


def _says_its_length(path: Path) -> bool:
    """True if an MP3 file starts with a Xing, Info or VBRI header; without it libsndfile guesses the length."""
    with open(path, "rb") as file:
        head = file.read(10)
        if head.startswith(b"ID3"):  # its size is in the last four bytes, seven bits each
            file.seek(10 + sum(byte << 7 * power for byte, power in zip(head[6:], (3, 2, 1, 0), strict=True)))
            head = b""
        head += file.read(256)
    return any(name in head for name in (b"Xing", b"Info", b"VBRI"))


def _reason(error: Exception) -> str:
    """Message of libsndfile, without the path before it."""
    return str(getattr(error, "error_string", error)).rstrip(".")


def _soundfile() -> ModuleType:
    try:
        import soundfile
    except ImportError as error:
        raise ImportError("reading audio needs soundfile: pip install zf-pyro[data]") from error
    return soundfile
