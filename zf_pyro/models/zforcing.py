"""Z-Forcing: the equations of the paper as step functions.

Goyal, Sordoni, Cote, Ke, Bengio, "Training Stochastic Recurrent Networks", NIPS 2017,
https://arxiv.org/abs/1711.05411. Sequences x_1..x_T with latents z_1..z_T:

    generation    z_t ~ p(z_t | h_{t-1})      h_t = f(u_t, z_t, h_{t-1})      x_t ~ p(x_t | h_t)
    inference     b_t = g(x_t, b_{t+1})       z_t ~ q(z_t | h_{t-1}, b_t)
    auxiliary     b_t ~ p_xi(b_t | z_t [, h_{t-1}])

where u_t = x_{t-1} is the input of step t, and h_0 = 0 (:class:`StochasticRNN` has both). The evidence lower bound is
sum_t log p(x_t | h_t) - KL(q || p). Training adds alpha log p_xi(b_t | z_t), so that z_t carries information about
later frames (:class:`zf_pyro.ZForcingELBO`).
"""

from collections.abc import Sequence
from typing import Protocol

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .. import recurrence as scans
from ..emissions import Emission
from ..networks import CELLS, MLP, BackwardRNN, StackedCell, State, Transition, bounded, frame_embedding, with_fast_form
from .base import StochasticRNN
from .options import SIZES, checked


class AuxiliaryNetwork(Protocol):
    """A model with a backward RNN, and the networks of the auxiliary and of the backward likelihood."""

    auxiliary_network: MLP
    z_force: bool
    auxiliary_l2: bool
    emission_family: Emission
    backward_emission_layer: nn.Linear
    backward_emission_weights: nn.ModuleList

    def seen(self, past: State) -> Tensor:
        """What the auxiliary sees of the past; (..., features)."""
        ...


class ZForcing(StochasticRNN):
    """A stochastic recurrent network with a backward-RNN posterior, as a pair of Pyro programs.

    The step functions (:meth:`inputs` to :meth:`auxiliary`) are pure functions of tensors with any leading batch
    dimensions. :meth:`model` and :meth:`guide` are the Pyro programs made of them. Sites: latents ``z_{t}``, frames
    ``x_{t}``, t from 0, in the plate ``sequences`` at dim -1. The defaults are the paper's TIMIT sizes.

    Args:
        emission: the family of p(x_t | h_t), such as ``emissions.Gaussian(200)``.
        embed_dim: size of an embedded frame.
        hidden_dim: size of h_t and of b_t.
        latent_dim: size of z_t.
        mlp_dim: hidden size of the prior, posterior, auxiliary and modulation networks.
        transition: how z_t enters the LSTM cell f: ``"conditional_layer_norm"`` (it sets gain and bias of the layer
            norm of the hidden gates) or ``"concatenate"`` (it is a further input).
        z_force: the auxiliary sees z_t alone, not h_{t-1}.
        num_layers: layers of f and of the backward LSTM, of which the other networks see the top one.
        latents_see_input: the prior, the posterior and the auxiliary of z_t also see the embedded input, e(x_{t-1}), as
            VRNN's do, where h_{t-1} has read x_{t-2} at most.
        auxiliary_l2: fix the auxiliary's variance at 1/2, so that its log-density is minus the squared distance up to
            a constant: the L2 variant of the released code.
        dropout: probability of zeroing an element of an embedded frame, in training mode.
        frame_dropout: probability of hiding x_{t-1} from the recurrence, in training mode; word dropout for text.
        covariate_dim: K, covariates of a step, read beside each frame; 0 for none.
        missing: what is done about gaps, ``"draw"`` or ``"fill"``; see :class:`.StochasticRNN`.
        recurrence: ``"deferred"`` (fast loops, for one layer; weight gradients are formed once per loop) or
            ``"reference"`` (a plain loop over the step functions, for comparison). Step functions of the user's own,
            in a subclass or on the instance, always run in the plain loop.
        name: name of the model in Pyro's parameter store; unique within the process by default.

    Raises:
        TypeError: ``emission`` is no emission, a switch is no bool, or ``name`` is no string.
        ValueError: a size is not a positive integer, dropout lies outside [0, 1), or a name is unknown.
    """

    def __init__(
        self,
        emission: Emission,
        *,
        embed_dim: int = 512,
        hidden_dim: int = 1024,
        latent_dim: int = 256,
        mlp_dim: int = 512,
        transition: str = "conditional_layer_norm",
        num_layers: int = 1,
        latents_see_input: bool = False,
        z_force: bool = False,
        auxiliary_l2: bool = False,
        dropout: float = 0.0,
        frame_dropout: float = 0.0,
        covariate_dim: int = 0,
        missing: str = "draw",
        recurrence: str = "deferred",
        name: str | None = None,
    ) -> None:
        settings = checked(
            embed_dim=embed_dim,
            hidden_dim=hidden_dim,
            latent_dim=latent_dim,
            mlp_dim=mlp_dim,
            transition=transition,
            num_layers=num_layers,
            latents_see_input=latents_see_input,
            z_force=z_force,
            auxiliary_l2=auxiliary_l2,
            dropout=dropout,
            frame_dropout=frame_dropout,
            covariate_dim=covariate_dim,
            missing=missing,
            recurrence=recurrence,
        )
        super().__init__(emission, settings, name)
        self.frame_dropout = settings["frame_dropout"]
        embed_dim, hidden_dim, latent_dim, mlp_dim = (settings[size] for size in SIZES)
        num_layers = settings["num_layers"]
        self.hidden_dim, self.latent_dim, self.num_layers = hidden_dim, latent_dim, num_layers
        self.latents_see_input, self.z_force, self.auxiliary_l2 = latents_see_input, z_force, auxiliary_l2
        self.recurrence, self.has_fast_loops = recurrence, num_layers == 1

        self.embedding = nn.Sequential(frame_embedding(emission, embed_dim, self.extra_dim), nn.Dropout(dropout))
        self.backward_rnn = BackwardRNN(embed_dim, hidden_dim, num_layers)
        first = CELLS[transition](embed_dim, hidden_dim, latent_dim, mlp_dim)
        self.cell = first if num_layers == 1 else StackedCell(first, "lstm", num_layers)
        read = (embed_dim,) if self.latents_see_input else ()
        seen_dim = hidden_dim + sum(read)
        self.prior_network = MLP((hidden_dim, *read), mlp_dim, 2 * latent_dim)
        self.posterior_network = MLP((hidden_dim, hidden_dim, *read), mlp_dim, 2 * latent_dim)
        seen_by_auxiliary = (latent_dim,) if self.z_force else (latent_dim, seen_dim)
        self.auxiliary_network = MLP(seen_by_auxiliary, mlp_dim, 2 * hidden_dim)
        self.emission_layer = nn.Linear(hidden_dim, emission.num_parameters)
        self.backward_emission_layer = nn.Linear(hidden_dim, emission.num_parameters)
        self.emission_weights = nn.ModuleList(emission.weights())
        self.backward_emission_weights = nn.ModuleList(emission.weights())

    # The paper's equations; u_t and h_0 are those of StochasticRNN --------------------------------------------------

    @with_fast_form
    def backward_states(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> Tensor:
        """b_t = g(x_t, b_{t+1}), an LSTM run backwards from the last real frame of each sequence.

        x (batch, time, *frame), ``lengths`` (batch,), covariates (batch, time, K) and ``observed`` (batch, time[,
        *frame]) to (time, batch, hidden); see :class:`.Equations`.
        """
        return super().backward_states(x, lengths, covariates, observed)

    def initial_state(self, batch_shape: Sequence[int]) -> State:
        """h_0 = 0 of all layers, for hidden and cell; each (*batch_shape, layers x hidden)."""
        zeros = self.emission_layer.weight.new_zeros(*batch_shape, self.num_layers * self.hidden_dim)
        return State(zeros, zeros)

    @with_fast_form
    def past(self, state: State, u_t: Tensor) -> State:
        """h_{t-1}, with e(u_t) beside it where latents see the input; ``hidden`` (..., layers x hidden [+ embed])."""
        if not self.latents_see_input:
            return state
        read = self.embedding(u_t)
        shape = torch.broadcast_shapes(state.hidden.shape[:-1], read.shape[:-1])
        return State(torch.cat([part.expand(*shape, -1) for part in (state.hidden, read)], dim=-1), state.cell)

    @with_fast_form
    def prior(self, past: State) -> dist.TorchDistribution:
        """p(z_t | h_{t-1}), a diagonal normal; ``past`` is :meth:`past` of step t."""
        return dist.Normal(*bounded(self.prior_network(self.seen(past)))).to_event(1)

    @with_fast_form
    def posterior(self, past: State, b_t: Tensor) -> dist.TorchDistribution:
        """q(z_t | h_{t-1}, b_t), a diagonal normal; ``past`` as for :meth:`prior`, b_t (..., hidden)."""
        h, *read = self._parts(past)
        return dist.Normal(*bounded(self.posterior_network(self.top(h), b_t, *read))).to_event(1)

    @with_fast_form
    def transition(self, past: State, u_t: Tensor, z_t: Tensor) -> State:
        """h_t = f(u_t, z_t, h_{t-1}); ``past`` as for :meth:`prior`, u_t a raw frame, z_t (..., latent)."""
        h, *read = self._parts(past)
        inputs = self.cell.inputs(read[0] if read else self.embedding(u_t))
        return self.cell.advance(State(h, past.cell), inputs, self.cell.modulation(z_t))

    def emission(self, state: State) -> dist.TorchDistribution:
        """p(x_t | h_t); ``state`` is h_t, the event is one frame."""
        return self.emission_family.distribution(self.emission_layer(self.top(state.hidden)), *self.emission_weights)

    @with_fast_form
    def auxiliary(self: AuxiliaryNetwork, z_t: Tensor, past: State) -> dist.TorchDistribution:
        """p_xi(b_t | z_t, h_{t-1}), or p_xi(b_t | z_t) with ``z_force``; a diagonal normal whose mean is a tanh."""
        inputs = (z_t,) if self.z_force else (z_t, self.seen(past))
        loc, scale = bounded(self.auxiliary_network(*inputs))
        if self.auxiliary_l2:
            scale = torch.full_like(scale, 0.5**0.5)
        return dist.Normal(loc.tanh(), scale).to_event(1)

    def backward_emission(self: AuxiliaryNetwork, b_t: Tensor) -> dist.TorchDistribution:
        """p_bwd(x_{t-1} | b_t), b_t (..., hidden): the backward RNN predicts the frame before."""
        return self.emission_family.distribution(self.backward_emission_layer(b_t), *self.backward_emission_weights)

    def top(self, h: Tensor) -> Tensor:
        """The top layer of h (..., layers x hidden), which networks see; (..., hidden)."""
        return h if self.num_layers == 1 else h[..., -self.hidden_dim :]

    def seen(self, past: State) -> Tensor:
        """What the prior sees: the top layer of h_{t-1}, and e(u_t) beside it where latents see the input."""
        return past.hidden if self.num_layers == 1 else past.hidden[..., (self.num_layers - 1) * self.hidden_dim :]

    def _parts(self, past: State) -> tuple[Tensor, ...]:
        """All layers of h_{t-1}, and e(u_t) where latents see the input."""
        width = self.num_layers * self.hidden_dim
        return past.hidden.tensor_split([width], dim=-1) if self.latents_see_input else (past.hidden,)

    def parts_of(self, step_function: str) -> dict[str, type[nn.Module]]:
        parts: dict[str, dict[str, type[nn.Module]]] = {
            "prior": {"prior_network": MLP},
            "posterior": {"posterior_network": MLP},
            "transition": {"cell": CELLS[self.settings["transition"]]},
            "auxiliary": {"auxiliary_network": MLP},
            "backward_states": {"backward_rnn": BackwardRNN},
        }
        return parts.get(step_function, {}) if self.has_fast_loops else {}

    # The same over whole sequences ----------------------------------------------------------------------------------

    scan_backward = scans.scan_backward
    scan_posterior = scans.scan_posterior
    scan_states = scans.scan_states
    scan_prior = scans.scan_prior
    scan_auxiliary = scans.scan_auxiliary

    def loop_transition(self) -> Transition:
        if scans.uses_plain_loop(self) or self.latents_see_input or isinstance(self.cell, StackedCell):
            return self.transition
        return self.cell.prepared(self.embedding)
