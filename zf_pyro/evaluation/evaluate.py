"""Bounds over a data set, by the true number of sequences, frames and numbers, with standard errors."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from ..models import StochasticRNN
from .estimates import Amount, Bound, Estimate, amount, bound
from .protocols import Protocol
from .scores import Data, Scores, score


class Evaluation(NamedTuple):
    """What a model scores on a data set, and what exactly was scored."""

    protocol: Protocol
    """``full_density``: every frame was scored. ``first_frame_given``: all but the first, which was given."""
    reset_every: int | None
    """Frames after which states were reset, each chunk scored by itself; None: whole sequences."""
    units: str
    """``normalised``: density of the numbers as the model sees them. ``raw``: of (number * scale + mean), such as the
    raw waveform. ``none``: frames are symbols or bits, which have probabilities."""
    scale: float | None
    """Raw units in a normalised one, where units are raw."""
    num_sequences: int
    num_frames: int
    """Frames scored; never padding."""
    num_values: int
    """Numbers in them: audio samples, pixels or words."""
    num_particles: int | None
    """Draws behind ``importance_weighted``."""
    filter_particles: int | None
    """Particles of the filter behind ``particle``."""
    bounds: dict[str, Bound]
    """By name. ``elbo``, ``importance_weighted`` and ``particle`` (where asked for) are lower bounds on log p(x), in
    expectation; ``prior_mean`` is no bound but the likelihood with each z_t at its prior mean. Of a density without
    latents: ``log_likelihood``."""
    kl: Amount | None
    """KL(q || p); None without latents."""

    def to_json(self) -> dict[str, Any]:
        """As JSON's types; an estimate becomes [value, standard error], with null for what is not finite."""
        fields = _plain({**self._asdict(), "bounds": None})
        fields["bounds"] = {name: _plain(value._asdict()) for name, value in self.bounds.items()}
        return {**fields, "standard_errors": "over sequences; of ratios by the delta method"}


def evaluate(
    net: StochasticRNN,
    data: Data,
    lengths: Tensor | None = None,
    *,
    protocol: Protocol = "full_density",
    reset_every: int | None = None,
    scale: float | None = None,
    num_particles: int = 64,
    filter_particles: int = 0,
    batch_size: int = 64,
    chunk_particles: int = 8,
) -> Evaluation:
    """Bounds on the log-likelihood of a data set under ``net``, with their standard errors over sequences.

    Args:
        net: the net; evaluated in evaluation mode and left in the mode it was found in.
        data: x, (batch, time, frame) floats or (batch, time) integers, with ``lengths``; or an iterable of batches
            (x, lengths), each sequence in exactly one. Of a batch nothing is kept but numbers per sequence.
        lengths: real frames of each sequence of x, (batch,); all of them if None.
        protocol: ``full_density`` scores every frame; ``first_frame_given`` takes the first frame as the context of the
            second and does not score it, as the paper's released code does.
        reset_every: score chunks of so many frames, each by itself from h_0 = 0 (under ``first_frame_given`` each with
            a given frame of its own), and add them up; None for whole sequences. Of the released scripts for TIMIT one
            does this at 40 frames, another does not.
        scale: for real-valued frames, the deviation that they were divided by, such as ``record.scale`` of prepared
            data: then densities are those of the raw numbers, lower by log(scale) for each. None for normalised units.
        num_particles: K draws of the latents for ELBO and importance-weighted bound.
        filter_particles: particles of :class:`zf_pyro.inference.ParticleFilter` for the particle bound; 0 for none.
        batch_size: pieces of sequences worked on at once; with ``chunk_particles`` it bounds the memory, not the
            result.
        chunk_particles: draws worked on at once; the filter takes all its particles at once, but keeps less of each.

    Raises:
        TypeError, ValueError: an argument out of range, data that ``net`` refuses, or a sequence with nothing to score.
    """
    scores = score(
        net,
        data,
        lengths,
        protocol=protocol,
        reset_every=reset_every,
        num_particles=num_particles,
        filter_particles=filter_particles,
        batch_size=batch_size,
        chunk_particles=chunk_particles,
    )
    return summarise(scores, scale=scale)


def summarise(scores: Scores, *, scale: float | None = None) -> Evaluation:
    """Means, ratios and standard errors of what each sequence scored.

    Args:
        scores: of :func:`zf_pyro.evaluation.score` or :func:`zf_pyro.evaluation.score_density`.
        scale: see :func:`evaluate`; the same scores can be told in either unit.

    Raises:
        ValueError: a scale that is not positive, or for symbols or bits.
    """
    if scale is not None and not scores.has_units:
        raise ValueError(f"scale is for real-valued frames: leave it out for {scores.emission}")
    if scale is not None and not 0.0 < scale < math.inf:
        raise ValueError(f"scale must be a positive number, got {scale!r}")
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
    """A text table, a line for each model and bound: nats per frame, bits per number or perplexity, and the KL."""
    lines, width = [], max(map(len, evaluations), default=0)
    for model, evaluation in evaluations.items():
        for name, found in evaluation.bounds.items():
            bits = f"{_shown(found.bits_per_value)} bits"
            last = bits if found.perplexity is None else f"perplexity {_shown(found.perplexity)}"
            nats = f"{_shown(found.nats_per_frame)} nats/frame"
            lines.append(f"{model:>{width}} {name:>20} {nats:>30} {last:>34}")
        if evaluation.kl is not None:
            lines.append(f"{model:>{width}} {'KL':>20} {_shown(evaluation.kl.nats_per_frame) + ' nats/frame':>30}")
    return "\n".join(lines)


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} ± {estimate.standard_error:.2g}"


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Estimates as pairs, amounts as dictionaries."""
    plain: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Estimate):
            plain[name] = [number if math.isfinite(number) else None for number in value]
        elif isinstance(value, Amount):
            plain[name] = _plain(value._asdict())
        else:
            plain[name] = value
    return plain
