"""Recurrences of several layers, of LSTM or GRU units, one step at a time.

A state holds the layers side by side: ``hidden`` and ``cell`` are (..., layers x hidden), the top layer last. GRU units
have no cell: (..., 0).
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .as_built import built_of
from .backward import GRU, LSTM, BackwardRNN, turned
from .cells import ConcatenateCell, FeatureCell, GatedCell
from .feedforward import MLP, clipped_leaky_relu
from .state import State

RECURRENCES = ("lstm", "gru")
"""Kinds of recurrent units."""


@built_of(layers=nn.ModuleList)
class Recurrence(nn.Module):
    """h_t = f(v_t, h_{t-1}): PyTorch's LSTM or GRU of one or more layers.

    Args:
        kind: ``"lstm"`` or ``"gru"``.
        input_dim: size of v_t.
        hidden_dim: size of a layer.
        num_layers: number of layers.
    """

    def __init__(self, kind: str, input_dim: int, hidden_dim: int, num_layers: int = 1) -> None:
        super().__init__()
        self.kind, self.hidden_dim = kind, hidden_dim
        sizes = [input_dim, *[hidden_dim] * (num_layers - 1)]
        self.layers = nn.ModuleList((LSTM if kind == "lstm" else GRU)(size, hidden_dim) for size in sizes)
        for layer in self.layers:
            nn.init.orthogonal_(layer.get_parameter("weight_hh_l0"))

    @property
    def sizes(self) -> tuple[int, int]:
        """Sizes of a state's ``hidden`` and ``cell``."""
        width = len(self.layers) * self.hidden_dim
        return width, width if self.kind == "lstm" else 0

    def step(self, state: State, v: Tensor) -> State:
        """h_t from h_{t-1}, each field (..., layers x hidden), and v_t (..., in), which broadcast with one another."""
        shape = torch.broadcast_shapes(v.shape[:-1], state.hidden.shape[:-1])
        hiddens, cells, v = [], [], v.expand(*shape, -1).reshape(1, -1, v.shape[-1])
        for layer, h, c in zip(self.layers, self.split(state.hidden), self.split(state.cell), strict=True):
            start = [part.expand(*shape, -1).reshape(1, -1, self.hidden_dim) for part in (h, c) if part.shape[-1]]
            v, end = layer(v, tuple(start) if self.kind == "lstm" else start[0])
            hiddens.append(v.view(*shape, -1))
            cells.append(end[1].view(*shape, -1) if self.kind == "lstm" else c.expand(*shape, -1))
        return State(torch.cat(hiddens, dim=-1), torch.cat(cells, dim=-1))

    def forward(self, v: Tensor) -> Tensor:
        """States of the top layer for v_1..v_T (time, batch, in), from a zero state; (time, batch, hidden)."""
        for layer in self.layers:
            v, _ = layer(v)
        return v

    def split(self, field: Tensor) -> Sequence[Tensor]:
        """The layers of a state's field (..., layers x hidden)."""
        return field.chunk(len(self.layers), dim=-1) if field.shape[-1] else [field] * len(self.layers)

    def top(self, hidden: Tensor) -> Tensor:
        """The top layer of (..., layers x hidden); (..., hidden)."""
        return hidden if len(self.layers) == 1 else hidden[..., -self.hidden_dim :]


@built_of(recurrence=Recurrence)
class LayeredBackwardRNN(nn.Module):
    """b_t = g(x_t, b_{t+1}) as :class:`.BackwardRNN`, of LSTM or GRU units in one or more layers.

    Args:
        kind: ``"lstm"`` or ``"gru"``.
        embed_dim: size of an embedded frame.
        hidden_dim: size of a layer, and of b_t.
        num_layers: number of layers, each of which reads the layer below from the last frame to the first.
    """

    def __init__(self, kind: str, embed_dim: int, hidden_dim: int, num_layers: int) -> None:
        super().__init__()
        self.recurrence = Recurrence(kind, embed_dim, hidden_dim, num_layers)

    def forward(self, embedded: Tensor, lengths: Tensor | None) -> Tensor:
        """b for embedded frames (time, batch, embed) and ``lengths`` (batch,); (time, batch, hidden)."""
        return turned(self.recurrence(turned(embedded, lengths)), lengths)


class LatentGRUCell(nn.Module):
    """GRU cell whose inputs are e_t and z_t, or features of z_t.

    r, u = sigmoid(W [z_t, e_t] + W_h h_{t-1} + b);  n = tanh(W' [z_t, e_t] + b' + r (W_h' h_{t-1} + b''));
    h_t = (1 - u) n + u h_{t-1}.

    Args:
        embed_dim: size of e_t.
        hidden_dim: size of h_t.
        latent_dim: size of z_t.
        mlp_dim: size of the features of z_t.
        features: read one layer of features of z_t, in place of z_t itself.
    """

    def __init__(self, embed_dim: int, hidden_dim: int, latent_dim: int, mlp_dim: int, features: bool) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.input_weights = nn.Linear(embed_dim, 3 * hidden_dim)
        self.hidden_weights = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.modulation_network = (
            MLP((latent_dim,), mlp_dim, 3 * hidden_dim) if features else nn.Linear(latent_dim, 3 * hidden_dim, False)
        )
        nn.init.orthogonal_(self.hidden_weights.weight)

    def inputs(self, embedded: Tensor) -> Tensor:
        """The part of the gates that depends on e_t alone; (..., embed) -> (..., 3 hidden)."""
        return self.input_weights(embedded)

    def features(self, z: Tensor) -> Tensor:
        """Features of z_t; (..., latent) -> (..., mlp)."""
        return clipped_leaky_relu(cast(MLP, self.modulation_network).first(z))

    def modulation(self, z: Tensor) -> Tensor:
        """The latent part of the gates; (..., latent) -> (..., 3 hidden)."""
        return self.modulation_network(z)

    def advance(self, state: State, inputs: Tensor, modulation: Tensor) -> State:
        """h_t from h_{t-1}, ``inputs`` and ``modulation``, both (..., 3 hidden)."""
        given, recurrent = inputs + modulation, self.hidden_weights(state.hidden)
        sizes = [2 * self.hidden_dim, self.hidden_dim]
        (gates, candidate), (more, kept) = given.split(sizes, dim=-1), recurrent.split(sizes, dim=-1)
        r, u = (gates + more).sigmoid().chunk(2, dim=-1)
        hidden = torch.lerp((candidate + r * kept).tanh(), state.hidden, u)
        return State(hidden, state.cell.expand(*hidden.shape[:-1], -1))


class StackedCell(nn.Module):
    """A cell that reads e_t and z_t, and further layers above it, each of which reads the layer below.

    Args:
        first: the cell of the first layer.
        kind: units of the layers above, ``"lstm"`` or ``"gru"``, as those of ``first``.
        num_layers: number of layers, ``first`` included.
    """

    def __init__(self, first: GatedCell | LatentGRUCell, kind: str, num_layers: int) -> None:
        super().__init__()
        self.first, self.kind, self.num_layers, self.hidden_dim = first, kind, num_layers, first.hidden_dim
        self.upper = Recurrence(kind, first.hidden_dim, first.hidden_dim, num_layers - 1)

    def inputs(self, embedded: Tensor) -> Tensor:
        """The part of the first layer's gates that depends on e_t (..., embed) alone; (..., gates)."""
        return self.first.inputs(embedded)

    def features(self, z: Tensor) -> Tensor:
        """Features of z_t of the first layer's cell; (..., latent) -> (..., mlp)."""
        return cast(FeatureCell | LatentGRUCell, self.first).features(z)

    def modulation(self, z: Tensor) -> Tensor:
        """What the first layer's cell makes of z_t (..., latent)."""
        return self.first.modulation(z)

    def advance(self, state: State, inputs: Tensor, modulation: Tensor) -> State:
        """h_t of all layers from h_{t-1}, ``inputs`` and ``modulation`` of the first; (..., layers x hidden)."""
        low = State(*(field[..., : self.hidden_dim] for field in state))
        high = State(*(field[..., self.hidden_dim :] for field in state))
        low = self.first.advance(low, inputs, modulation)
        high = self.upper.step(high, low.hidden)
        return State(*(torch.cat(pair, dim=-1) for pair in zip(low, high, strict=True)))


def backward_kind(kind: str, num_layers: int) -> type[BackwardRNN] | type[LayeredBackwardRNN]:
    """The class of a backward RNN: of LSTM units in one layer, :class:`.BackwardRNN`, whose fast form is the fastest.

    Args:
        kind: ``"lstm"`` or ``"gru"``.
        num_layers: number of layers.
    """
    return BackwardRNN if (kind, num_layers) == ("lstm", 1) else LayeredBackwardRNN


def backward_rnn(kind: str, embed_dim: int, hidden_dim: int, num_layers: int) -> BackwardRNN | LayeredBackwardRNN:
    """The backward RNN of a model, of the class :func:`backward_kind`.

    Args:
        kind: ``"lstm"`` or ``"gru"``.
        embed_dim: size of an embedded frame.
        hidden_dim: size of b_t.
        num_layers: number of layers.
    """
    if backward_kind(kind, num_layers) is BackwardRNN:
        return BackwardRNN(embed_dim, hidden_dim)
    return LayeredBackwardRNN(kind, embed_dim, hidden_dim, num_layers)


def latent_cell(
    kind: str, num_layers: int, sizes: tuple[int, int, int, int], features: bool
) -> GatedCell | LatentGRUCell | StackedCell:
    """The cell of h_t = f(u_t, z_t, h_{t-1}).

    Args:
        kind: ``"lstm"`` or ``"gru"``.
        num_layers: number of layers.
        sizes: of e_t, h_t, z_t, and of the features.
        features: read one layer of features of z_t, in place of z_t itself.
    """
    first: GatedCell | LatentGRUCell
    if kind == "gru":
        first = LatentGRUCell(*sizes, features=features)
    else:
        first = (FeatureCell if features else ConcatenateCell)(*sizes)
    return first if num_layers == 1 else StackedCell(first, kind, num_layers)
