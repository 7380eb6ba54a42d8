"""The net as programs that Pyro's wake-sleep can dream with."""

from typing import Any

import torch
from torch import Tensor

from ..models import StochasticRNN
from ..networks import State


class WakeSleepPrograms:
    """``model`` and ``guide`` of a net with the argument ``observations``, which Pyro's sleep phase passes.

    In its sleep phase :class:`pyro.infer.ReweightedWakeSleep` draws frames and latents from the model and hands the
    frames to the guide as ``observations``, by site. ``net.guide`` reads its frames from x; this guide reads them from
    ``observations`` where there are any. The wake phase, ``insomnia=1``, needs ``net.model`` and ``net.guide`` alone.

    Args:
        net: the net.
    """

    def __init__(self, net: StochasticRNN) -> None:
        self.net = net

    def model(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        initial_state: State | None = None,
        *,
        observations: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """:meth:`zf_pyro.ZForcing.model`; ``observations`` are what an earlier dream left, and are not looked at."""
        return self.net.model(x, lengths, context, initial_state)

    def guide(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        initial_state: State | None = None,
        *,
        observations: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """:meth:`zf_pyro.ZForcing.guide` of x, or of dreamt frames.

        Args:
            x: (batch, time, frame) floats or (batch, time) integers.
            lengths: real frames of each sequence, (batch,); all of them if None.
            context: the frame before the first; see :meth:`zf_pyro.ZForcing.inputs`.
            initial_state: h_0; zeros if None.
            observations: frames ``x_{t}`` to infer the latents of instead of x, each (batch, *frame).

        Raises:
            ValueError: several dreams at once.
        """
        if observations:
            x = self._dreamt(x, observations)
        return self.net.guide(x, lengths, context, initial_state)

    def _dreamt(self, x: Tensor, observations: dict[str, Any]) -> Tensor:
        frames = torch.stack([observations[f"x_{t}"] for t in range(x.shape[1])], dim=-1 - x.dim() + 2)
        if frames.shape != x.shape:
            raise ValueError(
                f"observations must be one dream of the shape of x, {tuple(x.shape)}, got {tuple(frames.shape)}: "
                "build ReweightedWakeSleep with num_sleep_particles=1 or vectorize_particles=False"
            )
        return frames
