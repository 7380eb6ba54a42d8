"""The text of phases in Triton's language.

The text depends on the sizes of features, not on the number of steps or rows: these are arguments, so that few kernels
are compiled.
"""

import torch

from ..operations import Instruction, Ring
from .accesses import tiles
from .formulas import FORMULAS, PRODUCTS, assignments, parameters, replaced
from .phases import Phase

LEAST = 16
"""Least size of a block in each dimension: a product in Triton needs as much."""
MOST_ROWS = 64
"""Most rows of a block."""
INNER = 32
"""Features of a product's factor that are read at a time."""

Place = tuple[int, ...]
"""Identity of a block of features within a step: the address of its first element, strides, ring and entry."""


class PhaseText:
    """The text of a kernel's phases while it is written.

    It uses the names ``block`` (of features, counted over the phases of a launch), ``row`` (1, rows), ``rows``, ``t``,
    and for ring k its arguments ``p, n, o, s, f, r``: address, entries, offset and strides.

    Args:
        rows: sequences times particles.
        dtype: float32 or float64.
        precision: Triton's ``input_precision`` of products, ``"ieee"`` or ``"tf32"``.
    """

    def __init__(self, rows: int, dtype: torch.dtype, precision: str) -> None:
        self.block_rows = min(MOST_ROWS, max(LEAST, _power_of_two(rows)))
        self.dtype, self.precision = str(dtype).replace("torch.", "tl."), precision
        self.rings: dict[Place, Ring] = {}
        self.lines: list[str] = []
        self.count = 0

    def phase(self, phase: Phase, first: int) -> int:
        """Append a phase, whose blocks of features follow ``first`` others; returns the number of blocks so far."""
        # A block writes its sum over features to its own place among the partial sums, of which there are so many.
        places = [
            ring.tensor.shape[1]
            for operation, operands, _ in phase.instructions
            for name, ring in zip(parameters(operation), operands, strict=False)
            if operation in FORMULAS and name == FORMULAS[operation].parts
        ]
        self.size = max(LEAST, _power_of_two(-(-phase.features // min(places, default=phase.features))))
        self.features, self.blocks = phase.features, -(-phase.features // self.size)
        self.values: dict[Place, str] = {}
        self.changed: dict[Place, str] = {}
        self.opened: set[str] = set()
        self.loaded: set[Place] = set()
        self.lines.append(f"    if (block >= {first}) & (block < {first + self.blocks}):")
        self.tile = self.name()
        self.write(f"{self.tile} = block - {first}")
        self.feature = self.name()
        self.write(f"{self.feature} = {self.tile} * {self.size} + tl.arange(0, {self.size})[:, None]")
        self.inside = self.name()
        self.write(f"{self.inside} = ({self.feature} < {self.features}) & (row < rows)")
        for instruction in phase.instructions:
            if instruction.operation in PRODUCTS:
                self.product(instruction)
            else:
                self.formula(instruction)
        if self.loaded & self.changed.keys():  # a thread may store an element that another one has yet to load
            self.write("tl.debug_barrier()")
        self.lines += self.changed.values()
        return first + self.blocks

    def name(self) -> str:
        """A name that the kernel does not have yet."""
        self.count += 1
        return f"v{self.count}"

    def write(self, line: str) -> None:
        """Append a line of the phase."""
        self.lines.append(f"        {line}")

    def argument(self, ring: Ring) -> int:
        """The number of a ring among the arguments, at whose entry ``q...`` points."""
        tensor = ring.tensor
        place = (tensor.data_ptr(), *tensor.stride(), *tensor.shape, ring.offset)
        if place not in self.rings:
            self.rings[place] = ring
        k = list(self.rings).index(place)
        self.once(f"q{k}", f"p{k} + ((t + o{k}) % n{k}).to(tl.int64) * s{k}")
        return k

    def once(self, name: str, value: str) -> str:
        """Give a value a name, unless the phase has done so."""
        if name not in self.opened:
            self.opened.add(name)
            self.write(f"{name} = {value}")
        return name

    def shifted(self, k: int, start: str, block: int) -> str:
        """Addresses ``start`` of argument k, moved on to one of its blocks of features."""
        return f"{start} + {block * self.features} * f{k}" if block else start

    def place(self, ring: Ring, block: int = 0) -> Place:
        """The identity of one of a ring's blocks of features."""
        tensor = ring.tensor
        start = tensor.data_ptr() + block * self.features * tensor.stride(1) * tensor.element_size()
        return start, *tensor.stride(), len(tensor), ring.offset % len(tensor)

    def address(self, ring: Ring, block: int) -> str:
        """The addresses of this kernel block's part of one of a ring's blocks of features."""
        k = self.argument(ring)
        return self.shifted(k, self.once(f"a{k}", f"q{k} + {self.feature} * f{k} + row * r{k}"), block)

    def read(self, ring: Ring, block: int) -> str:
        """The name of a tile (features, rows), which is loaded at its first use."""
        place = self.place(ring, block)
        if place not in self.values:
            address, value = self.address(ring, block), self.name()
            self.write(f"{value} = tl.load({address}, mask={self.inside}, other=0.0)")
            self.values[place] = value
            self.loaded.add(place)
        return self.values[place]

    def assign(self, ring: Ring, block: int, value: str) -> None:
        """Make ``value`` the tile of a ring; it is stored at the end of the phase."""
        place = self.place(ring, block)
        self.values[place] = value
        self.changed[place] = f"        tl.store({self.address(ring, block)}, {value}, mask={self.inside})"

    def vector(self, ring: Ring) -> str:
        """The name of a row of elements (1, rows)."""
        place = self.place(ring)
        if place not in self.values:
            k, value = self.argument(ring), self.name()
            self.write(f"{value} = tl.load(q{k} + row * r{k}, mask=row < rows, other=0.0)")
            self.values[place] = value
        return self.values[place]

    def assign_vector(self, ring: Ring, value: str) -> None:
        """Make ``value`` a row of elements (1, rows), which the first block of features stores."""
        k, place = self.argument(ring), self.place(ring)
        self.values[place] = value
        mask = f"row < tl.where({self.tile} == 0, rows, 0)"
        self.changed[place] = f"        tl.store(q{k} + row * r{k}, {value}, mask={mask})"

    def total(self, ring: Ring) -> str:
        """The name of the sum of partial sums (blocks, rows), as a row (1, rows)."""
        place = self.place(ring)
        if place not in self.values:
            k, index, value = self.argument(ring), self.indices(ring), self.name()
            mask = f"({index} < {ring.tensor.shape[1]}) & (row < rows)"
            loaded = f"tl.load(q{k} + {index} * f{k} + row * r{k}, mask={mask}, other=0.0)"
            self.write(f"{value} = tl.sum({loaded}, axis=0)[None, :]")
            self.values[place] = value
        return self.values[place]

    def assign_total(self, ring: Ring, value: str) -> None:
        """Store this block's sum (1, rows) at its place among the partial sums, and zeros at places that have none."""
        k, index = self.argument(ring), self.indices(ring)
        mask = f"({index} < {ring.tensor.shape[1]}) & ({index} % {self.blocks} == {self.tile}) & (row < rows)"
        self.write(
            f"tl.store(q{k} + {index} * f{k} + row * r{k}, tl.where({index} == {self.tile}, {value}, 0.0), mask={mask})"
        )

    def indices(self, ring: Ring) -> str:
        """The name of the indices of partial sums, (blocks, 1)."""
        value = self.name()
        self.write(f"{value} = tl.arange(0, {_power_of_two(ring.tensor.shape[1])})[:, None]")
        return value

    def formula(self, instruction: Instruction) -> None:
        """Append an operation on elements: once for each block of features of its smallest operand."""
        operation, operands, number = instruction
        formula = FORMULAS[operation]
        given = parameters(operation)
        rings = dict(zip(given, operands, strict=False))
        least = min(ring.tensor.shape[1] for ring in tiles(instruction))
        own: dict[str, str] = {} if number is None else {given[-1]: _number(number)}
        own["features"] = str(float(tiles(instruction)[0].tensor.shape[1]))
        sums: list[str] = []
        blocks = least // self.features
        for block in range(blocks):

            def value(name: str, part: int | None, block: int = block) -> str:
                if name in rings:
                    if name in formula.vectors:
                        return self.vector(rings[name])
                    if name == formula.parts:
                        return self.total(rings[name])
                    return self.read(rings[name], (part or 0) * blocks + block)
                if name == "zero":
                    return f"tl.zeros(({self.size}, {self.block_rows}), {self.dtype})"
                return own[name]

            for left, right in assignments(formula):
                name, _, part = left.rstrip("]").partition("[")
                summed = name == formula.parts
                expression = replaced(right.removeprefix("total") if summed else right, value)
                result = self.name()
                self.write(f"{result} = {expression}")
                if summed:
                    sums.append(f"tl.where({self.feature} < {self.features}, {result}, 0.0)")
                elif name in formula.vectors:
                    self.assign_vector(rings[name], result)
                elif name in rings:
                    self.assign(rings[name], int(part or 0) * blocks + block, result)
                else:
                    own[name] = result
        if sums:
            result = self.name()
            self.write(f"{result} = tl.sum({' + '.join(sums)}, axis=0)[None, :]")
            self.assign_total(rings[formula.parts], result)

    def product(self, instruction: Instruction) -> None:
        """Append out = W x + b, or out += W x, with one sum for each block of features of the output."""
        operation, (out, weight, x, *bias), _ = instruction
        inner, sums = x.tensor.shape[1], []
        blocks = range(out.tensor.shape[1] // self.features)
        for block in blocks:
            sums.append(self.name())
            begin = f"tl.zeros(({self.size}, {self.block_rows}), {self.dtype})"
            if PRODUCTS[operation]:
                begin = self.read(out, block)
            elif bias:
                b = self.argument(bias[0])
                start = self.shifted(b, self.once(f"b{b}", f"q{b} + {self.feature} * f{b}"), block)
                begin += f" + tl.load({start}, mask={self.feature} < {self.features}, other=0.0)"
            self.write(f"{sums[block]} = {begin}")
        w, v, k, at, factor, part = self.argument(weight), self.argument(x), *(self.name() for _ in range(4))
        self.write(f"for {k} in range(0, {inner}, {INNER}):")
        self.write(f"    {at} = {k} + tl.arange(0, {INNER})")
        known = f"({at}[:, None] < {inner}) & (row < rows)"
        self.write(f"    {factor} = tl.load(q{v} + {at}[:, None] * f{v} + row * r{v}, mask={known}, other=0.0)")
        start, known = self.name(), self.name()
        self.write(f"    {start} = q{w} + {self.feature} * f{w} + {at}[None, :] * r{w}")
        self.write(f"    {known} = ({self.feature} < {self.features}) & ({at}[None, :] < {inner})")
        settings = f'input_precision="{self.precision}", out_dtype={self.dtype}'
        for block in blocks:
            self.write(f"    {part} = tl.load({self.shifted(w, start, block)}, mask={known}, other=0.0)")
            self.write(f"    {sums[block]} = tl.dot({part}, {factor}, {sums[block]}, {settings})")
        for block in blocks:
            self.assign(out, block, sums[block])


def _power_of_two(number: int) -> int:
    """The next power of two."""
    return 1 << max(0, number - 1).bit_length()


def _number(number: float) -> str:
    """A float in Triton's language."""
    return repr(number) if abs(number) != float("inf") else f'float("{number}")'
