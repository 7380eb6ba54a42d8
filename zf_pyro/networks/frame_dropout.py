"""Frames that the recurrence does not see in training: word dropout, of Bowman et al. 2016."""

from typing import Protocol

import torch
from torch import Tensor

from ..emissions import Emission


class HidingNetwork(Protocol):
    """A network that hides frames from its recurrence."""

    emission_family: Emission
    frame_dropout: float
    """Probability of hiding a frame, in training mode."""
    training: bool


def some_hidden(net: HidingNetwork, frames: Tensor) -> Tensor:
    """Frames of which each is replaced by the start frame with probability ``frame_dropout``, in training mode.

    What is replaced is the input u_t = x_{t-1} of the recurrence. So h_t says less of the frames before, and z_t is
    left to say it. Targets and the backward RNN keep all frames. Bowman, Vilnis, Vinyals, Dai, Jozefowicz, Bengio,
    "Generating sentences from a continuous space", CoNLL 2016, https://arxiv.org/abs/1511.06349, section 3.1.

    Args:
        net: the model.
        frames: (..., *frame).
    """
    if not net.training:
        return frames
    event_dim = len(net.emission_family.event_shape)
    hidden = torch.rand(frames.shape[: frames.dim() - event_dim], device=frames.device) < net.frame_dropout
    return torch.where(hidden[(...,) + (None,) * event_dim], net.emission_family.start(frames), frames)
