"""The recurrent state h_t, and the results of one pass of the recurrence over a batch of sequences."""

from typing import NamedTuple

from torch import Tensor


class State(NamedTuple):
    """The forward recurrent state h_t = (h_t, c_t)."""

    hidden: Tensor
    """h_t, what prior, posterior and emission see; (..., hidden)."""
    cell: Tensor
    """c_t, the LSTM's memory; (..., hidden)."""


class PosteriorScan(NamedTuple):
    """Results of a pass over z_t ~ q(z_t | h_{t-1}, b_t), h_t = f(u_t, z_t, h_{t-1}), t = 1..T."""

    z: Tensor
    """z_1..z_T; (time, ..., latent)."""
    states: State
    """h_0..h_T; (time + 1, ..., hidden)."""
    before: Tensor
    """The hidden states h_0..h_{T-1}; (time, ..., hidden)."""
    after: Tensor
    """The hidden states h_1..h_T; (time, ..., hidden)."""
    loc: Tensor
    """Means of q; (time, ..., latent)."""
    scale: Tensor
    """Standard deviations of q; (time, ..., latent)."""
