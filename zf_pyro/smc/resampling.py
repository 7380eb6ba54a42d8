"""Resampling schemes: ancestors sampled by weight. A particle's expected number of offspring is K times its weight."""

from numbers import Integral
from typing import Protocol

import torch
from torch import Tensor

from ..checks import require_tensor


class Scheme(Protocol):
    """A resampling scheme."""

    def __call__(self, log_weights: Tensor, uniforms: Tensor) -> Tensor:
        """Ancestors (..., K) for normalised log-weights (..., K) and uniform numbers (..., K) in [0, 1)."""
        ...


def systematic(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """Systematic resampling (..., K): one uniform number shifts K evenly spaced positions.

    Carpenter, Clifford, Fearnhead 1999.
    """
    return _at(log_weights, _in_strata(uniforms[..., :1], uniforms.shape[-1]))


def stratified(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """Stratified resampling (..., K): one uniform number within each of K equal strata. Kitagawa 1996."""
    return _at(log_weights, _in_strata(uniforms, uniforms.shape[-1]))


def multinomial(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """Multinomial resampling (..., K): independent samples.

    It has the most variance, and is the only scheme whose log-probability is smooth in the weights.
    """
    return _at(log_weights, uniforms)


SCHEMES: dict[str, Scheme] = {"systematic": systematic, "stratified": stratified, "multinomial": multinomial}
"""The schemes by name. Douc, Cappe, Moulines 2005, https://arxiv.org/abs/cs/0507025, compare them."""


def effective_sample_size(log_weights: Tensor, dim: int = 0) -> Tensor:
    """Effective sample size of importance weights, (sum_k w_k)^2 / sum_k w_k^2, from 1 to K.

    Args:
        log_weights: in nats, up to a constant; (..., K, ...).
        dim: dimension of the particles.

    Returns:
        Number of equally weighted samples that the weights are worth; the shape without ``dim``, (...).
    """
    if not require_tensor("log_weights", log_weights).is_floating_point():
        raise TypeError(f"log_weights must hold floats, in nats, got {log_weights.dtype}")
    if isinstance(dim, bool) or not isinstance(dim, Integral) or not -log_weights.dim() <= dim < log_weights.dim():
        raise ValueError(f"dim must be a dimension of log_weights, of shape {tuple(log_weights.shape)}, got {dim!r}")
    return (2 * log_weights.logsumexp(dim) - (2 * log_weights).logsumexp(dim)).exp()


def _in_strata(uniforms: Tensor, count: int) -> Tensor:
    """One position in each of ``count`` strata of [0, 1); in double precision, as 3 + 0.99999994 is 4 in single."""
    return (torch.arange(count, device=uniforms.device) + uniforms.double()) / count


def _at(log_weights: Tensor, positions: Tensor) -> Tensor:
    """The inverse of the weights' cumulative distribution at positions (..., K) in [0, 1)."""
    heights = log_weights.detach().double().exp().cumsum(-1)
    target = positions.double() * heights[..., -1:]
    if torch.compiler.is_compiling():  # ONNX has no search. The count of heights up to the target is the same.
        found = (heights.unsqueeze(-2) <= target.unsqueeze(-1)).sum(-1)
        return found.clamp(max=log_weights.shape[-1] - 1)
    return torch.searchsorted(heights, target, right=True).clamp(max=log_weights.shape[-1] - 1)
