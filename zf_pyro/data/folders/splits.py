"""Held-out documents or images, chosen by a hash of their names: the same on every machine and in every version."""

import hashlib
from collections.abc import Iterable, Sequence


def held_out(names: Sequence[str], counts: Iterable[int]) -> list[list[int]]:
    """Split indices into a remainder and held-out parts.

    Names are sorted by their sha256; the parts are taken from the start of that order.

    Args:
        names: one unique name per document or image.
        counts: size of each held-out part.

    Returns:
        Indices of the remainder, then of each part; every list in ascending order.

    Raises:
        ValueError: the remainder or a part would be empty.
    """
    counts = list(counts)
    if min(counts, default=1) < 1 or sum(counts) >= len(names):
        raise ValueError(
            f"parts of {', '.join(map(str, counts))} cannot be held out of {len(names)}: each needs one at least, and "
            "so does what is left for training: give more data"
        )
    order = sorted(range(len(names)), key=lambda index: hashlib.sha256(names[index].encode()).digest())
    parts, start = [], 0
    for count in counts:
        parts.append(sorted(order[start : start + count]))
        start += count
    return [sorted(order[start:]), *parts]
