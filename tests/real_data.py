"""Real corpora, from the archives that ZF_PYRO_DATA points to; tests skip, saying so, where it is not set."""

import os
import tarfile
from pathlib import Path

import pytest


def archive(name: str) -> Path:
    """An archive of the data folder, or a skip."""
    root = os.environ.get("ZF_PYRO_DATA")
    if not root:
        pytest.skip("ZF_PYRO_DATA is not set: it should name the folder with the test corpora")
    path = Path(root) / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def unpack(name: str, folder: Path) -> Path:
    """What an archive holds, in ``folder``."""
    with tarfile.open(archive(name)) as packed:
        packed.extractall(folder, filter="data")
    return folder
