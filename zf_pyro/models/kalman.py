"""Kalman filter and smoother of a vector autoregression of order 1, some of whose elements were not seen."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class KalmanFiltered(NamedTuple):
    """Results of the filter; moments are of x_t given what was seen of x_1..x_t."""

    log_prob: Tensor
    """log p of what was seen of x_t given what was seen before; (time, batch) nats."""
    mean: Tensor
    """(time, batch, frame)."""
    covariance: Tensor
    """(time, batch, frame, frame)."""
    predicted_mean: Tensor
    """Of x_t given what was seen before; (time, batch, frame)."""
    predicted_covariance: Tensor
    """The same; (time, batch, frame, frame)."""


def kalman_filter(
    x: Tensor, seen: Tensor, start: tuple[Tensor, Tensor], weight: Tensor, bias: Tensor, noise: Tensor
) -> KalmanFiltered:
    """Filter x_t = A x_{t-1} + b + noise, of which some elements are seen without error.

    Args:
        x: (time, batch, frame), with any finite value where nothing was seen.
        seen: True where x was seen, (time, batch, frame).
        start: mean (batch, frame) and covariance (frame, frame) of x_1.
        weight: A; (frame, frame).
        bias: b; (frame,).
        noise: covariance, (frame, frame).
    """
    mean, covariance = start[0], start[1].expand(x.shape[1], -1, -1)
    eye, kept = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device), []
    for x_t, seen_t in zip(x.unbind(0), seen.unbind(0), strict=True):
        flags = seen_t.to(x.dtype)
        deviation = (x_t - mean) * flags
        both = flags.unsqueeze(-1) * flags.unsqueeze(-2)
        # Rows and columns of what was not seen become those of the identity, which add nothing to the density.
        root = torch.linalg.cholesky(covariance * both + torch.diag_embed(1.0 - flags) * eye)
        white = torch.linalg.solve_triangular(root, deviation.unsqueeze(-1), upper=False).squeeze(-1)
        constant = root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * math.log(2.0 * math.pi) * flags.sum(-1)
        cross = covariance * flags.unsqueeze(-2)
        gain = torch.cholesky_solve(cross.transpose(-1, -2), root).transpose(-1, -2)
        after_mean = torch.where(seen_t, x_t, mean + (gain @ deviation.unsqueeze(-1)).squeeze(-1))
        after = covariance - gain @ cross.transpose(-1, -2)
        after = torch.where(seen_t.unsqueeze(-1) | seen_t.unsqueeze(-2), 0.0, after)  # without rounding errors
        kept.append((-0.5 * white.square().sum(-1) - constant, after_mean, after, mean, covariance))
        mean, covariance = after_mean @ weight.T + bias, weight @ after @ weight.T + noise
    return KalmanFiltered(*(torch.stack(field) for field in zip(*kept, strict=True)))


def kalman_smoother(filtered: KalmanFiltered, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (time, batch, frame) and covariance (time, batch, frame, frame) of x_t given all that was seen.

    Args:
        filtered: result of :func:`kalman_filter`.
        weight: A; (frame, frame).
    """
    mean, covariance = filtered.mean[-1], filtered.covariance[-1]
    kept = [(mean, covariance)]
    for t in reversed(range(len(filtered.mean) - 1)):
        before, ahead = filtered.covariance[t], filtered.predicted_covariance[t + 1]
        gain = torch.linalg.solve(ahead, weight @ before).transpose(-1, -2)
        mean = filtered.mean[t] + (gain @ (mean - filtered.predicted_mean[t + 1]).unsqueeze(-1)).squeeze(-1)
        covariance = before + gain @ (covariance - ahead) @ gain.transpose(-1, -2)
        kept.append((mean, covariance))
    means, covariances = (torch.stack(field) for field in zip(*kept[::-1], strict=True))
    return means, covariances
