"""Killed data preparation: a reader finds complete data or none, and a repeated preparation succeeds."""

import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
import soundfile

pytest.importorskip("lightning")

from zf_pyro.data.prepare import CORPORA

from .test_data_images import binary_mnist
from .test_data_speech import small_timit
from .test_data_text import tree
from .training_runs import join, start

KILLS = 4
"""Kills per corpus: twenty in total."""


def recordings(folder):
    folder.mkdir()
    for i in range(10):
        soundfile.write(folder / f"{i}.flac", np.random.default_rng(i).normal(size=5000) * 0.1, 16_000)
    return folder


SOURCES = {
    "timit": lambda path: {"source": small_timit(path)},
    "folder": lambda path: {"source": recordings(path)},
    "mnist": lambda path: {"source": binary_mnist(path), "check_hashes": False},
    "imdb": lambda path: {"source": tree(path)},
    "digits": lambda path: {},
}
"""Functions that write a small source of each corpus at ``path`` and return the arguments of its preparation."""


def prepare(corpus, out, arguments, started=None, call=None):
    """Prepare with overwrite. If ``call`` is given, kill the process at the ``call``-th call that changes the disk."""
    calls = []

    def killing(function):
        def wrapped(*positional, **named):
            calls.append(None)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*positional, **named)

        return wrapped

    for name in ("fsync", "chmod", "rename", "unlink", "rmdir") if call else ():
        setattr(os, name, killing(getattr(os, name)))
    if started is not None:
        started.touch()
    CORPORA[corpus](out, **arguments, overwrite=True)


def contents(folder):
    """Read the visible files of a folder; None if it does not exist."""
    if not folder.exists():
        return None
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.slow
@pytest.mark.parametrize("corpus", sorted(SOURCES))
def test_a_preparation_killed_at_random_moments_leaves_all_or_nothing_and_can_be_repeated(corpus, tmp_path):
    arguments = SOURCES[corpus](tmp_path / "source")
    whole, out, started = tmp_path / "whole", tmp_path / "data" / "out", tmp_path / "started"
    prepare(corpus, whole, arguments)
    begun = time.perf_counter()
    prepare(corpus, whole, arguments)
    seconds = time.perf_counter() - begun
    expected, draw, kills = contents(whole), random.Random(corpus), 0
    assert "record.json" in expected
    while kills < KILLS:
        if draw.random() < 0.5 and contents(out) is None:
            shutil.copytree(whole, out)  # to be replaced
        if kills % 2:
            process = start(prepare, corpus, out, arguments, call=draw.randint(1, 16))
        else:
            started.unlink(missing_ok=True)
            process = start(prepare, corpus, out, arguments, started)
            while not started.exists() and process.is_alive():
                time.sleep(0.001)
            time.sleep(draw.uniform(0.0, seconds))
            process.kill()
        (code,) = join([process])
        assert code in (0, -signal.SIGKILL)
        assert contents(out) in (None, expected), "half of it can be read"
        assert {path.name for path in out.parent.glob("[!.]*")} <= {"out"}
        kills += code != 0
    assert join([start(prepare, corpus, out, arguments)]) == [0]
    assert contents(out) == expected
    assert [path.name for path in out.parent.iterdir()] == ["out"], "what killed runs left is swept"
    assert not [*out.glob(".*")]
