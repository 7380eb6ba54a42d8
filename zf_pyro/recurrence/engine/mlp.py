"""The networks of a time loop as programs, forward and back; their plain twins are in :mod:`zf_pyro.networks.cells`."""

from collections.abc import Sequence

from torch import Tensor

from .linear import Product
from .machines import Machine
from .operations import Instruction, Program, Ring, activate, activate_back, clamp, clamp_back, copy, single


class Bounded:
    """clip(W_2 phi(sum_i W_1i x_i + b_1) + b_2) over the steps of a loop: :class:`zf_pyro.networks.MLP`, then a clamp.

    Args:
        machine: runs the loop.
        firsts: W_11 x_1 + b_1, then W_1i x_i; the first has no bias where ``rest`` carries it.
        second: W_2 x + b_2.
        limit: bound of the clamp.
        num_steps: T.
        rows: columns of a step.
    """

    def __init__(
        self, machine: Machine, firsts: Sequence[Product], second: Product, limit: float, num_steps: int, rows: int
    ) -> None:
        self.firsts, self.second = tuple(firsts), second
        self.products = *self.firsts, second
        self.limit, self.num_steps, self.rows = limit, num_steps, rows
        out_dim, mlp_dim = second.matrix.shape
        self.out, self.inner = machine.room(num_steps, out_dim, rows), machine.room(num_steps, mlp_dim, rows)
        self.scratch = single(second.matrix.new_empty(mlp_dim, rows))

    def forward(self, *xs: Ring, rest: Ring | None = None) -> Program:
        """From each x_i (in, rows), and ``rest`` (hidden, rows) in place of b_1 if it is given, to ``out``."""
        inner, firsts = [], zip(self.firsts, xs, strict=True)
        if rest is None:
            first, x = next(firsts)
            inner = first.forward(self.inner, x)
        else:
            inner = [Instruction(copy, (self.inner, rest))]
        more = [instruction for first, x in firsts for instruction in first.add(self.inner, x)]
        bounded = Instruction(clamp, (self.out,), self.limit)
        return [
            *inner,
            *more,
            Instruction(activate, (self.inner,)),
            *self.second.forward(self.out, self.inner),
            bounded,
        ]

    def start_back(self) -> None:
        """Before the first step back."""
        self.second.start_back(self.num_steps, self.rows)
        self.firsts[0].start_back(self.num_steps, self.rows)
        for first in self.firsts[1:]:
            first.start_back(self.num_steps, self.rows, self.firsts[0].slots)

    @property
    def gradient(self) -> Ring:
        """Where the gradient of ``out`` is to be set at each step back; there after ``start_back``."""
        return self.second.slots

    def back(self, *intos: Ring) -> Program:
        """From ``gradient`` to that of each x_i, which is added to; the first slots then hold that of rest."""
        slots = self.firsts[0].slots
        through = [
            instruction for part in zip(self.firsts, intos, strict=True) for instruction in part[0].add_back(part[1])
        ]
        return [
            Instruction(clamp_back, (self.gradient, self.gradient, self.out), self.limit),
            *self.second.back(self.scratch),
            Instruction(activate_back, (slots, self.scratch, self.inner)),
            *through,
        ]


class BoundedModulation(Bounded):
    """Gain and shift, clip(MLP(z_t), -3, 3), for :class:`NormedCell`; weights W_1, b_1, W_2, b_2."""

    def __init__(self, weights: Sequence[Tensor], machine: Machine, num_steps: int, rows: int) -> None:
        first, first_bias, second, second_bias = weights
        parts = [Product(machine, first, first_bias)], Product(machine, second, second_bias)
        super().__init__(machine, *parts, 3.0, num_steps, rows)


class LinearModulation:
    """W z_t, added to the gates of :class:`PlainCell`; weight W."""

    def __init__(self, weights: Sequence[Tensor], machine: Machine, num_steps: int, rows: int) -> None:
        self.product = Product(machine, weights[0])
        self.products = (self.product,)
        self.num_steps, self.rows = num_steps, rows
        # The cell does not need the modulation on its way back, so that one buffer serves every step.
        self.out = single(weights[0].new_empty(len(weights[0]), rows))

    def forward(self, x: Ring) -> Program:
        return self.product.forward(self.out, x)

    def start_back(self) -> None:
        self.product.start_back(self.num_steps, self.rows)

    @property
    def gradient(self) -> Ring:
        return self.product.slots

    def back(self, into: Ring) -> Program:
        return self.product.add_back(into)
