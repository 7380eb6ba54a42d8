"""The linear-Gaussian model, a baseline with an exact log-likelihood, fitted in closed form."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from ..emissions import Gaussian
from ..paths import real_frames, zero_padding


class LinearGaussian:
    """x_1 ~ N(m, C) and x_t ~ N(A x_{t-1} + b, S): a vector autoregression of order 1, fitted in closed form.

    Attributes:
        emission: the family of frames.
        mean: m; (frame,).
        marginal: C, of all frames; (frame, frame).
        weight: A; (frame, frame).
        bias: b; (frame,).
        noise: S; (frame, frame).
    """

    def __init__(self, mean: Tensor, marginal: Tensor, weight: Tensor, bias: Tensor, noise: Tensor) -> None:
        self.emission = Gaussian(len(mean))
        self.mean, self.marginal, self.weight, self.bias, self.noise = mean, marginal, weight, bias, noise
        self._roots = torch.linalg.cholesky(marginal), torch.linalg.cholesky(noise)

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def num_parameters(self) -> int:
        """Fitted values; those of a symmetric matrix count once."""
        size = len(self.mean)
        diagonal = bool((self.noise == self.noise.diag().diag()).all())
        covariance = size if diagonal else size * (size + 1) // 2
        return 2 * (size + covariance) + size * size

    @classmethod
    def fit(
        cls,
        batches: Iterable[tuple[Tensor, Tensor | None]],
        covariance: Literal["full", "diagonal"] = "full",
        *,
        ridge: float = 1e-6,
    ) -> "LinearGaussian":
        """Maximum likelihood over the real frames of all sequences, in one pass over the data.

        Args:
            batches: (x, lengths) with x (batch, time, frame), such as :class:`zf_pyro.data.Loader` gives.
            covariance: of x_1 and of the noise. ``diagonal`` is the family of :class:`~zf_pyro.emissions.Gaussian`.
            ridge: added to the diagonal of covariances, in units of the mean variance of a number, so that they can be
                inverted where frames are few.

        Raises:
            ValueError: an unknown covariance, a negative ridge, no frames, or no two frames in a row.
        """
        if covariance not in ("full", "diagonal"):
            raise ValueError(f"covariance must be full or diagonal, got {covariance!r}")
        if not ridge >= 0.0:
            raise ValueError(f"ridge must be at least 0, got {ridge!r}")
        sums: list[Tensor] = []
        for x, lengths in batches:
            found = _moments(x, lengths)
            sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
        if not sums or not sums[3][0, 0]:
            raise ValueError("batches must hold sequences of at least two frames, got none")
        count, total, square, joint = sums
        mean = total / count
        marginal = square / count - mean.outer(mean)
        eye = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
        small = ridge * marginal.diagonal().mean() * eye
        # joint: the moments of (1, x_{t-1}, x_t) over pairs of frames in a row
        joint, size = joint / joint[0, 0], len(mean)
        before, cross, after = (
            joint[: size + 1, : size + 1],
            joint[: size + 1, size + 1 :],
            joint[size + 1 :, size + 1 :],
        )
        ridged = before.clone()
        ridged[1:, 1:] += small
        solution = torch.linalg.solve(ridged, cross)
        noise = after - solution.T @ cross - cross.T @ solution + solution.T @ before @ solution
        if covariance == "diagonal":
            marginal, noise = marginal.diag().diag(), noise.diag().diag()
        return cls(mean, marginal + small, solution[1:].T, solution[0], noise + small)

    def log_prob(self, x: Tensor, lengths: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """The log-likelihood of each sequence.

        Args:
            x: (batch, time, frame).
            lengths: real frames of each sequence, (batch,); all of them if None.
            context: the frame before the first, given and not scored; (batch, frame).

        Returns:
            (batch,) nats, float64.

        Raises:
            ValueError: a wrong shape.
        """
        size = len(self.mean)
        if x.dim() != 3 or x.shape[2] != size:
            raise ValueError(f"x must have shape (batch, time, {size}), got {tuple(x.shape)}")
        real = None if lengths is None else real_frames(lengths, x.shape[1])
        frames = (x.transpose(0, 1) if real is None else zero_padding(x.transpose(0, 1), real)).double()
        first = frames[0] - self.mean if context is None else frames[0] - self._expected(context.double())
        found = torch.cat(
            [
                _log_normal(first, self._roots[0 if context is None else 1]).unsqueeze(0),
                _log_normal(frames[1:] - self._expected(frames[:-1]), self._roots[1]),
            ]
        )
        return (found if real is None else found.where(real, 0.0)).sum(0)

    def _expected(self, before: Tensor) -> Tensor:
        return before @ self.weight.T + self.bias


def _moments(x: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """Number, sum and second moment of real frames, and second moments of (1, x_{t-1}, x_t); float64."""
    batch, time = x.shape[:2]
    real = torch.ones(time, batch, dtype=torch.bool, device=x.device) if lengths is None else real_frames(lengths, time)
    frames = zero_padding(x.transpose(0, 1), real).double()
    square = torch.einsum("tbi,tbj->ij", frames, frames)
    ones = real[1:].unsqueeze(-1).double()
    rows = torch.cat([ones, frames[:-1] * ones, frames[1:]], dim=-1).flatten(0, 1)
    return [real.sum().double(), frames.sum((0, 1)), square, rows.T @ rows]


def _log_normal(deviation: Tensor, root: Tensor) -> Tensor:
    """log N(deviation; 0, root root'); (..., frame) -> (...)."""
    flat = deviation.reshape(-1, deviation.shape[-1])
    white = torch.linalg.solve_triangular(root, flat.T, upper=False).square().sum(0)
    constant = root.diagonal().log().sum() + 0.5 * len(root) * math.log(2.0 * math.pi)
    return (-0.5 * white - constant).view(deviation.shape[:-1])
