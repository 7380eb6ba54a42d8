"""Audio files below a source folder, and the utterances that Blizzard's prompts list."""

import re
from pathlib import Path

from ..folders.files import Listing, list_files
from .audio import SUFFIXES, UNREAD

PROMPTS = "prompts.gui"


def audio_below(root: Path, what: str) -> Listing:
    """List the audio files below a folder; all other files are left out.

    Args:
        root: the folder.
        what: description of the expected files, for errors.

    Raises:
        FileNotFoundError: no such folder, or no audio in it.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder: give the folder of {what} as --source")
    files, left_out = list_files(root)
    audio = [name for name in files if Path(name).suffix.lower() in SUFFIXES]
    if not audio:
        raise FileNotFoundError(f"{root} holds no audio ({', '.join(SUFFIXES)}): give the folder of {what} as --source")
    others = [
        (name, "audio in a format that is not read" if Path(name).suffix.lower() in UNREAD else "no audio")
        for name in files
        if Path(name).suffix.lower() not in SUFFIXES
    ]
    return Listing(audio, left_out + others)


def segmented(root: Path) -> Listing:
    """List the .wav files named in every ``prompts.gui`` below a folder; other audio is left out.

    Raises:
        FileNotFoundError: no such folder, no list in it, or a listed utterance without audio.
        ValueError: a list that cannot be read, or a name that fits several files.
    """
    found = audio_below(root, "Blizzard's prompts.gui and .wav files")
    lists = [name for name, _ in found.left_out if name.rsplit("/", 1)[-1].lower() == PROMPTS]
    if not lists:
        raise FileNotFoundError(f"{root} holds no prompts.gui: give the folder of the segmented part as --source")
    names: set[str] = set()
    for prompts in lists:
        listed = read_prompts(root / prompts)
        beside = prompts.rpartition("/")[0]
        by_stem: dict[str, list[str]] = {}
        for name in found.files:
            if name.lower().endswith(".wav") and (not beside or name.startswith(beside + "/")):
                by_stem.setdefault(name.rsplit("/", 1)[-1].lower().removesuffix(".wav"), []).append(name)
        missing = [name for name in listed if name.lower() not in by_stem]
        if missing:
            raise FileNotFoundError(
                f"{root / prompts} lists {len(listed)} utterances, of which {len(missing)} have no .wav file beside "
                f"it, first {missing[0]}.wav: fetch them, or take their three lines out"
            )
        for name in listed:
            one, *others = by_stem[name.lower()]
            if others:
                raise ValueError(
                    f"{root / prompts} lists {name}, and {len(others) + 1} files have that name, {one} and {others[0]}"
                    ": move all but one out of the folder"
                )
            names.add(one)
    unlisted = [(name, "not in a prompts.gui") for name in found.files if name not in names]
    return Listing(sorted(names), [pair for pair in found.left_out if pair[0] not in lists] + unlisted)


def read_prompts(path: Path) -> list[str]:
    """Read the names in a ``prompts.gui``: the first of every three lines.

    Raises:
        ValueError: it is empty, or a line that should hold a name does not.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines = re.split(r"\r\n|\n|\r", text)  # splitlines would also split at U+2028 and others within a text
    names = [line.strip() for line in lines[::3]]
    while names and not names[-1]:
        names.pop()
    line = next((i for i, name in enumerate(names) if not re.fullmatch(r"[\w.-]+", name)), None)
    if not names or line is not None:
        where = "is empty" if line is None else f"line {3 * line + 1} is no utterance's name, {names[line]!r}"
        raise ValueError(f"{path} {where}: expected three lines an utterance, its name, its text and one more")
    return names
