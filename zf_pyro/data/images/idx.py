"""Arrays in the IDX format of MNIST, compressed by gzip or not.

The format, from Y. LeCun's page of the MNIST database: two zero bytes, one byte for the data type, one for the number
of axes, the size of each axis as a big-endian 32-bit integer, then the values in C order.
"""

import math
import struct
from pathlib import Path

import numpy as np

from ..folders.files import read_bytes

_UINT8 = 0x08
"""Code of unsigned bytes, the only data type that MNIST uses."""


def read_idx(path: Path, num_axes: int) -> np.ndarray:
    """Read the unsigned bytes of an IDX file: MNIST's images (image, row, column), or its labels (image,).

    Returns:
        A read-only uint8 array of ``num_axes`` axes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: corrupt gzip data, no IDX, another data type or number of axes, or a size other than in the header.
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
