"""The recurrence over whole sequences: which loop runs, the fast one or the plain one over the step functions."""

from typing import Any

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn

from .arena import Arena, Pool
from .machines import compiles
from .modes import in_full_precision
from .networks import MLP, BackwardRNN, Drive, GatedCell, State, drive
from .pieces import in_pieces
from .recurrence import (
    PosteriorScan,
    auxiliary_scan,
    backward_scan,
    posterior_scan,
    prior_scan,
    reference_posterior_scan,
    reference_state_scan,
    state_scan,
)


class Scanning(nn.Module):
    """What a net of the step functions runs over whole sequences, with gradients, in the precision of its weights."""

    embedding: nn.Sequential
    backward_rnn: BackwardRNN
    cell: GatedCell
    posterior_network: MLP
    auxiliary_network: MLP
    prior_network: MLP
    recurrence: str
    auxiliary_l2: bool
    prior: Any
    posterior: Any
    transition: Any
    auxiliary: Any
    inputs: Any
    initial_state: Any

    def __init__(self) -> None:
        super().__init__()
        pool = Pool()
        self._arena, self._backward_arena = Arena(pool), Arena(pool)
        self._prior_arena, self._auxiliary_arena = Arena(pool), Arena(pool)

    def states(self, x: Tensor, z: Tensor, context: Tensor | None = None, initial_state: State | None = None) -> State:
        """h_1..h_T for given frames and latents.

        The last one, ``State(*(field[-1] for field in states))``, is the ``initial_state`` of the frames that follow;
        their ``context`` is the last frame.

        Args:
            x: (batch, time, frame) floats or (batch, time) integers.
            z: latents (..., batch, time, latent).
            context: the frame before the first; see :meth:`zf_pyro.ZForcing.inputs`.
            initial_state: h_0; zeros if None.

        Returns:
            A State of (time, ..., batch, hidden) tensors.
        """
        start = self.initial_state((x.shape[0],)) if initial_state is None else initial_state
        u = self.inputs(x, context).transpose(0, 1)
        states = self.scan_states(start, u, z.movedim(-2, 0))
        return State(states.hidden[1:], states.cell[1:])

    @in_full_precision
    def scan_posterior(self, state: State, u: Tensor, b: Tensor, noise: Tensor) -> PosteriorScan:
        """Draw z_1..z_T from the posterior, running the recurrence along; u raw, b, noise (time, ...)."""
        if self.plain_loop():
            return reference_posterior_scan(self.posterior, self.transition, state, u, b, noise)
        contexts = self.posterior_network.rest(b)
        return posterior_scan(self.posterior_network, self.cell, state, self._drive(u), contexts, noise, self._arena)

    @in_full_precision
    def scan_states(self, state: State, u: Tensor, z: Tensor) -> State:
        """h_0..h_T, (time + 1, ..., hidden), for known latents; u raw, z (time, ...)."""
        if self.plain_loop():
            return reference_state_scan(self.transition, state, u, z)
        modulation = in_pieces(lambda z: self.cell.modulation(z).transpose(-1, -2), z)
        return state_scan(self.cell, state, self._drive(u), modulation, self._arena)

    @in_full_precision
    def scan_backward(self, x: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        """b_1..b_T; x (time, batch, *frame) with zeros as padding, mask (time, batch) and lengths (batch,) or None."""
        if self._reference() or type(self.backward_rnn) is not BackwardRNN or x.device.type != "cpu":
            return self.backward_rnn(self.embedding(x), lengths)
        return backward_scan(self.backward_rnn, self.backward_rnn.drive(self.embedding, x), mask, self._backward_arena)

    @in_full_precision
    def scan_auxiliary(self, z: Tensor, before: State, b: Tensor) -> Tensor:
        """log p_xi(b_t | z_t [, h_{t-1}]) at every step, (time, ...) nats; z, before and b (time, ..., features)."""
        if self._fast("auxiliary", z) and not self.auxiliary_l2:
            return auxiliary_scan(self.auxiliary_network, z, before.hidden, b, self._auxiliary_arena)

        def log_prob(z: Tensor, hidden: Tensor, cell: Tensor, b: Tensor) -> Tensor:
            return self.auxiliary(z, State(hidden, cell)).log_prob(b)

        return in_pieces(log_prob, z, *before, b)

    @in_full_precision
    def scan_prior(self, before: State) -> TorchDistribution:
        """p(z_t | h_{t-1}) at every step; ``before`` is h_0..h_{T-1}, (time, ..., hidden)."""
        if self._fast("prior", before.hidden):
            return Normal(*prior_scan(self.prior_network, before.hidden, self._prior_arena)).to_event(1)
        return self.prior(before)

    def plain_loop(self) -> bool:
        """Whether loops go by the step functions: a subclass overrides them, or the reference was asked for."""
        return self._reference() or not self._own("posterior", "transition")

    def _drive(self, u: Tensor) -> Drive:
        return drive(self.embedding, u, self.cell.input_weights.weight, self.cell.input_weights.bias)

    def _fast(self, step_function: str, numbers: Tensor) -> bool:
        """Whether a step function of whole sequences is compiled: it is the net's own, and a machine is there."""
        own = self._own(step_function) and step_function not in vars(self)
        return own and not self._reference() and compiles(numbers)

    def _own(self, *names: str) -> bool:
        """Whether these step functions are those of the class that this one was made for, not a subclass's."""
        base = next(kind for kind in type(self).__mro__ if Scanning in kind.__bases__)
        return all(getattr(type(self), name) is getattr(base, name) for name in names)

    def _reference(self) -> bool:
        return self.recurrence == "reference" or torch.jit.is_tracing()  # torch.jit cannot see into the fast loops
