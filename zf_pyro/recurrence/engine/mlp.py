"""The MLPs and modulations of a time loop as programs, forward and backward.

Their PyTorch forms are in :mod:`zf_pyro.networks`. Values are (features, rows), where rows are sequences times
particles.
"""

from collections.abc import Sequence

from torch import Tensor

from .linear import Product
from .machines import Machine
from .operations import Instruction, Instructions, Ring, activate, activate_back, clamp, clamp_back, copy, single


class Bounded:
    """A clamped MLP over the steps of a loop: :class:`zf_pyro.networks.MLP`, then a clamp to [-limit, limit].

    It computes clip(W_2 phi(sum_i W_1i x_i + b_1) + b_2).

    Args:
        machine: runs the loop.
        firsts: the layers W_11 x_1 + b_1 and W_1i x_i; the first has no bias if ``rest`` contains b_1.
        second: the layer W_2 x + b_2.
        limit: bound of the clamp.
        num_steps: T.
        rows: sequences times particles.
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

    def forward(self, *xs: Ring, rest: Ring | None = None) -> Instructions:
        """Instructions from each x_i (in, rows) to ``out``; ``rest`` (hidden, rows) is added in place of b_1."""
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
        """Prepare a backward pass."""
        self.second.start_back(self.num_steps, self.rows)
        self.firsts[0].start_back(self.num_steps, self.rows)
        # The outputs of the first layers are summed, so that they have one gradient and share its slots.
        for first in self.firsts[1:]:
            first.start_back(self.num_steps, self.rows, self.firsts[0].slots)

    @property
    def gradient(self) -> Ring:
        """The ring to set to the gradient of ``out`` at each backward step; exists after ``start_back``."""
        return self.second.slots

    def back(self, *intos: Ring) -> Instructions:
        """Instructions that add to the gradient of each x_i; the first layer's slots then hold that of ``rest``."""
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


class MLPModulation(Bounded):
    """Gain and shift of :class:`NormedCell`, clip(MLP(z_t), -3, 3), (8 hidden, rows); or MLP(z_t) in the gates.

    Args:
        weights: W_1 (mlp, latent), b_1 (mlp,), W_2 (8 hidden, mlp), b_2 (8 hidden,); or 4 hidden for a plain cell.
        machine: runs the loop.
        num_steps: T.
        rows: sequences times particles.
        limit: bound of the outputs; infinite for none.
    """

    def __init__(self, weights: Sequence[Tensor], machine: Machine, num_steps: int, rows: int, limit: float) -> None:
        first, first_bias, second, second_bias = weights
        parts = [Product(machine, first, first_bias)], Product(machine, second, second_bias)
        super().__init__(machine, *parts, limit, num_steps, rows)


class LinearModulation:
    """The part W z_t of the gates of :class:`PlainCell`, (4 hidden, rows).

    Args:
        weights: W (4 hidden, latent) alone.
        machine: runs the loop.
        num_steps: T.
        rows: sequences times particles.
    """

    def __init__(self, weights: Sequence[Tensor], machine: Machine, num_steps: int, rows: int) -> None:
        self.product = Product(machine, weights[0])
        self.products = (self.product,)
        self.num_steps, self.rows = num_steps, rows
        # The backward pass of the cell does not read the modulation, so that one buffer serves every step.
        self.out = single(weights[0].new_empty(len(weights[0]), rows))

    def forward(self, x: Ring) -> Instructions:
        """Instructions from z_t (latent, rows) to ``out``."""
        return self.product.forward(self.out, x)

    def start_back(self) -> None:
        """Prepare a backward pass."""
        self.product.start_back(self.num_steps, self.rows)

    @property
    def gradient(self) -> Ring:
        """The ring to set to the gradient of ``out`` at each backward step; exists after ``start_back``."""
        return self.product.slots

    def back(self, into: Ring) -> Instructions:
        """Instructions that add to the gradient of z_t."""
        return self.product.add_back(into)
