"""Bounds over a data set per true sequence, frame and value, with standard errors."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from ..checks import require_number
from ..models import StochasticRNN
from .estimates import Amount, Bound, Estimate, amount, bound
from .protocols import Protocol
from .scores import Data, Scores, score


class Evaluation(NamedTuple):
    """Scores of a model on a data set, and a description of what was scored."""

    protocol: Protocol
    """``full_density``: every frame was scored. ``first_frame_given``: all but the first, which was given."""
    reset_every: int | None
    """Scored frames per chunk, where states were reset after each chunk; None for whole sequences."""
    units: str
    """``normalised``: density of the values as the model sees them. ``raw``: density of (value * scale + mean), for
    example the raw waveform. ``none``: frames are symbols or bits, which have probabilities."""
    scale: float | None
    """Raw units per normalised unit, where units are raw."""
    num_sequences: int
    num_frames: int
    """Scored frames, without padding."""
    num_values: int
    """Values in the scored frames: audio samples, pixels or words."""
    num_particles: int | None
    """Samples behind ``importance_weighted``."""
    filter_particles: int | None
    """Particles of the filter behind ``particle``."""
    bounds: dict[str, Bound]
    """Bounds by name. ``elbo``, ``importance_weighted`` and ``particle`` (if requested) are lower bounds on log p(x) in
    expectation. ``prior_mean`` is no bound: it is the likelihood with each z_t at its prior mean. A density without
    latents has ``log_likelihood`` alone."""
    kl: Amount | None
    """KL(q || p); None without latents."""

    def to_json(self) -> dict[str, Any]:
        """Return JSON types. An estimate becomes a dictionary of ``value``, ``standard_error`` and ``unit``, with null
        for numbers that are not finite."""
        fields = _plain({**self._asdict(), "bounds": None})
        fields["bounds"] = {name: _plain(value._asdict()) for name, value in self.bounds.items()}
        return {**fields, "standard_errors": "over sequences; of ratios by the delta method"}


def evaluate(
    net: StochasticRNN,
    data: Data,
    lengths: Tensor | None = None,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    protocol: Protocol = "full_density",
    reset_every: int | None = None,
    scale: float | None = None,
    num_particles: int = 64,
    filter_particles: int = 0,
    guide: Callable[..., Any] | None = None,
    batch_size: int = 64,
    chunk_particles: int = 8,
    progress: bool = False,
) -> Evaluation:
    """Bound the log-likelihood of a data set under ``net``, with standard errors over sequences.

    Args:
        net: the model; evaluated in evaluation mode, and its mode is restored afterwards.
        data: x, (batch, time, frame) floats or (batch, time) integers, with ``lengths``; a batch (x, lengths); or an
            iterable of batches, with each sequence in exactly one batch. Only values per sequence are kept of a batch.
        lengths: real frames of each sequence of x, (batch,); all of them if None.
        covariates: c_1..c_T, (batch, time, K), where data is x, for a model of ``covariate_dim`` K.
        observed: True where x was seen, (batch, time) or (batch, time, *frame), where data is x, for a model of
            ``missing="fill"``. What was not seen is neither scored nor counted.
        protocol: ``full_density`` scores every frame. ``first_frame_given`` takes the first frame as the context of the
            second and does not score it, as the paper's released code does.
        reset_every: scored frames per chunk. Each chunk is scored separately from h_0 = 0, and the chunks of a sequence
            are summed. Under ``first_frame_given`` the last frame of a chunk is the given frame of the next, so that
            chunks score the same frames as whole sequences. None for whole sequences. One of the released scripts for
            TIMIT uses 40 frames, another whole sequences.
        scale: for real-valued frames, the standard deviation that they were divided by, for example ``record.scale`` of
            prepared data. Densities are then those of the raw values, lower by log(scale) per value. None for
            normalised units.
        num_particles: K samples of the latents for ELBO and importance-weighted bound.
        filter_particles: particles of :class:`zf_pyro.inference.ParticleFilter` for the particle bound; 0 for none.
        guide: ``net.guide``, or a guide of :func:`zf_pyro.inference.refine` for these sequences. Under
            ``first_frame_given`` and ``reset_every`` they are those that the protocol cuts.
        batch_size: pieces of sequences processed at once. With ``chunk_particles`` it bounds the memory; it does not
            change the bounds.
        chunk_particles: samples processed at once. The filter takes all its particles at once, but stores less of each.
        progress: whether to show progress bars: of one batch one for each bound, of many one that counts them.

    Raises:
        TypeError, ValueError: an argument out of range, data that ``net`` refuses, or a sequence with nothing to score.
    """
    scores = score(
        net,
        data,
        lengths,
        covariates=covariates,
        observed=observed,
        protocol=protocol,
        reset_every=reset_every,
        num_particles=num_particles,
        filter_particles=filter_particles,
        guide=guide,
        batch_size=batch_size,
        chunk_particles=chunk_particles,
        progress=progress,
    )
    return summarise(scores, scale=scale)


def summarise(scores: Scores, *, scale: float | None = None) -> Evaluation:
    """Means, ratios and standard errors of the scores of sequences.

    Args:
        scores: result of :func:`zf_pyro.evaluation.score` or :func:`zf_pyro.evaluation.score_density`.
        scale: see :func:`evaluate`; the same scores can be given in either unit.

    Raises:
        ValueError: a scale that is not positive, or for symbols or bits.
    """
    if not isinstance(scores, Scores):
        raise TypeError(f"scores must be those of zf_pyro.evaluation.score, got {type(scores).__name__}")
    if scale is not None and not scores.has_units:
        raise ValueError(f"scale is for real-valued frames: leave it out for {scores.emission}")
    if scale is not None:
        scale = require_number("scale", scale, "a positive number", 0.0, ends="(]")
    size, frames = scores.frame_size, scores.num_frames
    jacobian = frames * size * math.log(scale or 1.0)
    return Evaluation(
        protocol=scores.protocol,
        reset_every=scores.reset_every,
        units="none" if not scores.has_units else "normalised" if scale is None else "raw",
        scale=scale,
        num_sequences=len(frames),
        num_frames=int(frames.sum()),
        num_values=int(frames.sum()) * size,
        num_particles=scores.num_particles,
        filter_particles=scores.filter_particles,
        bounds={
            name: bound(nats - jacobian, frames, size, symbols=scores.emission.integer)
            for name, nats in scores.bounds.items()
        },
        kl=None if scores.kl is None else amount(scores.kl, frames),
    )


def report(evaluations: Mapping[str, Evaluation]) -> str:
    """Text table, one line per model and bound: nats per frame, bits per value or perplexity, and the KL.

    Args:
        evaluations: results of :func:`evaluate` or :func:`summarise` by the names of the models.

    Raises:
        TypeError: no dictionary of such results.
    """
    if not isinstance(evaluations, Mapping) or not all(isinstance(e, Evaluation) for e in evaluations.values()):
        raise TypeError(
            "evaluations must be a dictionary of results of zf_pyro.evaluation.evaluate, by the names of the models, "
            f"got {type(evaluations).__name__}"
        )
    evaluations = {str(model): evaluation for model, evaluation in evaluations.items()}
    lines, width = [], max(map(len, evaluations), default=0)
    symbols = any(found.perplexity is not None for one in evaluations.values() for found in one.bounds.values())
    last = "perplexity" if symbols else "bits per value"
    lines.append(f"{'':>{width}} {'bound':>20} {'nats per frame':>24} {last:>24}")
    for model, evaluation in evaluations.items():
        for name, found in evaluation.bounds.items():
            other = found.bits_per_value if found.perplexity is None else found.perplexity
            lines.append(f"{model:>{width}} {name:>20} {_shown(found.nats_per_frame):>24} {_shown(other):>24}")
        if evaluation.kl is not None:
            lines.append(f"{model:>{width}} {'KL':>20} {_shown(evaluation.kl.nats_per_frame):>24}")
    lines.append(f"{'':>{width}} ± standard error over sequences")
    return "\n".join(lines)


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} ± {estimate.standard_error:.2g}"


UNITS = {
    "nats_per_sequence": "nats per sequence",
    "nats_per_frame": "nats per frame",
    "bits_per_value": "bits per value of a frame",
    "perplexity": "perplexity",
}
"""Units of estimates, by the names of their fields."""


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Estimates as dictionaries of value, standard error and unit, amounts as dictionaries of estimates."""
    plain: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Estimate):
            numbers = {key: number if math.isfinite(number) else None for key, number in value._asdict().items()}
            plain[name] = numbers | {"unit": UNITS[name]}
        elif isinstance(value, Amount):
            plain[name] = _plain(value._asdict())
        else:
            plain[name] = value
    return plain
