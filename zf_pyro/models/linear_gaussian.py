"""The linear-Gaussian model, a baseline with an exact log-likelihood, fitted in closed form."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ..checks import int64, require_choice, require_number, require_tensor
from ..data import batches_of
from ..emissions import Gaussian
from ..paths import check_lengths, check_observed, check_values, real_frames, seen_parts, zero_padding
from .kalman import KalmanFiltered, kalman_filter, kalman_smoother


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
        size = len(require_tensor("mean", mean)) if getattr(mean, "ndim", 1) else 0
        square = {"marginal": marginal, "weight": weight, "noise": noise}
        for name, value in {"mean": mean, "bias": bias, **square}.items():
            shape = (size, size) if name in square else (size,)
            if require_tensor(name, value).shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
        self.emission = Gaussian(size)
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
        require_choice("covariance", covariance, ("full", "diagonal"))
        ridge = require_number("ridge", ridge, "at least 0", 0.0)
        sums: list[Tensor] = []
        for x, lengths in batches_of(batches, name="batches"):
            found = _moments(x, _require_frames(x, lengths, len(sums[1]) if sums else None))
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

    def log_prob(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        *,
        observed: Tensor | None = None,
    ) -> Tensor:
        """The log-likelihood of each sequence, or of what was seen of it.

        Args:
            x: (batch, time, frame).
            lengths: real frames of each sequence, (batch,); all of them if None.
            context: the frame before the first, given and not scored; (batch, frame).
            observed: True where x was seen, (batch, time) or (batch, time, frame); None if all was. The rest is
                marginalised by a Kalman filter, and may be NaN.

        Returns:
            (batch,) nats, float64.

        Raises:
            TypeError, ValueError: an argument of the wrong type, shape or device.
        """
        size = len(self.mean)
        if observed is not None:
            filtered, within = self._filtered(x, lengths, context, observed)
            return filtered.log_prob.where(within, 0.0).sum(0)
        lengths = _require_frames(x, lengths, size)
        if context is not None and require_tensor("context", context).shape != (len(x), size):
            raise ValueError(f"context must have shape ({len(x)}, {size}), got {tuple(context.shape)}")
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

    def smoothed(
        self, x: Tensor, lengths: Tensor | None = None, context: Tensor | None = None, *, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and variance of every element given all that was seen of its sequence, by a Kalman smoother.

        Args:
            x: (batch, time, frame); of what was not seen, anything.
            lengths: real frames of each sequence, (batch,); all of them if None.
            context: the frame before the first, given; (batch, frame).
            observed: True where x was seen, (batch, time) or (batch, time, frame).

        Returns:
            Both (batch, time, frame), float64; NaN beyond a length.

        Raises:
            TypeError, ValueError: an argument of the wrong type, shape or device.
        """
        filtered, real = self._filtered(x, lengths, context, observed)
        mean, covariance = kalman_smoother(filtered, self.weight.double())
        moments = (mean, covariance.diagonal(dim1=-2, dim2=-1))
        return tuple(each.where(real.unsqueeze(-1), torch.nan).transpose(0, 1) for each in moments)  # type: ignore[return-value]  # of two

    def _filtered(
        self, x: Tensor, lengths: Tensor | None, context: Tensor | None, observed: Tensor
    ) -> tuple[KalmanFiltered, Tensor]:
        """The filter over sequences with gaps, and True on their real frames, (time, batch)."""
        size = len(self.mean)
        if require_tensor("x", x).dim() != 3:
            raise ValueError(f"x must have shape (batch, time, {size}), got {tuple(x.shape)}")
        check_observed(observed, x.shape[:2], self.emission, x.device)
        seen = seen_parts(observed, self.emission)
        x = torch.where(seen, x, torch.zeros((), dtype=x.dtype, device=x.device))
        lengths = _require_frames(x, lengths, size)
        if context is not None and require_tensor("context", context).shape != (len(x), size):
            raise ValueError(f"context must have shape ({len(x)}, {size}), got {tuple(context.shape)}")
        steps = torch.full((len(x),), x.shape[1], device=x.device) if lengths is None else lengths
        real = real_frames(steps, x.shape[1])
        weight, bias, noise = (part.double() for part in (self.weight, self.bias, self.noise))
        if context is None:
            start = self.mean.double().expand(len(x), -1), self.marginal.double()
        else:
            start = self._expected(context.double()), noise
        frames = zero_padding(x.transpose(0, 1), real).double()
        return kalman_filter(frames, seen.transpose(0, 1) & real.unsqueeze(-1), start, weight, bias, noise), real

    def _expected(self, before: Tensor) -> Tensor:
        return before @ self.weight.T + self.bias


def _require_frames(x: Tensor, lengths: Tensor | None, size: int | None) -> Tensor | None:
    """Refuse x that is no floats (batch, time, frame); the lengths as int64."""
    if not require_tensor("x", x).is_floating_point():
        raise TypeError(f"x must hold floats, got {x.dtype}: a linear-Gaussian model is of real-valued frames")
    if x.dim() != 3 or (size is not None and x.shape[2] != size):
        raise ValueError(f"x must have shape (batch, time, {size or 'frame'}), got {tuple(x.shape)}")
    lengths = int64(lengths)
    if lengths is not None:
        check_lengths(lengths, x.shape[0], x.shape[1], x.device)
    if is_validation_enabled():
        mask = None if lengths is None else real_frames(lengths, x.shape[1])
        check_values(x.transpose(0, 1), mask, Gaussian(x.shape[2]))
    return lengths


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
