"""Multi-layer perceptrons with a first layer split by input, and the parameters of diagonal normals."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .as_built import as_built, built_of


def clipped_leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU with slope 1/3, clipped to [-3, 3], as in the paper's released code; (...) to (...)."""
    return F.leaky_relu(x, 1.0 / 3.0).clamp(-3.0, 3.0)


class ClippedLeakyReLU(nn.Module):
    """:func:`clipped_leaky_relu` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to x (...)."""
        return clipped_leaky_relu(x)


@built_of(lambda mlp: mlp.first.bias is not None and mlp.second.bias is not None, first=nn.Linear, second=nn.Linear)
class MLP(nn.Module):
    """One hidden layer, y = W_2 phi(sum_i W_1i x_i + b_1) + b_2, with a block of first-layer weights per input.

    Args:
        in_dims: size of each input x_i.
        mlp_dim: size of the hidden layer.
        out_dim: size of y.
    """

    def __init__(self, in_dims: Sequence[int], mlp_dim: int, out_dim: int) -> None:
        super().__init__()
        self.in_dims = tuple(in_dims)
        self.first = nn.Linear(sum(in_dims), mlp_dim)
        self.second = nn.Linear(mlp_dim, out_dim)

    def forward(self, *inputs: Tensor) -> Tensor:
        """y for inputs of shape (..., in_dims[i]) that broadcast with one another; (..., out_dim)."""
        if len(inputs) == 1:
            return self.second(clipped_leaky_relu(self.first(inputs[0])))
        if as_built(self.first, nn.Linear):
            hidden = F.linear(inputs[0], self._blocks()[0]) + self.rest(*inputs[1:])
        else:
            shape = torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
            hidden = self.first(torch.cat([x.expand(*shape, -1) for x in inputs], dim=-1))
        return self.second(clipped_leaky_relu(hidden))

    def rest(self, *others: Tensor) -> Tensor:
        """The part of the hidden layer from all inputs but the first, bias included; (..., mlp_dim)."""
        total: Tensor = self.first.bias
        for x, weight in zip(others, self._blocks()[1:], strict=True):
            total = total + F.linear(x, weight)
        return total

    def weights(self) -> tuple[Tensor, ...]:
        """W_1 (of all inputs), b_1, W_2 and b_2."""
        return self.first.weight, self.first.bias, self.second.weight, self.second.bias

    def loop_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """W_1 of the first input, W_2 and b_2, which a time loop applies to its state."""
        return self._blocks()[0], self.second.weight, self.second.bias

    def _blocks(self) -> Sequence[Tensor]:
        return self.first.weight.split(self.in_dims, dim=1)


def loc_scale(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation from means and log-variances (..., 2 dim); each (..., dim)."""
    loc, log_variance = parameters.chunk(2, dim=-1)
    return loc, (0.5 * log_variance).exp()


def bounded(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation from means and log-variances clamped to [-8, 8]; each (..., dim)."""
    return loc_scale(parameters.clamp(-8.0, 8.0))
