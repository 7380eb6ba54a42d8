"""Digits of scikit-learn: 1797 images of 8 x 8 pixels, sequences of 64 steps that need no download.

Alpaydin, Kaynak, "Optical recognition of handwritten digits", UCI 1998 (its test set, 17 grey levels):
https://scikit-learn.org/stable/datasets/toy_dataset.html#digits-dataset.
"""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np

from ...checks import require_path
from ..folders.record import Record, versions_of
from ..folders.splits import held_out
from .sets import Images, ImageSets, load_images, prepare_images

NUM_VALIDATION, NUM_TEST = 180, 360
"""Numbers of held-out images; the other 1257 of the 1797 are for training."""
GREATEST = 16
"""The greatest grey level."""


def prepare_digits(
    out: Path,
    *,
    binarization: Literal["threshold", "epoch"] = "threshold",
    overwrite: bool = False,
) -> Record:
    """Prepare scikit-learn's digits with a fixed split; the record names the images of each part by their index.

    Args:
        out: The folder to write.
        binarization: 1 from a grey level of 8 of 16 on (``threshold``), or sampled again in every ``epoch``.
        overwrite: Replace an ``out`` that holds prepared data.

    Returns:
        The record of ``out``.

    Raises:
        ImportError: scikit-learn is not installed.
        FileExistsError: ``out`` holds something else.
        ValueError: Another binarization.
        OSError: The disk is full.
    """
    out = require_path("out", out)
    if not isinstance(binarization, str) or binarization not in ("threshold", "epoch"):
        raise ValueError(f"binarization must be threshold or epoch, got {binarization!r}")
    try:
        from sklearn.datasets import load_digits as bundled
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install zf-pyro[data]") from error
    pixels, labels = bundled(return_X_y=True)
    pixels = pixels.astype(np.uint8)
    names = [str(index) for index in range(len(pixels))]
    indices = held_out(names, (NUM_VALIDATION, NUM_TEST))
    parts = {
        part: Images(pixels[chosen], labels[chosen], [names[index] for index in chosen])
        for part, chosen in zip(("train", "validation", "test"), indices, strict=True)
    }
    settings = {"binarization": binarization, "sha256_of_pixels": hashlib.sha256(pixels.tobytes()).hexdigest()}
    versions = versions_of(["scikit-learn"])
    request = Record("digits", "uint8", 1, settings, [], scale=float(GREATEST), versions=versions)
    return prepare_images(out, request, parts, overwrite=overwrite)


def load_digits(
    folder: Path | str, *, binarization: Literal["threshold", "epoch"] = "threshold", frame: int = 1, seed: int = 0
) -> ImageSets:
    """Load scikit-learn's digits as sequences; the first call prepares them in ``folder``.

    Args:
        folder: the prepared folder, for example ``runs/digits/data``.
        binarization: see :func:`prepare_digits`.
        frame: pixels per step, a divisor of 64: 1 for 64 steps, 8 for 8 steps.
        seed: seed of the samples of ``epoch``.

    Returns:
        1257 images for training, 180 for validation, 360 for testing, and the record.

    Raises:
        ImportError: scikit-learn is not installed.
        FileExistsError: ``folder`` holds something else.
        ValueError: another binarization, or a frame that does not divide 64.
    """
    prepare_digits(require_path("folder", folder), binarization=binarization)
    return load_images(folder, frame=frame, seed=seed)
