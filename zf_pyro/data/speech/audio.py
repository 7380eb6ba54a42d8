"""Reader of audio files as 16-bit samples of a given rate, in blocks; unusable files are refused by name."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .lengths import missing_length, sphere_header, trailing_audio

SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64"),
    *(".rf64", ".sph", ".nist"),
)
"""Suffixes of audio files, in any casing."""
UNREAD = (
    ".m4a",
    ".m4b",
    ".aac",
    ".alac",
    ".wma",
    ".webm",
    ".mka",
    ".mp4",
    ".amr",
    ".ape",
    ".wv",
    ".shn",
    ".ra",
    ".ac3",
)
"""Suffixes of audio files that libsndfile does not read."""
BLOCK = 1 << 18
"""Samples per block."""
MAX_CLIPPED = 1e-3
"""Fraction of the samples that may lie beyond full scale before a file is refused."""
FEW_CLIPPED = 8
"""Samples beyond full scale that are allowed in any file, however short."""
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
        ValueError: the file is empty, truncated, several recordings in one, compressed with shorten, of no known
            format, of several channels, of another rate, or shorter than a frame.
    """
    with _opened(path) as sound:
        found, channels, samples, form = sound.samplerate, sound.channels, sound.frames, sound.format
    more = trailing_audio(path, form)
    if more:
        raise ValueError(
            f"{path} goes on after the {samples} samples that its header announces ({more}), and the rest would be "
            "dropped: cut it into its parts, or join them by a program that decodes them, for example sox A B OUT"
        )
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
        ValueError: the file turns out to be damaged or truncated, holds values that are not finite, or more than
            0.1 percent of its samples lie beyond full scale.
    """
    with _opened(path) as sound:
        exact = sound.subtype == "PCM_16" and sound.samplerate == rate
        blocks = _blocks(sound, path, "int16" if exact else "float32")
        if exact:
            yield from blocks
            return
        blocks = _within_scale(blocks, path, sound.frames)
        if sound.samplerate != rate:
            blocks = _resampled(blocks, sound.samplerate, rate)
        for block in blocks:
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


def _within_scale(blocks: Iterator[np.ndarray], path: Path, samples: int) -> Iterator[np.ndarray]:
    """Pass blocks of a file of ``samples`` samples on, unless too many lie beyond full scale."""
    clipped, peak = 0, 0.0
    for block in blocks:
        if not np.isfinite(block).all():
            raise ValueError(f"{path} holds samples that are not finite: it is damaged, leave it out")
        sizes = np.abs(block)
        clipped, peak = clipped + int((sizes > 1.0).sum()), max(peak, float(sizes.max(initial=0.0)))
        if clipped > max(FEW_CLIPPED, MAX_CLIPPED * samples):
            cause = "its values look like 16-bit integers stored as floats" if peak > 64.0 else "it is too loud"
            factor = 1 / 32768 if 64.0 < peak <= 32768.0 else 1 / peak
            raise ValueError(
                f"{path} has {clipped} samples or more beyond full scale, -1 to 1, up to {peak:.6g}, which 16 bits "
                f"would clip: {cause}; scale it down, for example with sox -v {factor:.3g} IN OUT or "
                f"ffmpeg -i IN -af volume={factor:.3g} OUT"
            )
        yield block


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
    sphere = sphere_header(path)
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
    remedy = missing_length(path, sound.format, sound.frames)
    if remedy:
        sound.close()
        raise ValueError(f"{path} does not say how long it is, so that nobody could tell if it is whole: {remedy}")
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


def _reason(error: Exception) -> str:
    """Message of libsndfile, without the path before it."""
    return str(getattr(error, "error_string", error)).rstrip(".")


def _soundfile() -> ModuleType:
    try:
        import soundfile
    except ImportError as error:
        raise ImportError("reading audio needs soundfile: pip install zf-pyro[data]") from error
    return soundfile
