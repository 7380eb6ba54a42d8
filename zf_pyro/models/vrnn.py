"""VRNN: the equations of the paper as step functions.

Chung, Kastner, Dinh, Goel, Courville, Bengio, "A Recurrent Latent Variable Model for Sequential Data", NIPS 2015,
https://arxiv.org/abs/1506.02216. Sequences x_1..x_T with latents z_1..z_T:

    generation    z_t ~ p(z_t | h_{t-1})      x_t ~ p(x_t | phi_z(z_t), h_{t-1})
    recurrence    h_t = f(phi_x(x_t), phi_z(z_t), h_{t-1})
    inference     z_t ~ q(z_t | phi_x(x_t), h_{t-1})

The recurrence reads x_t before step t + 1. Here h_{t-1} is therefore computed as :meth:`VRNN.past` of step t, from
u_t = x_{t-1}, z_{t-1} and h_{t-2}. At the first step u_1 is the context or start frame, and z_0 = h_{-1} = 0.
"""

from collections.abc import Sequence
from typing import cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..emissions import Emission
from ..networks import (
    MLP,
    ClippedLeakyReLU,
    ConcatenateCell,
    Drive,
    FeatureCell,
    GatedCell,
    LatentGRUCell,
    PosteriorScan,
    StackedCell,
    State,
    bounded,
    clipped_leaky_relu,
    frame_embedding,
    latent_cell,
    own_step_functions,
    with_fast_form,
    with_first,
)
from ..recurrence import (
    in_chunks,
    in_full_precision,
    posterior_scan,
    reference_posterior_scan,
    reference_state_scan,
    state_scan,
    uses_plain_loop,
)
from .base import StochasticRNN
from .options import SIZES, checked


class VRNN(StochasticRNN):
    """The variational recurrent network, whose posterior filters: q(z_t) sees the frames up to x_t.

    Sites and programs are those of :class:`.StochasticRNN`. Both networks of latents and the emission see h_{t-1}, so
    that the prior knows x_{t-1}. There is no backward RNN, and no auxiliary.

    State: ``hidden`` is (h_{t-1}, z_t), of which x_t is emitted, (..., layers x hidden + latent).

    Args:
        emission: the family of p(x_t | z_t, h_{t-1}), such as ``emissions.Gaussian(200)``.
        embed_dim: size of phi_x(x_t), the embedded frame.
        hidden_dim: size of h_t.
        latent_dim: size of z_t.
        mlp_dim: hidden size of the prior, posterior and emission networks, and size of phi_z(z_t).
        cell: recurrent units, ``"lstm"`` as in the paper, or ``"gru"``.
        num_layers: layers of the recurrence.
        feature_networks: phi_x and phi_z are nonlinear layers, as in the paper. Otherwise both are linear.
        dropout: probability of zeroing an element of an embedded frame, in training mode.
        frame_dropout: probability of hiding x_{t-1} from the recurrence, in training mode; word dropout for text.
        covariate_dim: K, covariates of a step, read beside each frame; 0 for none.
        missing: what is done about gaps, ``"draw"`` or ``"fill"``; see :class:`.StochasticRNN`.
        recurrence: ``"deferred"`` (fast loops, for LSTM units of one layer) or ``"reference"`` (plain loops).
        name: name of the model in Pyro's parameter store; unique within the process by default.

    Raises:
        TypeError: ``emission`` is no emission, a switch is no bool, or ``name`` is no string.
        ValueError: a size is not a positive integer, dropout lies outside [0, 1), or a name is unknown.
    """

    has_auxiliary = False
    cell: GatedCell | LatentGRUCell | StackedCell

    def __init__(
        self,
        emission: Emission,
        *,
        embed_dim: int = 512,
        hidden_dim: int = 1024,
        latent_dim: int = 256,
        mlp_dim: int = 512,
        cell: str = "lstm",
        num_layers: int = 1,
        feature_networks: bool = True,
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
            cell=cell,
            num_layers=num_layers,
            feature_networks=feature_networks,
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
        self.hidden_dim, self.latent_dim, self.embed_dim = hidden_dim, latent_dim, embed_dim
        self.num_layers, self.feature_networks, self.recurrence = num_layers, feature_networks, recurrence
        self.has_fast_loops = cell == "lstm" and num_layers == 1

        embedding = frame_embedding(emission, embed_dim, self.extra_dim)
        rectified = [ClippedLeakyReLU()] if feature_networks else []
        self.embedding = nn.Sequential(embedding, *rectified, nn.Dropout(dropout))
        dims = embed_dim, hidden_dim, latent_dim, mlp_dim
        self.cell = latent_cell(cell, num_layers, dims, feature_networks)
        self.cell_dim = 0 if cell == "gru" else num_layers * hidden_dim
        self.prior_network = MLP((hidden_dim,), mlp_dim, 2 * latent_dim)
        self.posterior_network = MLP((hidden_dim, embed_dim), mlp_dim, 2 * latent_dim)
        self.emission_hidden = nn.Linear(hidden_dim, mlp_dim)
        self.emission_latent = nn.Linear(mlp_dim if feature_networks else latent_dim, mlp_dim, bias=False)
        self.emission_layer = nn.Linear(mlp_dim, emission.num_parameters)
        self.emission_weights = nn.ModuleList(emission.weights())

    # The paper's equations ------------------------------------------------------------------------------------------

    @property
    def backward_dim(self) -> int:
        """Size of b_t = phi_x(x_t), all that the posterior reads of the frames beside h_{t-1}."""
        return self.embed_dim

    def initial_state(self, batch_shape: Sequence[int]) -> State:
        """h_{-1} = 0 and z_0 = 0; ``hidden`` (*batch_shape, layers x hidden + latent)."""
        zeros = self.emission_layer.weight.new_zeros
        return State(
            zeros(*batch_shape, self.num_layers * self.hidden_dim + self.latent_dim), zeros(*batch_shape, self.cell_dim)
        )

    @with_fast_form
    def past(self, state: State, u_t: Tensor) -> State:
        """h_{t-1} = f(phi_x(x_{t-1}), phi_z(z_{t-1}), h_{t-2}); ``state`` is (h_{t-2}, z_{t-1}), u_t is x_{t-1}."""
        h, z = state.hidden.split([state.hidden.shape[-1] - self.latent_dim, self.latent_dim], dim=-1)
        inputs = self.cell.inputs(self.embedding(u_t))
        return self.cell.advance(State(h, state.cell), inputs, self.cell.modulation(z))

    @with_fast_form
    def prior(self, past: State) -> dist.TorchDistribution:
        """p(z_t | h_{t-1}), a diagonal normal; ``past`` is h_{t-1}."""
        return dist.Normal(*bounded(self.prior_network(self.top(past.hidden)))).to_event(1)

    @with_fast_form
    def posterior(self, past: State, b_t: Tensor) -> dist.TorchDistribution:
        """q(z_t | phi_x(x_t), h_{t-1}), a diagonal normal; ``past`` is h_{t-1}, b_t = phi_x(x_t) (..., embed)."""
        return dist.Normal(*bounded(self.posterior_network(self.top(past.hidden), b_t))).to_event(1)

    @with_fast_form
    def transition(self, past: State, u_t: Tensor, z_t: Tensor) -> State:
        """(h_{t-1}, z_t), of which x_t is emitted; ``past`` is h_{t-1}, z_t (..., latent). x_t is read at t + 1."""
        return _with_latent(past, z_t)

    @with_fast_form
    def emission(self, state: State) -> dist.TorchDistribution:
        """p(x_t | phi_z(z_t), h_{t-1}); ``state`` is (h_{t-1}, z_t), the event is one frame."""
        h, z = state.hidden.split([state.hidden.shape[-1] - self.latent_dim, self.latent_dim], dim=-1)
        features = cast(FeatureCell, self.cell).features(z) if self.feature_networks else z
        hidden = clipped_leaky_relu(self.emission_hidden(self.top(h)) + self.emission_latent(features))
        return self.emission_family.distribution(self.emission_layer(hidden), *self.emission_weights)

    def top(self, h: Tensor) -> Tensor:
        """The top layer of h (..., layers x hidden), which networks see; (..., hidden)."""
        return h if self.num_layers == 1 else h[..., -self.hidden_dim :]

    def parts_of(self, step_function: str) -> dict[str, type[nn.Module]]:
        parts: dict[str, dict[str, type[nn.Module]]] = {
            "past": {"cell": FeatureCell if self.feature_networks else ConcatenateCell},
            "prior": {"prior_network": MLP},
            "posterior": {"posterior_network": MLP},
            "emission": {"emission_hidden": nn.Linear, "emission_latent": nn.Linear},
        }
        return parts.get(step_function, {}) if self.has_fast_loops else {}

    # The same over whole sequences ----------------------------------------------------------------------------------

    @in_full_precision
    def scan_backward(self, x: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        """b_t = phi_x(x_t) of frames (time, batch, *frame); (time, batch, embed)."""
        return self.embedding(x)

    @in_full_precision
    def scan_posterior(self, state: State, u: Tensor, b: Tensor, noise: Tensor) -> PosteriorScan:
        if uses_plain_loop(self):
            return reference_posterior_scan(self.past, self.posterior, self.transition, state, u, b, noise)
        first, drive = self.past(state, u[0]), self._drive(u)
        contexts, memory = self.posterior_network.rest(b), self.loop_memory.forward
        cell = cast(GatedCell, self.cell)
        scan = posterior_scan(self.posterior_network, cell, first, drive, contexts, noise, memory)
        after = _with_latent(scan.before, scan.z)
        return scan._replace(states=with_first(state, after), after=after)

    @in_full_precision
    def scan_states(self, state: State, u: Tensor, z: Tensor) -> State:
        if uses_plain_loop(self):
            return reference_state_scan(self.past, self.transition, state, u, z)
        modulation = in_chunks(lambda z: self.cell.modulation(z).transpose(-1, -2), z)
        cell, memory = cast(GatedCell, self.cell), self.loop_memory.forward
        found = state_scan(cell, self.past(state, u[0]), self._drive(u), modulation, memory)
        return with_first(state, _with_latent(State(*(field[:-1] for field in found)), z))

    def scan_past(self, before: State, u: Tensor, after: State) -> State:
        """h_0..h_{T-1}, read off the states after each step, (time, ..., hidden); u (time, ..., *frame)."""
        if not own_step_functions(self, "past", "transition"):
            return self.past(before, u)
        return State(after.hidden[..., : -self.latent_dim], after.cell)

    def _drive(self, u: Tensor) -> Drive:
        """The frames' part of the gates of f at steps 1..T - 1, and once more at the last, whose result is dropped."""
        layer = cast(GatedCell, self.cell).input_weights
        return Drive(self.embedding(torch.cat([u[1:], u[-1:]])), layer.weight, layer.bias)


def _with_latent(past: State, z: Tensor) -> State:
    """(h_{t-1}, z_t), from states (..., hidden) and latents (..., latent) that broadcast with one another."""
    shape = torch.broadcast_shapes(past.hidden.shape[:-1], z.shape[:-1])
    parts = (field.expand(*shape, -1) for field in (past.hidden, z))
    return State(torch.cat(list(parts), dim=-1), past.cell.expand(*shape, -1))
