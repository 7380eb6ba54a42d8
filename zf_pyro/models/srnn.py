"""SRNN: the equations of the paper as step functions.

Fraccaro, Sonderby, Paquet, Winther, "Sequential Neural Models with Stochastic Layers", NIPS 2016,
https://arxiv.org/abs/1605.07571. Sequences x_1..x_T with latents z_1..z_T:

    recurrence    d_t = f(x_{t-1}, d_{t-1})
    generation    z_t ~ p(z_t | z_{t-1}, d_t)      x_t ~ p(x_t | z_t, d_t)
    inference     b_t = g(x_t, b_{t+1})            z_t ~ q(z_t | z_{t-1}, d_t, b_t)

The paper's backward RNN reads d_t beside x_t, a_t = g([d_t, x_t], a_{t+1}), and its q reads z_{t-1} and a_t. Both forms
see the same: d_t and x_t..x_T, of which d_{t+1}..d_T are functions. In the form here b_t depends on frames alone, so
that it is the same for every context, carried state and particle; nor can the backward RNN read x_{t-1}, which it
predicts in the backward likelihood, off d_t.
"""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .. import recurrence as scans
from ..emissions import Emission
from ..networks import (
    MLP,
    PosteriorScan,
    Recurrence,
    State,
    backward_kind,
    backward_rnn,
    bounded,
    clipped_leaky_relu,
    frame_embedding,
    latent_of,
    own_step_functions,
    with_fast_form,
    with_first,
)
from ..paths import align
from ..recurrence import in_full_precision, uses_plain_loop
from .base import StochasticRNN
from .options import SIZES, checked
from .zforcing import ZForcing


class SRNN(StochasticRNN):
    """The stochastic recurrent network: a state space model of z_t above a deterministic recurrence d_t.

    Sites and programs are those of :class:`.StochasticRNN`. With the auxiliary p_xi(b_t | z_t, z_{t-1}, d_t) it is
    trained by Z-Forcing; the paper has none. z_0 = d_0 = 0.

    State: ``hidden`` is (z_t, d_t), (..., latent + layers x hidden); ``cell`` is that of LSTM units.

    Args:
        emission: the family of p(x_t | z_t, d_t), such as ``emissions.Gaussian(200)``.
        embed_dim: size of an embedded frame.
        hidden_dim: size of a layer of d_t, and of b_t.
        latent_dim: size of z_t.
        mlp_dim: hidden size of the prior, posterior, auxiliary and emission networks.
        residual: the mean of q is that of the prior plus a network (the paper's Res_q).
        filtering: q sees d_t and x_t alone, not the frames after it. There is then no backward RNN, and no auxiliary.
        cell: units of both RNNs, ``"gru"`` as in the paper, or ``"lstm"``.
        num_layers: layers of both RNNs.
        z_force: the auxiliary sees z_t alone, not z_{t-1} and d_t.
        auxiliary_l2: fix the auxiliary's variance at 1/2.
        dropout: probability of zeroing an element of an embedded frame, in training mode.
        frame_dropout: probability of hiding x_{t-1} from the recurrence, in training mode; word dropout for text.
        covariate_dim: K, covariates of a step, read beside each frame; 0 for none.
        missing: what is done about gaps, ``"draw"`` or ``"fill"``; see :class:`.StochasticRNN`.
        recurrence: ``"deferred"`` (fast loops) or ``"reference"`` (plain loops).
        name: name of the model in Pyro's parameter store; unique within the process by default.

    Raises:
        TypeError: ``emission`` is no emission, a switch is no bool, or ``name`` is no string.
        ValueError: a size is not a positive integer, dropout lies outside [0, 1), a name is unknown, or an option of
            the auxiliary is set together with ``filtering``.
    """

    has_fast_loops = True

    def __init__(
        self,
        emission: Emission,
        *,
        embed_dim: int = 512,
        hidden_dim: int = 1024,
        latent_dim: int = 256,
        mlp_dim: int = 512,
        residual: bool = True,
        filtering: bool = False,
        cell: str = "gru",
        num_layers: int = 1,
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
            residual=residual,
            filtering=filtering,
            cell=cell,
            num_layers=num_layers,
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
        for argument in ("z_force", "auxiliary_l2"):
            if filtering and settings[argument]:
                raise ValueError(f"{argument} must be False with filtering=True, which has no auxiliary, got True")
        self.hidden_dim, self.latent_dim, self.embed_dim = hidden_dim, latent_dim, embed_dim
        self.residual, self.filtering = residual, filtering
        self.z_force, self.auxiliary_l2 = z_force, auxiliary_l2
        self.has_auxiliary, self.recurrence = not filtering, recurrence

        self.embedding = nn.Sequential(frame_embedding(emission, embed_dim, self.extra_dim), nn.Dropout(dropout))
        self.forward_rnn = Recurrence(cell, embed_dim, hidden_dim, num_layers)
        self.prior_network = MLP((latent_dim, hidden_dim), mlp_dim, 2 * latent_dim)
        self.posterior_network = MLP((latent_dim, hidden_dim, self.backward_dim), mlp_dim, 2 * latent_dim)
        self.emission_hidden = nn.Linear(latent_dim + hidden_dim, mlp_dim)
        self.emission_layer = nn.Linear(mlp_dim, emission.num_parameters)
        self.emission_weights = nn.ModuleList(emission.weights())
        if not self.filtering:
            self.backward_rnn = backward_rnn(cell, embed_dim, hidden_dim, num_layers)
            past_dim = latent_dim + num_layers * hidden_dim
            read = (latent_dim,) if self.z_force else (latent_dim, past_dim)
            self.auxiliary_network = MLP(read, mlp_dim, 2 * hidden_dim)
            self.backward_emission_layer = nn.Linear(hidden_dim, emission.num_parameters)
            self.backward_emission_weights = nn.ModuleList(emission.weights())

    # The paper's equations ------------------------------------------------------------------------------------------

    @property
    def backward_dim(self) -> int:
        """Size of b_t: that of the backward RNN, or of the embedded frame with ``filtering``."""
        return self.embed_dim if self.filtering else self.hidden_dim

    def initial_state(self, batch_shape: Sequence[int]) -> State:
        """z_0 = 0 and d_0 = 0; ``hidden`` (*batch_shape, latent + layers x hidden)."""
        zeros, (hidden, cell) = self.emission_layer.weight.new_zeros, self.forward_rnn.sizes
        return State(zeros(*batch_shape, self.latent_dim + hidden), zeros(*batch_shape, cell))

    @with_fast_form
    def past(self, state: State, u_t: Tensor) -> State:
        """(z_{t-1}, d_t), d_t = f(x_{t-1}, d_{t-1}); ``state`` is (z_{t-1}, d_{t-1}), u_t is x_{t-1}."""
        z, d = self._parts(state)
        return _joined(z, self.forward_rnn.step(d, self.embedding(u_t)))

    @with_fast_form
    def prior(self, past: State) -> dist.TorchDistribution:
        """p(z_t | z_{t-1}, d_t), a diagonal normal; ``past`` is (z_{t-1}, d_t)."""
        z, d = self._parts(past)
        return dist.Normal(*bounded(self.prior_network(z, self.forward_rnn.top(d.hidden)))).to_event(1)

    @with_fast_form
    def posterior(self, past: State, b_t: Tensor) -> dist.TorchDistribution:
        """q(z_t | z_{t-1}, d_t, b_t), a diagonal normal; ``past`` is (z_{t-1}, d_t), b_t (..., backward)."""
        z, d = self._parts(past)
        loc, scale = bounded(self.posterior_network(z, self.forward_rnn.top(d.hidden), b_t))
        if self.residual:
            loc = latent_of(self.prior(past), "prior", self.latent_dim).mean + loc
        return dist.Normal(loc, scale).to_event(1)

    @with_fast_form
    def transition(self, past: State, u_t: Tensor, z_t: Tensor) -> State:
        """(z_t, d_t); ``past`` is (z_{t-1}, d_t), z_t (..., latent). The frame u_t is not read again."""
        return _joined(z_t, self._parts(past)[1])

    def emission(self, state: State) -> dist.TorchDistribution:
        """p(x_t | z_t, d_t); ``state`` is (z_t, d_t), the event is one frame."""
        z, d = self._parts(state)
        hidden = clipped_leaky_relu(self.emission_hidden(torch.cat([z, self.forward_rnn.top(d.hidden)], dim=-1)))
        return self.emission_family.distribution(self.emission_layer(hidden), *self.emission_weights)

    @with_fast_form
    def auxiliary(self, z_t: Tensor, past: State) -> dist.TorchDistribution:
        """p_xi(b_t | z_t, z_{t-1}, d_t), as that of Z-Forcing; z_t (..., latent), ``past`` is (z_{t-1}, d_t)."""
        return super().auxiliary(z_t, past) if self.filtering else ZForcing.auxiliary(self, z_t, past)

    def backward_emission(self, b_t: Tensor) -> dist.TorchDistribution:
        """p_bwd(x_{t-1} | b_t), as that of Z-Forcing; b_t (..., hidden)."""
        return super().backward_emission(b_t) if self.filtering else ZForcing.backward_emission(self, b_t)

    def _parts(self, state: State) -> tuple[Tensor, State]:
        """z and d, of (z, d) with ``hidden`` (..., latent + layers x hidden)."""
        z, d = state.hidden.split([self.latent_dim, state.hidden.shape[-1] - self.latent_dim], dim=-1)
        return z, State(d, state.cell)

    def parts_of(self, step_function: str) -> dict[str, type[nn.Module]]:
        parts: dict[str, dict[str, type[nn.Module]]] = {
            "past": {"forward_rnn": Recurrence},
            "prior": {"prior_network": MLP},
            "posterior": {"posterior_network": MLP},
            "auxiliary": {"auxiliary_network": MLP},
            "backward_states": {"backward_rnn": backward_kind(self.settings["cell"], self.settings["num_layers"])},
        }
        return parts.get(step_function, {})

    # The same over whole sequences ----------------------------------------------------------------------------------

    @in_full_precision
    def scan_backward(self, x: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        """b_t of frames (time, batch, *frame), an embedded frame with ``filtering``; (time, batch, backward)."""
        return self.embedding(x) if self.filtering else scans.scan_backward(self, x, mask, lengths)

    @in_full_precision
    def scan_posterior(self, state: State, u: Tensor, b: Tensor, noise: Tensor) -> PosteriorScan:
        if uses_plain_loop(self) or (self.residual and not own_step_functions(self, "prior")):
            return scans.reference_posterior_scan(self.past, self.posterior, self.transition, state, u, b, noise)
        d = self._recurrence(state, u, noise)
        seen = self.forward_rnn.top(d.hidden)
        contexts = self.posterior_network.rest(seen, align(b, noise.dim() - 2))
        added = (self.prior_network, self.prior_network.rest(seen)) if self.residual else None
        z_0, memory = state.hidden[..., : self.latent_dim], self.loop_memory.forward
        scan = scans.latent_scan(self.posterior_network, z_0, contexts, noise, memory, added)
        before, after = (_joined(z.hidden, d) for z in (scan.before, scan.after))
        return scan._replace(states=with_first(state, after), before=before, after=after)

    @in_full_precision
    def scan_states(self, state: State, u: Tensor, z: Tensor) -> State:
        if uses_plain_loop(self):
            return scans.reference_state_scan(self.past, self.transition, state, u, z)
        return with_first(state, _joined(z, self._recurrence(state, u, z)))

    def scan_past(self, before: State, u: Tensor, after: State) -> State:
        """(z_{t-1}, d_t) of every step, read off the states around it; u (time, ..., *frame)."""
        if not own_step_functions(self, "past", "transition"):
            return self.past(before, u)
        return _joined(self._parts(before)[0], self._parts(after)[1])

    def scan_prior(self, before: State) -> dist.TorchDistribution:
        return scans.scan_prior(self, before) if len(self.forward_rnn.layers) == 1 else self.prior(before)

    def scan_auxiliary(self, z: Tensor, before: State, b: Tensor) -> Tensor:
        return super().scan_auxiliary(z, before, b) if self.filtering else scans.scan_auxiliary(self, z, before, b)

    def _recurrence(self, state: State, u: Tensor, like: Tensor) -> State:
        """d_1..d_T, each field (time, ..., layers x hidden) with as many dimensions as ``like`` (time, ..., latent).

        Particles that start from one state, expanded, share them.
        """
        d = self._parts(state)[1]
        while d.hidden.dim() > 2 and d.hidden.stride(0) == 0 and (d.cell.stride(0) == 0 or not d.cell.numel()):
            d = State(*(field[0] for field in d))
        found = scans.recurrence_scan(self.forward_rnn, d, self.embedding, u, self.loop_memory.recurrence)
        return State(*(align(field, like.dim() - 2) for field in found))


def _joined(z: Tensor, d: State) -> State:
    """(z, d), from z (..., latent) and d (..., layers x hidden) that broadcast with one another after time."""
    shape = torch.broadcast_shapes(z.shape[:-1], d.hidden.shape[:-1])
    return State(torch.cat([z.expand(*shape, -1), d.hidden.expand(*shape, -1)], dim=-1), d.cell.expand(*shape, -1))
