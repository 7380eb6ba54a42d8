"""Model and guide of a network for the sleep phase of Pyro's wake-sleep."""

from typing import Any

import torch
from torch import Tensor

from ..models import StochasticRNN, require_model
from ..networks import State


class WakeSleepPrograms:
    """``model`` and ``guide`` of a network with the argument ``observations``, which Pyro's sleep phase passes.

    In its sleep phase :class:`pyro.infer.ReweightedWakeSleep` samples frames and latents from the model. It passes the
    frames to the guide as ``observations``, by site. ``net.guide`` reads its frames from x; this guide prefers
    ``observations``. The wake phase, ``insomnia=1``, needs ``net.model`` and ``net.guide`` alone.

    Args:
        net: the model.
    """

    def __init__(self, net: StochasticRNN) -> None:
        self.net = require_model(net)

    def model(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        initial_state: State | None = None,
        *,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
        observations: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Run :meth:`zf_pyro.ZForcing.model`, without reading ``observations``, which are left from an earlier dream.

        Args:
            x: (batch, time, frame) floats or (batch, time) integers.
            lengths: real frames of each sequence, (batch,); all of them if None.
            context: the frame before the first, (batch, frame) or (batch,); see :meth:`zf_pyro.ZForcing.inputs`.
            initial_state: h_0, each field (..., batch, hidden); zeros if None.
            covariates: c_1..c_T, (batch, time, K).
            observed: True where x was seen, (batch, time) or (batch, time, *frame).
            observations: ignored.
        """
        return self.net.model(x, lengths, context, initial_state, covariates=covariates, observed=observed)

    def guide(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        initial_state: State | None = None,
        *,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
        observations: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Run :meth:`zf_pyro.ZForcing.guide` on x, or on dreamt frames.

        Args:
            x: (batch, time, frame) floats or (batch, time) integers.
            lengths: real frames of each sequence, (batch,); all of them if None.
            context: the frame before the first, (batch, frame) or (batch,); see :meth:`zf_pyro.ZForcing.inputs`.
            initial_state: h_0, each field (..., batch, hidden); zeros if None.
            covariates: c_1..c_T, (batch, time, K).
            observed: True where x was seen, (batch, time) or (batch, time, *frame). Dreams have the gaps of x.
            observations: dreamt frames ``x_{t}``, used in place of x; each (batch, *frame).

        Raises:
            ValueError: several dreams at once.
        """
        if observations:
            x = self._dreamt(x, observations)
        return self.net.guide(x, lengths, context, initial_state, covariates=covariates, observed=observed)

    def _dreamt(self, x: Tensor, observations: dict[str, Any]) -> Tensor:
        frames = torch.stack([observations[f"x_{t}"] for t in range(x.shape[1])], dim=-1 - x.dim() + 2)
        if frames.shape != x.shape:
            raise ValueError(
                f"observations must be one dream of the shape of x, {tuple(x.shape)}, got {tuple(frames.shape)}: "
                "build ReweightedWakeSleep with num_sleep_particles=1 or vectorize_particles=False"
            )
        return frames
