"""Peer (b): the textbook Pyro programs, written step by step with the step functions of a ``ZForcing`` model."""

from contextlib import nullcontext

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from zf_pyro import ZForcing


class Textbook:
    """Model and guide as commonly written: one sample statement after the other, in the order of time."""

    def __init__(self, net: ZForcing) -> None:
        self.net = net

    def model(self, x: Tensor, lengths: Tensor | None = None) -> None:
        """Sample z_t and observe x_t; x (batch, time, frame), lengths (batch,)."""
        net = pyro.module("textbook", self.net)
        u, frames = net.inputs(x).unbind(1), x.unbind(1)
        state = net.initial_state((x.shape[0],))
        with pyro.plate("sequences", x.shape[0], dim=-1):
            for t in range(x.shape[1]):
                with nullcontext() if lengths is None else poutine.mask(mask=torch.as_tensor(t) < lengths):
                    z_t = pyro.sample(f"z_{t}", net.prior(state))
                    state = net.transition(state, u[t], z_t)
                    pyro.sample(f"x_{t}", net.emission(state), obs=frames[t])

    def guide(self, x: Tensor, lengths: Tensor | None = None) -> None:
        """Sample z_t from the posterior; x (batch, time, frame), lengths (batch,)."""
        net = pyro.module("textbook", self.net)
        u, b = net.inputs(x).unbind(1), net.backward_states(x, lengths).unbind(0)
        state = net.initial_state((x.shape[0],))
        with pyro.plate("sequences", x.shape[0], dim=-1):
            for t in range(x.shape[1]):
                with nullcontext() if lengths is None else poutine.mask(mask=torch.as_tensor(t) < lengths):
                    z_t = pyro.sample(f"z_{t}", net.posterior(state, b[t]))
                    state = net.transition(state, u[t], z_t)
