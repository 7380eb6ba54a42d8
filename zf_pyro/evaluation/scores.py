"""Log-likelihood bounds of every sequence of a data set in nats, batch by batch, under one protocol."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from operator import length_hint
from typing import Any, NamedTuple
from typing import Protocol as Interface

import torch
from torch import Tensor, nn

from ..checks import require_count, require_flag, require_tensor
from ..data import GivenSequences, givens_of, is_batch, progress_bar
from ..emissions import Emission
from ..models import StochasticRNN, require_model
from ..networks import evaluating
from ..paths import check_frames, check_lengths, check_observed
from .bounds import bounds, particle_bound, prior_mean_log_likelihood
from .protocols import Pieces, Protocol, cut

Data = Tensor | tuple[Tensor, Tensor | None] | Iterable[tuple[Tensor, Tensor | None]]
"""x (batch, time, *frame), a batch (x, lengths), or such batches as of :class:`zf_pyro.data.Loader`, each sequence in
one batch."""
Nats = dict[str, Tensor]
"""Nats of each sequence (sequences,), by the name of the bound."""


class Scores(NamedTuple):
    """Scores of each sequence; tensors are (sequences,) float64, in the order of the data."""

    protocol: Protocol
    """Protocol, which defines the scored frames."""
    reset_every: int | None
    """Frames per chunk, where states were reset after each chunk; None for whole sequences."""
    emission: Emission
    """Distribution family of the frames."""
    num_frames: Tensor
    """Scored frames of which anything was seen."""
    bounds: Nats
    """Nats by the name of the bound: ``elbo``, ``importance_weighted``, ``particle`` if requested, and ``prior_mean``,
    the likelihood with each z_t at its prior mean. A density without latents has ``log_likelihood`` alone."""
    kl: Tensor | None
    """KL(q || p) in nats; None without latents."""
    num_particles: int | None
    """Samples of the latents behind ``importance_weighted``."""
    filter_particles: int | None
    """Particles of the filter behind ``particle``."""

    @property
    def frame_size(self) -> int:
        """Values in a frame."""
        return self.emission.event_shape.numel()

    @property
    def has_units(self) -> bool:
        """True for real or positive frames, whose density depends on the unit."""
        return self.emission.has_units


class Density(Interface):
    """Density of sequences that needs no bound, as of :class:`zf_pyro.models.DeterministicRNN`."""

    @property
    def emission(self) -> Emission:
        """Distribution family of the frames."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        ...

    def log_prob(self, x: Tensor, lengths: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """log p(x), (batch,) nats, of x (batch, time, *frame) with lengths (batch,) and context (batch, *frame)."""
        ...


def score(
    net: StochasticRNN,
    data: Data,
    lengths: Tensor | None = None,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    protocol: Protocol = "full_density",
    reset_every: int | None = None,
    num_particles: int = 64,
    filter_particles: int = 0,
    guide: Callable[..., Any] | None = None,
    batch_size: int = 64,
    chunk_particles: int = 8,
    progress: bool = False,
) -> Scores:
    """Bound log p(x) of every sequence of ``data``, for example x (batch, time, *frame) with lengths (batch,).

    Args:
        net: the model; evaluated in evaluation mode, and its mode is restored afterwards.
        data: as for :func:`zf_pyro.evaluation.evaluate`.
        lengths: real frames of each sequence of x, (batch,); all of them if None.
        covariates: c_1..c_T, (batch, time, K), where data is x.
        observed: True where x was seen, (batch, time) or (batch, time, *frame), where data is x.
        protocol: the scored frames.
        reset_every: scored frames per chunk; states are reset after each. None for whole sequences.
        num_particles: K samples of the latents for ELBO and importance-weighted bound.
        filter_particles: particles of the filter for the particle bound; 0 for none.
        guide: ``net.guide``, or a guide of :func:`zf_pyro.inference.refine` for these sequences.
        batch_size: pieces of sequences processed at once.
        chunk_particles: samples processed at once.

    Raises:
        TypeError, ValueError: as for :func:`zf_pyro.evaluation.evaluate`.
    """
    require_model(net)
    filter_particles = require_count("filter_particles", filter_particles, least=0)
    num_particles = require_count("num_particles", num_particles)
    whole = is_batch(data)  # shows how far each bound is; of many batches, the bar counts these
    inner = require_flag("progress", progress) and whole

    def nats(pieces: Pieces) -> Nats:
        x, lengths = pieces.x, pieces.lengths
        more: dict[str, Any] = {"covariates": pieces.covariates, "observed": pieces.observed}
        more |= {"context": pieces.context, "batch_size": batch_size, "progress": inner}
        found = bounds(net, x, lengths, num_particles, guide=guide, chunk_particles=chunk_particles, **more)
        scored = found._asdict()
        if filter_particles:
            scored["particle"] = particle_bound(net, x, lengths, filter_particles, guide=guide, **more)
        scored["prior_mean"] = prior_mean_log_likelihood(net, x, lengths, **more)
        return scored

    weight, rest = net.emission_layer.weight, (lengths, covariates, observed)
    num_frames, found = _collect(
        data, rest, protocol, reset_every, net.emission_family, weight.device, nats, progress and not whole
    )
    kl = found.pop("kl")
    return Scores(
        protocol, reset_every, net.emission_family, num_frames, found, kl, num_particles, filter_particles or None
    )


def score_density(
    density: Density,
    data: Data,
    lengths: Tensor | None = None,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    protocol: Protocol = "full_density",
    reset_every: int | None = None,
    batch_size: int = 64,
) -> Scores:
    """Log-likelihood of every sequence under a density without latents.

    Args:
        density: the density, for example a fitted :class:`zf_pyro.models.LinearGaussian`. A module is evaluated in
            evaluation mode, without dropout, and its mode is restored afterwards.
        data: as for :func:`zf_pyro.evaluation.evaluate`; x is (batch, time, frame) or (batch, time).
        lengths: real frames of each sequence, (batch,); all of them if None.
        covariates: c_1..c_T, (batch, time, K), where data is x.
        observed: True where x was seen, (batch, time) or (batch, time, *frame), where data is x.
        protocol: the scored frames.
        reset_every: scored frames per chunk; states are reset after each.
        batch_size: sequences processed at once.

    Raises:
        TypeError, ValueError: as for :func:`zf_pyro.evaluation.evaluate`.
    """
    batch_size = require_count("batch_size", batch_size)
    if not hasattr(density, "log_prob") or not isinstance(getattr(density, "emission", None), Emission):
        raise TypeError(
            "density must have log_prob and an emission, as zf_pyro.models.DeterministicRNN has, got "
            f"{type(density).__name__}: take zf_pyro.evaluation.score for a model with latents"
        )

    @torch.no_grad()
    def nats(pieces: Pieces) -> Nats:
        found = []
        named = {name: getattr(pieces, name) for name in ("covariates", "observed")}
        with evaluating(density) if isinstance(density, nn.Module) else nullcontext():
            for first in range(0, len(pieces.x), batch_size):
                rows = slice(first, first + batch_size)
                context = None if pieces.context is None else pieces.context[rows]
                more = {name: part[rows] for name, part in named.items() if part is not None}
                found.append(density.log_prob(pieces.x[rows], pieces.lengths[rows], context, **more))
        return {"log_likelihood": torch.cat(found)}

    rest = (lengths, covariates, observed)
    num_frames, found = _collect(data, rest, protocol, reset_every, density.emission, density.device, nats)
    return Scores(protocol, reset_every, density.emission, num_frames, found, None, None, None)


def _collect(
    data: Data,
    rest: tuple[Tensor | None, Tensor | None, Tensor | None],
    protocol: Protocol,
    reset_every: int | None,
    emission: Emission,
    device: torch.device,
    nats: Callable[[Pieces], Nats],
    progress: bool = False,
) -> tuple[Tensor, Nats]:
    """Scored frames and nats of every sequence, summed over its pieces; nothing else is kept of a batch."""
    frames: list[Tensor] = []
    found: dict[str, list[Tensor]] = {}
    for given in _counted(data, rest, progress):
        if require_tensor("x", given.x).is_meta:
            raise ValueError(f"x must be on {device}, where the net's parameters are, got meta, which holds no data")
        x, real, covariates, observed = given.to(device)
        check_frames(x, emission, x)  # its dtype is for the density to check
        if real is None:
            real = torch.full((len(x),), x.shape[1], device=device)
        else:
            require_tensor("lengths", real)
            check_lengths(real, x.shape[0], x.shape[1], device)
        if covariates is not None and require_tensor("covariates", covariates).shape[:2] != x.shape[:2]:
            raise ValueError(f"covariates must begin with {tuple(x.shape[:2])}, as x, got {tuple(covariates.shape)}")
        if observed is not None:
            check_observed(observed, x.shape[:2], emission, device)
        pieces = cut(x, real, protocol, reset_every, covariates=covariates, observed=observed)
        for name, values in {"": pieces.counts, **nats(pieces)}.items():
            total = torch.zeros(len(x), dtype=torch.float64, device=device)
            total.index_add_(0, pieces.owner, values.double())
            (frames if not name else found.setdefault(name, [])).append(total.cpu())
    if not frames:
        raise ValueError("data must hold at least one sequence, got no batches")
    return torch.cat(frames), {name: torch.cat(totals) for name, totals in found.items()}


def _counted(
    data: Data, rest: tuple[Tensor | None, Tensor | None, Tensor | None], progress: bool
) -> Iterator[GivenSequences]:
    """The batches of data, under a bar that counts them."""
    with progress_bar("evaluation", "batch", length_hint(data) or None, progress) as bar:
        for given in givens_of(data, *rest):
            yield given
            bar.update()
