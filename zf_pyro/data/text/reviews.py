"""Reader of reviews: the aclImdb tree, or a text, CSV or TSV file.

Large Movie Review Dataset: Maas, Daly, Pham, Huang, Ng, Potts, "Learning word vectors for sentiment analysis", ACL
2011; https://ai.stanford.edu/~amaas/data/sentiment. Its tree is ``{train,test}/{pos,neg}/*.txt``, one review per file,
and ``train/unsup/*.txt`` without ratings.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..folders.splits import held_out

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Delimiters of tables by suffix. Files of any other suffix are text, one review per line."""


class Review(NamedTuple):
    """One document."""

    name: str
    """Origin: the path below the source, or the file and line."""
    text: str
    """Text, unchanged from the file."""


class Reviews(NamedTuple):
    """Documents of each part, in the order of the files."""

    train: list[Review]
    test: list[Review]
    """Empty if the source has no test set."""
    sources: list[list[str | int]]
    """(folder or file, bytes) of everything that was read."""

    def sha256(self) -> str:
        """Hash all names and texts, which identifies the content of a source."""
        sha256 = hashlib.sha256()
        for review in (*self.train, *self.test):
            for part in (review.name, review.text):
                sha256.update(part.encode() + b"\0")
        return sha256.hexdigest()


def read_reviews(source: Path, *, unsup: bool = False, text_column: str = "review") -> Reviews:
    """Read the reviews of a tree or a file, in UTF-8.

    Args:
        source: the aclImdb folder (or its parent), or a file: .csv or .tsv with a header line, else a review per line.
        unsup: train also on the reviews without ratings, train/unsup; trees only.
        text_column: column of a table that holds the text.

    Raises:
        FileNotFoundError: no such file, or a folder of the tree is missing or without reviews.
        ValueError: an empty file or review, text that is not UTF-8, a table that cannot be read or lacks the column.
    """
    if source.is_dir():
        return _read_tree(source, unsup)
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist: give the aclImdb folder, or a .txt, .csv or .tsv file")
    if unsup:
        raise ValueError(f"unsup is a folder of the aclImdb tree, and {source} is a file: leave unsup out")
    text = read_text(source)
    rows = _table(source, text, text_column) if source.suffix.lower() in DELIMITERS else _lines(text)
    found = [Review(f"{source.name}:{line}", content) for line, content in rows]
    for review in found:
        if not review.text.strip():
            raise ValueError(
                f"{source}, line {review.name.rpartition(':')[2]}: empty review: delete the line, or restore its text"
            )
    if not found:
        raise ValueError(f"{source} is empty: give a file with a review a line")
    return Reviews(found, [], [[source.name, source.stat().st_size]])


def split_reviews(reviews: Reviews) -> dict[str, list[Review]]:
    """Split documents into train, validation and test, each in its original order.

    A tenth of the training documents is held out for validation, chosen by a hash of their names. If there is no test
    set, another tenth is held out for testing.

    Raises:
        ValueError: too few documents.
    """
    tenth = max(1, len(reviews.train) // 10)
    names = [review.name for review in reviews.train]
    train, validation, *test = held_out(names, [tenth] if reviews.test else [tenth, tenth])
    own = {"train": [reviews.train[i] for i in train], "validation": [reviews.train[i] for i in validation]}
    return {**own, "test": reviews.test or [reviews.train[i] for i in test[0]]}


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another encoding; the message names the byte, its position and how to convert the file.
    """
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        guess = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "windows-1252"
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} at position {error.start}, {error.reason}: "
            f"convert it, for example: iconv -f {guess} -t utf-8 '{path}' > '{path.stem}.utf8{path.suffix}'"
        ) from error


def _read_tree(source: Path, unsup: bool) -> Reviews:
    from tqdm import tqdm

    root = source if (source / "train").is_dir() or not (source / "aclImdb").is_dir() else source / "aclImdb"
    parts: dict[str, list[Review]] = {"train": [], "test": []}
    sources: list[list[str | int]] = []
    folders = ("train/pos", "train/neg", *(["train/unsup"] if unsup else []), "test/pos", "test/neg")
    for folder in folders:
        paths = sorted((root / folder).glob("*.txt"), key=_number)
        if not paths:
            raise FileNotFoundError(
                f"{root / folder} holds no reviews (*.txt): give the aclImdb folder, which holds {', '.join(folders)}"
            )
        for path in tqdm(paths, desc=f"reading {folder}", unit="review", leave=False):
            text = read_text(path)
            if not text.strip():
                raise ValueError(f"{path} is an empty review: delete the file, or restore it from the archive")
            parts[folder.partition("/")[0]].append(Review(f"{folder}/{path.name}", text))
        sources.append([folder, sum(path.stat().st_size for path in paths)])
    return Reviews(parts["train"], parts["test"], sources)


def _number(path: Path) -> tuple[int, str]:
    """Sort key of a review named NUMBER_RATING.txt: its number, then its name."""
    number = re.match(r"\d+", path.name)
    return (int(number[0]) if number else 0, path.name)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    if text.strip():
        yield from enumerate(text.rstrip().split("\n"), 1)


def _table(path: Path, text: str, column: str) -> Iterator[tuple[int, str]]:
    """Yield (line on which it ends, text) of each row."""
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=DELIMITERS[path.suffix.lower()], strict=True)
    try:
        names = list(rows.fieldnames or [])
        if column not in names:
            shown = ", ".join(map(repr, names)) or "none: the file is empty"
            raise ValueError(
                f"{path} has no column {column!r}, its first line names {shown}: "
                "name the column that holds the text with --text_column"
            )
        for row in rows:
            yield rows.line_num, row[column] or ""
    except csv.Error as error:
        raise ValueError(
            f"{path}, after line {rows.line_num}: {error}: quote texts with double quotes, doubled within a text"
        ) from error
