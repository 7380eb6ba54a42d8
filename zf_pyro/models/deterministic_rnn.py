"""The recurrent network without latents, a baseline with an exact log-likelihood."""

import math
from collections.abc import Iterable
from typing import Any

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from ..checks import int64, require_count, require_flag, require_number, require_tensor
from ..emissions import Emission
from ..networks import LSTM, frame_embedding, joined
from ..paths import (
    check_context,
    check_frames,
    check_lengths,
    check_values,
    filled,
    flags_before,
    known_steps,
    real_frames,
    require_finite,
    sequences,
)
from .options import checked
from .registration import RegisteredNetwork
from .start import start_at


class LayerNormLSTM(nn.Module):
    """An LSTM with layer norm of its gates' inputs and of its gates' recurrent part, in a plain loop.

    gates = LN(W e_t) + LN(W_h h_{t-1}), each with a gain and a bias (Ba, Kiros, Hinton 2016,
    https://arxiv.org/abs/1607.06450, without the norm of the cell). That is the cell of
    ``ZForcing(transition="conditional_layer_norm")`` with a gain and a bias that no latent sets.

    Args:
        embed_dim: size of an embedded frame.
        hidden_dim: size of h_t.
    """

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.input_weights = nn.Linear(embed_dim, 4 * hidden_dim, bias=False)
        self.hidden_weights = nn.Linear(hidden_dim, 4 * hidden_dim, bias=False)
        self.input_norm, self.hidden_norm = nn.LayerNorm(4 * hidden_dim), nn.LayerNorm(4 * hidden_dim)
        nn.init.uniform_(self.input_weights.weight, -(hidden_dim**-0.5), hidden_dim**-0.5)
        nn.init.orthogonal_(self.hidden_weights.weight)

    def forward(self, embedded: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """h_1..h_T of embedded frames (batch, time, embed); (batch, time, hidden), and the last h and c."""
        hidden = cell = embedded.new_zeros(len(embedded), self.hidden_dim)
        states = []
        for inputs in self.input_norm(self.input_weights(embedded)).unbind(1):
            gates = inputs + self.hidden_norm(self.hidden_weights(hidden))
            i, f, o, candidate = gates.chunk(4, dim=-1)
            cell = f.sigmoid() * cell + i.sigmoid() * candidate.tanh()
            hidden = o.sigmoid() * cell.tanh()
            states.append(hidden)
        return torch.stack(states, 1), (hidden, cell)


class DeterministicRNN(RegisteredNetwork):
    """The recurrent network without latents: h_t = LSTM(x_{t-1}, h_{t-1}), x_t ~ p(x_t | h_t) of the same family.

    :meth:`model` and :meth:`guide` are Pyro programs, so that SVI trains it. Under ``Trace_ELBO`` the bound is the
    log-likelihood itself, since there is nothing to infer.

    Args:
        emission: the family of frames.
        embed_dim: size of an embedded frame.
        hidden_dim: size of h_t.
        dropout: probability of zeroing an element of an embedded frame, in training mode.
        layer_norm: take :class:`LayerNormLSTM` in place of PyTorch's LSTM.
        covariate_dim: K, covariates of a step, read beside each frame; 0 for none.
        missing: ``"fill"`` to read gaps (``observed=``) as the start frame with flags, so that it trains on them;
            ``"draw"`` for whole frames alone.
        name: name of the model in Pyro's parameter store; unique within the process if None.

    Raises:
        TypeError: ``emission`` is no emission, ``layer_norm`` is no bool, or ``name`` is no string.
        ValueError: a size that is not positive, or dropout outside [0, 1).
    """

    def __init__(
        self,
        emission: Emission,
        *,
        embed_dim: int = 512,
        hidden_dim: int = 1024,
        dropout: float = 0.0,
        layer_norm: bool = False,
        covariate_dim: int = 0,
        missing: str = "draw",
        name: str | None = None,
    ) -> None:
        super().__init__(name, "deterministic_rnn")
        embed_dim, hidden_dim = require_count("embed_dim", embed_dim), require_count("hidden_dim", hidden_dim)
        dropout = require_number("dropout", dropout, "a probability in [0, 1)", 0.0, 1.0, "[)")
        _require_emission(emission)
        more = checked(covariate_dim=covariate_dim, missing=missing)
        self.emission = self.emission_family = emission
        self.hidden_dim, self.covariate_dim, self.missing = hidden_dim, more["covariate_dim"], more["missing"]
        self.flag_dim = emission.flag_dim if self.missing == "fill" else 0
        extra_dim = self.covariate_dim + self.flag_dim
        self.embedding = nn.Sequential(frame_embedding(emission, embed_dim, extra_dim), nn.Dropout(dropout))
        if require_flag("layer_norm", layer_norm):
            self.lstm: nn.Module = LayerNormLSTM(embed_dim, hidden_dim)
        else:
            self.lstm = LSTM(embed_dim, hidden_dim, batch_first=True)
            nn.init.orthogonal_(self.lstm.get_parameter("weight_hh_l0"))
        self.emission_layer = nn.Linear(hidden_dim, emission.num_parameters)
        self.emission_weights = nn.ModuleList(emission.weights())

    @property
    def device(self) -> torch.device:
        return self.emission_layer.weight.device

    @property
    def num_parameters(self) -> int:
        """Trained values."""
        return sum(parameter.numel() for parameter in self.parameters())

    def initialise(
        self,
        x: Tensor | Iterable[Any],
        lengths: Tensor | None = None,
        *,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> int:
        """Start at the marginals of x (batch, time, *frame), or of a loader; see :meth:`.ZForcing.initialise`."""
        layers = [self.emission_layer]
        return start_at(self, layers, self.embedding, x, lengths, covariates=covariates, observed=observed)

    @classmethod
    def of_size(
        cls,
        emission: Emission,
        num_parameters: int,
        *,
        embed_dim: int,
        dropout: float = 0.0,
        layer_norm: bool = False,
    ) -> "DeterministicRNN":
        """The model with the number of parameters nearest to a given one, by its hidden size.

        Raises:
            ValueError: even a hidden size of 1 has more than twice as many.
        """
        _require_emission(emission)
        num_parameters = require_count("num_parameters", num_parameters)
        embed_dim = require_count("embed_dim", embed_dim)
        # parameters = 4 h^2 + h (4 e + n + p) + fixed; n is 8 for the two biases of nn.LSTM, 16 for two layer norms
        modules = (emission.embedding(embed_dim), *emission.weights())
        fixed = sum(p.numel() for module in modules for p in module.parameters()) + emission.num_parameters
        linear = 4 * embed_dim + (16 if layer_norm else 8) + emission.num_parameters
        if fixed + linear + 4 > 2 * num_parameters:
            raise ValueError(
                f"num_parameters must leave room for a hidden size: {fixed + linear + 4} are needed with "
                f"embed_dim={embed_dim}, got {num_parameters}"
            )
        root = (-linear + math.sqrt(linear**2 + 16 * max(0, num_parameters - fixed))) / 8
        sizes = {max(1, math.floor(root)), max(1, math.ceil(root))}
        hidden_dim = min(sizes, key=lambda h: abs(4 * h * h + linear * h + fixed - num_parameters))
        return cls(emission, embed_dim=embed_dim, hidden_dim=hidden_dim, dropout=dropout, layer_norm=layer_norm)

    def log_prob(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        *,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> Tensor:
        """The log-likelihood of each sequence.

        Args:
            x: (batch, time, frame) floats or (batch, time) integers.
            lengths: real frames of each sequence, (batch,); all of them if None.
            context: the frame before the first, given and not scored; (batch, frame) or (batch,).
            covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
            observed: True where x was seen, (batch, time) or (batch, time, *frame), for a model of ``missing="fill"``.
                What was not seen is not scored.

        Returns:
            (batch,) nats.

        Raises:
            TypeError, ValueError: arguments of a wrong type or shape.
        """
        like = self.emission_layer.weight
        check_frames(x, self.emission, like)
        real, lengths = None, int64(lengths)
        if lengths is not None:
            check_lengths(lengths, x.shape[0], x.shape[1], like.device)
            real = real_frames(lengths, x.shape[1])
        if observed is not None and not self.flag_dim:
            raise ValueError(
                "observed must be left out for a model of missing='draw', which reads whole frames: build the model "
                "with missing='fill'"
            )
        x = x.long() if self.emission.integer else x
        known = known_steps(self, x.transpose(0, 1), lengths, covariates, observed)
        if is_validation_enabled():
            check_values(known.x, real, self.emission)
        if known.covariates is not None:
            require_finite(known.covariates, real)
        if context is not None:
            check_context(context, x.shape[0], self.emission, like)
        frames, flags = known.x, None
        if known.seen is not None:
            frames, flags = filled(frames, known.seen, self.emission), flags_before(known.seen, None)
        first = self.emission.start(frames[0]) if context is None else context.to(x.dtype)
        u = joined(self, torch.cat([first.unsqueeze(0), frames[:-1]]), known.covariates, flags).transpose(0, 1)
        hidden, _ = self.lstm(self.embedding(u))
        distribution = self.emission.distribution(self.emission_layer(hidden), *self.emission_weights)
        seen = None if known.seen is None else known.seen.transpose(0, 1)
        found = self.emission.log_prob(distribution, known.x.transpose(0, 1), seen)
        return (found if real is None else found.where(real.T, 0.0)).sum(1)

    def model(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        *,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> None:
        """The log-likelihood as a factor of a Pyro program, for x (batch, time, *frame); see :meth:`log_prob`."""
        self.register()
        log_prob = self.log_prob(require_tensor("x", x), lengths, context, covariates=covariates, observed=observed)
        with sequences(len(x)):
            pyro.factor("x", log_prob)

    def guide(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        *,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> None:
        """An empty program, since there is nothing to infer in x (batch, time, *frame)."""


def _require_emission(emission: Emission) -> None:
    """Refuse what is no emission."""
    if not isinstance(emission, Emission):
        raise TypeError(f"emission must be one of zf_pyro.emissions, such as Gaussian(200), got {emission!r}")
