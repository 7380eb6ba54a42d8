"""MNIST: 70,000 handwritten digits of 28 x 28 pixels, in grey levels or in Larochelle's fixed binarisation.

LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE 86, 1998. The
60,000 training images are split into the first 50,000 for training and the last 10,000 for validation, as is usual.
The fixed binarisation has three parts of these sizes, with its images in another order.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Literal

import numpy as np

from ...checks import require_flag, require_path
from ..folders.download import fetch
from ..folders.files import for_record, list_files, read_bytes
from ..folders.preparing import require_place
from ..folders.record import Record, versions_of
from .amat import SHA256, amat_sha256, read_amat, read_packed
from .idx import read_idx
from .sets import BINARIZATIONS, Images, prepare_images

IDX_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
IDX_MD5 = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
"""Hashes of the .gz files, as torchvision lists them (torchvision/datasets/mnist.py)."""
IDX_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""Hashes of the decompressed content of those .gz files, so that compression makes no difference."""
AMAT_URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"


def prepare_mnist(
    out: Path,
    source: Path | None = None,
    *,
    binarization: Literal["fixed", "epoch", "threshold"] = "fixed",
    check_hashes: bool = True,
    overwrite: bool = False,
) -> Record:
    """Prepare MNIST.

    Args:
        out: The folder to write.
        source: A folder with the files: for ``fixed`` binarized_mnist_{train,valid,test}, each as .amat, .amat.gz,
            .packbits.npy or .packbits.npy.xz; else {train,t10k}-{images-idx3,labels-idx1}-ubyte, each with or without
            .gz. Downloaded if None.
        binarization: Larochelle's (``fixed``); sampled again in every ``epoch`` from the grey levels; or 1 from a grey
            level of 127.5 on (``threshold``).
        check_hashes: Refuse files other than MNIST as published. Turn it off for other images in the same form.
        overwrite: Replace an ``out`` that holds prepared data.

    Returns:
        The record of ``out``.

    Raises:
        FileNotFoundError: A file of the source is missing.
        FileExistsError: ``out`` holds something else.
        ValueError: A file is corrupt, truncated or of another kind, or a hash is wrong.
        ConnectionError: A download failed.
        OSError: The disk is full.
        ImportError: Downloading without pooch.
    """
    out = require_path("out", out)
    source = None if source is None else require_path("source", source)
    require_flag("check_hashes", check_hashes)
    if not isinstance(binarization, str) or binarization not in BINARIZATIONS:
        raise ValueError(f"binarization must be one of {', '.join(BINARIZATIONS)}, got {binarization!r}")
    fixed = binarization == "fixed"
    require_place(out, overwrite=overwrite)
    folder = source if source is not None else (fetch_amat() if fixed else fetch_idx())
    parts, paths = _fixed(folder, check_hashes) if fixed else _grey(folder, check_hashes)
    hashes = {name: hashlib.sha256(part.pixels.tobytes()).hexdigest() for name, part in parts.items()}
    settings = {"binarization": binarization, "sha256_of_pixels": hashes}
    sources: list[list[str | int]] = [[path.name, path.stat().st_size] for path in paths]
    request = Record("mnist", "uint8", 1, settings, sources, scale=1.0 if fixed else 255.0, versions=versions_of([]))
    if source is not None:
        listing, used = list_files(source, deep=False), {path.name for path in paths}
        others = [(name, f"not read for {binarization}") for name in listing.files if name not in used]
        request = dataclasses.replace(request, left_out=for_record(listing.left_out + others))
    return prepare_images(out, request, parts, overwrite=overwrite)


def fetch_idx(cache: Path | None = None, url: str = IDX_URL) -> Path:
    """Download the four IDX files that are not in the cache; return their folder."""
    paths = [fetch(f"{url}{name}.gz", f"md5:{md5}", cache) for name, md5 in IDX_MD5.items()]
    return paths[0].parent


def fetch_amat(cache: Path | None = None) -> Path:
    """Download the three files of the fixed binarisation (110 MB) that are not in the cache; return their folder."""
    paths = [
        fetch(f"{AMAT_URL}binarized_mnist_{part}.amat", f"sha256:{value}", cache) for part, value in SHA256.items()
    ]
    return paths[0].parent


def _fixed(folder: Path, check_hashes: bool) -> tuple[dict[str, Images], list[Path]]:
    parts, paths = {}, []
    for part, name in (("train", "train"), ("valid", "validation"), ("test", "test")):
        path = _find(folder, f"binarized_mnist_{part}", (".amat", ".amat.gz", ".packbits.npy.xz", ".packbits.npy"))
        pixels = read_packed(path) if ".packbits" in path.name else read_amat(path)
        if check_hashes:
            _check(path, amat_sha256(pixels), SHA256[part])
        parts[name] = Images(pixels)
        paths.append(path)
    return parts, paths


def _grey(folder: Path, check_hashes: bool) -> tuple[dict[str, Images], list[Path]]:
    train, train_paths = _pair(folder, "train", check_hashes)
    test, test_paths = _pair(folder, "t10k", check_hashes)
    pixels, labels = train
    cut = len(pixels) - len(pixels) // 6
    parts = {
        "train": Images(pixels[:cut], labels[:cut]),
        "validation": Images(pixels[cut:], labels[cut:]),
        "test": Images(*test),
    }
    return parts, train_paths + test_paths


def _pair(folder: Path, part: str, check_hashes: bool) -> tuple[tuple[np.ndarray, np.ndarray], list[Path]]:
    """Images, (images, pixels), and labels, (images,), of one part; and the files they were read from."""
    names = (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
    paths = [_find(folder, name, (".gz", "")) for name in names]
    for name, path in zip(names, paths, strict=True):
        if check_hashes:
            _check(path, hashlib.sha256(read_bytes(path)).hexdigest(), IDX_SHA256[name])
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if len(images) != len(labels):
        raise ValueError(f"{paths[1]} has {len(labels)} labels for {len(images)} images: give files of one data set")
    return (images.reshape(len(images), -1), labels), paths


def _find(folder: Path, name: str, suffixes: tuple[str, ...]) -> Path:
    for suffix in suffixes:
        if (folder / (name + suffix)).is_file():
            return folder / (name + suffix)
    shown = " or ".join(name + suffix for suffix in suffixes)
    raise FileNotFoundError(
        f"{folder} holds no {shown}: give the folder that does, or leave the source out to download"
    )


def _check(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise ValueError(
            f"{path} does not hold what was published: its content has the sha256 {found}, expected {expected}: copy "
            "or download it anew, or turn check_hashes off for other images in the same form"
        )
