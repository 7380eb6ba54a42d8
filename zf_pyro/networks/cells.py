"""The two LSTM cells of the transition h_t = f(u_t, z_t, h_{t-1})."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .as_built import built_of
from .drive import Drive, reader
from .feedforward import MLP, clipped_leaky_relu
from .state import State


def lstm(gates: Tensor, cell: Tensor) -> State:
    """The pointwise part of an LSTM: gates i, f, o, g (..., 4 hidden) and c_{t-1} (..., hidden) to h_t, c_t.

    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g);  h_t = sigmoid(o) tanh(c_t).
    """
    hidden_dim = cell.shape[-1]
    switches, candidate = gates.split([3 * hidden_dim, hidden_dim], dim=-1)
    i, f, o = switches.sigmoid().chunk(3, dim=-1)
    new_cell = torch.addcmul(f * cell, i, candidate.tanh())
    return State(o * new_cell.tanh(), new_cell)


@built_of(
    lambda cell: (
        cell.hidden_weights.bias is None
        and cell.input_weights.bias is None
        and cell.input_norm.weight is not None
        and cell.input_norm.bias is not None
    ),
    input_weights=nn.Linear,
    input_norm=nn.LayerNorm,
    hidden_weights=nn.Linear,
    modulation_network=MLP,
)
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
        """The part of the gates that depends on e_t alone; (..., embed) -> (..., 4 hidden)."""
        return self.input_norm(self.input_weights(embedded))

    def modulation(self, z: Tensor) -> Tensor:
        """Gain and shift (g_t, s_t) from z_t; (..., latent) -> (..., 8 hidden)."""
        return self.modulation_network(z).clamp(-3.0, 3.0)

    def advance(self, state: State, inputs: Tensor, modulation: Tensor) -> State:
        """h_t from h_{t-1}, ``inputs`` (..., 4 hidden) and ``modulation`` (..., 8 hidden)."""
        gain, shift = modulation.chunk(2, dim=-1)
        normed = F.layer_norm(self.hidden_weights(state.hidden), (4 * self.hidden_dim,))
        return lstm(inputs + (1.0 + gain) * normed + shift, state.cell)

    def prepared(self, embedding: nn.Sequential) -> "Transition":
        """The transition over raw frames for a loop without gradients, with products of weights formed once, here."""
        read, weight, bias = reader(embedding, self.input_weights.weight, None)

        def advance(state: State, u_t: Tensor, z_t: Tensor) -> State:
            inputs = self.input_norm(F.linear(read(u_t), weight, bias))
            return self.advance(state, inputs, self.modulation(z_t))

        return advance

    def modulation_weights(self) -> tuple[Tensor, ...]:
        """W_1, b_1, W_2, b_2 of the modulation."""
        return self.modulation_network.weights()

    def normalised(self, drive: Drive) -> Drive:
        """The gate inputs after their layer norm, as a linear map of x_t = (v_t, 1) over the deviation of W x_t.

        The mean over features of a linear map is linear, and is subtracted from W. The variance is then a quadratic
        form, x_t' W'W x_t / (4 hidden). Both cost far less than W x_t.
        """
        v, weight = drive.v, drive.weight
        if drive.bias is not None:
            v, weight = F.pad(v, (0, 1), value=1.0), torch.cat([weight, drive.bias.unsqueeze(1)], dim=1)
        weight = weight - weight.mean(0)
        wide, exact = v.double(), weight.double()  # squares lose twice as many digits where terms cancel
        variance = torch.linalg.vecdot(wide @ (exact.t() @ exact / len(exact)), wide).unsqueeze(-1)
        variance = variance + (variance - variance)  # NaN where it overflows, as in PyTorch; 1 / inf would give 0
        scaled = v * (variance + self.input_norm.eps).rsqrt().to(v.dtype)
        return Drive(scaled, self.input_norm.weight.unsqueeze(1) * weight, self.input_norm.bias)


@built_of(
    lambda cell: (
        cell.hidden_weights.bias is None
        and cell.input_weights.bias is not None
        and cell.latent_weights.bias is None
        and cell.latent_projection.bias is None
    ),
    latent_projection=nn.Linear,
    latent_weights=nn.Linear,
    input_weights=nn.Linear,
    hidden_weights=nn.Linear,
)
class ConcatenateCell(nn.Module):
    """LSTM cell with z_t as a further input, gates = W [A z_t, e_t] + W_h h_{t-1} + b.

    The released code's A z_t + a has a second bias, which is redundant beside b.
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
        """The part of the gates that depends on e_t alone; (..., embed) -> (..., 4 hidden)."""
        return self.input_weights(embedded)

    def modulation(self, z: Tensor) -> Tensor:
        """The latent part of the gates; (..., latent) -> (..., 4 hidden)."""
        return self.latent_weights(self.latent_projection(z))

    def advance(self, state: State, inputs: Tensor, modulation: Tensor) -> State:
        """h_t from h_{t-1}, ``inputs`` and ``modulation``, both (..., 4 hidden)."""
        return lstm(inputs + modulation + self.hidden_weights(state.hidden), state.cell)

    def prepared(self, embedding: nn.Sequential) -> "Transition":
        """As for :class:`ConditionalLayerNormCell`, with all gates from one product of h_{t-1}, z_t and the input."""
        read, weight, bias = reader(embedding, self.input_weights.weight, self.input_weights.bias)
        joint = torch.cat([self.hidden_weights.weight, *self.modulation_weights(), weight], dim=1)

        def advance(state: State, u_t: Tensor, z_t: Tensor) -> State:
            seen = (part.expand(*z_t.shape[:-1], -1) for part in (state.hidden, z_t, read(u_t)))
            return lstm(F.linear(torch.cat(list(seen), dim=-1), joint, bias), state.cell)

        return advance

    def modulation_weights(self) -> tuple[Tensor, ...]:
        """The product of the modulation's two linear maps."""
        return (self.latent_weights.weight @ self.latent_projection.weight,)

    def normalised(self, drive: Drive) -> Drive:
        """The gate inputs, unchanged: this cell has no norm."""
        return drive


@built_of(
    lambda cell: cell.input_weights.bias is not None and cell.hidden_weights.bias is None,
    input_weights=nn.Linear,
    hidden_weights=nn.Linear,
    modulation_network=MLP,
)
class FeatureCell(nn.Module):
    """LSTM cell with features of z_t as a further input, gates = W [phi(z_t), e_t] + W_h h_{t-1} + b.

    phi is one layer of ``mlp_dim`` units (:meth:`features`). The gates' part of it has a bias of its own beside b.
    """

    def __init__(self, embed_dim: int, hidden_dim: int, latent_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.input_weights = nn.Linear(embed_dim, 4 * hidden_dim)
        self.hidden_weights = nn.Linear(hidden_dim, 4 * hidden_dim, bias=False)
        self.modulation_network = MLP((latent_dim,), mlp_dim, 4 * hidden_dim)
        _initialise_gates(self.modulation_network.second, self.hidden_weights, hidden_dim)
        _initialise_gates(self.input_weights, self.hidden_weights, hidden_dim)

    def inputs(self, embedded: Tensor) -> Tensor:
        """The part of the gates that depends on e_t alone; (..., embed) -> (..., 4 hidden)."""
        return self.input_weights(embedded)

    def features(self, z: Tensor) -> Tensor:
        """phi(z_t); (..., latent) -> (..., mlp)."""
        return clipped_leaky_relu(self.modulation_network.first(z))

    def modulation(self, z: Tensor) -> Tensor:
        """The latent part of the gates; (..., latent) -> (..., 4 hidden)."""
        return self.modulation_network(z)

    def advance(self, state: State, inputs: Tensor, modulation: Tensor) -> State:
        """h_t from h_{t-1}, ``inputs`` and ``modulation``, both (..., 4 hidden)."""
        return lstm(inputs + modulation + self.hidden_weights(state.hidden), state.cell)

    def modulation_weights(self) -> tuple[Tensor, ...]:
        """W_1, b_1, W_2, b_2 of the modulation."""
        return self.modulation_network.weights()

    def normalised(self, drive: Drive) -> Drive:
        """The gate inputs, unchanged: this cell has no norm."""
        return drive


Transition = Callable[[State, Tensor, Tensor], State]
"""h_t from h_{t-1}, a raw frame u_t and z_t."""
GatedCell = ConditionalLayerNormCell | ConcatenateCell | FeatureCell
"""The cell of a transition."""
CELLS: dict[str, type[ConditionalLayerNormCell] | type[ConcatenateCell]] = {
    "conditional_layer_norm": ConditionalLayerNormCell,
    "concatenate": ConcatenateCell,
}
"""Cells by the name of the transition."""


def _initialise_gates(inputs: nn.Linear, hidden: nn.Linear, hidden_dim: int) -> None:
    """The released code's initialisation: orthogonal recurrent weights, uniform input weights, zero biases."""
    bound = hidden_dim**-0.5
    nn.init.uniform_(inputs.weight, -bound, bound)
    if inputs.bias is not None:
        nn.init.zeros_(inputs.bias)
    nn.init.orthogonal_(hidden.weight)
