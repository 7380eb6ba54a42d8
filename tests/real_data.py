"""Real corpora from the archives in the folder ZF_PYRO_DATA; tests are skipped if it is not set."""

import os
import tarfile
from pathlib import Path

import pytest


def archive(name: str) -> Path:
    """Return the path of an archive in the data folder, or skip the test."""
    root = os.environ.get("ZF_PYRO_DATA")
    if not root:
        pytest.skip("ZF_PYRO_DATA is not set: it should name the folder with the test corpora")
    path = Path(root) / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def unpack(name: str, folder: Path) -> Path:
    """Unpack an archive into ``folder``, and return ``folder``."""
    with tarfile.open(archive(name)) as packed:
        packed.extractall(folder, filter="data")
    return folder
