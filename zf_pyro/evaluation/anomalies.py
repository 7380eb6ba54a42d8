"""Scores of frames by the forecasts of their steps, as named data."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import require_count
from ..data import progress_bar
from ..inference import ParticleFilter
from ..models import StochasticRNN
from ..networks import evaluating
from ..paths import real_frames, with_last_repeated
from ..smc import require_observed
from .batching import Part, parts, require_given
from .named import coordinates, numpy_of


@torch.no_grad()
def anomaly_scores(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    *,
    num_samples: int = 100,
    num_particles: int = 256,
    context: Tensor | None = None,
    observed: Tensor | None = None,
    covariates: Tensor | None = None,
    coords: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> Any:
    """Score every frame by the forecast of its step, from the frames before it alone.

    A bootstrap particle filter has the forecast p(x_t | x_1..x_{t-1}) as a mixture over its particles. The scores of a
    sequence sum to minus the filter's estimate of log p(x).

    Args:
        net: the model; in evaluation mode meanwhile.
        x: (batch, time, frame) floats or (batch, time) integers; or a batch (x, lengths), or with further fields.
        lengths: real frames of each sequence, (batch,); all of them if None.
        num_samples: frames sampled from the forecast of each step for ``tail_probability``; 0 leaves it out. A step
            takes the time of ``num_samples`` x ``num_particles`` densities.
        num_particles: particles of the filter.
        context: the frame before the first, (batch, *frame); a start frame if None.
        observed: True where x was seen, (batch, time) or (batch, time, *frame); all of it if None. Only what was seen
            is scored.
        covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
        coords: values by dimension, for example ``{"sequence": ids, "step": times}``. Those left out are numbered from
            0.
        batch_size: sequences processed at once, which bounds the memory.
        progress: whether to show a progress bar.

    Returns:
        An :class:`xarray.Dataset` with dims (sequence, step), NaN beyond a length and where nothing was seen:

        - ``score``: -log p(x_t | x_1..x_{t-1}) in nats. Densities depend on the unit of x, and differ between steps.
        - ``tail_probability``: that of a frame sampled from the forecast being no likelier than x_t, in (0, 1], at
          least 1 / (num_samples + 1). It needs no threshold of its own: if the model is right, a share a of all frames
          has one of at most a.

    Raises:
        ImportError: xarray is not installed.
        TypeError, ValueError: an argument that ``net`` refuses, or a count out of range.
        MemoryError: the particles do not fit; says how many would.
    """
    from xarray import Dataset

    num_samples = require_count("num_samples", num_samples, least=0)
    num_particles, batch_size = require_count("num_particles", num_particles), require_count("batch_size", batch_size)
    x, lengths, covariates, observed = require_given(net, x, lengths, context, covariates=covariates, observed=observed)
    observed = require_observed(net, observed, x)
    named = coordinates(coords, {"sequence": len(x), "step": x.shape[1]})
    filter = ParticleFilter(net, num_particles, proposal="prior")
    names = ("score", "tail_probability") if num_samples else ("score",)
    values = {name: np.full(x.shape[:2], np.nan) for name in names}
    with evaluating(net), progress_bar("anomaly scores", "sequence", len(x), progress) as bar:
        for part in parts(x, lengths, context, batch_size, covariates=covariates, observed=observed):
            seen, known = _seen(part), _covariates(part)
            rows, online = numpy_of(part.rows), filter.start(len(part.x), context=part.context)
            for t in range(part.x.shape[1]):
                now = None if seen is None else seen[:, t]
                c_t = None if known is None else known[t]
                step = online.step(part.x[:, t], c_t, observed=now, tail_samples=num_samples)
                score = -step.log_likelihood
                if now is not None:
                    score = score.where(now.reshape(len(now), -1).any(-1), torch.nan)
                values["score"][rows, t] = numpy_of(score)
                if step.tail_probability is not None:
                    values["tail_probability"][rows, t] = numpy_of(step.tail_probability)
            bar.update(len(rows))
    data = {name: (("sequence", "step"), each) for name, each in values.items()}
    return Dataset(data, coords=named, attrs={"num_particles": num_particles, "num_samples": num_samples})


def _seen(part: Part) -> Tensor | None:
    """True where a frame is real and was seen, (part, time) or (part, time, *frame); None where all are."""
    seen = part.observed
    if part.lengths is None:
        return seen
    real = real_frames(part.lengths, part.x.shape[1]).T
    if seen is None:
        return None if bool(real.all()) else real
    return seen & real.reshape(*real.shape, *[1] * (seen.dim() - 2))


def _covariates(part: Part) -> Tensor | None:
    """Covariates with the last real one repeated beyond each length, (time, part, K), or None."""
    if part.covariates is None:
        return None
    known = part.covariates.transpose(0, 1)
    return known if part.lengths is None else with_last_repeated(known, part.lengths)
