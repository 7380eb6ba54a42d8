"""Recurrent networks over frames, backwards, b_t = g(x_t, b_{t+1}), and forwards, a_t = g(x_t, a_{t-1})."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .as_built import built_of
from .drive import Drive, fused_drive


@contextmanager
def differentiable(rnn: nn.Module) -> Iterator[None]:
    """Training mode if gradients are enabled. Without dropout the mode changes nothing else."""
    mode, rnn.training = rnn.training, torch.is_grad_enabled()
    try:
        yield
    finally:
        rnn.training = mode


@built_of(
    lambda lstm: (
        (lstm.num_layers, lstm.bidirectional, lstm.proj_size, lstm.dropout, lstm.bias) == (1, False, 0, 0.0, True)
        and not lstm.batch_first
    )
)
class LSTM(nn.LSTM):
    """PyTorch's LSTM with gradients in evaluation mode too. cuDNN has them in training mode alone. Without dropout."""

    def forward(self, *arguments: Any) -> Any:
        """Run in the mode of :func:`differentiable`."""
        with differentiable(self):
            return super().forward(*arguments)


@built_of(
    lambda gru: (
        (gru.num_layers, gru.bidirectional, gru.dropout, gru.bias) == (1, False, 0.0, True) and not gru.batch_first
    )
)
class GRU(nn.GRU):
    """PyTorch's GRU with gradients in evaluation mode too, as :class:`LSTM`."""

    def forward(self, *arguments: Any) -> Any:
        """Run in the mode of :func:`differentiable`."""
        with differentiable(self):
            return super().forward(*arguments)


@built_of(lstm=LSTM)
class BackwardRNN(nn.Module):
    """b_t = g(x_t, b_{t+1}): an LSTM run from the last real frame of each sequence to the first.

    Args:
        embed_dim: size of an embedded frame.
        hidden_dim: size of a layer.
        num_layers: number of layers; b_t is the top one.
    """

    def __init__(self, embed_dim: int, hidden_dim: int, num_layers: int = 1) -> None:
        super().__init__()
        self.lstm = LSTM(embed_dim, hidden_dim, num_layers)
        _initialise(self.lstm)

    def forward(self, embedded: Tensor, lengths: Tensor | None) -> Tensor:
        """b for embedded frames (time, batch, embed); (time, batch, hidden).

        With ``lengths`` (batch,), each sequence is reversed within its own length. Padding then comes after all real
        frames and cannot change their states.
        """
        return turned(self.lstm(turned(embedded, lengths))[0], lengths)

    def drive(self, embedding: nn.Sequential, frames: Tensor) -> Drive:
        """Gate inputs of frames (time, batch, *frame), with the gates in PyTorch's order."""
        return _drive(self.lstm, embedding, frames)

    def gate_weights(self, drive: Drive) -> tuple[Tensor, ...]:
        """W_h and the drive's weight and bias, with the gates in the order of :func:`zf_pyro.networks.cells.lstm`."""
        return _gate_weights(self.lstm, drive)


@built_of(rnn=LSTM)
class ForwardRNN(nn.Module):
    """a_t = g(x_t, a_{t-1}): an LSTM or GRU over the frames of each sequence, from a zero state.

    Args:
        kind: ``"lstm"`` or ``"gru"``.
        embed_dim: size of an embedded frame.
        hidden_dim: size of a layer.
        num_layers: number of layers; a_t is the top one.
    """

    def __init__(self, kind: str, embed_dim: int, hidden_dim: int, num_layers: int = 1) -> None:
        super().__init__()
        self.rnn = (LSTM if kind == "lstm" else GRU)(embed_dim, hidden_dim, num_layers)
        _initialise(self.rnn)

    def forward(self, embedded: Tensor) -> Tensor:
        """a for embedded frames (time, batch, embed); (time, batch, hidden)."""
        states: Tensor = self.rnn(embedded)[0]
        return states

    def drive(self, embedding: nn.Sequential, frames: Tensor) -> Drive:
        """As :meth:`BackwardRNN.drive`; frames (time, batch, *frame)."""
        return _drive(self.rnn, embedding, frames)

    def gate_weights(self, drive: Drive) -> tuple[Tensor, ...]:
        """As :meth:`BackwardRNN.gate_weights`."""
        return _gate_weights(self.rnn, drive)


def _initialise(rnn: LSTM | GRU) -> None:
    """Make the recurrent weights of every layer orthogonal."""
    for layer in range(rnn.num_layers):
        nn.init.orthogonal_(rnn.get_parameter(f"weight_hh_l{layer}"))


def _drive(lstm: LSTM | GRU, embedding: nn.Sequential, frames: Tensor) -> Drive:
    bias = lstm.get_parameter("bias_ih_l0") + lstm.get_parameter("bias_hh_l0")
    return fused_drive(embedding, frames, lstm.get_parameter("weight_ih_l0"), bias)


def _gate_weights(lstm: LSTM | GRU, drive: Drive) -> tuple[Tensor, ...]:
    return in_gate_order(lstm.get_parameter("weight_hh_l0"), drive.weight, drive.bias)


def turned(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """Each sequence (time, batch, features) in reverse within its own length, (batch,); all of it if None."""
    if lengths is None:
        return sequence.flip(0)
    steps = torch.arange(sequence.shape[0], device=sequence.device).unsqueeze(1)
    order = torch.where(steps < lengths, lengths - 1 - steps, steps).clamp(0, len(steps) - 1).unsqueeze(-1)
    return sequence.gather(0, order.expand_as(sequence))


def input_weights(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """W and b of PyTorch's LSTM or GRU of one layer, which its inputs need; (gates, in) and (gates,).

    An LSTM adds its two biases. A GRU applies the second one with the weight of its hidden state.
    """
    bias = layer.get_parameter("bias_ih_l0")
    whole = bias + layer.get_parameter("bias_hh_l0") if isinstance(layer, LSTM) else bias
    return layer.get_parameter("weight_ih_l0"), whole


def in_gate_order(*weights: Tensor | None) -> tuple[Tensor, ...]:
    """PyTorch's LSTM weights (4 hidden, ...) with the gates in the order of :func:`zf_pyro.networks.cells.lstm`."""
    chunks = (weight.chunk(4) for weight in weights if weight is not None)
    return tuple(torch.cat([i, f, o, candidate]) for i, f, candidate, o in chunks)
