"""The step functions of a stochastic recurrent network, and the same over whole sequences, for models to define.

A model is one page of them (:mod:`zf_pyro.models.zforcing`), of which :class:`.StochasticRNN` makes Pyro programs.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..checks import int64
from ..emissions import Emission
from ..networks import PosteriorScan, State, Transition, joined, some_hidden, with_fast_form
from ..paths import (
    check_frames,
    check_lengths,
    check_observed,
    filled,
    flags_before,
    known_steps,
    of_context,
    real_frames,
    seen_parts,
)
from .registration import RegisteredNetwork
from .start import start_at


class Equations(RegisteredNetwork):
    """The equations of a recurrent network with a latent z_t at every step, as pure functions of tensors.

    They take any leading batch dimensions, and return distributions and states. One step is

        past_t = past(h_{t-1}, u_t)      z_t ~ p(z_t | past_t) or q(z_t | past_t, b_t)
        h_t = f(past_t, u_t, z_t)        x_t ~ p(x_t | h_t)

    where past_t is h_{t-1} itself in most models. Shapes: x (batch, time, *frame), z (batch, time, latent).

    Attributes:
        emission_family: the family of p(x_t | h_t).
        emission_layer: the linear layer to the emission's parameters.
        backward_emission_layer: the same for :meth:`backward_emission`, in models with the auxiliary.
        embedding: of frames.
        changes: changes to parts of which a warning has told.
    """

    has_auxiliary = True
    """Whether b_t comes from a backward RNN, so that the auxiliary and the backward likelihood apply."""
    flow_elements = 0
    """Elements that a pass through the flows of the posterior keeps for its gradient, for a step of a particle."""
    hidden_dim: int
    latent_dim: int
    covariate_dim: int = 0
    """K, covariates of a step."""
    frame_dropout: float = 0.0
    """Probability of hiding x_{t-1} from the recurrence, in training mode."""
    flag_dim: int = 0
    """Flags of a step, 1 for seen and 0 for unseen, that the network reads beside a frame."""
    emission_family: Emission
    emission_layer: nn.Linear
    backward_emission_layer: nn.Linear
    embedding: nn.Sequential
    changes: set[str]

    # Step functions -------------------------------------------------------------------------------------------------

    def inputs(
        self,
        x: Tensor,
        context: Tensor | None = None,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> Tensor:
        """u_t = x_{t-1}, with u_1 the context frame, or a start frame (zeros; for symbols, a token of its own).

        With ``frame_dropout`` some frames before are hidden in training mode: u_t is a start frame there, too.

        With covariates u_t is (x_{t-1}, c_t), the elements of both in one tensor. A network of ``missing="fill"`` reads
        flags m_{t-1} after them, 1 where x_{t-1} was seen; the context and the start frame count as seen.

        Args:
            x: (batch, time, frame) floats or (batch, time) integers.
            context: a frame before the first, given and never scored; (batch, frame) or (batch,).
            covariates: c_1..c_T, (batch, time, K).
            observed: True where x was seen, (batch, time) or (batch, time, *frame); None if all was. One more step may
                stand in front, for a context.

        Returns:
            u, of the shape of x; or (batch, time, elements of a frame + K + flags).
        """
        family, flags = self.emission_family, None
        if observed is not None:
            before, observed = of_context(observed, x.shape[1], context)
            check_observed(observed, x.shape[:2], family)
            seen = seen_parts(observed, family)
            if self.flag_dim:
                if context is not None and before is not None:
                    before = seen_parts(before, family)
                    context = filled(context.unsqueeze(1), before, family).squeeze(1)
                x, flags = filled(x, seen, family), flags_before(seen, before, 1)
        first = family.start(x[:, 0]) if context is None else context
        before = some_hidden(self, x[:, :-1]) if self.frame_dropout else x[:, :-1]
        u = torch.cat([first.unsqueeze(1), before], dim=1)
        return joined(self, u, covariates, flags) if self.covariate_dim or self.flag_dim else u

    @property
    def backward_dim(self) -> int:
        """Size of b_t, which the posterior reads."""
        return self.hidden_dim

    def initial_state(self, batch_shape: Sequence[int]) -> State:
        """h_0 = 0, for hidden and cell; each (*batch_shape, hidden)."""
        zeros = self.emission_layer.weight.new_zeros(*batch_shape, self.hidden_dim)
        return State(zeros, zeros)

    @with_fast_form
    def past(self, state: State, u_t: Tensor) -> State:
        """What z_t depends on: ``state``, the one after step t - 1, unless a model also reads u_t (..., *frame)."""
        return state

    @abstractmethod
    def prior(self, past: State) -> dist.TorchDistribution:
        """p(z_t | h_{t-1}); ``past`` is :meth:`past` of step t, the event (latent,)."""

    @abstractmethod
    def posterior(self, past: State, b_t: Tensor) -> dist.TorchDistribution:
        """q(z_t | h_{t-1}, b_t); ``past`` as for :meth:`prior`, b_t (..., backward), the event (latent,)."""

    @abstractmethod
    def transition(self, past: State, u_t: Tensor, z_t: Tensor) -> State:
        """h_t = f(u_t, z_t, h_{t-1}); ``past`` as for :meth:`prior`, u_t a raw frame, z_t (..., latent)."""

    @abstractmethod
    def emission(self, state: State) -> dist.TorchDistribution:
        """p(x_t | h_t); ``state`` is h_t, the event one frame."""

    def seen(self, past: State) -> Tensor:
        """What the auxiliary sees of the past, (..., features): all of ``hidden``."""
        return past.hidden

    def auxiliary(self, z_t: Tensor, past: State) -> dist.TorchDistribution:
        """p_xi(b_t | z_t, h_{t-1}); ``past`` as for :meth:`prior`, z_t (..., latent), the event (backward,)."""
        raise TypeError(
            f"{type(self).__name__} has no backward RNN, so there is no auxiliary: set aux_weight=0, and leave "
            "measure_earned out"
        )

    def backward_emission(self, b_t: Tensor) -> dist.TorchDistribution:
        """p_bwd(x_{t-1} | b_t); b_t (..., backward), the event one frame."""
        raise TypeError(f"{type(self).__name__} has no backward RNN, so no backward likelihood: set backward_weight=0")

    def parts_of(self, step_function: str) -> dict[str, type[nn.Module]]:
        """Names and built kinds of the parts that the fast form of a step function reads; none by default."""
        return {}

    # Scans over whole sequences -------------------------------------------------------------------------------------

    @with_fast_form
    def backward_states(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> Tensor:
        """b_1..b_T, what the posterior reads of the frames, and of the covariates beside them.

        Args:
            x: (batch, time, frame) floats or (batch, time) integers.
            lengths: real frames of each sequence, (batch,); all of them if None.
            covariates: c_1..c_T, (batch, time, K), where the network has them.
            observed: True where x was seen, (batch, time) or (batch, time, *frame); None if all was.

        Returns:
            b, (time, batch, backward). Its values beyond a length are undefined.

        Raises:
            TypeError, ValueError: an argument of the wrong type, shape, dtype, device or (under Pyro's validation)
                value.
        """
        check_frames(x, self.emission_family, self.emission_layer.weight)
        mask, lengths = None, int64(lengths)
        if lengths is not None:
            check_lengths(lengths, x.shape[0], x.shape[1], x.device)
            mask = real_frames(lengths, x.shape[1])
        known = known_steps(self, x.transpose(0, 1), lengths, covariates, observed)
        return self.scan_backward(known.read, mask, lengths)

    @abstractmethod
    def scan_backward(self, x: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        """:meth:`backward_states` of frames (time, batch, *frame), real where ``mask`` (time, batch) is True.

        Frames come as :func:`zf_pyro.networks.joined` made them where the network reads covariates or flags.
        """

    @abstractmethod
    def scan_posterior(self, state: State, u: Tensor, b: Tensor, noise: Tensor) -> PosteriorScan:
        """Sample z_1..z_T from the posterior; u, b and noise (time, ..., features)."""

    @abstractmethod
    def scan_states(self, state: State, u: Tensor, z: Tensor) -> State:
        """h_0..h_T for known latents; u and z (time, ..., features), each field (time + 1, ..., hidden)."""

    def scan_past(self, before: State, u: Tensor, after: State) -> State:
        """:meth:`past` of every step.

        Args:
            before: h_0..h_{T-1}; each field (time, ..., hidden).
            u: raw frames; (time, ..., *frame).
            after: h_1..h_T, of which some models read it off; each field (time, ..., hidden).
        """
        return self.past(before, u)

    def scan_prior(self, before: State) -> dist.TorchDistribution:
        """:meth:`prior` of every step; ``before`` is :meth:`past` of every step, (time, ..., hidden)."""
        return self.prior(before)

    def scan_auxiliary(self, z: Tensor, before: State, b: Tensor) -> Tensor:
        """log p_xi(b_t | z_t, h_{t-1}) at every step, (time, ...) nats; z, before and b (time, ..., features)."""
        return self.auxiliary(z, before).log_prob(b)

    def loop_transition(self) -> Transition:
        """:meth:`transition` for a loop without gradients, with products of weights formed once."""
        return self.transition

    # The start ------------------------------------------------------------------------------------------------------

    def initialise(
        self,
        x: Tensor | Iterable[Any],
        lengths: Tensor | None = None,
        *,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> int:
        """Start at the data: the untrained model has the marginals of the frames, whatever the time step.

        Output layers are set to :meth:`.Emission.marginal_parameters`, and a linear embedding of frames to their centre
        and scale, each covariate's included. Call it on a new model, before training; :func:`zf_pyro.training.fit`
        does.

        Args:
            x: (batch, time, *frame), with ``lengths``; or a loader of batches (x, lengths), or with further fields.
            lengths: real frames of each sequence, (batch,); all of them if None.
            covariates: c_1..c_T, (batch, time, K), where x is a tensor.
            observed: True where x was seen, (batch, time) or (batch, time, *frame), where x is a tensor.

        Returns:
            Number of frames read.

        Raises:
            TypeError, ValueError: frames that the model refuses, or no frames.
        """
        backward = getattr(self, "backward_emission_layer", None)  # a model of the user's own may have none
        layers = [self.emission_layer] if backward is None else [self.emission_layer, backward]
        embedding, readers = getattr(self, "embedding", nn.Identity()), self.covariate_readers()
        return start_at(self, layers, embedding, x, lengths, covariates=covariates, observed=observed, readers=readers)

    def covariate_readers(self) -> Sequence[tuple[nn.Linear, int]]:
        """Linear layers that read covariates past the embedding, each with its first column that does; none here."""
        return ()
