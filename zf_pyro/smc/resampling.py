"""Which particles go on: ancestors drawn by weight, so that each expects K times its weight in offspring."""

from typing import Protocol

import torch
from torch import Tensor


class Scheme(Protocol):
    """A way to draw ancestors."""

    def __call__(self, log_weights: Tensor, uniforms: Tensor) -> Tensor:
        """Ancestors (..., K) for normalised log-weights (..., K) and uniform numbers (..., K) in [0, 1)."""
        ...


def systematic(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """One uniform number for all K evenly spaced positions: Carpenter, Clifford, Fearnhead 1999."""
    return _at(log_weights, _in_strata(uniforms[..., :1], uniforms.shape[-1]))


def stratified(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """One uniform number within each of K equal strata: Kitagawa 1996."""
    return _at(log_weights, _in_strata(uniforms, uniforms.shape[-1]))


def multinomial(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """K independent draws: the most variance, and the only scheme whose log-probability is smooth in the weights."""
    return _at(log_weights, uniforms)


SCHEMES: dict[str, Scheme] = {"systematic": systematic, "stratified": stratified, "multinomial": multinomial}
"""The schemes by name. Douc, Cappe, Moulines 2005, https://arxiv.org/abs/cs/0507025, compare them."""


def _in_strata(uniforms: Tensor, count: int) -> Tensor:
    """One position in each of ``count`` strata of [0, 1); in double precision, as 3 + 0.99999994 is 4 in single."""
    return (torch.arange(count, device=uniforms.device) + uniforms.double()) / count


def _at(log_weights: Tensor, positions: Tensor) -> Tensor:
    """The inverse of the weights' distribution function at positions (..., K) in [0, 1)."""
    heights = log_weights.detach().double().exp().cumsum(-1)
    wanted = positions.double() * heights[..., -1:]
    return torch.searchsorted(heights, wanted, right=True).clamp(max=log_weights.shape[-1] - 1)
