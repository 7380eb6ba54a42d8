"""Z-Forcing: the equations of the paper as step functions, then the two Pyro programs made of them.

Goyal, Sordoni, Cote, Ke, Bengio, "Training Stochastic Recurrent Networks", NIPS 2017,
https://arxiv.org/abs/1711.05411. Sequences x_1..x_T with latents z_1..z_T:

    generation    z_t ~ p(z_t | h_{t-1})      h_t = f(u_t, z_t, h_{t-1})      x_t ~ p(x_t | h_t)
    inference     b_t = g(x_t, b_{t+1})       z_t ~ q(z_t | h_{t-1}, b_t)
    auxiliary     b_t ~ p_xi(b_t | z_t [, h_{t-1}])

where u_t = x_{t-1} is the input of step t. The evidence lower bound is sum_t log p(x_t | h_t) - KL(q || p); training
adds alpha log p_xi(b_t | z_t), which makes z_t carry what the future frames say (:class:`zf_pyro.ZForcingELBO`).
"""

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.params import param_with_module_name
from torch import Tensor, nn

from .emissions import Emission
from .given import lay_out, real_frames, zero_padding
from .networks import CELLS, MLP, BackwardRNN, State, bounded
from .paths import LatentPath
from .plates import sequences
from .posterior_path import PosteriorPath
from .prior_path import PriorPath
from .sampling import Sampling
from .saving import Saving
from .scanning import Scanning

_NAMES = itertools.count()


class ZForcing(Saving, Sampling, Scanning, nn.Module):
    """A stochastic recurrent network with a backward-RNN posterior, as a pair of Pyro programs.

    The step functions (:meth:`inputs` to :meth:`auxiliary`) are pure functions of tensors with any leading batch
    dimensions; :meth:`model` and :meth:`guide` are the Pyro programs made of them. Sites: latents ``z_{t}``, frames
    ``x_{t}``, t from 0, in the plate ``sequences`` at dim -1. The defaults are the paper's TIMIT sizes.

    Args:
        emission: the family of frames, say ``emissions.Gaussian(200)``.
        embed_dim: size of an embedded frame.
        hidden_dim: size of h_t and of b_t.
        latent_dim: size of z_t.
        mlp_dim: hidden size of the prior, posterior, auxiliary and modulation networks.
        transition: how z_t enters the LSTM cell f: ``"conditional_layer_norm"`` (it sets gain and bias of the layer
            norm of the hidden gates) or ``"concatenate"`` (it is read beside the input).
        z_force: the auxiliary sees z_t alone, not h_{t-1}.
        auxiliary_l2: fix the auxiliary's variance at 1/2, so that its log-density is minus the squared distance up to
            a constant: the L2 variant of the released code.
        dropout: probability of zeroing a number of an embedded frame, in training mode.
        recurrence: ``"deferred"`` (weight gradients formed once a loop) or ``"reference"`` (a plain loop over the step
            functions, for comparison). A subclass that overrides :meth:`posterior` or :meth:`transition` gets the
            plain loop whatever is set here.
        name: name of the net in Pyro's parameter store; unique within the process by default.

    Raises:
        TypeError: ``emission`` is no emission.
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
        z_force: bool = False,
        auxiliary_l2: bool = False,
        dropout: float = 0.0,
        recurrence: str = "deferred",
        name: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(emission, Emission):
            raise TypeError(f"emission must be one of zf_pyro.emissions, such as Gaussian(200), got {emission!r}")
        sizes = {"embed_dim": embed_dim, "hidden_dim": hidden_dim, "latent_dim": latent_dim, "mlp_dim": mlp_dim}
        for argument, value in sizes.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{argument} must be a positive integer, got {value!r}")
        if transition not in CELLS:
            raise ValueError(f"transition must be one of {sorted(CELLS)}, got {transition!r}")
        if recurrence not in ("deferred", "reference"):
            raise ValueError(f"recurrence must be 'deferred' or 'reference', got {recurrence!r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be a probability in [0, 1), got {dropout!r}")
        self.emission_family = emission
        self.settings = {**sizes, "transition": transition, "dropout": dropout, "recurrence": recurrence}
        self.hidden_dim, self.latent_dim = hidden_dim, latent_dim
        self.z_force, self.auxiliary_l2, self.recurrence = z_force, auxiliary_l2, recurrence
        number = next(_NAMES)
        self.name = name or ("zforcing" if number == 0 else f"zforcing_{number}")

        self.embedding = nn.Sequential(emission.embedding(embed_dim), nn.Dropout(dropout))
        self.backward_rnn = BackwardRNN(embed_dim, hidden_dim)
        self.cell = CELLS[transition](embed_dim, hidden_dim, latent_dim, mlp_dim)
        self.prior_network = MLP((hidden_dim,), mlp_dim, 2 * latent_dim)
        self.posterior_network = MLP((hidden_dim, hidden_dim), mlp_dim, 2 * latent_dim)
        self.auxiliary_network = MLP((latent_dim,) if z_force else (latent_dim, hidden_dim), mlp_dim, 2 * hidden_dim)
        self.emission_layer = nn.Linear(hidden_dim, emission.num_parameters)
        self.backward_emission_layer = nn.Linear(hidden_dim, emission.num_parameters)

    # The paper's equations ------------------------------------------------------------------------------------------

    def inputs(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """u_t = x_{t-1}, with u_1 the context frame, or a start frame (zeros; for symbols, a token of its own).

        Args:
            x: (batch, time, frame) floats or (batch, time) integers.
            context: a frame before the first, given and never scored; (batch, frame) or (batch,).

        Returns:
            u, of the shape of x.
        """
        first = self.emission_family.start(x[:, 0]) if context is None else context
        return torch.cat([first.unsqueeze(1), x[:, :-1]], dim=1)

    def backward_states(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """b_t = g(x_t, b_{t+1}), an LSTM run from the last real frame of each sequence to the first.

        Args:
            x: (batch, time, frame) floats or (batch, time) integers.
            lengths: real frames of each sequence, (batch,); all of them if None.

        Returns:
            b, (time, batch, hidden). Beyond a length its rows mean nothing.
        """
        frames, mask = x.transpose(0, 1), None
        if lengths is not None:
            mask = real_frames(lengths, x.shape[1])
            frames = zero_padding(frames, mask)
        return self.scan_backward(frames, mask, lengths)

    def initial_state(self, batch_shape: Sequence[int]) -> State:
        """h_0 = 0, for hidden and cell; each (*batch_shape, hidden)."""
        zeros = self.emission_layer.weight.new_zeros(*batch_shape, self.hidden_dim)
        return State(zeros, zeros)

    def prior(self, state: State) -> dist.TorchDistribution:
        """p(z_t | h_{t-1}), a diagonal normal; ``state`` is h_{t-1}."""
        return dist.Normal(*bounded(self.prior_network(state.hidden))).to_event(1)

    def posterior(self, state: State, b_t: Tensor) -> dist.TorchDistribution:
        """q(z_t | h_{t-1}, b_t), a diagonal normal; ``state`` is h_{t-1}, b_t (..., hidden)."""
        return dist.Normal(*bounded(self.posterior_network(state.hidden, b_t))).to_event(1)

    def transition(self, state: State, u_t: Tensor, z_t: Tensor) -> State:
        """h_t = f(u_t, z_t, h_{t-1}); ``state`` is h_{t-1}, u_t a raw frame, z_t (..., latent)."""
        return self.cell.advance(state, self.cell.inputs(self.embedding(u_t)), self.cell.modulation(z_t))

    def emission(self, state: State) -> dist.TorchDistribution:
        """p(x_t | h_t); ``state`` is h_t, the event is one frame."""
        return self.emission_family.distribution(self.emission_layer(state.hidden))

    def auxiliary(self, z_t: Tensor, state: State) -> dist.TorchDistribution:
        """p_xi(b_t | z_t, h_{t-1}), or p_xi(b_t | z_t) with ``z_force``; a diagonal normal whose mean is a tanh."""
        inputs = (z_t,) if self.z_force else (z_t, state.hidden)
        loc, scale = bounded(self.auxiliary_network(*inputs))
        if self.auxiliary_l2:
            scale = torch.full_like(scale, 0.5**0.5)
        return dist.Normal(loc.tanh(), scale).to_event(1)

    def backward_emission(self, b_t: Tensor) -> dist.TorchDistribution:
        """p_bwd(x_{t-1} | b_t): the backward RNN predicts the frame before."""
        return self.emission_family.distribution(self.backward_emission_layer(b_t))

    # The Pyro programs ----------------------------------------------------------------------------------------------

    def model(
        self,
        x: Tensor | None = None,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        initial_state: State | None = None,
        *,
        num_steps: int | None = None,
        batch_shape: Sequence[int] | int | None = None,
    ) -> Tensor:
        """The generative program: for each step z_t ~ p(z_t | h_{t-1}), x_t ~ p(x_t | h_t).

        Args:
            x: observed frames, (batch, time, frame) floats or (batch, time) integers; None to generate them.
            lengths: real frames of each sequence, (batch,) integers; all if None. Frames beyond are masked.
            context: a frame before the first, given and never scored; (batch, frame) or (batch,). Through Pyro's own
                handlers and objectives pass it by position: their first parameter has the same name.
            initial_state: h_0, carried over from the frames before; zeros if None.
            num_steps: T, where x is None.
            batch_shape: sequences to generate, where x is None; the last dimension is the plate's.

        Returns:
            The frames, (..., batch, time, *frame): x itself where it was observed as it is.

        Raises:
            TypeError, ValueError: an argument of the wrong type, shape, dtype, device or (under Pyro's validation)
                value.
        """
        self.register()
        given = lay_out(self, x, lengths, context, initial_state, num_steps, batch_shape)
        path = PriorPath(self, given)
        with sequences(given.batch_size):
            for t in range(given.num_steps):
                with _real(path, t):
                    path.record(pyro.sample(f"z_{t}", path.latent(t)))
                    path.record_frame(pyro.sample(f"x_{t}", path.frame(t), obs=path.observed(t)))
        return path.result(x)

    def guide(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        initial_state: State | None = None,
        *,
        b: Tensor | None = None,
    ) -> Tensor:
        """The inference program: for each step z_t ~ q(z_t | h_{t-1}, b_t).

        Arguments as for :meth:`model`, and ``b``, the :meth:`backward_states` of x if they are known already.

        Returns:
            The latents, (..., batch, time, latent).
        """
        self.register()
        given = lay_out(self, x, lengths, context, initial_state)
        b = b if b is not None else self.scan_backward(cast(Tensor, given.x), given.mask, lengths)
        path = PosteriorPath(self, given, b)
        with sequences(given.batch_size):
            for t in range(given.num_steps):
                with _real(path, t):
                    path.record(pyro.sample(f"z_{t}", path.latent(t)))
        return path.latents().movedim(0, -2)

    def register(self) -> None:
        """Announce the parameters to Pyro, as ``pyro.module`` does, for objectives that run the step functions."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad and parameter.is_leaf:
                known = pyro.param(param_with_module_name(self.name, name), parameter)
                if known._cdata != parameter._cdata:
                    raise RuntimeError(
                        f"Pyro's parameter store holds another tensor as {name!r} of {self.name!r}: give each net its "
                        "own name (name=), or call pyro.clear_param_store() before using this one"
                    )


def _real(path: LatentPath, t: int) -> AbstractContextManager[Any]:
    """Masks what lies beyond a sequence's length."""
    return nullcontext() if path.masks is None else poutine.mask(mask=cast(torch.BoolTensor, path.masks[t]))
