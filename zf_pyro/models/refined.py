"""A network whose posterior has corrections for given sequences."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pyro.distributions import Normal, TorchDistribution
from pyro.util import ignore_jit_warnings
from torch import Tensor, nn
from torch.distributions import Normal as TorchNormal

from ..networks import AutoregressiveFlow, PosteriorScan, State, Transition, base_of, latent_of
from ..paths import align
from .base import StochasticRNN


class Corrections(NamedTuple):
    """Corrections of q(z_t | past, b_t) = N(m_t, s_t^2), which becomes N(m_t + s_t exp(r_t) d_t, s_t^2 exp(2 r_t)).

    m_t and s_t still depend on the sampled past. Both corrections are zero beyond a length.
    """

    shift: Tensor
    """d, the shift of the mean in units of the corrected standard deviation; (time, batch, latent)."""
    log_scale: Tensor
    """r, the logarithm of the factor of the standard deviation; (time, batch, latent)."""

    def noise(self, standard: Tensor) -> Tensor:
        """Noise exp(r) (d + e) with which m + s * noise is a sample of the corrected posterior.

        Args:
            standard: standard normal e, (time, ..., batch, latent).
        """
        shift, log_scale = (align(part, standard.dim() - 2) for part in self)
        return log_scale.exp() * (shift + standard)


def correctable(net: StochasticRNN, step_function: str, distribution: TorchDistribution) -> TorchNormal:
    """The normal of a latent of a network that is refined.

    Raises:
        TypeError: it is another distribution, or a flow, which has no mean and deviation to correct.
    """
    latent = latent_of(distribution, step_function, net.latent_dim)
    if isinstance(latent, AutoregressiveFlow):
        raise TypeError(
            f"net must have a diagonal normal as {step_function} to be refined, and {type(net).__name__}."
            f"{step_function} returned a flow: build the model with num_flows=0, or use fit_guide"
        )
    return base_of(latent)


class RefinedNetwork(StochasticRNN):
    """The model of a network, with a posterior corrected for given sequences.

    Its b_t holds b_t of the network, then the corrections of step t. All else is the network's, whose weights and mode
    it shares.

    Args:
        net: the network.
        x: the sequences; (batch, time, *frame).
        lengths: real frames of each, (batch,) int64; None if all are.
        corrections: of the posterior of each.
    """

    net: StochasticRNN

    def __init__(self, net: StochasticRNN, x: Tensor, lengths: Tensor | None, corrections: Corrections) -> None:
        super().__init__(net.emission_family, net.settings, None)
        self.net, self.corrections, self.has_auxiliary = net, corrections, net.has_auxiliary
        self.rows_of: dict[bytes, list[int]] = {}
        for row, key in enumerate(_keys(x.transpose(0, 1), lengths)):
            self.rows_of.setdefault(key, []).append(row)

    def __getattr__(self, name: str) -> Any:
        """Sizes and parts of the network."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "net" not in self.__dict__.get("_modules", {}):
                raise
        return getattr(self.net, name)

    @property
    def training(self) -> bool:
        """The network's mode."""
        return bool("net" in self.__dict__.get("_modules", {}) and self.net.training)

    @training.setter
    def training(self, mode: bool) -> None:
        """Nothing: ``train`` and ``eval`` set the mode of the network as well."""

    def rows(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Indices of sequences among those refined, (batch,), by their real frames.

        Equal sequences are taken in order.

        Args:
            x: (time, batch, *frame).
            lengths: (batch,), or None.

        Raises:
            ValueError: a sequence that is none of them.
        """
        found, seen, keys = [], dict[bytes, int](), _keys(x, lengths)
        for key in keys:
            rows = self.rows_of.get(key, [])
            found.append(rows[seen.get(key, 0) % len(rows)] if rows else -1)
            seen[key] = seen.get(key, 0) + 1
        if -1 in found:
            first, (time, known, _) = found.index(-1), self.corrections.shift.shape
            frames = len(x) if lengths is None else int(lengths[first])
            raise ValueError(
                f"x and lengths must hold sequences that the guide was refined for, {known} of at most {time} frames; "
                f"got {len(found)} sequences, {found.count(-1)} of them others, the first at index {first} with "
                f"{frames} frames: call zf_pyro.inference.refine(net, x, lengths) for these, or use net.guide"
            )
        return torch.as_tensor(found, device=x.device)

    def corrected(self, b: Tensor, rows: Tensor) -> Tensor:
        """b_t of the network (time, batch, backward), with the corrections of sequences ``rows`` (batch,) beside it.

        Raises:
            ValueError: b_t of another size than ``backward_dim`` says.
        """
        if b.shape[-1] != self.net.backward_dim:
            raise ValueError(
                f"{type(self.net).__name__}.scan_backward must return backward_dim = {self.net.backward_dim} values a "
                f"step, got {b.shape[-1]}: define the property backward_dim of the model"
            )
        shift, log_scale = (part[: len(b)].index_select(1, rows) for part in self.corrections)
        missing = len(b) - len(shift)  # frames beyond all lengths
        if missing > 0:
            padded = (torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) for part in (shift, log_scale))
            shift, log_scale = padded
        return torch.cat([b, shift.to(b), log_scale.to(b)], dim=-1)

    def split(self, b: Tensor) -> tuple[Tensor, Corrections]:
        """b_t of the network and the corrections, of b (..., backward)."""
        latent = self.net.latent_dim
        own, *corrections = b.split([self.net.backward_dim, latent, latent], dim=-1)
        return own, Corrections(*corrections)

    # Step functions -------------------------------------------------------------------------------------------------

    @property
    def unrefined(self) -> StochasticRNN:
        """The network that was given."""
        return self.net

    @property
    def backward_dim(self) -> int:
        """Size of b_t with the corrections."""
        return self.net.backward_dim + 2 * self.net.latent_dim

    def posterior(self, past: State, b_t: Tensor) -> TorchDistribution:
        """The corrected q(z_t | past, b_t); b_t (..., backward) with the corrections beside it."""
        own, (shift, log_scale) = self.split(b_t)
        q = correctable(self.net, "posterior", self.net.posterior(past, own))
        scale = q.scale * log_scale.exp()
        return Normal(q.loc + scale * shift, scale).to_event(1)

    def inputs(
        self,
        x: Tensor,
        context: Tensor | None = None,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> Tensor:
        """As of the network; x (batch, time, *frame)."""
        more = () if covariates is None and observed is None else (covariates, observed)
        return self.net.inputs(x, context, *more)

    def initial_state(self, batch_shape: Sequence[int]) -> State:
        return self.net.initial_state(batch_shape)

    def past(self, state: State, u_t: Tensor) -> State:
        """As of the network; u_t (..., *frame)."""
        return self.net.past(state, u_t)

    def prior(self, past: State) -> TorchDistribution:
        return self.net.prior(past)

    def transition(self, past: State, u_t: Tensor, z_t: Tensor) -> State:
        """As of the network; u_t (..., *frame), z_t (..., latent)."""
        return self.net.transition(past, u_t, z_t)

    def emission(self, state: State) -> TorchDistribution:
        return self.net.emission(state)

    def seen(self, past: State) -> Tensor:
        return self.net.seen(past)

    def auxiliary(self, z_t: Tensor, past: State) -> TorchDistribution:
        """As of the network, of its own b_t; z_t (..., latent)."""
        return self.net.auxiliary(z_t, past)

    def backward_emission(self, b_t: Tensor) -> TorchDistribution:
        """As of the network; b_t (..., backward) with the corrections beside it."""
        return self.net.backward_emission(self.split(b_t)[0])

    def parts_of(self, step_function: str) -> dict[str, type[nn.Module]]:
        return self.net.parts_of(step_function)

    # The same over whole sequences ----------------------------------------------------------------------------------

    def scan_backward(self, x: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        """b_1..b_T with the corrections of sequences x (time, batch, *frame); mask (time, batch), lengths (batch,)."""
        rows = self.rows(x, lengths)
        return self.corrected(self.net.scan_backward(x, mask, lengths), rows)

    def scan_posterior(self, state: State, u: Tensor, b: Tensor, noise: Tensor) -> PosteriorScan:
        """As of the network, with its noise shifted and scaled; u, b and noise (time, ..., features)."""
        own, corrections = self.split(b)
        scan = self.net.scan_posterior(state, u, own, corrections.noise(noise))
        shift, log_scale = (align(part, noise.dim() - 2) for part in corrections)
        scale = scan.scale * log_scale.exp()
        return scan._replace(loc=scan.loc + scale * shift, scale=scale)

    def scan_states(self, state: State, u: Tensor, z: Tensor) -> State:
        """As of the network; u and z (time, ..., features)."""
        return self.net.scan_states(state, u, z)

    def scan_past(self, before: State, u: Tensor, after: State) -> State:
        """As of the network; u (time, ..., *frame)."""
        return self.net.scan_past(before, u, after)

    def scan_prior(self, before: State) -> TorchDistribution:
        return self.net.scan_prior(before)

    def scan_auxiliary(self, z: Tensor, before: State, b: Tensor) -> Tensor:
        """As of the network, of its own b_t; z and b (time, ..., features)."""
        return self.net.scan_auxiliary(z, before, self.split(b)[0])

    def loop_transition(self) -> Transition:
        return self.net.loop_transition()

    # Of the network -------------------------------------------------------------------------------------------------

    def register(self) -> None:
        self.net.register()

    def release_memory(self) -> None:
        self.net.release_memory()

    def save(self, *arguments: Any, **settings: Any) -> None:
        """Refuse: corrections belong to sequences.

        Raises:
            TypeError: always.
        """
        raise TypeError("a refined guide is of given sequences and has no file: save net, and refine again after load")


@ignore_jit_warnings()  # while torch.jit traces, the sequences are those of the first call
def _keys(x: Tensor, lengths: Tensor | None) -> list[bytes]:
    """A key of each sequence's real frames; x (time, batch, *frame), lengths (batch,) or None."""
    frames = (x.detach().cpu() + 0).transpose(0, 1).contiguous()  # + 0: no negative zeros
    ends = [len(x)] * x.shape[1] if lengths is None else lengths.tolist()
    keys = []
    for sequence, end in zip(frames, ends, strict=True):
        real = sequence[:end].reshape(-1).view(torch.uint8).numpy().tobytes()
        keys.append(hashlib.blake2b(real, digest_size=16).digest() + end.to_bytes(8, "little"))
    return keys
