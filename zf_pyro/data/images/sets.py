"""Images as sequences of pixels in row-major order, binarised once or again in every epoch."""

import dataclasses
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...checks import require_count, require_path
from ..folders.preparing import existing, preparing
from ..folders.record import Record, read_record
from ..sequences import Sequences

BINARIZATIONS = ("fixed", "epoch", "threshold")
"""Zeros and ones as published; sampled again in every epoch; or 1 from half the greatest grey level on."""


class Images(NamedTuple):
    """Images of one part."""

    pixels: np.ndarray
    """Grey levels, or zeros and ones; (images, pixels) uint8, each image in row-major order."""
    labels: np.ndarray | None = None
    """Labels; (images,) integers."""
    names: list[str] | None = None
    """Identifier of each image in the source."""


class Binarized(Dataset[Tensor]):
    """Grey images, sampled as zeros and ones in every epoch, each pixel with its intensity as probability.

    Samples depend only on (seed, epoch, index), not on the order of access, loader workers, processes or the frame.
    With the epoch left at 0 the binarisation is fixed, as it should be for a test set.

    Workers copy the epoch when they start. Set it before iterating over the epoch's loader, and do not use
    ``persistent_workers``.

    Attributes:
        images: the grey images; their items are intensities between 0 and 1.
        seed: seed of the samples.
        epoch: the current epoch, from 0; set by :meth:`set_epoch`.
        lengths: frames of each image; (len(self),) int64.
        labels: label of each image, (len(self),) int64, or None.
    """

    def __init__(self, images: Sequences, seed: int = 0) -> None:
        if not isinstance(images, Sequences):
            raise TypeError(f"images must be zf_pyro.data.Sequences, got {type(images).__name__}")
        self.images, self.seed, self.epoch = images, _require_count("seed", seed), 0
        self.lengths, self.labels = images.lengths, images.labels

    def set_epoch(self, epoch: int) -> None:
        """Select the samples of an epoch, 0 or later."""
        self.epoch = _require_count("epoch", epoch)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        """Sample zeros and ones of the image at ``index``; (time, frame) float32."""
        intensities = self.images[index]
        key = (self.seed, self.epoch, int(index) % len(self))
        uniform = np.random.default_rng(key).random(intensities.numel(), dtype=np.float32)
        return (torch.from_numpy(uniform).view_as(intensities) < intensities).to(torch.float32)


class ImageSets(NamedTuple):
    """The three parts of a set of images; items are (time, frame) float32 zeros and ones."""

    train: Sequences | Binarized
    """:class:`Binarized` if the folder holds grey levels: set its epoch before each one."""
    validation: Sequences | Binarized
    test: Sequences | Binarized
    record: Record
    """Source, split and binarisation."""


def load_images(folder: Path | str, *, frame: int = 1, seed: int = 0) -> ImageSets:
    """Load the parts of a prepared folder of images.

    Args:
        folder: a folder written by :func:`prepare_images`, for example by ``python -m zf_pyro.data.prepare mnist``.
        frame: pixels per step, a divisor of the image's size: for MNIST, 1 gives 784 steps, 28 gives 28 steps (rows).
        seed: seed of the samples, for images that are sampled in every epoch.

    Raises:
        FileNotFoundError: the folder was not prepared.
        ValueError: it holds no images, its files are truncated or foreign, or the frame does not divide an image.
    """
    record = read_record(require_path("folder", folder))
    if record.settings.get("binarization") not in BINARIZATIONS:
        raise ValueError(f"{folder} holds {record.corpus}, no images: give a folder prepared from mnist or digits")
    _check_frame(frame, record.settings["pixels"])
    parts: list[Sequences | Binarized] = []
    for split in ("train", "validation", "test"):
        images = Sequences(folder, split, frame=frame)
        parts.append(Binarized(images, seed) if record.settings["binarization"] == "epoch" else images)
    return ImageSets(parts[0], parts[1], parts[2], record)


def prepare_images(out: Path, request: Record, parts: Mapping[str, Images], *, overwrite: bool) -> Record:
    """Store images as sequences, unless ``out`` holds them already.

    Args:
        out: the folder to write.
        request: corpus, sources, versions and settings including ``binarization``; ``pixels`` is added here.
        parts: ``train``, ``validation`` and ``test``; zeros and ones if the binarization is fixed, else grey levels
            from 0 to the request's ``scale``.
        overwrite: replace an ``out`` that holds prepared data.

    Returns:
        The record of ``out``.

    Raises:
        FileExistsError: ``out`` holds something else.
        OSError: the disk is full.
    """
    from tqdm import tqdm

    size = parts["train"].pixels.shape[1]
    grey, threshold = request.scale, request.settings["binarization"] == "threshold"
    request = dataclasses.replace(request, settings={**request.settings, "pixels": size})
    if threshold:
        parts = {name: part._replace(pixels=(part.pixels >= grey / 2).view(np.uint8)) for name, part in parts.items()}
        request = dataclasses.replace(request, scale=1.0)
    found = existing(out, request, overwrite=overwrite)
    if found is not None:
        return found
    with preparing(out, request, overwrite=overwrite) as preparation:
        for name, part in parts.items():
            with preparation.split(name) as writer:
                for index, pixels in enumerate(tqdm(part.pixels, desc=f"writing {name}", unit="image", leave=False)):
                    label = None if part.labels is None else int(part.labels[index])
                    writer.add(pixels, None if part.names is None else part.names[index], label)
    return preparation.record


def _require_count(name: str, value: int) -> int:
    if isinstance(value, Integral) and int(value) < 0:
        raise ValueError(f"{name} must not be negative, got {value}")
    return require_count(name, value, least=0)


def _check_frame(frame: int, size: int) -> None:
    if isinstance(frame, bool) or not isinstance(frame, Integral) or frame < 1 or size % int(frame):
        fitting = ", ".join(str(divisor) for divisor in range(1, size + 1) if size % divisor == 0)
        raise ValueError(f"frame must divide the {size} pixels of an image, got {frame!r}: take one of {fitting}")
