"""Memory that the time loops of a net use in turn.

A loop of many steps writes buffers of hundreds of megabytes. Freshly allocated on a CPU, each page of them costs a
fault and a clearing, which takes longer than the arithmetic done on it; CUDA has PyTorch's caching allocator for that.
An arena keeps the block of the latest loop for the next one; a pool does so for what loops hand out.
"""

import copy
import math
import weakref
from typing import Any

import torch
from torch import Tensor

ALIGNED = 16
"""Numbers that every buffer starts at a multiple of: whole cache lines, as in memory of torch's own. Else the last bits
of a product would depend on whether its buffers come from the block, hence on the steps before."""
LARGE = 32 * 2**20
"""Bytes from which on the C library gives memory back to the system at once: mallopt(3), M_MMAP_THRESHOLD."""
KEPT = 8
"""Blocks of a pool: a training step hands out five at a time, and whoever collects outputs is not to fill it."""


class Pool:
    """Memory of large tensors, each block free for the next one when no tensor sees it any more.

    A tensor from here owns its storage as any other does, but cannot be resized.
    """

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._wanted = 0

    def empty(self, like: Tensor, *shape: int) -> Tensor:
        """A new tensor of this shape, not filled in, of the dtype and device of ``like``."""
        numbers = math.prod(shape)
        if like.device.type != "cpu" or numbers * like.element_size() < LARGE:
            return like.new_empty(shape)
        self._wanted = max(self._wanted, numbers)
        block = _take(self._blocks, like, self._wanted)
        seen = block[:numbers].view(shape).numpy()  # dies with the last tensor over it
        weakref.finalize(seen, _keep, self._blocks, block).atexit = False
        return torch.from_numpy(seen)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Pool":
        return memo.setdefault(id(self), Pool())

    def __reduce__(self) -> tuple[type["Pool"], tuple[()]]:
        return Pool, ()


def _take(blocks: list[Tensor], like: Tensor, wanted: int) -> Tensor:
    """The last block if it fits, or a new one; (numbers,), of the dtype and device of ``like``."""
    try:
        block = blocks.pop()
    except IndexError:
        block = None
    if block is None or block.dtype != like.dtype or block.device != like.device or len(block) < wanted:
        with torch.inference_mode(False):  # training cannot write to what inference mode has made
            block = like.new_empty(wanted)
    return block


def _keep(blocks: list[Tensor], block: Tensor) -> None:
    if len(blocks) < KEPT:
        blocks.append(block)


class Arena:
    """One block of memory, as large as the largest loop so far, kept between training steps.

    Loops may overlap and run in several threads: whoever finds the block taken gets a new one.

    Args:
        pool: memory for what loops hand out, which arenas of one net share; one of its own for None.
    """

    def __init__(self, pool: Pool | None = None) -> None:
        self.pool = Pool() if pool is None else pool
        self._blocks: list[Tensor] = []
        self._wanted = 0

    def borrow(self, like: Tensor) -> Tensor:
        """The block if it is free and large enough, or a new one; (numbers,), of the dtype and device of ``like``."""
        return _take(self._blocks, like, self._wanted if like.device.type == "cpu" else 0)

    def give_back(self, block: Tensor, wanted: int) -> None:
        """Take a block back from a loop that wanted that many numbers."""
        self._wanted = max(self._wanted, wanted)
        if not self._blocks and len(block) >= self._wanted:
            self._blocks.append(block)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Arena":
        return Arena(copy.deepcopy(self.pool, memo))

    def __reduce__(self) -> tuple[type["Arena"], tuple[Pool]]:
        return Arena, (self.pool,)


class Tape:
    """The buffers of one loop. They return to the arena when the loop's graph is gone."""

    def __init__(self, arena: Arena, like: Tensor) -> None:
        self.arena = arena
        self.block = arena.borrow(like)
        self.wanted = 0

    def room(self, *shape: int) -> Tensor:
        """A new buffer of this shape, not filled in."""
        start = -(-self.wanted // ALIGNED) * ALIGNED
        self.wanted = start + math.prod(shape)
        if self.wanted <= len(self.block):
            return self.block[start : self.wanted].view(shape)
        return torch.empty(shape, dtype=self.block.dtype, device=self.block.device)

    def __del__(self) -> None:
        self.arena.give_back(self.block, self.wanted)


class LoopMemory:
    """The memory of one network's time loops: an arena for each loop, and one pool for what all of them return."""

    def __init__(self) -> None:
        pool = Pool()
        self.forward, self.backward = Arena(pool), Arena(pool)
        self.prior, self.auxiliary = Arena(pool), Arena(pool)
