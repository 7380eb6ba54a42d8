"""Files of a source folder: each listed once, or named as left out with the reason."""

import gzip
import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

PACKED = {b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd", b"7z\xbc\xaf": "7-zip"}
"""First bytes of compressed files that are not read here, and the name of their format."""


class Listing(NamedTuple):
    """The files below a folder."""

    files: list[str]
    """Paths below the folder, with /, sorted."""
    left_out: list[tuple[str, str]]
    """(path, reason) of everything that was not followed or is hidden; folders end in /."""


class _Entry(NamedTuple):
    """File or folder that the walk found. Entries of one level are claimed in the order of these fields."""

    linked: bool
    path: str
    real: str


def list_files(root: Path, *, deep: bool = True) -> Listing:
    """List the files below a folder, following symbolic links.

    A file or folder that several paths lead to is taken once: at the least deep path, and among those rather at the
    file itself than at a link to it. Links that lead back to a folder above them are not followed. Names that begin
    with a dot are hidden, for example the ``._NAME`` that macOS writes beside NAME.

    Args:
        root: the folder.
        deep: list the files of folders in it, too.

    Raises:
        OSError: a folder cannot be read.
    """
    top = os.path.realpath(root)
    claimed, files, left_out = {top: "the source folder"}, dict[tuple[int, int], str](), list[tuple[str, str]]()
    level = [_Entry(False, "", top)]
    while level:
        folders, found = list[_Entry](), list[_Entry]()
        for folder in level:
            for entry in _entries(root, folder):
                is_folder = os.path.isdir(entry.real)
                if os.path.basename(entry.path).startswith("."):
                    left_out.append((entry.path + "/" * is_folder, "hidden"))
                elif is_folder and (_holds(entry.real, top) or _holds(entry.real, folder.real)):
                    left_out.append((entry.path + "/", "a link to a folder above it"))
                else:
                    (folders if is_folder else found).append(entry)
        for entry in sorted(found):
            reason = _claim(entry, files)
            if reason:
                left_out.append((entry.path, reason))
        level = []
        for entry in sorted(folders) if deep else ():
            if entry.real in claimed:
                left_out.append((entry.path + "/", f"the same folder: {claimed[entry.real]}"))
            else:
                claimed[entry.real] = entry.path
                level.append(entry)
    return Listing(sorted(files.values()), sorted(left_out))


def _holds(folder: str, other: str) -> bool:
    """True if ``other`` is ``folder`` or lies below it."""
    return (other + os.sep).startswith(folder.rstrip(os.sep) + os.sep)


def _entries(root: Path, folder: _Entry) -> Iterator[_Entry]:
    with os.scandir(root / folder.path) as entries:
        for entry in entries:
            path = f"{folder.path}/{entry.name}".lstrip("/")
            yield _Entry(folder.linked or entry.is_symlink(), path, os.path.realpath(entry.path))


def _claim(entry: _Entry, files: dict[tuple[int, int], str]) -> str | None:
    """Add a file to ``files`` by its device and inode, or return the reason why not."""
    if not os.path.exists(entry.real):
        return "a broken link"
    if not os.path.isfile(entry.real):
        return "no regular file"
    status = os.stat(entry.real)
    first = files.setdefault((status.st_dev, status.st_ino), entry.path)
    return None if first == entry.path else f"the same file: {first}"


def require_names(root: Path, names: Iterable[str]) -> None:
    """Refuse file names that are not valid text, which no record could hold.

    Raises:
        ValueError: a name is not UTF-8.
    """
    for name in names:
        if shown(name) != name:
            raise ValueError(
                f"{shown(str(root / name))} has a name that is not UTF-8: rename it, for example with "
                "convmv -f latin1 -t utf-8 --notest -r FOLDER"
            )


def shown(name: str) -> str:
    """Return a name that can be written anywhere: undecodable bytes become escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def for_record(left_out: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return (path, reason) pairs as the record keeps them, sorted."""
    return sorted([shown(path), shown(reason)] for path, reason in left_out)


def summary(left_out: Sequence[Sequence[str]]) -> str:
    """Count what was left out by reason, for example "3 (2 hidden, 1 no audio)"."""
    kinds = Counter(reason.split(":")[0] for _, reason in left_out)
    return f"{len(left_out):,} ({', '.join(f'{count:,} {kind}' for kind, count in kinds.most_common())})"


def sha256_of(path: Path) -> str:
    """Compute the sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path) -> bytes:
    """Read a file, decompressed if it begins with the magic number of gzip.

    Raises:
        ValueError: the gzip data is truncated or corrupt.
    """
    content = path.read_bytes()
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} is corrupt gzip data ({error}): delete it and copy or download it anew ({len(content)} bytes here)"
        ) from error
