"""DMM: the equations of the paper as step functions.

Krishnan, Shalit, Sontag, "Structured Inference Networks for Nonlinear State Space Models", AAAI 2017,
https://arxiv.org/abs/1609.09869; Pyro's example ``dmm.py``. Sequences x_1..x_T with latents z_1..z_T:

    generation    z_t ~ p(z_t | z_{t-1})      x_t ~ p(x_t | z_t)
    inference     b_t = g(x_t, b_{t+1})       z_t ~ q(z_t | z_{t-1}, b_t), a normal or a flow of one

There is no recurrence but z: no x_{t-1} enters, and the state is z_t. z_0 is a parameter. Covariates c_t enter the
transition, p(z_t | z_{t-1}, c_t), as the actions of Krishnan, Shalit, Sontag, "Deep Kalman filters", 2015,
https://arxiv.org/abs/1511.05121.
"""

from collections.abc import Sequence
from typing import cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .. import recurrence as scans
from ..emissions import Emission
from ..networks import (
    MLP,
    AutoregressiveFlow,
    ClippedLeakyReLU,
    Combiner,
    FlowLayer,
    GatedTransition,
    PosteriorScan,
    Recurrence,
    State,
    backward_kind,
    backward_rnn,
    bounded,
    extras_of,
    frame_embedding,
    with_fast_form,
)
from ..paths import align
from ..recurrence import in_full_precision, uses_plain_loop
from .base import StochasticRNN
from .options import SIZES, checked
from .zforcing import ZForcing


class DMM(StochasticRNN):
    """The deep Markov model: a nonlinear state space model, whose posterior smooths with an RNN over the frames.

    Sites and programs are those of :class:`.StochasticRNN`. With the auxiliary p_xi(b_t | z_t, z_{t-1}) it is trained
    by Z-Forcing; the paper has none. The guide starts from the same learned z_0 as the model, where ``dmm.py`` has a
    second one.

    With ``num_flows``, q is an inverse autoregressive flow of the normal, as in that example (its ``num_iafs`` and
    ``iaf_dim``). All steps share its layers, which start as the identity. Then:

    - The plain loop runs.
    - The KL has no closed form. Objectives take log q - log p at the sample; free nats and ``latent_use`` are refused.
    - The density of a latent that the guide did not sample itself takes ``latent_dim`` passes through each layer.
    - ``reconstruct`` and ``interpolate`` take the flow of the normal's mean.

    State: ``hidden`` is z_t, (..., latent), and ``cell`` is empty.

    Args:
        emission: the family of p(x_t | z_t), such as ``emissions.Bernoulli(88)``.
        embed_dim: size of an embedded frame, which the RNN of the posterior reads.
        hidden_dim: size of a state of that RNN.
        latent_dim: size of z_t.
        mlp_dim: hidden size of the transition, posterior, auxiliary and emission networks.
        gated: the gated transition of the paper, between a linear and a nonlinear mean. Otherwise one MLP.
        bidirectional: b_t also holds the states of an RNN over x_1..x_t (the paper's ST-LR, not DKS), which tells no
            more about z_t given z_{t-1} in the exact posterior.
        combiner: how q joins z_{t-1} and b_t: ``"mlp"`` (one hidden layer) or ``"average"`` as in the paper, where it
            is the average of tanh(W z_{t-1} + c) and of the RNN's states. The latter runs the plain loop.
        cell: units of the RNN, ``"lstm"`` or ``"gru"``.
        num_layers: layers of the RNN.
        num_flows: layers of the flow on q; 0 for a normal. Of a single latent a layer scales and shifts, no more.
        flow_dim: hidden size of a layer of the flow; at least ``latent_dim``.
        z_force: the auxiliary sees z_t alone, not z_{t-1}.
        auxiliary_l2: fix the auxiliary's variance at 1/2.
        dropout: probability of zeroing an element of an embedded frame, in training mode.
        covariate_dim: K, covariates of a step, read beside each frame; 0 for none.
        missing: what is done about gaps, ``"draw"`` or ``"fill"``; see :class:`.StochasticRNN`.
        recurrence: ``"deferred"`` (fast loops) or ``"reference"`` (plain loops).
        name: name of the model in Pyro's parameter store; unique within the process by default.

    Raises:
        TypeError: ``emission`` is no emission, a switch is no bool, or ``name`` is no string.
        ValueError: a size is not a positive integer, dropout lies outside [0, 1), a name is unknown, or flows are less
            wide than z_t.
    """

    def __init__(
        self,
        emission: Emission,
        *,
        embed_dim: int = 512,
        hidden_dim: int = 1024,
        latent_dim: int = 256,
        mlp_dim: int = 512,
        gated: bool = True,
        bidirectional: bool = False,
        combiner: str = "mlp",
        cell: str = "lstm",
        num_layers: int = 1,
        num_flows: int = 0,
        flow_dim: int = 256,
        z_force: bool = False,
        auxiliary_l2: bool = False,
        dropout: float = 0.0,
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
            gated=gated,
            bidirectional=bidirectional,
            combiner=combiner,
            cell=cell,
            num_layers=num_layers,
            num_flows=num_flows,
            flow_dim=flow_dim,
            z_force=z_force,
            auxiliary_l2=auxiliary_l2,
            dropout=dropout,
            covariate_dim=covariate_dim,
            missing=missing,
            recurrence=recurrence,
        )
        super().__init__(emission, settings, name)
        embed_dim, hidden_dim, latent_dim, mlp_dim = (settings[size] for size in SIZES)
        num_layers = settings["num_layers"]
        self.hidden_dim, self.latent_dim = hidden_dim, latent_dim
        self.gated, self.bidirectional = gated, bidirectional
        self.z_force, self.auxiliary_l2 = z_force, auxiliary_l2
        self.combiner, self.recurrence = combiner, recurrence
        self.has_fast_loops = combiner == "mlp" and not settings["num_flows"]

        self.embedding = nn.Sequential(frame_embedding(emission, embed_dim, self.extra_dim), nn.Dropout(dropout))
        self.z_0 = nn.Parameter(torch.zeros(latent_dim))
        self.backward_rnn = backward_rnn(cell, embed_dim, hidden_dim, num_layers)
        if bidirectional:
            self.forward_rnn = Recurrence(cell, embed_dim, hidden_dim, num_layers)
        covariate_dim = self.covariate_dim
        beside = (covariate_dim,) if covariate_dim else ()
        self.prior_network = (
            GatedTransition(latent_dim, mlp_dim, covariate_dim)
            if gated
            else MLP((latent_dim, *beside), mlp_dim, 2 * latent_dim)
        )
        states = self.backward_dim // hidden_dim
        self.posterior_network: Combiner | MLP
        if combiner == "average":
            self.posterior_network = Combiner(latent_dim, hidden_dim, states)
        else:
            self.posterior_network = MLP((latent_dim, self.backward_dim), mlp_dim, 2 * latent_dim)
        self.flows = nn.ModuleList(
            FlowLayer(latent_dim, settings["flow_dim"], reverse=i % 2 == 1) for i in range(settings["num_flows"])
        )
        self.flow_elements = settings["num_flows"] * (settings["flow_dim"] + 4 * latent_dim)
        read = (latent_dim,) if z_force else (latent_dim, latent_dim + covariate_dim)
        self.auxiliary_network = MLP(read, mlp_dim, 2 * self.backward_dim)
        self.emission_hidden = nn.Sequential(
            nn.Linear(latent_dim, mlp_dim), ClippedLeakyReLU(), nn.Linear(mlp_dim, mlp_dim), ClippedLeakyReLU()
        )
        self.emission_layer = nn.Linear(mlp_dim, emission.num_parameters)
        self.emission_weights = nn.ModuleList(emission.weights())
        self.backward_emission_layer = nn.Linear(hidden_dim, emission.num_parameters)
        self.backward_emission_weights = nn.ModuleList(emission.weights())

    # The paper's equations ------------------------------------------------------------------------------------------

    @property
    def backward_dim(self) -> int:
        """Size of b_t: hidden, or twice as much with states of both directions."""
        return 2 * self.hidden_dim if self.bidirectional else self.hidden_dim

    def initial_state(self, batch_shape: Sequence[int]) -> State:
        """z_0, a parameter; ``hidden`` (*batch_shape, latent)."""
        return State(self.z_0.expand(*batch_shape, -1), self.z_0.new_zeros(*batch_shape, 0))

    @with_fast_form
    def past(self, state: State, u_t: Tensor) -> State:
        """z_{t-1}, with c_t beside it where there are covariates; ``hidden`` (..., latent + K), u_t (..., *frame)."""
        if not self.covariate_dim:
            return state
        c = extras_of(self, u_t)[..., : self.covariate_dim].to(state.hidden.dtype)
        shape = torch.broadcast_shapes(state.hidden.shape[:-1], c.shape[:-1])
        hidden = torch.cat([part.expand(*shape, -1) for part in (state.hidden, c)], dim=-1)
        return State(hidden, state.cell.expand(*shape, -1))

    @with_fast_form
    def prior(self, past: State) -> dist.TorchDistribution:
        """p(z_t | z_{t-1} [, c_t]), a diagonal normal; ``past`` is :meth:`past` of step t."""
        parameters = self.prior_network(past.hidden)
        return dist.Normal(*(parameters if self.gated else bounded(parameters))).to_event(1)

    @with_fast_form
    def posterior(self, past: State, b_t: Tensor) -> dist.TorchDistribution:
        """q(z_t | z_{t-1}, b_t), a diagonal normal or a flow of one; ``past`` is of step t, b_t (..., backward)."""
        parameters = self.posterior_network(past.hidden[..., : self.latent_dim], b_t)
        loc, scale = parameters if self.combiner == "average" else bounded(parameters)
        if self.flows:
            return AutoregressiveFlow(loc, scale, self.flows)  # type: ignore[arg-type]  # a list of such layers
        return dist.Normal(loc, scale).to_event(1)

    @with_fast_form
    def transition(self, past: State, u_t: Tensor, z_t: Tensor) -> State:
        """z_t (..., latent) itself; ``past`` and the frame u_t are not read."""
        shape = torch.broadcast_shapes(past.hidden.shape[:-1], z_t.shape[:-1])
        return State(z_t.expand(*shape, -1), past.cell.expand(*shape, -1))

    def emission(self, state: State) -> dist.TorchDistribution:
        """p(x_t | z_t); ``state`` is z_t, the event is one frame."""
        parameters = self.emission_layer(self.emission_hidden(state.hidden))
        return self.emission_family.distribution(parameters, *self.emission_weights)

    auxiliary = ZForcing.auxiliary

    def backward_emission(self, b_t: Tensor) -> dist.TorchDistribution:
        """p_bwd(x_{t-1} | b_t) of the backward RNN's part of b_t, its first hidden elements; b_t (..., backward)."""
        return ZForcing.backward_emission(self, b_t[..., : self.hidden_dim])

    def parts_of(self, step_function: str) -> dict[str, type[nn.Module]]:
        parts: dict[str, dict[str, type[nn.Module]]] = {
            "prior": {"prior_network": MLP},
            "posterior": {"posterior_network": MLP},
            "auxiliary": {"auxiliary_network": MLP},
            "backward_states": {"backward_rnn": backward_kind(self.settings["cell"], self.settings["num_layers"])},
        }
        return parts.get(step_function, {})

    def covariate_readers(self) -> Sequence[tuple[nn.Linear, int]]:
        """Layers of the transition, and of the auxiliary, that read c_t; see :meth:`.Equations.covariate_readers`."""
        network, size = self.prior_network, self.latent_dim
        if isinstance(network, GatedTransition):
            found = [(layer, size) for layer in (network.gate.first, network.proposal.first, network.linear)]
        else:
            found = [(network.first, size)]
        return found if self.z_force else [*found, (self.auxiliary_network.first, 2 * size)]

    # The same over whole sequences ----------------------------------------------------------------------------------

    @in_full_precision
    def scan_backward(self, x: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        """b of frames (time, batch, *frame), first the backward RNN's states; (time, batch, backward)."""
        backward = scans.scan_backward(self, x, mask, lengths)
        if not self.bidirectional:
            return backward
        return torch.cat([backward, self.forward_rnn(self.embedding(x))], dim=-1)

    @in_full_precision
    def scan_posterior(self, state: State, u: Tensor, b: Tensor, noise: Tensor) -> PosteriorScan:
        if uses_plain_loop(self) or self.flows:
            return scans.reference_posterior_scan(self.past, self.posterior, self.transition, state, u, b, noise)
        network = cast(MLP, self.posterior_network)
        contexts = network.rest(align(b, noise.dim() - 2))
        scan = scans.latent_scan(network, state.hidden, contexts, noise, self.loop_memory.forward)
        if not self.covariate_dim:
            return scan
        return scan._replace(before=self.past(scan.before, align(u, noise.dim() - 2)))

    @in_full_precision
    def scan_states(self, state: State, u: Tensor, z: Tensor) -> State:
        if uses_plain_loop(self):
            return scans.reference_state_scan(self.past, self.transition, state, u, z)
        hidden = torch.cat([state.hidden.expand_as(z[0]).unsqueeze(0), z])
        return State(hidden, hidden[..., :0])

    scan_auxiliary = scans.scan_auxiliary

    def scan_prior(self, before: State) -> dist.TorchDistribution:
        return self.prior(before) if self.gated else scans.scan_prior(self, before)
