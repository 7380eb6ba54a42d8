"""The backward recurrent network b_t = g(x_t, b_{t+1})."""

from typing import Any

import torch
from torch import Tensor, nn

from .as_built import built_of
from .drive import Drive, fused_drive


@built_of(
    lambda lstm: (
        (lstm.num_layers, lstm.bidirectional, lstm.proj_size, lstm.dropout, lstm.bias) == (1, False, 0, 0.0, True)
        and not lstm.batch_first
    )
)
class LSTM(nn.LSTM):
    """PyTorch's LSTM with gradients in evaluation mode too. cuDNN has them in training mode alone. Without dropout."""

    def forward(self, *arguments: Any) -> Any:
        """Run in training mode if gradients are enabled; without dropout the mode changes nothing else."""
        mode, self.training = self.training, torch.is_grad_enabled()
        try:
            return super().forward(*arguments)
        finally:
            self.training = mode


@built_of(
    lambda gru: (
        (gru.num_layers, gru.bidirectional, gru.dropout, gru.bias) == (1, False, 0.0, True) and not gru.batch_first
    )
)
class GRU(nn.GRU):
    """PyTorch's GRU with gradients in evaluation mode too, as :class:`LSTM`."""

    def forward(self, *arguments: Any) -> Any:
        """Run in training mode if gradients are enabled; without dropout the mode changes nothing else."""
        mode, self.training = self.training, torch.is_grad_enabled()
        try:
            return super().forward(*arguments)
        finally:
            self.training = mode


@built_of(lstm=LSTM)
class BackwardRNN(nn.Module):
    """b_t = g(x_t, b_{t+1}): an LSTM run from the last real frame of each sequence to the first."""

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.lstm = LSTM(embed_dim, hidden_dim)
        nn.init.orthogonal_(self.lstm.get_parameter("weight_hh_l0"))

    def forward(self, embedded: Tensor, lengths: Tensor | None) -> Tensor:
        """b for embedded frames (time, batch, embed); (time, batch, hidden).

        With ``lengths`` (batch,), each sequence is reversed within its own length. Padding then comes after all real
        frames and cannot change their states.
        """
        return turned(self.lstm(turned(embedded, lengths))[0], lengths)

    def drive(self, embedding: nn.Sequential, frames: Tensor) -> Drive:
        """Gate inputs of frames (time, batch, *frame), with the gates in PyTorch's order."""
        bias = self.lstm.get_parameter("bias_ih_l0") + self.lstm.get_parameter("bias_hh_l0")
        return fused_drive(embedding, frames, self.lstm.get_parameter("weight_ih_l0"), bias)

    def gate_weights(self, drive: Drive) -> tuple[Tensor, ...]:
        """W_h and the drive's weight and bias, with the gates in the order of :func:`zf_pyro.networks.cells.lstm`."""
        return in_gate_order(self.lstm.get_parameter("weight_hh_l0"), drive.weight, drive.bias)


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
