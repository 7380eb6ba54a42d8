"""Synthetic sounds in the layout of a corpus, to run the experiments without the corpus."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

SPEAKERS = ("FABC0", "FDEF0", "FGHI0", "MABC0", "MDEF0", "MGHI0")


def write_sounds(paths: Iterable[Path], *, seconds: float = 0.8, rate: int = 16_000, seed: int = 0) -> None:
    """Write mono 16-bit wav files of three gliding partials and noise, each of another pitch.

    Args:
        paths: the files to write; missing folders are created.
        seconds: duration of each file.
        rate: sampling rate, in Hz.
        seed: seed of pitches and noise.

    Raises:
        ImportError: soundfile is not installed.
    """
    try:
        import soundfile
    except ImportError as error:
        raise ImportError("audio is written by soundfile: pip install zf-pyro[data]") from error
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    for path in paths:
        pitch = generator.uniform(90.0, 240.0) * (1.0 + 0.1 * np.sin(2.0 * np.pi * generator.uniform(1.0, 3.0) * time))
        phase = 2.0 * np.pi * np.cumsum(pitch) / rate
        sound = sum(np.sin(k * phase) / k for k in (1, 2, 5)) + 0.05 * generator.standard_normal(len(time))
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, (6000.0 * sound).astype(np.int16), rate, subtype="PCM_16", format="WAV")


def write_timit(folder: Path) -> Path:
    """Write sounds in the tree of TIMIT, two sentences for each of six speakers, and return ``folder``."""
    parts = zip(("TRAIN",) * 4 + ("TEST",) * 2, SPEAKERS, strict=True)
    write_sounds(folder / part / "DR1" / speaker / f"SI{n}.WAV" for part, speaker in parts for n in (1, 2))
    return folder


def write_blizzard(folder: Path) -> Path:
    """Write sounds in the tree of Blizzard's segmented part, eight utterances, and return ``folder``."""
    names = [f"CB-{n:03}" for n in range(8)]
    write_sounds(folder / "segmented" / "wavn" / f"{name}.wav" for name in names)
    prompts = "".join(f"{name}\nThe text of {name}.\n\n" for name in names)
    (folder / "segmented" / "prompts.gui").write_text(prompts, encoding="utf-8")
    return folder
