"""Random programs, and the programs of the models' loops, for tests of fused kernels."""

import random
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch

from zf_pyro.recurrence.engine import backward_loop, heads, latent_loop, loops, operations
from zf_pyro.recurrence.engine.fused.formulas import FORMULAS, PRODUCTS
from zf_pyro.recurrence.engine.machines import PlainMachine
from zf_pyro.recurrence.engine.operations import Instruction, Ring

LOOPS = (loops, latent_loop, backward_loop, heads)
"""Modules whose loops ask for a machine."""
NUMBERED = {operations.fill, operations.clamp, operations.clamp_back}
"""Operations that take a float."""
SHAPES = {
    operations.product: ("g", "gf", "f", "g1"),
    operations.add_product: ("f", "fg", "g"),
    operations.scale: ("f", "1"),
    operations.sum_squares: ("p", "g"),
    operations.modulate: ("g", "g", "1", "p", "g", "g"),
    operations.modulate_back: ("g", "p", "g", "g", "g"),
    operations.normalise_back: ("g", "p", "g", "g", "g", "1"),
    operations.log_density_back: ("f", "f", "1", "f", "f", "f"),
    operations.lstm: ("f", "f", "f", "g", "f"),
    operations.lstm_back: ("f", "g", "f", "g", "f", "f"),
}
"""Kinds of operands: f features, g gates (4 f), 1 a row, p partial sums; of other operations all are f."""
COUNTS = {
    operations.copy: 2,
    operations.add: 2,
    operations.fill: 1,
    operations.activate: 1,
    operations.activate_back: 3,
    operations.clamp: 1,
    operations.clamp_back: 3,
    operations.draw: 4,
    operations.draw_back: 5,
}
"""Operands of operations on elements."""
KNOWN = (*FORMULAS, *PRODUCTS)
PARTS = 64
"""Partial sums of the machines of fused kernels."""


def kinds_of(operation):
    """Kinds of an operation's operands, as in :data:`SHAPES`."""
    return SHAPES.get(operation) or ("f",) * COUNTS[operation]


def operands_of(operation, features, rows, dtype, spread=1.0, seed=0, device="cpu"):
    """Random operands (features, rows) of an operation, each a tensor of its own."""
    generator = torch.Generator().manual_seed(seed)
    count = {"f": (features, rows), "g": (4 * features, rows), "1": (1, rows), "p": (PARTS, rows)}
    count |= {"gf": (4 * features, features), "fg": (features, 4 * features), "g1": (4 * features, 1)}
    draws = (torch.randn(count[kind], generator=generator, dtype=torch.float64) for kind in kinds_of(operation))
    return [
        (spread * draw.abs() if kind == "p" else spread * draw).to(device, dtype)
        for kind, draw in zip(kinds_of(operation), draws, strict=True)
    ]


class Buffers:
    """Rings that a random program reads and writes, and their memory, so that it can be copied."""

    def __init__(self, chance, features, rows, dtype, device="cpu"):
        self.chance, self.memory = chance, {}
        self.generator = torch.Generator().manual_seed(chance.randrange(10**6))

        def ring(*shape):
            drawn = 0.5 * torch.randn(shape, generator=self.generator, dtype=torch.float64)
            self.memory[len(self.memory)] = drawn.to(device, dtype)
            return self.memory[len(self.memory) - 1]

        small = [ring(chance.choice((1, 2, 3)), features, rows) for _ in range(4)]
        turned = [ring(3, rows, features).transpose(1, 2)]
        wide = [ring(chance.choice((1, 2)), 4 * features, rows) for _ in range(3)]
        blocks = [value[:, k * features : (k + 1) * features] for value in wide[:2] for k in range(4)]
        self.kinds = {"f": small + turned + blocks, "g": wide, "1": [ring(2, 1, rows)], "p": [ring(1, PARTS, rows)]}
        self.kinds |= {"gf": [ring(1, 4 * features, features)], "fg": [ring(1, features, 4 * features)]}
        self.kinds |= {"g1": [ring(1, 4 * features, 1)]}

    def pick(self, kind, taken):
        """A ring of a kind that shares no memory with those taken; None if there is none."""
        free = [ring for ring in self.kinds[kind] if not any(overlap(ring, other) for other in taken)]
        if not free:
            return None
        return Ring(self.chance.choice(free), self.chance.randrange(3))


def overlap(a, b):
    """Whether two tensors share memory, whatever their entries: the ranges of one buffer's blocks are compared."""
    if a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr():
        return False
    places = [
        torch.zeros(value.untyped_storage().nbytes() // value.element_size(), dtype=torch.bool) for value in (a, b)
    ]
    for place, value in zip(places, (a, b), strict=True):
        place.as_strided(value.shape, value.stride(), value.storage_offset()).fill_(True)
    return bool((places[0] & places[1]).any())


def random_program(seed, features=3, rows=3, dtype=torch.float64, length=7, device="cpu"):
    """A random program and the memory that it works on."""
    chance = random.Random(seed)
    buffers, program = Buffers(chance, features, rows, dtype, device), []
    while len(program) < length:
        operation = chance.choice(KNOWN)
        rings = []
        for kind in kinds_of(operation):
            rings.append(buffers.pick(kind, [ring.tensor for ring in rings if ring is not None]))
        if None not in rings:
            program.append(Instruction(operation, tuple(rings), 0.7 if operation in NUMBERED else None))
    return program, buffers.memory


def outcome(run, memory, *steps):
    """Run, return copies of the memory, and restore it."""
    before = {k: value.clone() for k, value in memory.items()}
    run(*steps)
    after = {k: value.clone() for k, value in memory.items()}
    for k, value in before.items():
        memory[k].copy_(value)
    return after


@contextmanager
def machines_of(kind, modules=LOOPS):
    """Loops of these modules run inside the block on ``kind``, called with the tape."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(patch.object(module, "machine_for", lambda tape, *sizes: kind(tape)))
        yield


def programs_of(step):
    """The programs that ``step()`` prepares, in order, run by PyTorch."""
    found = []

    class Recording(PlainMachine):
        blocks = PARTS

        def prepare(self, program):
            found.append(program)
            return super().prepare(program)

    with machines_of(Recording):
        step()
    return found
