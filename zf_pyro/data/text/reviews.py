"""Reader of reviews: the aclImdb tree, or a text, CSV or TSV file.

Large Movie Review Dataset: Maas, Daly, Pham, Huang, Ng, Potts, "Learning word vectors for sentiment analysis", ACL
2011; https://ai.stanford.edu/~amaas/data/sentiment. Its tree is ``{train,test}/{pos,neg}/*.txt``, one review per file,
and ``train/unsup/*.txt`` without ratings.
"""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from ..folders.files import PACKED, list_files, read_bytes, require_names
from ..folders.splits import held_out
from .tables import DELIMITERS, read_table, suffix_of


class Review(NamedTuple):
    """One document."""

    name: str
    """Origin: the path below the source, or the file and line."""
    text: str
    """Text, unchanged from the file."""
    label: str | None = None
    """Its folder in the tree, such as pos or neg; None outside a tree."""


class Reviews(NamedTuple):
    """Documents of each part, in the order of the files."""

    train: list[Review]
    test: list[Review]
    """Empty if the source has no test set."""
    sources: list[list[str | int]]
    """(folder or file, bytes) of everything that was read."""
    left_out: tuple[tuple[str, str], ...] = ()
    """(path, reason) of all other files of the source."""

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
        source: the aclImdb folder (or its parent), or a file: .csv or .tsv with a header line, else a review per line;
            any of them also compressed, .gz.
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
    require_names(source.parent, [source.name])
    text = read_text(source)
    rows = read_table(source, text, text_column) if suffix_of(source) in DELIMITERS else _lines(source, text)
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
    """Read a text file in UTF-8, with or without a byte order mark, compressed by gzip or not.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another encoding or compression; the message names the byte, its position and how to convert it.
    """
    content = read_bytes(path)
    packed = next((name for start, name in PACKED.items() if content.startswith(start)), None)
    if packed:
        raise ValueError(f"{path} is {packed} data, expected text, or text compressed by gzip: unpack it first")
    try:
        text = content.decode().replace("\ufeff", "")  # byte order marks, also those of files that were joined
    except UnicodeDecodeError as error:
        guess = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "windows-1252"
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} at position {error.start}, {error.reason}: "
            f"convert it, for example: iconv -f {guess} -t utf-8 '{path}' > '{path.stem}.utf8{path.suffix}'"
        ) from error
    if "\0" in text:
        raise ValueError(
            f"{path} holds a NUL character at position {text.index(chr(0))}: it is no text, or UTF-16 without a byte "
            f"order mark: convert it, as in: iconv -f utf-16le -t utf-8 '{path}' > '{path.stem}.utf8{path.suffix}'"
        )
    return text


def _read_tree(source: Path, unsup: bool) -> Reviews:
    from tqdm import tqdm

    root = source if (source / "train").is_dir() or not (source / "aclImdb").is_dir() else source / "aclImdb"
    parts: dict[str, list[Review]] = {"train": [], "test": []}
    sources: list[list[str | int]] = []
    folders = ("train/pos", "train/neg", *(["train/unsup"] if unsup else []), "test/pos", "test/neg")
    listing = list_files(root)
    found: dict[str, list[Path]] = {folder: [] for folder in folders}
    left_out = list(listing.left_out)
    for name in listing.files:
        parent, path = name.rpartition("/")[0], root / name
        if parent in found and path.suffix.lower() == ".txt":
            found[parent].append(path)
        elif parent == "train/unsup" and path.suffix.lower() == ".txt":
            left_out.append((name, "a review without rating"))
        else:
            left_out.append((name, "no review of the tree"))
    require_names(root, (f"{folder}/{path.name}" for folder, paths in found.items() for path in paths))
    for folder, unsorted in found.items():
        paths = sorted(unsorted, key=_number)
        if not paths:
            why = next((f" ({name}: {reason})" for name, reason in left_out if f"{name}/".startswith(folder + "/")), "")
            raise FileNotFoundError(
                f"{root / folder} holds no reviews (*.txt){why}: give the aclImdb folder, which holds "
                f"{', '.join(folders)}"
            )
        for path in tqdm(paths, desc=f"reading {folder}", unit="review", leave=False):
            text = read_text(path)
            if not text.strip():
                raise ValueError(f"{path} is an empty review: delete the file, or restore it from the archive")
            part, _, label = folder.partition("/")
            parts[part].append(Review(f"{folder}/{path.name}", text, label))
        sources.append([folder, sum(path.stat().st_size for path in paths)])
    return Reviews(parts["train"], parts["test"], sources, tuple(left_out))


def _number(path: Path) -> tuple[int, str]:
    """Sort key of a review named NUMBER_RATING.txt: its number, then its name."""
    number = re.match(r"\d+", path.name)
    return (int(number[0]) if number else 0, path.name)


def _lines(path: Path, text: str) -> list[tuple[int, str]]:
    """(number, text) of each line. A carriage return ends lines where no line feed does, as on old Macs.

    Raises:
        ValueError: both kinds of line end in one file, so that lines cannot be told from reviews.
    """
    text = text.replace("\r\n", "\n").rstrip()
    line, _, rest = text.partition("\r")
    if rest and "\n" in text:
        raise ValueError(
            f"{path}, line {line.count(chr(10)) + 1} holds a carriage return, and other lines end with a line feed: "
            f"convert the line ends, for example: tr '\\r' '\\n' < '{path}' > '{path.stem}.lf{path.suffix}'"
        )
    return list(enumerate(re.split(r"[\r\n]", text), 1)) if text else []
