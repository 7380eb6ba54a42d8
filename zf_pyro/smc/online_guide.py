"""The guide of a filter that goes on with time: b_t of the frames up to now.

A backward RNN reads the frames from the last one to x_t. Of a sequence that ends at x_t it reads x_t alone, so that
b_t = g(x_t, 0). VRNN, and SRNN with ``filtering``, read x_t alone in any case. What a forward RNN of the guide has read
is carried from frame to frame: that of STORN, and that of DMM with ``bidirectional``.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..models import DMM, STORN, StochasticRNN
from ..networks import ForwardRNN, Recurrence, State


class Carried(NamedTuple):
    """State of a guide's forward RNN after the frames so far. Both fields are empty where the guide has none."""

    hidden: Tensor
    """(batch, hidden of all layers)."""
    cell: Tensor
    """(batch, hidden of all layers), or (batch, 0)."""


def carried_start(net: StochasticRNN, batch_size: int) -> Carried:
    """The state before the first frame."""
    hidden, cell = _sizes(net)
    zeros = net.emission_layer.weight.new_zeros
    return Carried(zeros(batch_size, hidden), zeros(batch_size, cell))


def backward_now(net: StochasticRNN, read: Tensor, carried: Carried, seen: Tensor | None) -> tuple[Tensor, Carried]:
    """b_t of the frames up to x_t, (batch, 1, backward), and the state to carry on.

    Args:
        net: the model.
        read: frames, with any valid value where unseen, and covariates and flags beside them where the model reads
            these; (batch, ...).
        carried: the state after the frame before.
        seen: True for sequences whose frame moves their state, (batch,); all if None.
    """
    if carried.hidden.shape[-1] == 0:
        return net.scan_backward(read.unsqueeze(0), None, None).transpose(0, 1), carried
    embedded = net.embedding(read)
    if isinstance(net, STORN):
        b_t, moved = _recognised(net.recognition_rnn, embedded, carried)
    else:
        recurrence = cast(Recurrence, net.forward_rnn)
        moved = Carried(*recurrence.step(State(*carried), embedded))
        backward = net.scan_backward(read.unsqueeze(0), None, None)[0, :, : net.hidden_dim]
        b_t = torch.cat([backward, recurrence.top(moved.hidden)], dim=-1)
    if seen is not None:
        moved = Carried(*(torch.where(seen.unsqueeze(-1), *pair) for pair in zip(moved, carried, strict=True)))
    return b_t.unsqueeze(1), moved


def carried_after(net: StochasticRNN, read: Tensor, mask: Tensor | None) -> Carried:
    """The state after known frames, ``read`` (time, batch, ...) with all that the model reads of them.

    ``mask`` (time, batch) says the real ones.
    """
    carried = carried_start(net, read.shape[1])
    if carried.hidden.shape[-1] == 0:
        return carried
    for t, frame in enumerate(read.unbind(0)):
        _, carried = backward_now(net, frame, carried, None if mask is None else mask[t])
    return carried


def _sizes(net: StochasticRNN) -> tuple[int, int]:
    """Elements of hidden and cell that a guide's forward RNN carries; zero for a model or a scan of the user's own."""
    if isinstance(net, STORN) and type(net).scan_backward is STORN.scan_backward:
        rnn = net.recognition_rnn
        if type(rnn) is ForwardRNN:
            size = rnn.rnn.num_layers * rnn.rnn.hidden_size
            return size, size if rnn.rnn.mode == "LSTM" else 0
    if isinstance(net, DMM) and net.bidirectional and type(net).scan_backward is DMM.scan_backward:
        return net.forward_rnn.sizes
    return 0, 0


def _recognised(recognition: ForwardRNN, embedded: Tensor, carried: Carried) -> tuple[Tensor, Carried]:
    """a_t of embedded frames (batch, embed), and the state after them."""
    rnn = recognition.rnn
    layers = [
        field.unflatten(-1, (rnn.num_layers, -1)).transpose(0, 1).contiguous() for field in carried if len(field[0])
    ]
    given = tuple(layers) if len(layers) > 1 else layers[0]
    out, after = rnn(embedded.unsqueeze(0), given)
    moved = [field.transpose(0, 1).flatten(1) for field in (after if isinstance(after, tuple) else (after,))]
    return out[0], Carried(moved[0], moved[1] if len(moved) > 1 else carried.cell)
