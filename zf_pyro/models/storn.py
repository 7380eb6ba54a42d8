"""STORN: the equations of the paper as step functions.

Bayer, Osendorfer, "Learning Stochastic Recurrent Networks", 2014, https://arxiv.org/abs/1411.7610. Sequences x_1..x_T
with latents z_1..z_T:

    generation    z_t ~ N(0, I)      h_t = f(x_{t-1}, z_t, h_{t-1})      x_t ~ p(x_t | h_t)
    inference     a_t = g(x_t, a_{t-1})      z_t ~ q(z_t | a_t)

The recognition network reads frames alone, up to x_t. All latents can therefore be sampled at once, before the
recurrence. Here f and g have LSTM or GRU units, where the paper has simple ones. A prior p(z_t | h_{t-1}), trained, is
an option.
"""

from collections.abc import Sequence
from typing import cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..emissions import Emission
from ..networks import (
    MLP,
    ConcatenateCell,
    Drive,
    ForwardRNN,
    PosteriorScan,
    State,
    Transition,
    bounded,
    frame_embedding,
    fused_drive,
    latent_cell,
    with_fast_form,
)
from ..recurrence import (
    backward_scan,
    has_fast_form,
    in_full_precision,
    prior_scan,
    reference_posterior_scan,
    reference_state_scan,
    state_scan,
    uses_plain_loop,
)
from .base import StochasticRNN
from .options import SIZES, checked


class STORN(StochasticRNN):
    """The stochastic recurrent network, with latents that are independent under the prior and under the posterior.

    Sites and programs are those of :class:`.StochasticRNN`. There is no backward RNN, and no auxiliary.

    State: ``hidden`` and ``cell`` are h_t and c_t, each (..., layers x hidden). The recognition network has no part in
    it: in :meth:`guide` a_0 = 0 before the first frame given, also after a carried state and a context. Its posterior
    of a later part of a sequence therefore differs from the one it has within the whole.

    Args:
        emission: the family of p(x_t | h_t), such as ``emissions.Gaussian(200)``.
        embed_dim: size of an embedded frame, which f and g read.
        hidden_dim: size of h_t and of a_t.
        latent_dim: size of z_t.
        mlp_dim: hidden size of the posterior network and of a trained prior's, and of the linear map from z_t to f.
        prior: ``"standard"``, N(0, I) as in the paper, or ``"trained"``, p(z_t | h_{t-1}).
        cell: recurrent units, ``"lstm"`` or ``"gru"``.
        num_layers: layers of f and of g, of which the other networks see the top one.
        dropout: probability of zeroing an element of an embedded frame, in training mode.
        frame_dropout: probability of hiding x_{t-1} from the recurrence, in training mode; word dropout for text.
        covariate_dim: K, covariates of a step, read beside each frame; 0 for none.
        missing: what is done about gaps, ``"draw"`` or ``"fill"``; see :class:`.StochasticRNN`.
        recurrence: ``"deferred"`` (fast loops, for LSTM units of one layer) or ``"reference"`` (plain loops).
        name: name of the model in Pyro's parameter store; unique within the process by default.

    Raises:
        TypeError: ``emission`` is no emission, or ``name`` is no string.
        ValueError: a size is not a positive integer, dropout lies outside [0, 1), or a name is unknown.
    """

    has_auxiliary = False

    def __init__(
        self,
        emission: Emission,
        *,
        embed_dim: int = 512,
        hidden_dim: int = 1024,
        latent_dim: int = 256,
        mlp_dim: int = 512,
        prior: str = "standard",
        cell: str = "lstm",
        num_layers: int = 1,
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
            prior=prior,
            cell=cell,
            num_layers=num_layers,
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
        self.hidden_dim, self.latent_dim = hidden_dim, latent_dim
        self.num_layers, self.recurrence = num_layers, recurrence
        self.has_fast_loops = cell == "lstm" and num_layers == 1

        self.embedding = nn.Sequential(frame_embedding(emission, embed_dim, self.extra_dim), nn.Dropout(dropout))
        self.recognition_rnn = ForwardRNN(cell, embed_dim, hidden_dim, num_layers)
        self.cell = latent_cell(cell, num_layers, (embed_dim, hidden_dim, latent_dim, mlp_dim), features=False)
        self.cell_dim = 0 if cell == "gru" else num_layers * hidden_dim
        self.prior_network = MLP((hidden_dim,), mlp_dim, 2 * latent_dim) if prior == "trained" else None
        self.posterior_network = MLP((hidden_dim,), mlp_dim, 2 * latent_dim)
        self.emission_layer = nn.Linear(hidden_dim, emission.num_parameters)
        self.emission_weights = nn.ModuleList(emission.weights())

    # The paper's equations; u_t and past are those of StochasticRNN --------------------------------------------------

    def initial_state(self, batch_shape: Sequence[int]) -> State:
        """h_0 = 0 of all layers; ``hidden`` (*batch_shape, layers x hidden), ``cell`` the same or (*batch_shape, 0)."""
        zeros = self.emission_layer.weight.new_zeros
        return State(zeros(*batch_shape, self.num_layers * self.hidden_dim), zeros(*batch_shape, self.cell_dim))

    @with_fast_form
    def prior(self, past: State) -> dist.TorchDistribution:
        """N(0, I), or p(z_t | h_{t-1}), a diagonal normal; ``past`` is h_{t-1}."""
        if self.prior_network is not None:
            return dist.Normal(*bounded(self.prior_network(self.top(past.hidden)))).to_event(1)
        shape = *past.hidden.shape[:-1], self.latent_dim
        loc, scale = past.hidden.new_zeros(()).expand(shape), past.hidden.new_ones(()).expand(shape)
        return dist.Normal(loc, scale).to_event(1)

    @with_fast_form
    def posterior(self, past: State, b_t: Tensor) -> dist.TorchDistribution:
        """q(z_t | x_1..x_t), a diagonal normal; b_t = a_t (..., hidden). Of ``past`` it has the batch shape alone."""
        shape = *torch.broadcast_shapes(past.hidden.shape[:-1], b_t.shape[:-1]), -1
        loc, scale = bounded(self.posterior_network(b_t))
        return dist.Normal(loc.expand(shape), scale.expand(shape)).to_event(1)

    @with_fast_form
    def transition(self, past: State, u_t: Tensor, z_t: Tensor) -> State:
        """h_t = f(u_t, z_t, h_{t-1}); ``past`` is h_{t-1}, u_t a raw frame, z_t (..., latent)."""
        return self.cell.advance(past, self.cell.inputs(self.embedding(u_t)), self.cell.modulation(z_t))

    def emission(self, state: State) -> dist.TorchDistribution:
        """p(x_t | h_t); ``state`` is h_t, the event is one frame."""
        return self.emission_family.distribution(self.emission_layer(self.top(state.hidden)), *self.emission_weights)

    def top(self, h: Tensor) -> Tensor:
        """The top layer of h (..., layers x hidden), which networks see; (..., hidden)."""
        return h if self.num_layers == 1 else h[..., -self.hidden_dim :]

    def parts_of(self, step_function: str) -> dict[str, type[nn.Module]]:
        parts: dict[str, dict[str, type[nn.Module]]] = {
            "prior": {} if self.prior_network is None else {"prior_network": MLP},
            "posterior": {"posterior_network": MLP},
            "transition": {"cell": ConcatenateCell},
            "backward_states": {"recognition_rnn": ForwardRNN},
        }
        return parts.get(step_function, {}) if self.has_fast_loops else {}

    # The same over whole sequences ----------------------------------------------------------------------------------

    @in_full_precision
    def scan_backward(self, x: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        """b_t = a_t, the states of the recognition network over frames (time, batch, *frame); (time, batch, hidden)."""
        if not has_fast_form(self, "backward_states", self.emission_layer.weight):
            return self.recognition_rnn(self.embedding(x))
        drive = self.recognition_rnn.drive(self.embedding, x.flip(0))
        return backward_scan(self.recognition_rnn, drive, None, self.loop_memory.backward).flip(0)

    @in_full_precision
    def scan_posterior(self, state: State, u: Tensor, b: Tensor, noise: Tensor) -> PosteriorScan:
        if uses_plain_loop(self):
            return reference_posterior_scan(self.past, self.posterior, self.transition, state, u, b, noise)
        if has_fast_form(self, "posterior", b):
            parameters = prior_scan(self.posterior_network, b, self.loop_memory.auxiliary)
        else:
            parameters = bounded(self.posterior_network(b))
        missing = noise.dim() - b.dim()
        loc, scale = (part[(slice(None), *[None] * missing)].expand(noise.shape) for part in parameters)
        z = torch.addcmul(loc, scale, noise)
        states = self.scan_states(state, u, z)
        before, after = (State(*(field[part] for field in states)) for part in (slice(-1), slice(1, None)))
        return PosteriorScan(z, states, before, after, loc, scale)

    @in_full_precision
    def scan_states(self, state: State, u: Tensor, z: Tensor) -> State:
        if uses_plain_loop(self):
            return reference_state_scan(self.past, self.transition, state, u, z)
        cell = cast(ConcatenateCell, self.cell)
        drive = fused_drive(self.embedding, u, cell.input_weights.weight, cell.input_weights.bias)
        # Latents that are known at all steps are inputs like the frames, and both have one product in the loop.
        dims = max(drive.v.dim(), z.dim())
        parts = [part[(slice(None), *[None] * (dims - part.dim()))] for part in (drive.v, z)]
        shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        v = torch.cat([part.expand(*shape, -1) for part in parts], dim=-1)
        weight = torch.cat([drive.weight, *cell.modulation_weights()], dim=1)
        return state_scan(cell, state, Drive(v, weight, drive.bias), None, self.loop_memory.forward)

    @in_full_precision
    def scan_prior(self, before: State) -> dist.TorchDistribution:
        """:meth:`prior` of every step; ``before`` is h_0..h_{T-1}, each field (time, ..., hidden)."""
        if self.prior_network is None or not has_fast_form(self, "prior", before.hidden):
            return self.prior(before)
        return dist.Normal(*prior_scan(self.prior_network, before.hidden, self.loop_memory.prior)).to_event(1)

    def loop_transition(self) -> Transition:
        if uses_plain_loop(self) or not isinstance(self.cell, ConcatenateCell):
            return self.transition
        return self.cell.prepared(self.embedding)
