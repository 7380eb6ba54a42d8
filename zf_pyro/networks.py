"""The networks inside the model: MLPs with a split first layer, the two LSTM cells, the backward LSTM.

What a time loop evaluates comes in two parts: what depends on known sequences only (``MLP.rest``, ``Cell.inputs``),
computed once for all steps, and what depends on the running state. The loops themselves, and the fast form of a step,
are in :mod:`zf_pyro.recurrence` and :mod:`zf_pyro.kernels`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .modes import LSTM


class State(NamedTuple):
    """The forward recurrent state h_t = (h_t, c_t)."""

    hidden: Tensor
    """h_t, what prior, posterior and emission see; (..., hidden)."""
    cell: Tensor
    """c_t, the LSTM's memory; (..., hidden)."""


def clipped_leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU with slope 1/3, clipped to [-3, 3], as in the paper's released code."""
    return F.leaky_relu(x, 1.0 / 3.0).clamp(-3.0, 3.0)


class MLP(nn.Module):
    """One hidden layer, y = W_2 phi(sum_i W_1i x_i + b_1) + b_2, with one block of first-layer weights an input.

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
        hidden = F.linear(inputs[0], self._blocks()[0]) + self.rest(*inputs[1:])
        return self.second(clipped_leaky_relu(hidden))

    def rest(self, *others: Tensor) -> Tensor:
        """What the inputs after the first add to the hidden layer, bias included; (..., mlp_dim)."""
        total: Tensor = self.first.bias
        for x, weight in zip(others, self._blocks()[1:], strict=True):
            total = total + F.linear(x, weight)
        return total

    def weights(self) -> tuple[Tensor, ...]:
        """W_1 (of all inputs), b_1, W_2 and b_2."""
        return self.first.weight, self.first.bias, self.second.weight, self.second.bias

    def loop_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """W_1 of the first input, W_2 and b_2: what a loop applies to its state."""
        return self._blocks()[0], self.second.weight, self.second.bias

    def _blocks(self) -> Sequence[Tensor]:
        return self.first.weight.split(self.in_dims, dim=1)


class Drive(NamedTuple):
    """What reaches the gates of an LSTM from outside, W v_t + b at each step t."""

    v: Tensor
    """v_t; (time, ..., in)."""
    weight: Tensor
    """W; (4 hidden, in)."""
    bias: Tensor | None
    """b; (4 hidden,). None for zero."""


def drive(embedding: nn.Sequential, frames: Tensor, weight: Tensor, bias: Tensor | None) -> Drive:
    """The same as embedding the frames and applying ``weight`` and ``bias``, by way of the fewest numbers.

    Two linear maps in a row are one: a frame smaller than its embedding is not embedded at all, but read by the product
    of the two weights, unless dropout stands between them.

    Args:
        embedding: of frames (..., *frame) into (..., embed): a layer, then dropout.
        frames: (time, ..., *frame).
        weight: (4 hidden, embed).
        bias: (4 hidden,) or None.
    """
    layer = embedding[0]
    if isinstance(layer, nn.Linear) and layer.in_features >= frames[..., 0].numel():
        return Drive(embedding(frames), weight, bias)  # fewer frames than numbers in one: the product is not worth it
    read, weight, bias = reader(embedding, weight, bias)
    return Drive(read(frames), weight, bias)


def reader(
    embedding: nn.Sequential, weight: Tensor, bias: Tensor | None
) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor | None]:
    """What reads frames, and the weight and the bias for what it read; arguments as for :func:`drive`.

    Frames smaller than their embedding are read as they are, and the weight is the product of the two.
    """
    layer, dropout = embedding
    dropped = isinstance(dropout, nn.Dropout) and dropout.training and dropout.p > 0.0
    if not isinstance(layer, nn.Linear) or dropped or layer.in_features >= layer.out_features:
        return embedding, weight, bias
    constant = weight @ layer.bias
    return nn.Identity(), weight @ layer.weight, constant if bias is None else constant + bias


def loc_scale(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation from means and log-variances (..., 2 dim); each (..., dim)."""
    loc, log_variance = parameters.chunk(2, dim=-1)
    return loc, (0.5 * log_variance).exp()


def bounded(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation from means and log-variances clamped to [-8, 8]; each (..., dim)."""
    return loc_scale(parameters.clamp(-8.0, 8.0))


def lstm(gates: Tensor, cell: Tensor) -> State:
    """The LSTM's pointwise part: gates i, f, o, g (..., 4 hidden) and c_{t-1} (..., hidden) to h_t, c_t.

    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g);  h_t = sigmoid(o) tanh(c_t).
    """
    hidden_dim = cell.shape[-1]
    switches, candidate = gates.split([3 * hidden_dim, hidden_dim], dim=-1)
    i, f, o = switches.sigmoid().chunk(3, dim=-1)
    new_cell = torch.addcmul(f * cell, i, candidate.tanh())
    return State(o * new_cell.tanh(), new_cell)


class ConditionalLayerNormCell(nn.Module):
    """LSTM cell in which z_t sets the gain and the bias of the layer norm of the hidden gates.

    gates = LN(W_x e_t) + (1 + g_t) * norm(W_h h_{t-1}) + s_t,  where  (g_t, s_t) = clip(MLP(z_t), -3, 3),

    after the released code of Goyal et al. 2017 (https://arxiv.org/abs/1711.05411), which takes the unbiased
    variance in the norm where PyTorch's takes the biased one: a factor sqrt(1 - 1 / (4 hidden)).
    """

    def __init__(self, embed_dim: int, hidden_dim: int, latent_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.input_weights = nn.Linear(embed_dim, 4 * hidden_dim, bias=False)
        self.input_norm = nn.LayerNorm(4 * hidden_dim)
        self.hidden_weights = nn.Linear(hidden_dim, 4 * hidden_dim, bias=False)
        self.modulation_network = MLP((latent_dim,), mlp_dim, 8 * hidden_dim)
        _initialise_gates(self.input_weights, self.hidden_weights, hidden_dim)

    def inputs(self, embedded: Tensor) -> Tensor:
        """The part of the gates that e_t alone sets; (..., embed) -> (..., 4 hidden)."""
        return self.input_norm(self.input_weights(embedded))

    def modulation(self, z: Tensor) -> Tensor:
        """(g_t, s_t), what z_t does to the gates; (..., latent) -> (..., 8 hidden)."""
        return self.modulation_network(z).clamp(-3.0, 3.0)

    def advance(self, state: State, inputs: Tensor, modulation: Tensor) -> State:
        """h_t from h_{t-1}, ``inputs`` (..., 4 hidden) and ``modulation`` (..., 8 hidden)."""
        gain, shift = modulation.chunk(2, dim=-1)
        normed = F.layer_norm(self.hidden_weights(state.hidden), (4 * self.hidden_dim,))
        return lstm(inputs + (1.0 + gain) * normed + shift, state.cell)

    def prepared(self, embedding: nn.Sequential) -> "Transition":
        """The transition over raw frames, for a loop without gradients: products of weights are formed once, here."""
        read, weight, bias = reader(embedding, self.input_weights.weight, None)

        def advance(state: State, u_t: Tensor, z_t: Tensor) -> State:
            inputs = self.input_norm(F.linear(read(u_t), weight, bias))
            return self.advance(state, inputs, self.modulation(z_t))

        return advance

    def modulation_weights(self) -> tuple[Tensor, ...]:
        """W_1, b_1, W_2, b_2 of the modulation."""
        return self.modulation_network.weights()

    def standing(self, drive: Drive) -> Drive:
        """The drive with its norm, as a linear map of x_t = (v_t, 1) over the deviation of W x_t.

        Of a linear map the mean over the features is one too, and is taken from W; their variance is then a quadratic
        form, x_t' W'W x_t / (4 hidden). Both are far smaller than W x_t.
        """
        v, weight = drive.v, drive.weight
        if drive.bias is not None:
            v, weight = F.pad(v, (0, 1), value=1.0), torch.cat([weight, drive.bias.unsqueeze(1)], dim=1)
        weight = weight - weight.mean(0)
        wide, exact = v.double(), weight.double()  # squares lose twice the digits where terms cancel
        variance = torch.linalg.vecdot(wide @ (exact.t() @ exact / len(exact)), wide).unsqueeze(-1)
        scaled = v * (variance + self.input_norm.eps).rsqrt().to(v.dtype)
        return Drive(scaled, self.input_norm.weight.unsqueeze(1) * weight, self.input_norm.bias)


class ConcatenateCell(nn.Module):
    """LSTM cell that reads z_t beside the input, gates = W [A z_t, e_t] + W_h h_{t-1} + b.

    The released code's A z_t + a has one more bias, which b already stands for.
    """

    def __init__(self, embed_dim: int, hidden_dim: int, latent_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.latent_projection = nn.Linear(latent_dim, mlp_dim, bias=False)
        self.latent_weights = nn.Linear(mlp_dim, 4 * hidden_dim, bias=False)
        self.input_weights = nn.Linear(embed_dim, 4 * hidden_dim)
        self.hidden_weights = nn.Linear(hidden_dim, 4 * hidden_dim, bias=False)
        _initialise_gates(self.latent_weights, self.hidden_weights, hidden_dim)
        _initialise_gates(self.input_weights, self.hidden_weights, hidden_dim)

    def inputs(self, embedded: Tensor) -> Tensor:
        """The part of the gates that e_t alone sets; (..., embed) -> (..., 4 hidden)."""
        return self.input_weights(embedded)

    def modulation(self, z: Tensor) -> Tensor:
        """What z_t adds to the gates; (..., latent) -> (..., 4 hidden)."""
        return self.latent_weights(self.latent_projection(z))

    def advance(self, state: State, inputs: Tensor, modulation: Tensor) -> State:
        """h_t from h_{t-1}, ``inputs`` and ``modulation``, both (..., 4 hidden)."""
        return lstm(inputs + modulation + self.hidden_weights(state.hidden), state.cell)

    def prepared(self, embedding: nn.Sequential) -> "Transition":
        """As for :class:`ConditionalLayerNormCell`; all gates by one product of h_{t-1}, z_t and what was read."""
        read, weight, bias = reader(embedding, self.input_weights.weight, self.input_weights.bias)
        joint = torch.cat([self.hidden_weights.weight, *self.modulation_weights(), weight], dim=1)

        def advance(state: State, u_t: Tensor, z_t: Tensor) -> State:
            seen = (part.expand(*z_t.shape[:-1], -1) for part in (state.hidden, z_t, read(u_t)))
            return lstm(F.linear(torch.cat(list(seen), dim=-1), joint, bias), state.cell)

        return advance

    def modulation_weights(self) -> tuple[Tensor, ...]:
        """The modulation's two linear maps made one."""
        return (self.latent_weights.weight @ self.latent_projection.weight,)

    def standing(self, drive: Drive) -> Drive:
        """The drive as it is: this cell has no norm."""
        return drive


Transition = Callable[[State, Tensor, Tensor], State]
"""h_t from h_{t-1}, a raw frame u_t and z_t."""
GatedCell = ConditionalLayerNormCell | ConcatenateCell
"""What a transition is made of."""
CELLS: dict[str, type[ConditionalLayerNormCell] | type[ConcatenateCell]] = {
    "conditional_layer_norm": ConditionalLayerNormCell,
    "concatenate": ConcatenateCell,
}
"""The transitions by name."""


def _initialise_gates(inputs: nn.Linear, hidden: nn.Linear, hidden_dim: int) -> None:
    """The released code's start: orthogonal recurrent weights, uniform input weights, zero biases."""
    bound = hidden_dim**-0.5
    nn.init.uniform_(inputs.weight, -bound, bound)
    if inputs.bias is not None:
        nn.init.zeros_(inputs.bias)
    nn.init.orthogonal_(hidden.weight)


class BackwardRNN(nn.Module):
    """b_t = g(x_t, b_{t+1}): an LSTM run from the last real frame to the first."""

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.lstm = LSTM(embed_dim, hidden_dim)
        nn.init.orthogonal_(self.lstm.get_parameter("weight_hh_l0"))

    def forward(self, embedded: Tensor, lengths: Tensor | None) -> Tensor:
        """b for embedded frames (time, batch, embed); (time, batch, hidden).

        With ``lengths`` (batch,), each sequence is turned round within its own length, so that padding is read
        after every real frame and cannot reach one.
        """
        if lengths is None:
            return self.lstm(embedded.flip(0))[0].flip(0)
        steps = torch.arange(embedded.shape[0], device=embedded.device).unsqueeze(1)
        order = torch.where(steps < lengths, lengths - 1 - steps, steps).clamp(0, len(steps) - 1).unsqueeze(-1)
        turned = embedded.gather(0, order.expand_as(embedded))
        states = self.lstm(turned)[0]
        return states.gather(0, order.expand_as(states))

    def drive(self, embedding: nn.Sequential, frames: Tensor) -> Drive:
        """What frames (time, batch, *frame) send to the gates, in PyTorch's order of them."""
        bias = self.lstm.get_parameter("bias_ih_l0") + self.lstm.get_parameter("bias_hh_l0")
        return drive(embedding, frames, self.lstm.get_parameter("weight_ih_l0"), bias)

    def gate_weights(self, drive: Drive) -> tuple[Tensor, ...]:
        """W_h and the drive's weight and bias, with the gates in the order of :func:`lstm`."""
        weights = (self.lstm.get_parameter("weight_hh_l0"), drive.weight, drive.bias)
        chunks = (weight.chunk(4) for weight in weights if weight is not None)
        return tuple(torch.cat([i, f, o, candidate]) for i, f, candidate, o in chunks)
