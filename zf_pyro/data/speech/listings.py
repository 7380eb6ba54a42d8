"""Listings of corpora: their audio files and the split of each, from names alone."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .audio import SUFFIXES

_PARTS = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}
_SPEAKER = re.compile(r"(?:dr[1-8]-)?([mf][a-z]{3}[0-9])", re.IGNORECASE)
_SENTENCE = re.compile(r"(s[aix][0-9]+)((?:\.[a-z0-9]+)+)", re.IGNORECASE)


class Corpus(NamedTuple):
    """The audio files of a corpus."""

    name: str
    root: Path
    """The source folder."""
    splits: dict[str, list[str]]
    """``train``, ``validation`` and ``test``: paths below ``root``, in a fixed order."""
    notes: dict[str, Any]
    """Facts about the splits for the record, in JSON types."""


class _Utterance(NamedTuple):
    """One TIMIT file."""

    part: str
    """``train``, ``test``, or empty if the tree has no such level."""
    speaker: str
    sentence: str
    suffix: str


def timit(root: Path, *, sa: bool = True, validation: float = 0.1, test: float = 0.2, seed: int = 0) -> Corpus:
    """List TIMIT: the LDC's tree ``TRAIN/DR1/FCJF0/SA1.WAV`` in any casing, or NLTK's sample, ``dr1-fvmh0/sa1.wav``.

    ``SA1.WAV.wav`` or ``SA1.flac`` beside ``SA1.WAV`` are copies of it and ignored. The official test utterances are
    the test split. Validation speakers are sampled from the official training speakers. If the tree has no ``TEST``,
    so are test speakers. No speaker is in two splits.

    Args:
        root: a folder with the tree anywhere below it.
        sa: take the two SA sentences, which all speakers read, in training and test alike.
        validation: fraction of the training speakers to hold out for validation.
        test: fraction of them to hold out for the test split, only if there are no official test speakers.
        seed: seed of the sampling.

    Raises:
        FileNotFoundError: no such folder, or no TIMIT audio below it.
        ValueError: a fraction out of range, too few speakers, an utterance found twice, or several copies mixed.
    """
    found: dict[tuple[str, str, str], tuple[str, str]] = {}
    for path in _audio_below(root, "TIMIT audio such as TRAIN/DR1/FCJF0/SA1.WAV"):
        utterance = _timit_utterance(path)
        if utterance is None or (not sa and utterance.sentence.startswith("sa")):
            continue
        suffix, other = found.get(utterance[:3], ("", ""))
        if other and other.lower().removesuffix(suffix) != path.lower().removesuffix(utterance.suffix):
            raise ValueError(
                f"{root} holds an utterance twice, {other} and {path}: give the folder of one copy as --source"
            )
        if not other or _preference(utterance.suffix) < _preference(suffix):
            found[utterance[:3]] = utterance.suffix, path
    if not found:
        raise FileNotFoundError(
            f"{root} holds audio, but none of TIMIT's, such as TRAIN/DR1/FCJF0/SA1.WAV: give TIMIT's folder as "
            "--source, or prepare it as corpus folder"
        )
    speakers = {part: sorted({speaker for p, speaker, _ in found if p == part}) for part in ("train", "test", "")}
    both = set(speakers["train"]) & set(speakers["test"])
    if both or (speakers[""] and (speakers["train"] or speakers["test"])):
        raise ValueError(f"{root} mixes copies of TIMIT, see speaker {[*both, *speakers['']][0]}: give one as --source")
    official = bool(speakers["test"])
    groups = {"validation": validation} if official else {"validation": validation, "test": test}
    split = draw_groups(speakers["train"] + speakers[""], groups, seed, "speakers")
    if official:
        split["test"] = speakers["test"]
    where = {speaker: name for name, members in split.items() for speaker in members}
    splits = {name: sorted(path for (_, who, _), (_, path) in found.items() if where[who] == name) for name in split}
    notes = {
        "speakers": split,
        "test": "official" if official else "speakers held out of the official training speakers",
    }
    return Corpus("timit", root, splits, notes)


def blizzard(root: Path, part: str, *, validation: float = 0.05, test: float = 0.05, seed: int = 0) -> Corpus:
    """List the speech of one reader from the Blizzard Challenge 2013.

    Args:
        root: a folder with the tree anywhere below it.
        part: ``segmented``: the utterances that each ``prompts.gui`` lists (three lines each: name, text and one more),
            with ``NAME.wav`` in a folder beside it; ``unsegmented``: every ``.mp3``, mostly one chapter each.
        validation: fraction of the files to hold out for validation.
        test: fraction of the files to hold out for the test split.
        seed: seed of the sampling.

    Raises:
        FileNotFoundError: no such folder, nothing of that part below it, or a listed utterance without audio.
        ValueError: another part, a fraction out of range, too few files, or a ``prompts.gui`` that lists nothing.
    """
    if part == "segmented":
        names = _segmented(root)
    elif part == "unsegmented":
        names = [name for name in _audio_below(root, "Blizzard's .mp3 files") if name.lower().endswith(".mp3")]
        if not names:
            raise FileNotFoundError(f"{root} holds no .mp3 files: give the folder of the unsegmented part as --source")
    else:
        raise ValueError(f"part must be 'segmented' or 'unsegmented', got {part!r}")
    split = draw_groups(names, {"validation": validation, "test": test}, seed, "files")
    return Corpus("blizzard", root, split, {"test": "files drawn"})


def folder(root: Path, *, validation: float = 0.1, test: float = 0.1, seed: int = 0) -> Corpus:
    """List any folder of audio, one sequence per file.

    If there is a top folder ``train``, files below it, ``validation`` (``valid``, ``dev``) and ``test`` form those
    splits. A missing validation or test split is sampled from the training files.

    Args:
        root: the folder.
        validation: fraction of the files to hold out for validation.
        test: fraction of the files to hold out for the test split.
        seed: seed of the sampling.

    Raises:
        FileNotFoundError: no such folder, or no audio below it.
        ValueError: a fraction out of range, or too few files.
    """
    names = _audio_below(root, "audio")
    given: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for name in names:
        part = _PARTS.get(name.split("/")[0].lower()) if "/" in name else None
        if part:
            given[part].append(name)
    if not given["train"]:
        given = {"train": names, "validation": [], "test": []}
    groups = {name: size for name, size in (("validation", validation), ("test", test)) if not given[name]}
    drawn = draw_groups(given["train"], groups, seed, "files")
    origin = {name: "drawn" if name in groups else "the folder's own" for name in ("validation", "test")}
    return Corpus("folder", root, {**given, **drawn}, origin)


def draw_groups(members: Sequence[str], groups: Mapping[str, float], seed: int, what: str) -> dict[str, list[str]]:
    """Hold out members at random for each group, at least one each; the remainder is ``train``.

    Args:
        members: members to sample from; their order does not matter.
        groups: fraction of the members for each group, between 0 and 1.
        seed: seed of the sampling.
        what: plural noun for the members in errors.

    Raises:
        ValueError: a fraction out of range, or no members left for training.
    """
    for name, part in groups.items():
        if not 0 < part < 1:
            raise ValueError(f"{name} must be between 0 and 1, a part of the {what}, got {part}")
    order = np.random.default_rng(seed).permutation(len(members))
    shuffled, split, start = [sorted(members)[i] for i in order], dict[str, list[str]](), 0
    for name, part in groups.items():
        stop = start + max(1, round(part * len(members)))
        split[name], start = sorted(shuffled[start:stop]), stop
    if start >= len(members):
        wanted = ", ".join(f"{name} {part}" for name, part in groups.items())
        raise ValueError(f"{len(members)} {what} are too few to hold out {wanted} and to train on the others")
    return {"train": sorted(shuffled[start:]), **split}


def _audio_below(root: Path, what: str) -> list[str]:
    """List the paths of audio files below a folder, relative to it, with /, sorted."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder: give the folder of {what} as --source")
    names = [Path(folder, name) for folder, _, files in os.walk(root) for name in files if not name.startswith(".")]
    audio = sorted(path.relative_to(root).as_posix() for path in names if path.suffix.lower() in SUFFIXES)
    if not audio:
        raise FileNotFoundError(f"{root} holds no audio ({', '.join(SUFFIXES)}): give the folder of {what} as --source")
    return audio


def _timit_utterance(path: str) -> _Utterance | None:
    """Parse the path of an utterance; None for any other path."""
    *folders, file = path.split("/")
    speaker, sentence = _SPEAKER.fullmatch(folders[-1]) if folders else None, _SENTENCE.fullmatch(file)
    if speaker is None or sentence is None:
        return None
    parts = [name.lower() for name in folders[:-1] if name.lower() in ("train", "test")]
    return _Utterance(parts[-1] if parts else "", speaker[1].lower(), sentence[1].lower(), sentence[2].lower())


def _preference(suffix: str) -> tuple[int, str]:
    """Sort key among files of one utterance: the shortest suffix first, and among those SPHERE's ``.wav``."""
    return suffix.count("."), "" if suffix == ".wav" else suffix


def _segmented(root: Path) -> list[str]:
    """List the .wav files named in every ``prompts.gui`` below a folder."""
    audio = {name.lower(): name for name in _audio_below(root, "Blizzard's prompts.gui and .wav files")}
    lists = sorted(path for path in root.rglob("*") if path.name.lower() == "prompts.gui")
    if not lists:
        raise FileNotFoundError(f"{root} holds no prompts.gui: give the folder of the segmented part as --source")
    names: list[str] = []
    for prompts in lists:
        beside = prompts.parent.relative_to(root).as_posix().lower()
        listed = _listed(prompts)
        inside = {name: path for name, path in audio.items() if beside == "." or name.startswith(beside + "/")}
        by_stem = {
            name.rsplit("/", 1)[-1].removesuffix(".wav"): path for name, path in inside.items() if name.endswith(".wav")
        }
        missing = [name for name in listed if name.lower() not in by_stem]
        if missing:
            raise FileNotFoundError(
                f"{prompts} lists {len(listed)} utterances, of which {len(missing)} have no .wav file beside it, first "
                f"{missing[0]}.wav: fetch them, or take their three lines out"
            )
        names += [by_stem[name.lower()] for name in listed]
    return sorted(set(names))


def _listed(prompts: Path) -> list[str]:
    """Read the names in a ``prompts.gui``: the first of every three lines."""
    try:
        lines = prompts.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        lines = prompts.read_text(encoding="latin-1").splitlines()
    names = [line.strip() for line in lines[::3]]
    while names and not names[-1]:
        names.pop()
    wrong: Iterable[int] = (i for i, name in enumerate(names) if not re.fullmatch(r"[\w.-]+", name))
    line = next(iter(wrong), None)
    if not names or line is not None:
        where = "is empty" if line is None else f"line {3 * line + 1} is no utterance's name, {names[line]!r}"
        raise ValueError(f"{prompts} {where}: expected three lines an utterance, its name, its text and one more")
    return names
