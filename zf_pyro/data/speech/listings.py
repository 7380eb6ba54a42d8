"""Listings of corpora: their audio files and the split of each, from names alone."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from ..folders.splits import draw_groups, split_folders
from .sources import audio_below, segmented

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
    left_out: list[tuple[str, str]]
    """(path, reason) of every other file below ``root``."""


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
        ValueError: a fraction out of range, too few speakers, an utterance found twice, paths that differ only
            in case, or several copies mixed.
    """
    found: dict[tuple[str, str, str], tuple[str, str]] = {}
    audio, left_out = audio_below(root, "TIMIT audio such as TRAIN/DR1/FCJF0/SA1.WAV")
    left_out = list(left_out)
    for path in audio:
        utterance = _timit_utterance(path)
        if utterance is None or (not sa and utterance.sentence.startswith("sa")):
            left_out.append((path, "no utterance of TIMIT" if utterance is None else "a sentence all speakers read"))
            continue
        suffix, other = found.get(utterance[:3], ("", ""))
        if other.lower() == path.lower():
            raise ValueError(f"{root} holds {other} and {path}, which differ only in case: remove one of them")
        if other and other.lower().removesuffix(suffix) != path.lower().removesuffix(utterance.suffix):
            raise ValueError(
                f"{root} holds an utterance twice, {other} and {path}: give the folder of one copy as --source"
            )
        first = not other or _preference(utterance.suffix) < _preference(suffix)
        if other:
            taken, copy = (path, other) if first else (other, path)
            left_out.append((copy, f"a copy: {taken}"))
        if first:
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
    return Corpus("timit", root, splits, notes, left_out)


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
        names, left_out = segmented(root)
    elif part == "unsegmented":
        audio, left_out = audio_below(root, "Blizzard's .mp3 files")
        names = [name for name in audio if name.lower().endswith(".mp3")]
        left_out = left_out + [(name, "no .mp3 file") for name in audio if not name.lower().endswith(".mp3")]
        if not names:
            raise FileNotFoundError(f"{root} holds no .mp3 files: give the folder of the unsegmented part as --source")
    else:
        raise ValueError(f"part must be 'segmented' or 'unsegmented', got {part!r}")
    split = draw_groups(names, {"validation": validation, "test": test}, seed, "files")
    return Corpus("blizzard", root, split, {"test": "files drawn"}, left_out)


def folder(root: Path, *, validation: float = 0.1, test: float = 0.1, seed: int = 0) -> Corpus:
    """List any folder of audio, one sequence per file.

    Top folders ``train``, ``validation`` and ``test`` are the splits, by these names in any casing: train, training;
    validation, valid, val, dev, development; test, testing. Without a top folder ``train``, the files outside of the
    others are for training. A missing validation or test split is sampled from the training files.

    Args:
        root: the folder.
        validation: fraction of the files to hold out for validation.
        test: fraction of the files to hold out for the test split.
        seed: seed of the sampling.

    Raises:
        FileNotFoundError: no such folder, or no audio below it.
        ValueError: a fraction out of range, too few files, or folders of other splits but nothing for training.
    """
    names, left_out = audio_below(root, "audio")
    splits, origin, outside = split_folders(root, names, {"validation": validation, "test": test}, seed, "audio")
    left_out = left_out + [(name, "outside of the folders of the splits") for name in outside]
    return Corpus("folder", root, splits, origin, left_out)


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
