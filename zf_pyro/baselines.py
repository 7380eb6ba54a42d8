"""What a stochastic recurrent network is compared with: a linear-Gaussian model, and the same RNN without latents.

Both have an exact log-likelihood, :func:`zf_pyro.evaluation.score_density` evaluates them under the protocols of the
bounds.
"""

import math
from collections.abc import Iterable
from typing import Literal

import pyro
import torch
from torch import Tensor, nn

from .emissions import Emission, Gaussian
from .given import check_context, check_frames, check_lengths, real_frames, zero_padding
from .modes import LSTM


class LinearGaussian:
    """x_1 ~ N(m, C) and x_t ~ N(A x_{t-1} + b, S): a vector autoregression of order 1, fitted in closed form.

    Attributes:
        emission: the family of frames, for those who ask what a frame is.
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
        """Numbers fitted, with those of a symmetric matrix counted once."""
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


class DeterministicRNN(nn.Module):
    """The recurrent network without latents: h_t = LSTM(x_{t-1}, h_{t-1}), x_t ~ p(x_t | h_t) of the same family.

    :meth:`model` and :meth:`guide` are Pyro programs, so that the same training fits it: SVI under ``Trace_ELBO``,
    whose bound is the log-likelihood itself, as there is nothing to infer.

    Args:
        emission: the family of frames.
        embed_dim: size of an embedded frame.
        hidden_dim: size of h_t.
        dropout: probability of zeroing a number of an embedded frame, in training mode.
        name: of the net in Pyro's parameter store.

    Raises:
        ValueError: a size that is not positive, or dropout outside [0, 1).
    """

    def __init__(
        self,
        emission: Emission,
        *,
        embed_dim: int = 512,
        hidden_dim: int = 1024,
        dropout: float = 0.0,
        name: str = "deterministic_rnn",
    ) -> None:
        super().__init__()
        for argument, value in {"embed_dim": embed_dim, "hidden_dim": hidden_dim}.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{argument} must be a positive integer, got {value!r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be a probability in [0, 1), got {dropout!r}")
        self.emission, self.hidden_dim, self.name = emission, hidden_dim, name
        self.embedding = nn.Sequential(emission.embedding(embed_dim), nn.Dropout(dropout))
        self.lstm = LSTM(embed_dim, hidden_dim, batch_first=True)
        nn.init.orthogonal_(self.lstm.get_parameter("weight_hh_l0"))
        self.emission_layer = nn.Linear(hidden_dim, emission.num_parameters)

    @property
    def device(self) -> torch.device:
        return self.emission_layer.weight.device

    @property
    def num_parameters(self) -> int:
        """Numbers trained."""
        return sum(parameter.numel() for parameter in self.parameters())

    @classmethod
    def of_size(
        cls, emission: Emission, num_parameters: int, *, embed_dim: int, dropout: float = 0.0
    ) -> "DeterministicRNN":
        """The net whose number of parameters is nearest to a given one, by its hidden size.

        Raises:
            ValueError: even a hidden size of 1 has more than twice as many.
        """
        # parameters = 4 h^2 + h (4 e + 8 + p) + fixed, as nn.LSTM has two biases
        fixed = sum(p.numel() for p in emission.embedding(embed_dim).parameters()) + emission.num_parameters
        linear = 4 * embed_dim + 8 + emission.num_parameters
        if fixed + linear + 4 > 2 * num_parameters:
            raise ValueError(
                f"num_parameters must leave room for a hidden size: {fixed + linear + 4} are needed with "
                f"embed_dim={embed_dim}, got {num_parameters}"
            )
        root = (-linear + math.sqrt(linear**2 + 16 * max(0, num_parameters - fixed))) / 8
        sizes = {max(1, math.floor(root)), max(1, math.ceil(root))}
        hidden_dim = min(sizes, key=lambda h: abs(4 * h * h + linear * h + fixed - num_parameters))
        return cls(emission, embed_dim=embed_dim, hidden_dim=hidden_dim, dropout=dropout)

    def log_prob(self, x: Tensor, lengths: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """The log-likelihood of each sequence.

        Args:
            x: (batch, time, frame) floats or (batch, time) integers.
            lengths: real frames of each sequence, (batch,); all of them if None.
            context: the frame before the first, given and not scored; (batch, frame) or (batch,).

        Returns:
            (batch,) nats.

        Raises:
            TypeError, ValueError: arguments of a wrong type or shape.
        """
        like = self.emission_layer.weight
        check_frames(x, self.emission, like)
        real = None
        if lengths is not None:
            check_lengths(lengths, x.shape[0], x.shape[1], like.device)
            real = real_frames(lengths, x.shape[1])
            x = zero_padding(x.transpose(0, 1), real).transpose(0, 1)
        if context is not None:
            check_context(context, x.shape[0], self.emission, like)
        x = x.long() if self.emission.integer else x
        first = self.emission.start(x[:, 0]) if context is None else context.to(x.dtype)
        u = torch.cat([first.unsqueeze(1), x[:, :-1]], dim=1)
        hidden, _ = self.lstm(self.embedding(u))
        found = self.emission.distribution(self.emission_layer(hidden)).log_prob(x)
        return (found if real is None else found.where(real.T, 0.0)).sum(1)

    def model(self, x: Tensor, lengths: Tensor | None = None, context: Tensor | None = None) -> None:
        """The log-likelihood as a factor of a Pyro program; arguments as for :meth:`log_prob`."""
        pyro.module(self.name, self)
        with pyro.plate("sequences", len(x), dim=-1):
            pyro.factor("x", self.log_prob(x, lengths, context))

    def guide(self, x: Tensor, lengths: Tensor | None = None, context: Tensor | None = None) -> None:
        """Nothing to infer."""


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
