"""The docstrings of Python's own standard library: text that every machine has, of a few hundred modules.

Read from the sources with :mod:`ast`; nothing of them is run. What they say differs a little from one version of Python to
the next, which the record names.
"""

import ast
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from .reviews import Review

LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "__phello__"})
"""Folders that are not the library, or test it."""

_PARAGRAPH = re.compile(r"\n\s*\n")


def read_docstrings(root: Path | None = None) -> list[Review]:
    """Prose of the docstrings, a document a module, in the order of the modules' names.

    A docstring is taken paragraph by paragraph, a line each; indented paragraphs and those with an interactive example
    (``>>>``) are no prose and left out.

    Args:
        root: of the library's sources; that of the running Python if None.

    Raises:
        FileNotFoundError: no sources there, as where Python runs from a zip file.
    """
    root = Path(sysconfig.get_path("stdlib")) if root is None else root
    paths = sorted(path for path in root.rglob("*.py") if not _left_out(path.relative_to(root)))
    if not paths:
        raise FileNotFoundError(
            f"{root} holds no Python sources to take docstrings from: use a Python that is installed with its library, "
            "or a text of your own"
        )
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
        warnings.simplefilter("ignore")  # of string escapes in sources that are not ours
        tree = ast.parse(path.read_bytes(), filename=str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for paragraph in _PARAGRAPH.split(ast.get_docstring(node) or ""):
                if paragraph and not paragraph[0].isspace() and ">>>" not in paragraph:
                    yield " ".join(paragraph.split())
