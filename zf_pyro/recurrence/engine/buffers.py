"""Memory that the time loops of a network reuse.

A loop of many steps writes buffers of hundreds of megabytes. On a CPU, each page of a fresh allocation costs a page
fault and is cleared, which takes longer than the arithmetic on it. On CUDA, PyTorch's caching allocator reuses memory.

- An arena keeps the block with the latest loop's internal buffers for the next loop.
- A pool keeps the blocks of tensors that loops return.
- A tape cuts a block into the buffers of one loop.
"""

import copy
import math
import weakref
from typing import Any

import torch
from torch import Tensor

ALIGNED = 16
"""Buffers start at multiples of so many elements, hence at cache lines (64 bytes), as memory that torch allocates does.
Otherwise the last bits of a product would depend on whether its buffers lie in the block, hence on earlier steps."""
LARGE = 32 * 2**20
"""Bytes from which on the C library returns freed memory to the system at once: mallopt(3), M_MMAP_THRESHOLD. Pools
lower the page faults of a training step from 116,000 to 53,000 at hidden size 512 (docs/speed.md)."""
KEPT = 8
"""Most free blocks of a pool. A training step returns five at a time; a caller that collects outputs frees more."""


class Pool:
    """Memory of large tensors. A block is reused when no tensor refers to it any more.

    A tensor from a pool owns its storage like any other tensor, but cannot be resized.
    """

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._wanted = 0

    def empty(self, like: Tensor, *shape: int) -> Tensor:
        """Return an uninitialised tensor of this shape, of the dtype and device of ``like`` (...)."""
        numbers = math.prod(shape)
        if like.device.type != "cpu" or numbers * like.element_size() < LARGE:
            return like.new_empty(shape)
        self._wanted = max(self._wanted, numbers)
        block = _take(self._blocks, like, self._wanted)
        # The storage that torch makes of an array holds the array, which therefore dies with the last tensor on it.
        seen = block[:numbers].view(shape).numpy()
        weakref.finalize(seen, _keep, self._blocks, block).atexit = False
        return torch.from_numpy(seen)

    # Copies and pickles of a network get empty memory. Within one copy, its arenas still share one pool.
    def __deepcopy__(self, memo: dict[int, Any]) -> "Pool":
        return memo.setdefault(id(self), Pool())

    def __reduce__(self) -> tuple[type["Pool"], tuple[()]]:
        return Pool, ()


def _take(blocks: list[Tensor], like: Tensor, wanted: int) -> Tensor:
    """Return the last block if it fits, or a new one; (elements,), of the dtype and device of ``like``."""
    try:  # pop is atomic, so that two threads never take the same block
        block = blocks.pop()
    except IndexError:
        block = None
    if block is None or block.dtype != like.dtype or block.device != like.device or len(block) < wanted:
        with torch.inference_mode(False):  # training could not write to an inference tensor
            block = like.new_empty(wanted)
    return block


def _keep(blocks: list[Tensor], block: Tensor) -> None:
    if len(blocks) < KEPT:
        blocks.append(block)


class Arena:
    """One block of memory, as large as the largest loop so far, kept between training steps.

    Loops may overlap and run in several threads. A loop that finds the block in use gets a new one.

    Args:
        pool: memory for tensors that loops return, shared by the arenas of one network; None for a new pool.
    """

    def __init__(self, pool: Pool | None = None) -> None:
        self.pool = Pool() if pool is None else pool
        self._blocks: list[Tensor] = []
        self._wanted = 0

    def borrow(self, like: Tensor) -> Tensor:
        """Return the block if it is free and large enough, or a new one.

        The block is (elements,), of the dtype and device of ``like`` (...).
        """
        return _take(self._blocks, like, self._wanted if like.device.type == "cpu" else 0)

    def give_back(self, block: Tensor, wanted: int) -> None:
        """Take back a block (elements,) from a loop that requested ``wanted`` elements.

        A block that was too small is dropped, and the next one is made large enough.
        """
        self._wanted = max(self._wanted, wanted)
        if not self._blocks and len(block) >= self._wanted:
            self._blocks.append(block)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Arena":
        return Arena(copy.deepcopy(self.pool, memo))

    def __reduce__(self) -> tuple[type["Arena"], tuple[Pool]]:
        return Arena, (self.pool,)


class Tape:
    """The buffers of one loop, cut from one block. It returns to the arena when the loop's autograd graph is freed.

    Args:
        arena: the owner of the block.
        like: a tensor (...) whose dtype and device the buffers get.
    """

    def __init__(self, arena: Arena, like: Tensor) -> None:
        self.arena = arena
        self.block = arena.borrow(like)
        self.wanted = 0

    def room(self, *shape: int) -> Tensor:
        """Return an uninitialised buffer of this shape: part of the block if it has room, else newly allocated."""
        start = -(-self.wanted // ALIGNED) * ALIGNED
        self.wanted = start + math.prod(shape)
        if self.wanted <= len(self.block):
            return self.block[start : self.wanted].view(shape)
        return torch.empty(shape, dtype=self.block.dtype, device=self.block.device)

    def __del__(self) -> None:
        self.arena.give_back(self.block, self.wanted)


class LoopMemory:
    """The memory of one network's time loops: an arena per loop, and one pool for the tensors that they return."""

    def __init__(self) -> None:
        pool = Pool()
        self.forward, self.backward = Arena(pool), Arena(pool)
        self.prior, self.auxiliary = Arena(pool), Arena(pool)
