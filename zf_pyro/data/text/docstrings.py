"""Docstrings of Python's standard library: a text of a few hundred modules that needs no download.

They are read from the sources with :mod:`ast`; no source is run. The text differs slightly between versions of Python,
so the record names the version.
"""

import ast
import dataclasses
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...checks import require_path
from ..folders.files import sha256_of
from ..folders.record import Record
from .reviews import Review, Reviews, split_reviews
from .sets import TextSets, load_text, prepare_text, text_request

LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "__phello__"})
"""Folders of tests and of installed packages."""

_PARAGRAPH = re.compile(r"\n\s*\n")


def prepare_docstrings(
    out: Path, *, max_words: int = 16, vocabulary_size: int = 16_000, overwrite: bool = False
) -> Record:
    """Prepare the docstrings of the running Python's library, split by module.

    Args:
        out: The folder to write.
        max_words: Length of the longest sentence to take, in words, without the end token.
        vocabulary_size: Size of the vocabulary at most, with the unknown and the end token.
        overwrite: Replace an ``out`` that holds prepared data.

    Returns:
        The record of ``out``.

    Raises:
        ImportError: tokenizers is not installed.
        FileNotFoundError: The sources of the library are not installed.
        FileExistsError: ``out`` holds something else.
        ValueError: ``max_words`` or ``vocabulary_size`` is too small.
        OSError: The disk is full.
    """
    out = require_path("out", out)
    root = Path(sysconfig.get_path("stdlib"))
    paths = library_sources(root)
    sources: list[list[Any]] = [[path.relative_to(root).as_posix(), path.stat().st_size] for path in paths]
    python = platform.python_version()
    request = text_request("docstrings", sources, max_words, vocabulary_size, python=python)
    hashes = {name: sha256_of(path) for (name, _), path in zip(sources, paths, strict=True)}
    request = dataclasses.replace(request, hashes=hashes)

    def read() -> dict[str, list[Review]]:
        return split_reviews(Reviews(read_docstrings(root, paths), [], sources))

    return prepare_text(out, request, read, overwrite=overwrite)


def load_docstrings(folder: Path | str, *, max_words: int = 16, vocabulary_size: int = 16_000) -> TextSets:
    """Load the docstrings of the running Python's library; the first call prepares them in ``folder``.

    Args:
        folder: the prepared folder, for example ``runs/docstrings/data``.
        max_words: length of the longest sentence to take, in words, without the end token.
        vocabulary_size: size of the vocabulary at most, with the unknown and the end token.

    Returns:
        Sentences for training, validation and testing, the vocabulary and the record.

    Raises:
        ImportError: tokenizers is not installed.
        FileNotFoundError: the sources of the library are not installed.
        FileExistsError: ``folder`` holds something else, for example the docstrings of another Python.
        ValueError: ``max_words`` or ``vocabulary_size`` is too small, or files of the folder are truncated or foreign.
    """
    prepare_docstrings(require_path("folder", folder), max_words=max_words, vocabulary_size=vocabulary_size)
    return load_text(folder)


def library_sources(root: Path) -> list[Path]:
    """List the library's sources below ``root``, without tests and installed packages, sorted by name.

    Raises:
        FileNotFoundError: there are none, for example because Python runs from a zip file.
    """
    paths = sorted(path for path in root.rglob("*.py") if not _left_out(path.relative_to(root)))
    if not paths:
        raise FileNotFoundError(
            f"{root} holds no Python sources to take docstrings from: use a Python that is installed with its library, "
            "or a text of your own"
        )
    return paths


def read_docstrings(root: Path, paths: Sequence[Path]) -> list[Review]:
    """Read the prose of the docstrings in sources below ``root``, one document per module.

    Each paragraph of a docstring becomes one line. Indented paragraphs and those with an interactive example (``>>>``)
    are left out.
    """
    from tqdm import tqdm

    documents = []
    for path in tqdm(paths, desc="reading docstrings", unit="module", leave=False):
        paragraphs = list(_paragraphs(path))
        if paragraphs:
            documents.append(Review(_module(path.relative_to(root)), "\n".join(paragraphs)))
    return documents


def _left_out(path: Path) -> bool:
    return any(part in LEFT_OUT or part.startswith("config-") for part in path.parts)


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _paragraphs(path: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about string escapes in the library's sources
        tree = ast.parse(path.read_bytes(), filename=str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for paragraph in _PARAGRAPH.split(ast.get_docstring(node) or ""):
                if paragraph and not paragraph[0].isspace() and ">>>" not in paragraph:
                    yield " ".join(paragraph.split())
