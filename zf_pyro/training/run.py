"""One run: Lightning's trainer with everything that makes it dependable, from the start or from where it stopped."""

import importlib.util
import logging
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from .callbacks import Interruption, Progress, RandomState
from .checkpoints import Best, Checkpoints, SafeCheckpointIO, latest
from .module import Training
from .position import Batches, Pass
from .precision import mixed

log = logging.getLogger(__name__)

QUIET = (
    ".*isinstance.treespec, LeafSpec.*",
    ".*does not have many workers.*",
    ".*but have no .val_dataloader.*",
    ".*exists and is not empty.*",
    ".*recommended to use .self.log.*sync_dist=True.*",
    ".*RNN module weights are not part of single contiguous chunk.*",
)
"""Warnings that say nothing here. Of Lightning: of its own calls, loaders meant as they are, folders gone on with, and
values that are the same on every process. Of torch: weights that were just cast to bfloat16 lie apart on a GPU."""


def fit(
    module: Training,
    train: Iterable[Any],
    validation: Iterable[Any] | None = None,
    *,
    out: Path | str,
    max_steps: int,
    resume: bool = False,
    validate_every: int = 500,
    patience: int | None = None,
    checkpoint_every: int = 500,
    keep: int = 3,
    log_every: int = 1,
    devices: int = 1,
    num_nodes: int = 1,
    accelerator: str = "auto",
    precision: str = "32-true",
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> lightning.Trainer:
    """Train ``module``, leaving logs, checkpoints and the best weights in ``out``.

    In ``out``: ``checkpoints/`` with the latest few states, ``best.ckpt`` with the weights of the best validation, and
    ``logs/`` with a table ``metrics.csv`` for each start of the run, and TensorBoard's files where it is installed.

    With ``resume`` the run goes on from the newest checkpoint that is whole, and ends with the parameters that it would
    have had without a break, bit for bit on a CPU; without a checkpoint it starts. For that the loader's order must be
    a function of the epoch (:class:`zf_pyro.training.Batches`).

    Several processes: on one machine ``devices`` of them are started here, or start the script under ``torchrun``, with
    ``devices`` and ``num_nodes`` as there. Each gives its own share of the data: ``LengthBatches(..., rank=,
    world_size=)``.

    Args:
        module: what to train.
        train: a loader of batches.
        validation: a loader of batches, each process's share of them.
        out: folder of the run.
        max_steps: steps of the optimiser, from the very start of the run.
        resume: go on from the checkpoints in ``out``.
        validate_every: steps from one validation to the next.
        patience: validations without a better ``validation/elbo`` after which training stops; None to go on.
        checkpoint_every: steps from one checkpoint to the next.
        keep: how many checkpoints are kept.
        log_every: steps from one line of the logs to the next; on a GPU each line waits for it.
        devices: processes on this machine, one a GPU.
        num_nodes: machines.
        accelerator: ``"cpu"``, ``"gpu"``, or Lightning's choice.
        precision: ``"32-true"``, ``"64-true"``, or ``"bf16-mixed"``: see :func:`zf_pyro.training.precision.mixed`.
        progress: whether to show a bar.
        callbacks: more of Lightning's.

    Returns:
        The trainer, of which ``callback_metrics`` has the latest figures.

    Raises:
        ValueError: a number out of range, or a loader whose order resuming could not repeat.
        CheckpointError: checkpoints, but none that is whole.
        NonFiniteError: too many steps in a row with a loss or gradient that is not finite.
        OSError: the disk is full; the latest whole checkpoint is still there.
    """
    for name, count in {"max_steps": max_steps, "validate_every": validate_every, "log_every": log_every}.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{name} must be a positive integer, got {count!r}")
    out = Path(out)
    parts: list[Callback] = [RandomState(), Interruption(), *callbacks]
    if progress:
        parts.append(Progress())
    if validation is not None:
        parts.append(Best(out))
        if patience is not None:
            parts.append(EarlyStopping("validation/elbo", mode="max", patience=patience))
    parts.append(Checkpoints(out / "checkpoints", checkpoint_every, keep))
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy="ddp" if devices * num_nodes > 1 else "auto",
        plugins=[SafeCheckpointIO(), *mixed(precision)],
        precision=None if mixed(precision) else precision,  # type: ignore[arg-type]  # checked by Lightning
        logger=loggers(out),
        callbacks=parts,
        default_root_dir=out,
        max_steps=max_steps,
        max_epochs=1,
        check_val_every_n_epoch=None,
        val_check_interval=validate_every * module.accumulate,
        limit_val_batches=None if validation is not None else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=log_every * module.accumulate,
        use_distributed_sampler=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
    )
    start = latest(out / "checkpoints") if resume else None
    if resume:
        log.info("no checkpoint in %s: starting anew", out) if start is None else log.info("going on from %s", start)
    batches = Batches(train, max_steps * module.accumulate)
    with warnings.catch_warnings():
        for expected in QUIET:
            warnings.filterwarnings("ignore", expected)
        trainer.fit(
            module, batches, None if validation is None else Pass(validation), ckpt_path=start, weights_only=True
        )
    return trainer


def loggers(out: Path) -> list[Logger]:
    """A table always, and TensorBoard's where it is installed; a new folder for each start of the run."""
    table = CSVLogger(out, "logs")
    if importlib.util.find_spec("tensorboard") is None:
        return [table]
    return [table, TensorBoardLogger(out, "logs", table.version)]
