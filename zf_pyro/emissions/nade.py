"""NADE: frames of zeros and ones whose elements depend on those before them within the frame."""

import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from ..checks import require_count
from .families import Bernoulli
from .marginals import log_odds

Shape = torch.Size | list[int] | tuple[int, ...]
FLOATS_AT_ONCE = 1 << 24
"""Elements of the hidden layers of a pass; 64 MiB in float32, which stay within a few times the caches."""


class NADEWeights(nn.Module):
    """The weights W and V of a NADE, shared by all frames.

    Args:
        frame_dim: elements D of a frame.
        hidden_dim: hidden units H.

    Attributes:
        encoder: W, (D, H): a one at element d adds row d to the hidden layer of the elements after it.
        decoder: V, (D, H): row d maps the hidden layer to the logit of element d. Zeros at the start, so that elements
            are independent.
    """

    def __init__(self, frame_dim: int, hidden_dim: int) -> None:
        super().__init__()
        bound = hidden_dim**-0.5  # as nn.Linear
        self.encoder = nn.Parameter(torch.empty(frame_dim, hidden_dim).uniform_(-bound, bound))
        self.decoder = nn.Parameter(torch.zeros(frame_dim, hidden_dim))


@dataclass(frozen=True)
class NADE(Bernoulli):
    """Zeros and ones with p(x) = prod_d p(x_d | x_1..x_{d-1}), by a network with one hidden layer:

        p(x_d = 1 | x_<d) = sigma(b_d + V_d a_d),    a_d = sigma(c + sum_{i < d} x_i W_i)

    Larochelle, Murray 2011, https://proceedings.mlr.press/v15/larochelle11a.html. b and c are the parameters, functions
    of h_t, as in RNN-NADE (Boulanger-Lewandowski et al. 2012, https://arxiv.org/abs/1206.6392). A density is one
    product over the frame; a sample takes one element after the other.
    """

    hidden_dim: int = 100
    """Hidden units H; 100 by default, as in RNN-NADE's experiments on polyphonic music."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden_dim", require_count("hidden_dim", self.hidden_dim))

    @property
    def num_parameters(self) -> int:
        return self.frame_dim + self.hidden_dim

    @property
    def has_rsample(self) -> bool:
        return False

    def weights(self) -> tuple[NADEWeights, ...]:
        return (NADEWeights(self.frame_dim, self.hidden_dim),)

    def distribution(self, parameters: Tensor, *weights: nn.Module) -> TorchDistribution:
        (shared,) = weights
        visible, hidden = parameters.split([self.frame_dim, self.hidden_dim], dim=-1)
        return NADEDistribution(visible, hidden, shared.encoder, shared.decoder)  # type: ignore[arg-type]  # Parameters

    def mode(self, distribution: TorchDistribution) -> Tensor:
        """The likeliest value of each element given those before it, one after the other; (*batch_shape, frame)."""
        return distribution.greedy()

    def tempered(self, distribution: TorchDistribution, temperature: float) -> TorchDistribution:
        """The logit of each element given those before it, divided by the temperature."""
        return distribution.tempered(temperature)

    def marginal_parameters(self, frames: Tensor) -> Tensor:
        """Log-odds of frames (frames, frame) for b, and 0 for c: exact while V is 0, as it is at the start."""
        return torch.cat([log_odds(frames), frames.new_zeros(self.hidden_dim)])


class NADEDistribution(TorchDistribution):
    """The density of a frame under a NADE; see :class:`NADE`.

    Args:
        visible: b, (..., D).
        hidden: c, (..., H).
        encoder: W, (D, H).
        decoder: V, (D, H).
        temperature: the logit of each element is divided by it.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.boolean, 1)
    has_rsample = False

    def __init__(
        self, visible: Tensor, hidden: Tensor, encoder: Tensor, decoder: Tensor, temperature: float = 1.0
    ) -> None:
        self.visible, self.hidden, self.encoder, self.decoder = visible, hidden, encoder, decoder
        self.temperature = temperature
        super().__init__(visible.shape[:-1], visible.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> "NADEDistribution":
        """The same with a larger batch shape."""
        visible, hidden = (part.expand(*batch_shape, part.shape[-1]) for part in (self.visible, self.hidden))
        return NADEDistribution(visible, hidden, self.encoder, self.decoder, self.temperature)

    def tempered(self, temperature: float) -> "NADEDistribution":
        """The same with logits divided by a further temperature."""
        divided = self.temperature * temperature
        return NADEDistribution(self.visible, self.hidden, self.encoder, self.decoder, divided)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probabilities of frames ``value`` (..., D), in nats."""
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        given = (value, self.visible, self.hidden)
        parts = [part.expand(*shape, part.shape[-1]).reshape(-1, part.shape[-1]) for part in given]
        if torch.compiler.is_compiling():  # one program for every number of rows
            logits = self._logits(*parts)
        else:
            rows = max(1, FLOATS_AT_ONCE // self.encoder.numel())
            pieces = zip(*(part.split(rows) for part in parts), strict=True)
            logits = torch.cat([self._logits(*piece) for piece in pieces])
        found = -F.binary_cross_entropy_with_logits(logits / self.temperature, parts[0], reduction="none").sum(-1)
        return found.view(shape)

    def _logits(self, x: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Logits of all elements of frames x (rows, D), given those before each; (rows, D)."""
        if not (x.is_cuda or x.requires_grad or torch.jit.is_tracing() or torch.compiler.is_compiling()):
            before = (x != 0).cumsum(-1) - (x != 0).long()
            most = _greatest(before[:, -1:]) + 1
            if 0 < 2 * most < x.shape[-1]:
                return self._few_ones(x, visible, hidden, before, most)
        added = (x.unsqueeze(-1) * self.encoder).cumsum(-2)  # (rows, D, H)
        previous = F.pad(added[:, :-1], (0, 0, 1, 0))
        return visible + ((hidden.unsqueeze(-2) + previous).sigmoid() * self.decoder).sum(-1)

    def _few_ones(self, x: Tensor, visible: Tensor, hidden: Tensor, before: Tensor, most: int) -> Tensor:
        """The same for frames of few ones: the hidden layer has one value after each of them, not one per element.

        Args:
            x: frames (rows, D).
            visible: b, (rows, D).
            hidden: c, (rows, H).
            before: ones before each element, (rows, D).
            most: greatest number of ones of a frame.
        """
        rows, elements = (x != 0).nonzero(as_tuple=True)
        added = hidden.new_zeros(len(x), most + 1, hidden.shape[-1])
        ones = F.embedding(elements, self.encoder) * x[rows, elements].unsqueeze(-1)
        added = added.index_put((rows, before[rows, elements] + 1), ones.to(added.dtype))
        layers = (hidden.unsqueeze(1) + added.cumsum(1)).sigmoid()  # (rows, most + 1, H)
        return visible + (layers @ self.decoder.t()).gather(1, before.unsqueeze(1)).squeeze(1)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Frames sampled element by element, without gradients; (*sample_shape, *batch_shape, D)."""
        shape = (*sample_shape, *self.batch_shape)
        return self._in_turn(shape, lambda logit: (torch.rand_like(logit) < logit.sigmoid()).to(logit.dtype))

    @property
    def mean(self) -> Tensor:
        """Refused: the probability of an element is a sum over all frames of the elements before it.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "the mean of a NADE is a sum over all 2^D frames: estimate it by distribution.sample((1000,)).mean(0), or "
            "take the likeliest frame, emission.mode(distribution)"
        )

    def greedy(self) -> Tensor:
        """The likeliest value of each element given those before it; (*batch_shape, D)."""
        return self._in_turn(self.batch_shape, lambda logit: (logit > 0).to(logit.dtype))

    @torch.no_grad()
    def _in_turn(self, shape: Shape, choose: Any) -> Tensor:
        state, elements = self.hidden.expand(*shape, -1), []
        visible = self.visible.expand(*shape, -1).unbind(-1)
        for logit, encoder, decoder in zip(visible, self.encoder, self.decoder, strict=True):
            element = choose((logit + state.sigmoid() @ decoder) / self.temperature)
            elements.append(element)
            state = state + element.unsqueeze(-1) * encoder
        return torch.stack(elements, -1)


def _greatest(counts: Tensor) -> int:
    """The greatest of counts (rows, 1); above all sizes where there is none, as under torch.func.vmap."""
    try:
        return int(counts.max())
    except RuntimeError:
        return sys.maxsize
