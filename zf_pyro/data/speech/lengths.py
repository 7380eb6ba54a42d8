"""Lengths that audio files claim, checked against their bytes: missing ones, and audio behind the claimed end."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

FRAME_BYTES = 1441
"""Largest frame of an MP3 file, in bytes: 320 kbit/s at 32 kHz, with padding."""
PIECE = 1 << 20
"""Bytes that are searched at a time."""
LONGEST_START = 64
"""More bytes than any pattern below matches, which may lie across two pieces."""
_UNKNOWN_FRAMES = 1 << 62
"""libsndfile gives 2^63 - 1 as the length of a stream that does not tell it."""
_STARTS = {
    "WAV": rb"RIF[FX]....WAVE",
    "WAVEX": rb"RIF[FX]....WAVE",
    "RF64": rb"RF64....WAVEds64",
    "W64": rb"riff\x2e\x91\xcf\x11",
    "AIFF": rb"FORM....AIF[FC]",
    "AU": rb"\.snd\0\0\0.....\0\0\0",
    "CAF": rb"caff\0\x01\0\0desc",
    "FLAC": rb"fLaC[\0\x80]\0\0\x22",
    "NIST": rb"NIST_1A\n +\d+\n",
    "MP3": rb"\xff[\xe0-\xff].{11,34}(?:Xing|Info)\0\0\0[\0-\x0f]|\xff[\xe0-\xff].{34}VBRI\0\x01",
}
"""First bytes of a file of each format, by libsndfile's name. A second occurrence starts a second recording."""


def missing_length(path: Path, form: str, frames: int) -> str | None:
    """Return how to give a file a length if it does not tell its own, else None.

    Args:
        path: the file.
        form: libsndfile's name of its format.
        frames: its number of samples according to libsndfile.
    """
    if form == "MP3" and _mp3_tag(path) is None:  # libsndfile guesses the length
        return "add a header that does, for example with ffmpeg -i IN.mp3 -c copy OUT.mp3"
    if frames >= _UNKNOWN_FRAMES:
        return "it was written as a stream; write it again as a file, for example with ffmpeg -i IN OUT"
    return None


def trailing_audio(path: Path, form: str) -> str | None:
    """Describe the audio behind the claimed end of a file, which libsndfile does not read; None if there is none."""
    if form not in (*_STARTS, "OGG"):
        return None
    with open(path, "rb") as file:
        second = _second_start(file, form)
        if second is not None:
            return f"another recording starts at byte {second}"
        first, claimed = (_mp3_tag(path) if form == "MP3" else None) or (0, 0)
        file.seek(first + claimed)
        rest = file.read().lstrip(b"\0") if claimed else b""
    if len(rest) <= 2 * FRAME_BYTES or rest.startswith((b"TAG", b"APETAGEX", b"LYRICSBEGIN")):
        return None
    return f"{len(rest):,} bytes behind the {claimed:,} of its header"


def sphere_header(path: Path) -> dict[str, str]:
    """Read the fields of a NIST SPHERE header; empty if there is none."""
    with open(path, "rb") as file:
        head = file.read(16)
        if not head.startswith(b"NIST_1A\n"):
            return {}
        size = head[8:].strip()
        text = file.read(min(int(size), 1 << 16) if size.isdigit() else 1008).decode("latin-1")
    return dict(re.findall(r"^(\w+) -(?:i|r|s\d+) (.*)$", text.split("end_head")[0], re.M))


def _mp3_tag(path: Path) -> tuple[int, int] | None:
    """Start of the first frame, and the bytes that its Xing, Info or VBRI header claims, 0 if none; None without it."""
    with open(path, "rb") as file:
        head, start = file.read(10), 0
        if head.startswith(b"ID3"):  # its size is in the last four bytes, seven bits each
            start = 10 + sum(byte << 7 * power for byte, power in zip(head[6:], (3, 2, 1, 0), strict=True))
        file.seek(start)
        head = file.read(266)
    found = re.search(b"Xing|Info|VBRI", head)
    if found is None:
        return None
    fields = head[found.end() :]
    if found[0] == b"VBRI":
        return start, int.from_bytes(fields[6:10])
    at = 8 if fields[3] & 1 else 4  # behind the number of frames, if it is there
    return start, int.from_bytes(fields[at : at + 4]) if fields[3] & 2 else 0


def _second_start(file: BinaryIO, form: str) -> int | None:
    """Byte at which a second recording starts; None if there is none."""
    if form == "OGG":  # the streams of one recording start on its first pages
        begun = False
        for start, page in _matches(file, rb"OggS\0([\0-\7])"):
            if page[1][0] & 2 and begun:
                return start
            begun = begun or not page[1][0] & 2
        return None
    starts = (start for start, _ in _matches(file, _STARTS[form]))
    first, second = next(starts, None), next(starts, None)
    return second if first is not None and (first == 0 or form == "MP3") else None


def _matches(file: BinaryIO, pattern: bytes) -> Iterator[tuple[int, re.Match[bytes]]]:
    """Matches of a pattern and the bytes where they start. The file is read in pieces, since it may be large."""
    place, tail = 0, b""
    file.seek(0)
    while piece := file.read(PIECE):
        content = tail + piece
        for match in re.finditer(pattern, content, re.DOTALL):
            if match.end() > len(tail):  # else it was found in the piece before
                yield place - len(tail) + match.start(), match
        place, tail = place + len(piece), content[-LONGEST_START:]
