"""A density for the latents of the padding, for inference algorithms that take no lengths."""

import functools
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.distributions import Normal
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ..objectives import PyroProgram, require_program
from ..paths import LatentStep


def with_padding_prior(model: PyroProgram) -> PyroProgram:
    """``model`` with standard normal latents beyond a sequence's length, otherwise unchanged.

    The guide of :class:`~zf_pyro.ZForcing` masks its padding as the model does. Algorithms that take no lengths do not:

    - Autoguides subtract log q of the padding too, so that their bound grows without limit.
    - For MCMC, SVGD and Laplace's approximation the padding has no proper density.

    With this prior the padding is independent of all else, and its best approximation is the prior itself. Then
    E_q[log p(x, z) - log q(z)] <= log p(x) of the real frames.

    Args:
        model: ``net.model``, or a program around it.

    Returns:
        A program of the same arguments. If there are lengths shorter than T, it has an additional factor site
        ``padding``, (batch,).
    """

    require_program("model", model)

    @functools.wraps(model, updated=())  # so that its arguments are known
    def padded(*args: Any, **kwargs: Any) -> Any:
        with _Padding() as padding:
            result = model(*args, **kwargs)
        if padding.log_prob is not None:
            plate = pyro.plate("padded_sequences", padding.log_prob.shape[-1], dim=-1)
            with poutine.scale(scale=padding.scale), plate:
                pyro.factor("padding", padding.log_prob)
        return result

    return padded


class _Padding(Messenger):
    """Sums the standard normal log-densities of padding latents; ``log_prob`` is (..., batch) in nats."""

    log_prob: Tensor | None = None
    scale: Any = 1.0
    """Scale of the latents by handlers inside ``model``, such as a plate that subsamples."""

    def __enter__(self) -> "_Padding":
        self.log_prob = None
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], LatentStep):
            self.scale = msg["scale"]

    def _pyro_post_sample(self, msg: Any) -> None:
        step, mask = msg["fn"], msg["mask"]
        if not isinstance(step, LatentStep) or step.path.masks is None or not isinstance(mask, Tensor):
            return
        z = msg["value"]
        added = torch.where(step.path.masks[step.t], 0.0, Normal(torch.zeros_like(z), 1.0).log_prob(z).sum(-1))
        self.log_prob = added if self.log_prob is None else self.log_prob + added


def stack_latents(draws: dict[str, Tensor]) -> Tensor:
    """Stack the latents z_0, z_1, ... of samples by site.

    Args:
        draws: the sites ``z_{t}``, each (..., batch, latent), as ``MCMC.get_samples()``, ``Predictive`` or an autoguide
            returns them. Other sites are ignored.

    Returns:
        (..., batch, time, latent).

    Raises:
        ValueError: a step is missing.
    """
    if not isinstance(draws, Mapping):
        raise TypeError(f"draws must be a dictionary of samples by site, got {type(draws).__name__}")
    steps = sorted(int(name[2:]) for name in draws if name.startswith("z_") and name[2:].isdigit())
    if steps != list(range(len(steps))) or not steps:
        raise ValueError(f"draws must hold the sites z_0 to z_{{T-1}} without a gap, got steps {steps}")
    return torch.stack(torch.broadcast_tensors(*(draws[f"z_{t}"] for t in steps)), dim=-2)
