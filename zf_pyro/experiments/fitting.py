"""Fitting: the stochastic network under its objective, or a baseline under its log-likelihood."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor, nn

from ..data import Loader
from ..emissions import Emission, Gaussian
from ..evaluation import Protocol, Scores, score, score_density
from ..models import DeterministicRNN, LinearGaussian, ZForcing
from ..objectives import GraphedELBO
from .settings import Preset, Run

Model = ZForcing | DeterministicRNN | LinearGaussian

BUCKET = 8
"""On a GPU batches are padded to a multiple of this many steps. Windows of 40 frames and images of 64 and 784 pixels
are such multiples."""
CAPACITY = 16
"""Number of batch shapes captured on a GPU, more than an experiment has: lengths up to 40 by ``BUCKET``, each in full
batches and in the last batch of an epoch."""


class Fitted(NamedTuple):
    """A fitted model and its training time."""

    model: Model
    seconds: float
    """Seconds of training."""


def fit_model(
    run: Run,
    preset: Preset,
    emission: Emission,
    training: Loader,
    validation: Loader,
    whole: Iterable[tuple[Tensor, Tensor]],
) -> Fitted:
    """Fit the model or baseline that the flags select.

    Args:
        run: the flags.
        preset: sizes and schedules.
        emission: the family of frames.
        training: batches of arguments of model and guide.
        validation: the same for the validation set.
        whole: the training sequences in one pass, for the linear-Gaussian baseline: batches of x (batch, time, frame)
            and lengths (batch,).

    Raises:
        ValueError: a linear-Gaussian model of frames that are not real-valued.
        SystemExit: in all processes but the first, which alone continues after training.
    """
    if run.baseline != "linear_gaussian":
        model = build(run, preset, emission)
        return Fitted(model, train(run, preset, model, training, validation))
    if not isinstance(emission, Gaussian):
        raise ValueError(f"linear_gaussian is for real-valued frames, not {emission}: take --baseline rnn")
    start = time.perf_counter()
    linear = LinearGaussian.fit(whole)
    return Fitted(linear, time.perf_counter() - start)


def build(run: Run, preset: Preset, emission: Emission) -> ZForcing | DeterministicRNN:
    """Build the network of a preset, or the LSTM baseline with as many parameters, including those of the guide.

    Sets all random seeds to ``run.seed``.
    """
    pyro.clear_param_store()
    pyro.set_rng_seed(run.seed)
    net = ZForcing(emission, **preset.net)
    if run.baseline is None:
        return net
    size = sum(parameter.numel() for parameter in net.parameters())
    return DeterministicRNN.of_size(emission, size, embed_dim=preset.embed_dim, dropout=preset.dropout)


def train(run: Run, preset: Preset, model: ZForcing | DeterministicRNN, train: Loader, validation: Loader) -> float:
    """Train by Lightning, on a GPU in CUDA graphs, then load the weights of the best validation bound into ``model``.

    Args:
        run: the flags.
        preset: sizes and schedules.
        model: from :func:`build`.
        train: batches of arguments of model and guide.
        validation: the same for the validation set.

    Returns:
        Seconds of training.

    Raises:
        SystemExit: in all processes but the first, which alone continues after training.
    """
    from ..training import SafeCheckpointIO, Training, fit

    objective: ELBO = Trace_ELBO()
    if isinstance(model, ZForcing):
        objective = GraphedELBO(preset.objective(run.objective), bucket=BUCKET, capacity=CAPACITY)
    module = Training(
        model.model,
        model.guide,
        objective,
        lambda parameters: torch.optim.Adam(parameters, lr=preset.learning_rate, eps=1e-5),
        scale=1.0 / preset.batch_size,
    )
    start = time.perf_counter()
    trainer = fit(
        module,
        train,
        validation,
        out=run.out,
        max_steps=preset.max_steps,
        resume=run.resume,
        initialisation=run.initialisation,
        validate_every=min(preset.validate_every, preset.max_steps),
        devices=run.devices,
        accelerator={"cuda": "gpu"}.get(run.device, run.device),
        precision=run.precision,
        about=run.about,
    )
    seconds = time.perf_counter() - start
    if not trainer.is_global_zero:
        raise SystemExit(0)
    best = SafeCheckpointIO().load_checkpoint(run.out / "best.ckpt")
    module.load_state_dict(best["state_dict"])
    model.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU
    return seconds


def scores_of(
    run: Run, model: Model, data: Any, *, protocol: Protocol = "full_density", reset_every: int | None = None
) -> Scores:
    """Every bound on every sequence; for a baseline its log-likelihood, in nats."""
    if not isinstance(model, ZForcing):
        return score_density(model, data, protocol=protocol, reset_every=reset_every)
    return score(
        model,
        data,
        protocol=protocol,
        reset_every=reset_every,
        num_particles=run.particles,
        filter_particles=run.particles,
        batch_size=32,
        chunk_particles=4,
    )


def count_parameters(model: Model) -> int:
    """Number of fitted parameters."""
    if isinstance(model, nn.Module):
        return sum(parameter.numel() for parameter in model.parameters())
    return model.num_parameters


def save(model: Model, folder: Path, **normalisation: float) -> None:
    """Save a trained network for ``ZForcing.load``. Of baselines only the checkpoint is kept."""
    if isinstance(model, ZForcing):
        model.save(folder, {name: torch.tensor(value) for name, value in normalisation.items()} or None)
