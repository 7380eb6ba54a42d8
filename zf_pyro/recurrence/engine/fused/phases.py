"""Grouping of a program into launches of kernels.

- A *phase* is a list of instructions that a block of features runs without the results of other blocks: a product and
  the element-wise work around it. Its values stay in registers.
- A *launch* is a list of phases that do not depend on one another. They run side by side.

A sum over features ends a phase, as does a product that reads what the phase wrote.
"""

from typing import NamedTuple

from ..operations import Instruction, Instructions
from .accesses import UNALIGNED, conflicts, tiles
from .formulas import PRODUCTS

MOST_BLOCKS = 8
"""Most blocks of an operand in a phase, of as many features as the phase has: gain and shift of the four gates."""


class Phase(NamedTuple):
    """Instructions of one kernel's blocks."""

    instructions: tuple[Instruction, ...]
    features: int
    """Features of the smallest operand. The others have a multiple, in so many blocks."""


Launch = tuple[Phase, ...]
"""Phases that run side by side."""


def launches(program: Instructions) -> list[Launch]:
    """Group a program, all of whose operations are known, into launches in their order."""
    grouping = _Grouping(program)
    for k in range(len(program)):
        grouping.join(k)
    return grouping.launches()


class _Grouping:
    """Phases while they grow: each instruction begins as a phase of its own."""

    def __init__(self, program: Instructions) -> None:
        self.program = program
        self.reasons = {
            (i, k): found for k in range(len(program)) for i in range(k) if (found := conflicts(program[i], program[k]))
        }
        self.features = [min(ring.tensor.shape[1] for ring in tiles(instruction)) for instruction in program]
        self.widest = [max(ring.tensor.shape[1] for ring in tiles(instruction)) for instruction in program]
        self.uneven = [
            any(ring.tensor.shape[1] % least for ring in tiles(instruction))
            for instruction, least in zip(program, self.features, strict=True)
        ]
        self.home = [[k] for k in range(len(program))]
        """The phase of each instruction: a list that its members share."""

    def join(self, k: int) -> None:
        """Merge the phase of instruction k with those that it depends on, the latest first."""
        before = {i for i, j in self.reasons if j == k}
        depth = self._depths()
        for i in sorted(before, key=lambda i: (-depth[id(self.home[i])], -i)):
            first, second = self.home[i], self.home[k]
            if first is not second and self._fits(first, second):
                merged = sorted([*first, *second])
                for member in merged:
                    self.home[member] = merged

    def launches(self) -> list[Launch]:
        """The phases by depth."""
        depth = self._depths()
        found: dict[int, list[Phase]] = {}
        for k, home in enumerate(self.home):
            if home[0] == k:
                phase = Phase(tuple(self.program[i] for i in home), min(self.features[i] for i in home))
                found.setdefault(depth[id(home)], []).append(phase)
        return [tuple(found[level]) for level in sorted(found)]

    def _fits(self, first: list[int], second: list[int]) -> bool:
        """Whether two phases can be one."""
        members = sorted([*first, *second])
        features = min(self.features[i] for i in members)
        wide = max(self.widest[i] for i in members)
        if any(self.uneven[i] or self.features[i] % features for i in members) or wide > MOST_BLOCKS * features:
            return False
        for i in members:
            for k in members:
                if any(shift == UNALIGNED or shift % features for shift in self.reasons.get((i, k), ())):
                    return False
        products = [self.program[i] for i in members if self.program[i].operation in PRODUCTS]
        if any(not _same_output(products[0], other) for other in products[1:]):
            return False
        # In one phase both run as late as the later one. A product that could run earlier, beside others, does so.
        merged = {id(first), id(second)}
        depth = self._depths(without=merged)
        if depth[id(first)] < depth[id(second)] and any(self.program[i].operation in PRODUCTS for i in first):
            return False
        return not self._cyclic(merged)

    def _edges(self) -> dict[int, set[int]]:
        """The phases on which each phase depends, by identity."""
        found: dict[int, set[int]] = {id(home): set() for home in self.home}
        for i, k in self.reasons:
            if self.home[i] is not self.home[k]:
                found[id(self.home[k])].add(id(self.home[i]))
        return found

    def _depths(self, without: set[int] | None = None) -> dict[int, int]:
        """The longest chain of phases before each one; dependencies between those in ``without`` do not count."""
        edges, found = self._edges(), dict[int, int]()

        def depth(phase: int) -> int:
            if phase not in found:
                before = edges[phase] - without if without and phase in without else edges[phase]
                found[phase] = 1 + max(map(depth, before), default=-1)
            return found[phase]

        for phase in edges:
            depth(phase)
        return found

    def _cyclic(self, merged: set[int]) -> bool:
        """Whether one of the merged phases depends on another by way of a third."""
        edges, seen = self._edges(), set[int]()
        ahead = [other for phase in merged for other in edges[phase] - merged]
        while ahead:
            phase = ahead.pop()
            if phase in merged:
                return True
            if phase not in seen:
                seen.add(phase)
                ahead += edges[phase]
        return False


def _same_output(first: Instruction, second: Instruction) -> bool:
    """Whether two products write the same elements."""
    a, b = first.operands[0], second.operands[0]
    same = a.tensor.data_ptr() == b.tensor.data_ptr() and a.tensor.shape == b.tensor.shape
    return same and a.tensor.stride() == b.tensor.stride() and (a.offset - b.offset) % len(a.tensor) == 0
