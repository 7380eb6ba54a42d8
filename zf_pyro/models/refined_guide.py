"""Guides with corrections for given sequences, and the networks that have them."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..networks import State
from ..paths import check_backward_states, prepare_inputs
from .base import StochasticRNN
from .refined import Corrections, RefinedNetwork
from .required import require_model


class BoundGain(NamedTuple):
    """Bounds on log p(x) before and after a guide was refined, each (batch,) in nats.

    All are of fresh samples, with the same noise before and after.
    """

    before: Tensor
    """Importance-weighted bound of ``net.guide`` with ``num_particles``, which is what was optimised."""
    after: Tensor
    """The same of the refined guide."""
    weighted_before: Tensor
    """Importance-weighted bound of ``net.guide`` with all ``num_samples``: tighter, and less certain."""
    weighted_after: Tensor
    """The same of the refined guide."""
    num_particles: int
    """Samples in one bound."""
    num_samples: int
    """All samples of a sequence."""


class RefinedGuide:
    """A guide with corrections for given sequences, called as ``net.guide``; made by ``zf_pyro.inference.refine``.

    It takes the sequences it was refined for, in any order and any part of them. They are recognised by their real
    frames, so padding does not matter.

    Args:
        network: the network whose posterior is the corrected one.
        context: frames before the first that it was refined with, (batch, *frame); None for a start frame.
        initial_state: h_0 that it was refined with, each field (batch, hidden); None for that of the model.
        bounds: bounds before and after.
        steps: optimisation steps taken.

    Attributes:
        network: the network whose posterior is the corrected one.
        bounds: bounds before and after, a :class:`BoundGain`.
        steps: optimisation steps taken.
    """

    __name__ = "guide"

    def __init__(
        self,
        network: RefinedNetwork,
        context: Tensor | None,
        initial_state: State | None,
        bounds: BoundGain,
        steps: int,
    ) -> None:
        self.network, self.bounds, self.steps = network, bounds, steps
        self._context, self._initial_state = context, initial_state

    @property
    def net(self) -> StochasticRNN:
        """The network that was given."""
        return self.network.net

    @property
    def __self__(self) -> StochasticRNN:
        """The network, as of the bound method ``net.guide``."""
        return self.net

    @property
    def corrections(self) -> Corrections:
        """Corrections of all sequences, in the order they were given; each (time, batch, latent)."""
        return self.network.corrections

    def __call__(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        initial_state: State | None = None,
        *,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
        b: Tensor | None = None,
    ) -> Tensor:
        """Sample the latents, as :meth:`zf_pyro.ZForcing.guide`.

        Args:
            x: sequences that the guide was refined for; (batch, time, *frame).
            lengths: real frames of each sequence, (batch,); all of them if None.
            context: their frames before the first, (batch, *frame).
            initial_state: their h_0; each field (..., batch, hidden).
            covariates: their c_1..c_T, (batch, time, K).
            observed: what was seen of them, (batch, time) or (batch, time, *frame).
            b: ``net.backward_states(x, lengths)``, (time, batch, backward); computed if None.

        Returns:
            The latents, (..., batch, time, latent).

        Raises:
            ValueError: other sequences, another context, or a state where there was none, or the other way round.
            TypeError, ValueError: as for ``net.guide``.
        """
        more: dict[str, Any] = {"covariates": covariates, "observed": observed}
        self._check(x, lengths, context, initial_state, more)
        if b is not None:
            run = prepare_inputs(self.net, x, lengths, context, initial_state, **more)
            like = self.net.emission_layer.weight
            check_backward_states(b, x.shape[1], x.shape[0], self.net.backward_dim, like)
            b = self.network.corrected(b, self.network.rows(cast(Tensor, run.read), lengths))
        return self.network.guide(x, lengths, context, initial_state, b=b, **more)

    def _check(self, x: Any, lengths: Any, context: Any, initial_state: Any, more: dict[str, Any]) -> None:
        for name, given, own in (
            ("context", context, self._context),
            ("initial_state", initial_state, self._initial_state),
        ):
            if (given is None) != (own is None):
                raise ValueError(
                    f"{name} must be {'left out' if own is None else 'given'}, as where the guide was refined: for a "
                    f"guide of the other kind call zf_pyro.inference.refine {'with' if own is None else 'without'} it"
                )
        if context is not None and self._context is not None:
            run = prepare_inputs(self.net, x, lengths, context, initial_state, **more)
            rows = self.network.rows(cast(Tensor, run.read), lengths)
            own = self._context.index_select(0, rows)
            if context.shape == own.shape and not torch.equal(context.to(own), own):
                raise ValueError(
                    "context must hold the frames that the guide was refined with, got others: call "
                    "zf_pyro.inference.refine with these"
                )


def guided(net: StochasticRNN, guide: Callable[..., Any] | None, what: str) -> StochasticRNN:
    """The network whose step functions have the posterior of ``guide``.

    Args:
        net: the network.
        guide: ``net.guide``, a refined guide of it, or None for ``net.guide``.
        what: what runs the step functions, for errors.

    Raises:
        TypeError: another guide.
        ValueError: a refined guide of another network.
    """
    require_model(net)
    if guide is None or guide == net.guide:
        return net
    if not isinstance(guide, RefinedGuide):
        raise TypeError(
            f"guide must be net.guide or the result of zf_pyro.inference.refine(net, ...) for {what}, which runs step "
            f"functions, got {type(guide).__name__}"
        )
    if guide.net is not net:
        raise ValueError(
            f"guide must be refined for this net, {net.name!r}, got that of {guide.net.name!r}: call "
            "zf_pyro.inference.refine(net, x, lengths)"
        )
    return guide.network
