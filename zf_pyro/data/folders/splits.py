"""Splits of documents by a hash of their names, of files by top folders, and of members at random by a seed."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ...checks import require_count, require_number

_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing"),
}
_PARTS = {name: split for split, names in _NAMES.items() for name in names}


def held_out(names: Sequence[str], counts: Iterable[int]) -> list[list[int]]:
    """Split indices into a remainder and held-out parts.

    Names are sorted by their sha256; the parts are taken from the start of that order.

    Args:
        names: one unique name per document or image.
        counts: size of each held-out part.

    Returns:
        Indices of the remainder, then of each part; every list in ascending order.

    Raises:
        ValueError: the remainder or a part would be empty.
    """
    counts = list(counts)
    if min(counts, default=1) < 1 or sum(counts) >= len(names):
        raise ValueError(
            f"parts of {', '.join(map(str, counts))} cannot be held out of {len(names)}: each needs one at least, and "
            "so does what is left for training: give more data"
        )
    order = sorted(range(len(names)), key=lambda index: hashlib.sha256(names[index].encode()).digest())
    parts, start = [], 0
    for count in counts:
        parts.append(sorted(order[start : start + count]))
        start += count
    return [sorted(order[start:]), *parts]


def split_folders(
    root: Path, names: Sequence[str], groups: Mapping[str, float], seed: int, what: str
) -> tuple[dict[str, list[str]], dict[str, str], list[str]]:
    """Split files by the top folders that hold them, and draw a missing validation or test split.

    Top folders ``train``, ``validation`` and ``test`` are the splits, by these names in any casing: train, training;
    validation, valid, val, dev, development; test, testing. Without a top folder ``train``, the files outside of the
    others are for training. A missing validation or test split is sampled from the training files.

    Args:
        root: the folder, for errors.
        names: paths below it, with /.
        groups: fraction of the files for ``validation`` and ``test``, if they have to be drawn.
        seed: seed of the sampling.
        what: noun for the files in errors, for example "audio".

    Returns:
        The files of each split; the origin of ``validation`` and ``test``; and files outside of the folders of the
        splits, which are in none.

    Raises:
        ValueError: a fraction out of range, too few files, or folders of other splits but nothing for training.
    """
    given: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    outside: list[str] = []
    for name in names:
        part = _PARTS.get(name.split("/")[0].lower()) if "/" in name else None
        (given[part] if part else outside).append(name)
    if not given["train"] and outside:
        given["train"], outside = outside, []
    elif not given["train"]:
        raise ValueError(
            f"{root} holds {what} for {' and '.join(part for part in given if given[part])} alone, in "
            f"{names[0].split('/')[0]}: put the training files into a folder train beside it"
        )
    drawn = {name: size for name, size in groups.items() if not given[name]}
    origin = {name: "drawn" if name in drawn else "the folder's own" for name in groups}
    return {**given, **draw_groups(given["train"], drawn, seed, "files")}, origin, outside


def draw_groups(members: Sequence[str], groups: Mapping[str, float], seed: int, what: str) -> dict[str, list[str]]:
    """Hold out members at random for each group, at least one each; the remainder is ``train``.

    Args:
        members: members to sample from; their order does not matter.
        groups: fraction of the members for each group, between 0 and 1.
        seed: seed of the sampling.
        what: plural noun for the members in errors.

    Raises:
        ValueError: a fraction or the seed out of range, or no members left for training.
    """
    for name, part in groups.items():
        require_number(name, part, f"between 0 and 1, a part of the {what}", 0.0, 1.0, "()")
    order = np.random.default_rng(require_count("seed", seed, 0)).permutation(len(members))
    shuffled, split, start = [sorted(members)[i] for i in order], dict[str, list[str]](), 0
    for name, part in groups.items():
        stop = start + max(1, round(part * len(members)))
        split[name], start = sorted(shuffled[start:stop]), stop
    if start >= len(members):
        wanted = ", ".join(f"{name} {part}" for name, part in groups.items())
        raise ValueError(f"{len(members)} {what} are too few to hold out {wanted} and to train on the others")
    return {"train": sorted(shuffled[start:]), **split}
