"""Fitting: the stochastic network under its objective, or a baseline under its log-likelihood."""

import functools
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import pyro
import torch
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor, nn

from ..data import Loader
from ..emissions import Emission, Gaussian
from ..evaluation import Protocol, Scores, score, score_density
from ..models import DeterministicRNN, LinearGaussian, StochasticRNN
from ..objectives import GraphedELBO, ZForcingELBO
from .choices import OF_PARTICLES
from .presets import Preset
from .settings import Run

Model = StochasticRNN | DeterministicRNN | LinearGaussian

BUCKET = 8
"""On a GPU batches are padded to a multiple of this many steps. Windows of 40 frames and images of 64 and 784 pixels
are such multiples."""
OF_DATA = ("covariate_dim", "missing")
"""Options that follow from the data; baselines have them too."""
CAPACITY = 16
"""Number of batch shapes captured on a GPU, more than an experiment has: lengths up to 40 by ``BUCKET``, each in full
batches and in the last batch of an epoch."""


class Trained(NamedTuple):
    """The course of a training run."""

    seconds: float
    """Seconds of training, of all starts of a resumed run."""
    steps: int
    """Steps taken."""
    best_step: int
    """Step of the best validation, whose weights are used."""
    best_bound: float
    """The bound of that validation by the objective of training, at KL weight 1; nats per sequence."""


class Fitted(NamedTuple):
    """A fitted model, and the course of its training; None for a closed form."""

    model: Model
    seconds: float
    """Seconds of training."""
    trained: Trained | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """Number of parameters and course of training, for ``results.json``."""
        found: dict[str, Any] = {"parameters": count_parameters(self.model), "training_seconds": self.seconds}
        if self.trained is None:
            return found
        names = ("steps", "best_step", "best_bound")
        return found | {name: getattr(self.trained, name) for name in names}


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
        trained = train(run, preset, model, training, validation)
        return Fitted(model, trained.seconds, trained)
    if not isinstance(emission, Gaussian):
        raise ValueError(f"linear_gaussian is for real-valued frames, not {emission}: take --baseline rnn")
    start = time.perf_counter()
    linear = LinearGaussian.fit(whole)
    return Fitted(linear, time.perf_counter() - start)


def build(run: Run, preset: Preset, emission: Emission) -> StochasticRNN | DeterministicRNN:
    """Build the network of a preset, or the LSTM baseline with as many parameters, including those of the guide.

    Sets all random seeds to ``run.seed``.

    Raises:
        ValueError: a value that the network refuses, or a flag or an objective that it does not have.
    """
    pyro.clear_param_store()
    pyro.set_rng_seed(run.seed)
    net = preset.network(run.model, emission, run.changes)
    if run.baseline is None:
        if run.objective == "zforcing" and not net.has_auxiliary:
            raise ValueError(
                f"objective zforcing needs a backward RNN, whose states the auxiliary term predicts; "
                f"{type(net).__name__} has none here: take --objective kl_annealing"
            )
        return net
    settings: dict[str, Any] = {
        "embed_dim": preset.embed_dim,
        "dropout": preset.dropout,
        "layer_norm": run.baseline == "rnn_layer_norm",
    }
    size = sum(parameter.numel() for parameter in net.parameters())
    baseline = DeterministicRNN.of_size(emission, size, **settings)
    of_data = {name: preset.options[name] for name in OF_DATA if name in preset.options}
    if of_data:  # a few more parameters: those that read covariates and flags
        baseline = DeterministicRNN(emission, hidden_dim=baseline.hidden_dim, **settings, **of_data)
    return baseline


def optimiser(preset: Preset, parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """Adam; with weight decay AdamW, which decays matrices alone. Parameters are of any shape, (...)."""
    if preset.weight_decay == 0.0:
        return torch.optim.Adam(parameters, lr=preset.learning_rate, eps=1e-5)
    named = list(parameters)
    groups = [
        {"params": [p for p in named if p.dim() > 1], "weight_decay": preset.weight_decay},
        {"params": [p for p in named if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=preset.learning_rate, eps=1e-5)


def train(run: Run, preset: Preset, model: StochasticRNN | DeterministicRNN, train: Loader, check: Loader) -> Trained:
    """Train by Lightning, on a GPU in CUDA graphs, then load the weights of the best validation bound into ``model``.

    Args:
        run: the flags.
        preset: sizes and schedules.
        model: from :func:`build`.
        train: batches of arguments of model and guide.
        check: the same for the validation set.

    Raises:
        SystemExit: in all processes but the first, which alone continues after training.
    """
    from lightning.pytorch.callbacks import ModelCheckpoint

    from ..training import CosineDecay, MechanismLog, SafeCheckpointIO, Stopwatch, Training, fit

    objective: ELBO = Trace_ELBO()
    validation = None
    if isinstance(model, StochasticRNN):
        per_epoch = None if preset.annealing_epochs is None else len(train)
        chosen = preset.objective(run.objective, run.particles, anneal=run.anneal, steps_per_epoch=per_epoch)
        objective = chosen
        if isinstance(chosen, ZForcingELBO):
            objective = GraphedELBO(chosen, bucket=BUCKET, capacity=CAPACITY)
        if run.objective in OF_PARTICLES:  # the bound itself, whatever the KL weight of training
            validation = preset.objective(run.objective, run.particles, steps_per_epoch=per_epoch)
    module = Training(
        model.model,
        model.guide,
        objective,
        functools.partial(optimiser, preset),
        scale=1.0 / preset.batch_size,
        clip_norm=preset.clip_norm,
        plateau=preset.plateau,
        validation=validation,
    )
    stopwatch = Stopwatch()
    callbacks: list[Any] = [stopwatch]
    if preset.decay_steps is not None:
        callbacks.append(CosineDecay(preset.learning_rate, preset.decay_steps))
    if run.mechanism_every is not None:
        callbacks.append(MechanismLog(run.mechanism_every))
    trainer = fit(
        module,
        train,
        check,
        out=run.out,
        max_steps=preset.max_steps,
        resume=run.resume,
        initialisation=run.initialisation,
        validate_every=min(preset.validate_every, preset.max_steps),
        patience=preset.patience,
        devices=run.devices,
        accelerator={"cuda": "gpu"}.get(run.device, run.device),
        precision=run.precision,
        callbacks=callbacks,
        logger=["csv", "tensorboard"] if run.logger == "tensorboard" else run.logger,
        about=run.about,
    )
    seconds = stopwatch.seconds
    if not trainer.is_global_zero:
        raise SystemExit(0)
    best = SafeCheckpointIO().load_checkpoint(run.out / "best.ckpt")
    module.load_state_dict(best["state_dict"])
    model.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU
    kept = cast(ModelCheckpoint, trainer.checkpoint_callback)  # Best, the first of the callbacks that save
    return Trained(seconds, trainer.global_step, int(best["global_step"]), float(cast(Tensor, kept.best_model_score)))


def scores_of(
    run: Run,
    model: Model,
    data: Any,
    *,
    protocol: Protocol = "full_density",
    reset_every: int | None = None,
    particles: int | None = None,
) -> Scores:
    """Every bound on every sequence; for a baseline its log-likelihood, in nats.

    Args:
        run: the flags.
        model: the fitted model.
        data: batches of sequences.
        protocol: the scored frames.
        reset_every: scored frames per chunk; see :func:`zf_pyro.evaluation.score`.
        particles: samples of the latents, and particles of the filter; ``run.evaluation_particles`` if None.
    """
    particles = run.evaluation_particles if particles is None else particles
    if not isinstance(model, StochasticRNN):
        return score_density(model, data, protocol=protocol, reset_every=reset_every)
    return score(
        model,
        data,
        protocol=protocol,
        reset_every=reset_every,
        num_particles=particles,
        filter_particles=particles,
        batch_size=32,
        chunk_particles=4,
        progress=True,
    )


def count_parameters(model: Model) -> int:
    """Number of fitted parameters."""
    if isinstance(model, nn.Module):
        return sum(parameter.numel() for parameter in model.parameters())
    return model.num_parameters


def save(model: Model, folder: Path, **normalisation: float | Sequence[float]) -> None:
    """Save a trained network for its class's ``load``. Of baselines only the checkpoint is kept."""
    if isinstance(model, StochasticRNN):
        model.save(folder, {name: torch.tensor(value) for name, value in normalisation.items()} or None)
