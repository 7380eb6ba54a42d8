"""Twists of a particle filter: log r_t(h_t, b_{t+1}), a look at the frames that follow.

Lawson, Raventos, Warrington, Linderman 2022, "SIXO: Smoothing inference with twisted objectives",
https://arxiv.org/abs/2206.05952. A twisted filter has the targets p(x_1..x_t, z_1..z_t) r_t, where a filter has
p(x_1..x_t, z_1..z_t): the weight of step t is multiplied by r_t / r_{t-1}. After a sequence's last frame r is 1, so the
estimate of p(x) is unbiased for any r. The best r_t is p(x_{t+1}..x_T | z_1..z_t, x_1..x_t): with it the targets are
the smoothing distributions p(z_1..z_t | x_1..x_T), up to a constant.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ..checks import require_count
from ..models import RegisteredNetwork, StochasticRNN, require_model
from ..networks import MLP
from ..paths import RunInputs, backward_states_of


class Twist(RegisteredNetwork):
    """log r_t, a multi-layer perceptron of a state h_t and of the guide's backward state b_{t+1}.

    The backward state sums up x_{t+1}..x_T. A new twist is 0 everywhere: its filter is the filter without a twist. A
    function of b_{t+1} alone may be added to log r_t: no weight and no estimate of p(x) depends on it.

    A twist is a module of its own, apart from the model. Save it by ``state_dict``. A subclass may override
    :meth:`forward`.

    Args:
        net: the model, for its sizes, dtype and device; it is not kept.
        mlp_dim: size of the hidden layer; the model's ``hidden_dim`` if None.
        name: name in Pyro's parameter store; unique within the process by default.

    Raises:
        TypeError: ``net`` is no model.
        ValueError: ``mlp_dim`` is no positive integer.
    """

    def __init__(self, net: StochasticRNN, mlp_dim: int | None = None, *, name: str | None = None) -> None:
        super().__init__(name, "twist")
        self.sizes = sizes_of(require_model(net))
        width = net.hidden_dim if mlp_dim is None else require_count("mlp_dim", mlp_dim)
        self.network = MLP(self.sizes, width, 1)
        nn.init.zeros_(self.network.second.weight)
        nn.init.zeros_(self.network.second.bias)
        self.to(net.emission_layer.weight)

    def forward(self, hidden: Tensor, b_next: Tensor) -> Tensor:
        """log r_t, (...) nats, of h_t (..., hidden) and b_{t+1} (..., backward), which broadcast with one another."""
        log_r: Tensor = self.network(hidden, b_next).squeeze(-1)
        return log_r


def sizes_of(net: StochasticRNN) -> tuple[int, int]:
    """Sizes of h_t, as it stands in a state's ``hidden``, and of b_t."""
    return net.initial_state((1,)).hidden.shape[-1], net.backward_dim


def require_twist(twist: object) -> Twist:
    """The argument ``twist`` as a twist.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(twist, Twist):
        got = f"the class {twist.__name__}" if isinstance(twist, type) else type(twist).__name__
        raise TypeError(f"twist must be a zf_pyro.inference.Twist, such as Twist(net), got {got}")
    return twist


class TwistedRun:
    """Values of a twist in the run of a filter over some sequences.

    Args:
        twist: log r_t.
        b: backward states; (time, sequences, backward).
        mask: True on real frames, (time, sequences); None if all are.
        differentiable: keep gradients. Without, log r_t is a constant.
    """

    def __init__(self, twist: Twist, b: Tensor, mask: Tensor | None, *, differentiable: bool = False) -> None:
        self.twist, self.differentiable = twist, differentiable
        self.after = b[1:] if mask is None else torch.where(mask[1:].unsqueeze(-1), b[1:], 0.0)
        self.continues = None if mask is None else mask[1:]

    def log_r(self, t: int, hidden: Tensor) -> Tensor:
        """log r_t of h_t (sequences, particles, hidden), 0 after a sequence's last frame; (sequences, particles)."""
        if t == len(self.after):
            return torch.zeros_like(hidden[..., 0])
        with nullcontext() if self.differentiable else torch.no_grad():
            log_r = self.twist(hidden, self.after[t].unsqueeze(1))
            return log_r if self.continues is None else torch.where(self.continues[t].unsqueeze(-1), log_r, 0.0)


def states_ahead(twist: Twist, net: StochasticRNN, run: RunInputs, b: Tensor | None, lengths: Tensor | None) -> Tensor:
    """Backward states for a twist, once it is known to fit the model.

    Args:
        twist: log r_t.
        net: the model.
        run: the inputs of the run.
        b: backward states (time, batch, backward); computed if None.
        lengths: real frames of each sequence, (batch,); None if all are.

    Returns:
        b, (time, batch, backward).

    Raises:
        ValueError: the twist has another size, dtype or device than the model.
    """
    own = net.unrefined
    like = own.emission_layer.weight
    found = next(twist.parameters(), like)
    sizes = sizes_of(own)
    if (twist.sizes, found.dtype, found.device) != (sizes, like.dtype, like.device):
        raise ValueError(
            f"twist must fit the model, with sizes {sizes} of h_t and b_t, {like.dtype} on {like.device}, got "
            f"sizes {twist.sizes}, {found.dtype} on {found.device}: make it by Twist(net), or convert it by "
            "twist.to(...)"
        )
    return backward_states_of(own, run, lengths) if b is None else b[..., : own.backward_dim]
