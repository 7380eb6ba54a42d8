"""Samples of what was not seen of sequences, as named data; the method ``net.impute`` (``forecasting.py``)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import require_choice, require_count, require_room
from ..data import progress_bar
from ..inference import FilterResult, ParticleFilter
from ..models import StochasticRNN
from ..networks import State, evaluating
from ..paths import prepare_inputs, replaced
from .batching import Part, parts, require_given
from .named import coordinates, frame_dims, numpy_of

PROPOSALS = ("posterior", "prior")


@torch.no_grad()
def impute(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    *,
    observed: Tensor,
    covariates: Tensor | None = None,
    num_samples: int = 100,
    num_particles: int = 256,
    proposal: str = "posterior",
    context: Tensor | None = None,
    coords: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> Any:
    """Sample what was not seen of sequences, given all that was seen, before and after.

    A model of ``missing="draw"`` samples it by a particle filter whose particles complete the frames; a sample is the
    path of one particle. One of ``missing="fill"``, whose latents are smoothed by particles, samples it from
    p(x_t | h_t). The early steps of long sequences descend from few particles: with gaps there, take more.

    Args:
        net: the model; in evaluation mode meanwhile.
        x: (batch, time, frame) floats or (batch, time) integers; of what was not seen, anything, NaN included.
        lengths: real frames of each sequence, (batch,); all of them if None.
        observed: True where x was seen, (batch, time) or (batch, time, *frame).
        covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
        num_samples: samples of each sequence.
        num_particles: particles of the filter, for each sequence.
        proposal: of the filter, ``"posterior"`` (the guide) or ``"prior"``.
        context: the frame before the first, (batch, *frame); a start frame if None.
        coords: values by dimension, for example ``{"sequence": ids, "step": times, "feature": names}``. Those left out
            are numbered from 0.
        batch_size: sequences processed at once, which bounds the memory needed beside the result.
        progress: whether to show a progress bar.

    Returns:
        An :class:`xarray.DataArray` ``x`` with dims (sample, sequence, step, feature): without ``feature`` for symbols,
        with ``feature_0``, ``feature_1``, ... for frames of several dimensions. What was seen is as it was, in every
        sample. Floats are NaN beyond a length, symbols -1. The coordinate ``length`` (sequence) has the real frames.

    Raises:
        ImportError: xarray is not installed.
        TypeError, ValueError: an argument that ``net`` refuses, or a count that is not a positive integer.
        MemoryError: samples or particles do not fit; says how many would.
    """
    from xarray import DataArray

    num_samples, batch_size = require_count("num_samples", num_samples), require_count("batch_size", batch_size)
    num_particles = require_count("num_particles", num_particles)
    require_choice("proposal", proposal, PROPOSALS)
    if observed is None:
        raise ValueError("observed must be given, True where x was seen, got None: there is nothing to impute")
    given = require_given(net, x, lengths, context, covariates=covariates, observed=observed)
    family, steps = net.emission_family, given.x.shape[1]
    shape = num_samples, *given.x.shape
    require_room(num_samples, int(np.prod(shape[1:])) * given.x.element_size(), torch.device("cpu"), "num_samples")
    dims = ("sample", "sequence", "step", *frame_dims(net))
    named = coordinates(coords, dict(zip(dims, shape, strict=True)))
    filter = ParticleFilter(net, num_particles, proposal=proposal)
    values = np.full(shape, -1 if family.integer else np.nan, dtype=numpy_of(given.x[:0]).dtype)
    ends = np.full(len(given.x), steps) if given.lengths is None else numpy_of(given.lengths)
    with evaluating(net), progress_bar("imputations", "sequence", len(given.x), progress) as bar:
        for part in parts(given.x, given.lengths, context, batch_size, **given.named):
            found = filter.run(part.x, part.lengths, part.context, **part.named)
            frames, rows = _completed(net, part, found, num_samples), numpy_of(part.rows)
            time = frames.shape[2]
            real = np.arange(time) < ends[rows, None]
            real = real.reshape(1, *real.shape, *[1] * (frames.dim() - 3))
            values[:, rows, :time] = np.where(real, numpy_of(frames), values[:, rows, :time])
            bar.update(len(rows))
    attributes = {"num_particles": num_particles, "proposal": proposal, "missing": net.missing}
    return DataArray(values, dims=dims, coords={**named, "length": ("sequence", ends)}, name="x", attrs=attributes)


def _completed(net: StochasticRNN, part: Part, found: FilterResult, num_samples: int) -> Tensor:
    """Frames whose unseen part is sampled; (num_samples, part, time, *frame)."""
    if found.x is not None:
        return found.imputed(num_samples)
    run = prepare_inputs(net, part.x, part.lengths, part.context, None, **part.named)
    if run.x is None or run.u is None or run.seen is None:
        raise RuntimeError("a run of frames with gaps has all of these")
    frames = []
    for z in found.smoothed(num_samples):  # one after the other: a state is far larger than a frame
        states = net.scan_states(run.initial_state, run.u, z.transpose(0, 1))
        frames.append(net.emission(State(*(field[1:] for field in states))).sample())
    drawn = torch.stack(frames).transpose(1, 2)  # (num_samples, part, time, *frame)
    x, seen = run.x.transpose(0, 1), run.seen.transpose(0, 1)
    return replaced(x.expand_as(drawn), seen.expand(num_samples, *seen.shape), drawn, net.emission_family)
