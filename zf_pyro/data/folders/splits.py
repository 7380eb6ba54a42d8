"""Which documents or images are held out: by a hash of their names, the same on every machine and in every version."""

import hashlib
from collections.abc import Iterable, Sequence


def held_out(names: Sequence[str], counts: Iterable[int]) -> list[list[int]]:
    """Indices of the names that are left, then of those held out in each of some parts; each list in ascending order.

    The names are put in the order of their sha256 and the parts taken from its beginning.

    Args:
        names: one for each document or image, each different.
        counts: how many to hold out in each part.

    Raises:
        ValueError: nothing would be left, or a part be empty.
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
