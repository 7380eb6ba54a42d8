"""Larochelle's fixed binarisation of MNIST: its text files, and a compact form that takes a sixtieth of the space.

Every pixel was sampled once with its grey level as probability (Salakhutdinov, Murray, "On the quantitative analysis of
deep belief networks", ICML 2008). H. Larochelle published the samples as ``binarized_mnist_{train,valid,test}.amat``:
one image per line, 784 digits 0 or 1 separated by spaces. The compact form has one bit per pixel (``numpy.packbits``),
98 bytes per image, as .npy compressed by xz.
"""

import hashlib
import io
import lzma
from pathlib import Path

import numpy as np

from ..folders.files import read_bytes

NUM_PIXELS = 784
_PIECE = 1 << 20
"""Bytes of text parsed at once, which bounds memory."""
SHA256 = {
    "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "valid": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}
"""Hashes of the text files, as TensorFlow Datasets lists them (url_checksums/binarized_mnist.txt)."""


def read_amat(path: Path) -> np.ndarray:
    """Read the pixels of a text file, compressed by gzip or not: one image per line, digits 0 and 1 between blanks.

    Returns:
        uint8 zeros and ones, (images, 784), each image in row-major order.

    Raises:
        FileNotFoundError: no such file.
        ValueError: corrupt gzip data, no lines, a value other than 0 and 1, or a line without 784 values.
    """
    content = read_bytes(path).rstrip()
    if not content:
        raise ValueError(f"{path} is empty: copy or download it anew")
    images, line, start = [], 1, 0
    while start < len(content):
        stop = content.find(b"\n", start + _PIECE) + 1 or len(content)
        images.append(_pixels(content[start:stop], path, line))
        line, start = line + len(images[-1]), stop
    return np.concatenate(images)


def _pixels(lines: bytes, path: Path, first: int) -> np.ndarray:
    """Parse whole lines of a file, the first of them line number ``first``; (images, 784) uint8."""
    text = np.frombuffer(lines, np.uint8)
    blank = np.isin(text, np.frombuffer(b" \t\r\n", np.uint8))
    wrong = ~blank & (text != ord("0")) & (text != ord("1"))
    wrong[1:] |= ~blank[1:] & ~blank[:-1]  # a value of several characters, for example 10
    if wrong.any():
        at = int(wrong.argmax())
        word = lines[: at + 20].split()[len(lines[:at].split()) - (at > 0 and not blank[at - 1])]
        line = first + lines.count(b"\n", 0, at)
        raise ValueError(
            f"{path}, line {line}: {word.decode('ascii', 'replace')!r} is no pixel, "
            "expected 0 or 1: give the fixed binarisation, binarized_mnist_*.amat, as it was distributed"
        )
    starts = np.append(0, np.flatnonzero(text[:-1] == ord("\n")) + 1)
    counts = np.add.reduceat(~blank, starts, dtype=np.int64)
    if (counts != NUM_PIXELS).any():
        line = int((counts != NUM_PIXELS).argmax())
        raise ValueError(
            f"{path}, line {first + line}: {counts[line]} pixels, expected {NUM_PIXELS}: the file is cut short or of "
            "another kind; copy or download it anew"
        )
    return (text[~blank] - ord("0")).reshape(-1, NUM_PIXELS)


def amat_sha256(pixels: np.ndarray) -> str:
    """Compute the sha256 of Larochelle's text file for these zeros and ones, (images, 784)."""
    sha256 = hashlib.sha256()
    for start in range(0, len(pixels), 1000):
        part = pixels[start : start + 1000]
        text = np.full((len(part), 2 * pixels.shape[1]), ord(" "), np.uint8)
        text[:, ::2] = part + ord("0")
        text[:, -1] = ord("\n")
        sha256.update(text.data)
    return sha256.hexdigest()


def read_packed(path: Path) -> np.ndarray:
    """Read the pixels of a compact file, .npy or .npy.xz.

    Returns:
        uint8 zeros and ones, (images, 784).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a corrupt file, or not an array of one bit per pixel.
    """
    content = path.read_bytes()
    try:
        if content.startswith(b"\xfd7zXZ"):
            content = lzma.decompress(content)
        bits = np.load(io.BytesIO(content), allow_pickle=False)
    except (lzma.LZMAError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is corrupt ({error}): write it anew from the .amat file") from error
    if bits.dtype != np.uint8 or bits.ndim != 2 or bits.shape[1] != NUM_PIXELS // 8:
        raise ValueError(
            f"{path} holds {bits.dtype} of shape {bits.shape}, expected uint8 of shape (images, {NUM_PIXELS // 8}): "
            "write it anew from the .amat file"
        )
    return np.unpackbits(bits, axis=1)


def write_packed(path: Path, pixels: np.ndarray) -> None:
    """Write zeros and ones, (images, 784), as a compact file, completely or not at all.

    Raises:
        ValueError: other values or another shape.
    """
    if pixels.ndim != 2 or pixels.shape[1] != NUM_PIXELS or not np.isin(pixels, (0, 1)).all():
        raise ValueError(f"pixels must be zeros and ones of shape (images, {NUM_PIXELS}), got shape {pixels.shape}")
    buffer = io.BytesIO()
    np.save(buffer, np.packbits(pixels.astype(np.uint8), axis=1), allow_pickle=False)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(lzma.compress(buffer.getvalue()))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
