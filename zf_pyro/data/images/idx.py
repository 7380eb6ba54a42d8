"""Arrays in the IDX format of MNIST, compressed by gzip or not.

The format, as Y. LeCun's page of the MNIST database gives it: two zero bytes, one for the type of the numbers, one for
how many axes there are, the size of each axis as a big-endian 32-bit integer, then the numbers in C order.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

_UINT8 = 0x08
"""The format's code of unsigned bytes, the only numbers that MNIST has."""


def read_bytes(path: Path) -> bytes:
    """A file's content, decompressed where it begins as gzip does.

    Raises:
        ValueError: the gzip data is cut short or corrupt.
    """
    content = path.read_bytes()
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} is corrupt gzip data ({error}): delete it and copy or download it anew ({len(content)} bytes here)"
        ) from error


def read_idx(path: Path, num_axes: int) -> np.ndarray:
    """The unsigned bytes in an IDX file: MNIST's images on 3 axes (image, row, column), or its labels on 1.

    Returns:
        A read-only uint8 array of ``num_axes`` axes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: corrupt gzip data, no IDX, other numbers or axes, or fewer or more numbers than the header says.
    """
    content = read_bytes(path)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError(
            f"{path} is no IDX file: it begins with {content[:4].hex(' ') or 'nothing'}, expected "
            f"00 00 {_UINT8:02x} {num_axes:02x}: give MNIST's *-ubyte or *-ubyte.gz file as it was distributed"
        )
    if content[2:4] != bytes([_UINT8, num_axes]):
        raise ValueError(
            f"{path} has the IDX magic number {content[:4].hex(' ')}, expected 00 00 {_UINT8:02x} {num_axes:02x} "
            f"(unsigned bytes on {num_axes} axes): images and labels may be exchanged"
        )
    start = 4 + 4 * num_axes
    if len(content) < start:
        raise ValueError(f"{path} ends within its IDX header, after {len(content)} bytes: copy or download it anew")
    shape = struct.unpack(f">{num_axes}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"{path} holds {len(content) - start} numbers, its header says {' x '.join(map(str, shape))} = "
            f"{math.prod(shape)}: copy or download it anew"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
