"""Memory that the time loops of a network reuse.

A loop of many steps writes buffers of hundreds of megabytes. On a CPU, each page of a fresh allocation costs a page
fault and is cleared, which takes longer than the arithmetic on it. On CUDA, PyTorch's caching allocator reuses memory.

- An arena keeps the block with the latest loop's internal buffers for the next loop.
- A pool keeps the blocks of tensors that loops return.
- A tape cuts a block into the buffers of one loop.

Blocks are as large as the largest loop needs. They shrink after several much smaller loops in a row.
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
RETURNED = 5
"""Tensors of a pool that a training step returns at a time."""
KEPT = 8
"""Most free blocks of a pool. A caller that collects outputs of several steps frees more."""


SHRINK = 4
"""Blocks more than so many times as large as needed are dropped: batches of one data set differ by less."""
PATIENCE = 8
"""Much smaller loops in a row after which blocks are dropped. A few, such as those of a validation, drop none."""


class Demand:
    """Elements that blocks should have: the most ever requested, until much less is, many times in a row.

    Args:
        patience: much smaller requests in a row after which the demand falls to the largest of them.
    """

    def __init__(self, patience: int) -> None:
        self.elements = 0
        self._patience = patience
        self._few = self._most = 0  # much smaller requests in a row: their number, and the largest

    def note(self, wanted: int) -> bool:
        """Count a request of ``wanted`` elements; True if the demand has fallen."""
        if wanted * SHRINK >= self.elements:
            self.elements, self._few, self._most = max(self.elements, wanted), 0, 0
            return False
        self._few, self._most = self._few + 1, max(self._most, wanted)
        if self._few < self._patience:
            return False
        self.elements, self._few, self._most = self._most, 0, 0
        return True


class Pool:
    """Memory of large tensors. A block is reused when no tensor refers to it any more.

    A tensor from a pool owns its storage like any other tensor, but cannot be resized.
    """

    def __init__(self) -> None:
        self.release()

    def release(self) -> None:
        """Drop all blocks; those in use, when the last tensor on them dies."""
        self._blocks: list[Tensor] = []  # a new list: blocks in use return to the old one
        self._demand = Demand(RETURNED * PATIENCE)

    def empty(self, like: Tensor, *shape: int) -> Tensor:
        """Return an uninitialised tensor of this shape, of the dtype and device of ``like`` (...)."""
        numbers = math.prod(shape)
        if like.device.type != "cpu":
            return like.new_empty(shape)
        if self._demand.note(numbers):
            self._blocks = []
        if numbers * like.element_size() < LARGE:
            return like.new_empty(shape)
        block = _take(self._blocks, like, self._demand.elements)
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
        self.release()

    def release(self) -> None:
        """Drop the block; if it is in use, when its loop gives it back."""
        self.shelf: list[Tensor] = []  # a new list, by which `give_back` knows the loops that started before
        self._demand = Demand(PATIENCE)

    def borrow(self, like: Tensor) -> Tensor:
        """Return the block if it is free and large enough, or a new one.

        The block is (elements,), of the dtype and device of ``like`` (...).
        """
        return _take(self.shelf, like, self._demand.elements if like.device.type == "cpu" else 0)

    def give_back(self, block: Tensor, wanted: int, shelf: list[Tensor]) -> None:
        """Take back a block (elements,) from a loop that requested ``wanted`` elements.

        A block that was too small is dropped, and the next one is made large enough. A much too large one is dropped
        after several such loops. ``shelf`` is the arena's when the loop started.
        """
        if shelf is not self.shelf:  # memory was released meanwhile
            return
        if self._demand.note(wanted):
            self.shelf = []
        if not self.shelf and self._demand.elements <= len(block) <= SHRINK * self._demand.elements:
            self.shelf.append(block)

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
        self.arena, self.shelf = arena, arena.shelf
        self.wanted = 0
        self.block = arena.borrow(like)

    def room(self, *shape: int) -> Tensor:
        """Return an uninitialised buffer of this shape: part of the block if it has room, else newly allocated."""
        start = -(-self.wanted // ALIGNED) * ALIGNED
        self.wanted = start + math.prod(shape)
        if self.wanted <= len(self.block):
            return self.block[start : self.wanted].view(shape)
        return torch.empty(shape, dtype=self.block.dtype, device=self.block.device)

    def __del__(self) -> None:
        if "block" in self.__dict__:  # else __init__ failed, or never ran
            self.arena.give_back(self.block, self.wanted, self.shelf)


class LoopMemory:
    """The memory of one network's time loops: an arena per loop, and one pool for the tensors that they return."""

    def __init__(self) -> None:
        pool = Pool()
        self.forward, self.backward = Arena(pool), Arena(pool)
        self.prior, self.auxiliary, self.recurrence = Arena(pool), Arena(pool), Arena(pool)

    def release(self) -> None:
        """Give all blocks back to the system. Loops that start later allocate new ones."""
        for arena in (self.forward, self.backward, self.prior, self.auxiliary, self.recurrence):
            arena.release()
        self.forward.pool.release()
