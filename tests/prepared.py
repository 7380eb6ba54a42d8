"""Small prepared folders and files of audio for the tests of data."""

from pathlib import Path

import numpy as np
import soundfile

from zf_pyro.data.folders.preparing import preparing
from zf_pyro.data.folders.record import Record

SAMPLES = [np.arange(length, dtype=np.int16) * 7 - 50 for length in (12, 5, 9, 23, 4)]


def request(dtype="int16", frame=4, **settings):
    return Record("test", dtype, frame, settings, [["a.wav", 3]])


def prepare(out: Path, sequences=SAMPLES, *, names=None, labels=None, mean=1.0, scale=2.0, overwrite=False, **kwargs):
    """Write a folder with one split, ``train``."""
    with preparing(out, request(**kwargs), overwrite=overwrite) as preparation:
        with preparation.split("train") as writer:
            for i, values in enumerate(sequences):
                writer.add(values, names[i] if names else None, labels[i] if labels else None)
        preparation.note(mean=mean, scale=scale)
    return out


def sounds(root, *names):
    """Write files of audio, each with other content."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, np.random.default_rng(i).normal(size=2000) * 0.1, 16_000, format="WAV")
    return root
