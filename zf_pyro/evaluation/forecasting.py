"""Forecasts of the frames after each sequence, as named data.

They come from a particle filter: from weighted samples of the latents given the frames, not from a single sample. This
is the method ``net.forecast``, and ``net.anomaly_scores`` is another. Filters stand above models, which cannot import
them. So ``zf_pyro/__init__.py``, where all wings meet, adds the methods.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import require_choice, require_count, require_room
from ..data import given_of, progress_bar
from ..inference import ParticleFilter, effective_sample_size
from ..models import StochasticRNN
from ..networks import evaluating
from ..paths import check_covariates, require_finite
from ..smc import require_observed
from .batching import parts, require_given
from .named import coordinates, frame_dims, numpy_of

PROPOSALS = ("posterior", "prior")


@torch.no_grad()
def forecast(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    *,
    horizon: int,
    num_samples: int = 100,
    num_particles: int = 256,
    proposal: str = "posterior",
    context: Tensor | None = None,
    observed: Tensor | None = None,
    covariates: Tensor | None = None,
    coords: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> Any:
    """Sample the frames that follow each sequence, x_{T+1}..x_{T+horizon} ~ p(. | x_1..x_T).

    A particle filter reads the sequence up to its own length. Each sample goes on from one of its particles, chosen by
    weight, by ancestral sampling.

    Args:
        net: the model; in evaluation mode meanwhile.
        x: (batch, time, frame) floats or (batch, time) integers; or a batch (x, lengths), or with further fields.
        lengths: real frames of each sequence, (batch,); all of them if None.
        horizon: frames to forecast.
        num_samples: samples of each sequence.
        num_particles: particles of the filter. If ``ess`` is low, take more.
        proposal: of the filter, ``"posterior"`` (the guide) or ``"prior"``.
        context: the frame before the first, (batch, *frame); a start frame if None.
        observed: True where x was seen, (batch, time) or (batch, time, *frame); all of it if None.
        covariates: those of all steps, (batch, steps, K), for a model of ``covariate_dim`` K: of x, then of the frames
            that follow each sequence's own length. There must be ``horizon`` more than the longest has frames.
        coords: values by dimension, for example ``{"sequence": ids, "feature": names}``. Those left out are numbered,
            steps from 1.
        batch_size: sequences processed at once, which bounds the memory needed beside the result.
        progress: whether to show a progress bar.

    Returns:
        An :class:`xarray.DataArray` ``x`` with dims (sample, sequence, step, feature): without ``feature`` for symbols,
        with ``feature_0``, ``feature_1``, ... for frames of several dimensions. Step k is the k-th after a sequence's
        end. Further coordinates: ``length``, the frames before it, and ``ess``, the effective sample size of the
        particles, both (sequence). Its ``mean("sample")`` and ``quantile([0.05, 0.95], "sample")`` give intervals.

    Raises:
        ImportError: xarray is not installed.
        TypeError, ValueError: an argument that ``net`` refuses, or a count that is not a positive integer.
        MemoryError: samples or particles do not fit; says how many would.
    """
    from xarray import DataArray

    horizon, num_samples = require_count("horizon", horizon), require_count("num_samples", num_samples)
    num_particles, batch_size = require_count("num_particles", num_particles), require_count("batch_size", batch_size)
    require_choice("proposal", proposal, PROPOSALS)
    given = given_of(x, lengths, covariates, observed)
    before = first_steps(given.covariates, given.x)
    x, lengths, before, observed = require_given(
        net, given.x, given.lengths, context, covariates=before, observed=given.observed
    )
    observed = require_observed(net, observed, x)
    ends = torch.full((len(x),), x.shape[1], device=x.device) if lengths is None else lengths
    covariates = check_covariates(given.covariates, len(x), int(ends.max()) + horizon, net, least=True)
    ahead = None
    if covariates is not None:
        steps = ends.unsqueeze(1) + torch.arange(horizon, device=x.device)
        ahead = covariates[torch.arange(len(x), device=x.device).unsqueeze(1), steps]
        require_finite(ahead.transpose(0, 1), None)
    shape = num_samples, len(x), horizon, *net.emission_family.event_shape
    require_room(num_samples, int(np.prod(shape[1:])) * x.element_size(), torch.device("cpu"), "num_samples")
    dims = ("sample", "sequence", "step", *frame_dims(net))
    sizes = dict(zip(dims, shape, strict=True))
    named = coordinates(coords, sizes, {"step": np.arange(1, horizon + 1)})
    filter = ParticleFilter(net, num_particles, proposal=proposal)
    values: np.ndarray | None = None
    ess = np.zeros(len(x))
    with evaluating(net), progress_bar("forecasts", "sequence", len(x), progress) as bar:
        for part in parts(x, lengths, context, batch_size, covariates=before, observed=observed):
            batch = part.x if part.lengths is None else (part.x, part.lengths)
            online = filter.start(batch, context=part.context, **part.named)
            known = None if ahead is None else ahead[part.rows]
            found = numpy_of(online.forecast(horizon, known, num_samples=num_samples))
            values = np.empty(shape, dtype=found.dtype) if values is None else values
            rows = numpy_of(part.rows)
            values[:, rows] = found
            bar.update(len(rows))
            ess[rows] = numpy_of(effective_sample_size(online.log_weights, -1))
    about = {"length": ("sequence", numpy_of(ends)), "ess": ("sequence", ess)}
    attributes = {"num_particles": num_particles, "proposal": proposal, "steps": "after the end of each sequence"}
    return DataArray(values, dims=dims, coords={**named, **about}, name="x", attrs=attributes)


def first_steps(covariates: Any, x: Any) -> Any:
    """Covariates (batch, steps, K) of the steps of x (batch, time, *frame), the last one repeated where there are less.

    Sequences may end before the time of x. What is no such tensor stays as it is, for a check to refuse.
    """
    if not isinstance(covariates, Tensor) or not isinstance(x, Tensor) or covariates.dim() != 3 or x.dim() < 2:
        return covariates
    steps = torch.arange(x.shape[1], device=covariates.device).clamp(max=covariates.shape[1] - 1)
    return covariates[:, steps] if covariates.shape[1] else covariates
