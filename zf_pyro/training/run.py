"""A training run by Lightning's trainer, with checkpoints, logs and early stopping; new or resumed."""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor

from ..checks import require_choice, require_count, require_flag, require_path
from ..data import Batch
from ..objectives import HeldELBO, ZForcingELBO
from ..saving import hold, require_new, require_same
from .callbacks import Interruption, Progress, RandomState
from .checkpoints import Best, Checkpoints, SafeCheckpointIO, latest
from .identity import Recorded, configuration
from .initialisation import INITIALISATIONS, initialise
from .mechanism_log import MechanismLog
from .module import Training
from .position import Batches, Pass
from .precision import mixed

log = logging.getLogger(__name__)

LOGGERS = ("csv", "tensorboard")
"""Loggers by name."""
LOOK_EVERY = 200
"""Steps between two looks at the auxiliary, each half the time of a step: a quarter of a percent."""

QUIET = (
    ".*isinstance.treespec, LeafSpec.*",
    ".*does not have many workers.*",
    ".*but have no .val_dataloader.*",
    ".*exists and is not empty.*",
    ".*recommended to use .self.log.*sync_dist=True.*",
    ".*RNN module weights are not part of single contiguous chunk.*",
)
"""Irrelevant warnings. Lightning's: its own calls, loaders without workers, resumed folders, values that are the same
on every process. Torch's: weights that were just cast to bfloat16 are not contiguous on a GPU."""


def fit(
    module: Training,
    train: Iterable[Any],
    validation: Iterable[Any] | None = None,
    *,
    out: Path | str,
    max_steps: int,
    resume: bool = False,
    initialisation: str = "data",
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
    logger: Any = None,
    about: Mapping[str, Any] | None = None,
) -> lightning.Trainer:
    """Train ``module``, and write logs, checkpoints and the best weights to ``out``.

    In ``out``:

    - ``checkpoints/``: the latest states;
    - ``best.ckpt``: the weights of the best validation;
    - ``logs/``: a table ``metrics.csv`` per start of the run, and TensorBoard's files if it is installed, unless
      ``logger`` says otherwise;
    - ``run.json``: the configuration; a resumed run must have the same (:func:`.identity.configuration`);
    - ``run.lock``, while it runs. The lock of a dead process of this host is taken over.

    With ``resume`` the run continues from the newest intact checkpoint; without one it starts. It ends with the same
    parameters as an uninterrupted run, bit for bit on a CPU. This needs a loader whose order depends on the epoch
    alone (:class:`zf_pyro.training.Batches`).

    A new run starts at the data: ``initialise(train)`` of each network of this package that still has all the weights
    of its constructor. A network that was trained, loaded or initialised before, or whose weights were set, is never
    changed. The log and ``run.json`` say which it was. ``initialisation="released"`` leaves all as built.

    Several processes: ``devices`` processes are started on this machine. Or start the script under ``torchrun``, with
    the same ``devices`` and ``num_nodes``. Each process passes its own share of the data: ``LengthBatches(..., rank=,
    world_size=)``.

    Args:
        module: model, guide and objective.
        train: a loader of batches.
        validation: a loader of batches, each process's share of them.
        out: folder of the run.
        max_steps: steps of the optimiser, counted from the start of the run, resumed parts included.
        resume: continue from the checkpoints in ``out``.
        initialisation: ``"data"``, or ``"released"``: the start of the released code.
        validate_every: steps between two validations.
        patience: validations without a better ``validation/elbo`` after which training stops; None for no such stop.
        checkpoint_every: steps between two checkpoints.
        keep: number of checkpoints kept.
        log_every: steps between two lines of the logs; on a GPU each line waits for it.
        devices: processes on this machine, one per GPU.
        num_nodes: machines.
        accelerator: ``"cpu"``, ``"gpu"``, or Lightning's choice.
        precision: ``"32-true"``, ``"64-true"``, or ``"bf16-mixed"``: see :func:`zf_pyro.training.precision.mixed`.
        progress: whether to show a progress bar.
        callbacks: further callbacks of Lightning. One of them may be a :class:`.MechanismLog`; else there is one that
            looks at the auxiliary every 200 steps, while it has a weight.
        logger: ``"csv"``, the table alone; ``"tensorboard"``, TensorBoard's files alone; a logger of Lightning; or
            several of these in a list. None for the table, and TensorBoard's files if it is installed.
        about: further settings for ``run.json``, of JSON's types, such as the seed. A resumed run must have the same.

    Returns:
        The trainer; its ``callback_metrics`` has the latest logged values.

    Raises:
        ValueError: a setting out of range, a loader whose order a resumed run cannot repeat, or a resumed run of
            another configuration.
        FileExistsError: ``out`` holds a run, and ``resume`` is off.
        FolderInUseError: another run is writing to ``out``.
        CheckpointError: all checkpoints are damaged.
        NonFiniteError: too many successive steps with a non-finite loss or gradient.
        OSError: the disk is full; the latest intact checkpoint is still there.
    """
    max_steps, keep = require_count("max_steps", max_steps), require_count("keep", keep)
    initialisation = require_choice("initialisation", initialisation, INITIALISATIONS)
    validate_every = require_count("validate_every", validate_every)
    checkpoint_every = require_count("checkpoint_every", checkpoint_every)
    log_every = require_count("log_every", log_every)
    devices, num_nodes = require_count("devices", devices), require_count("num_nodes", num_nodes)
    patience = None if patience is None else require_count("patience", patience)
    if not isinstance(module, Training):
        raise TypeError(f"module must be a zf_pyro.training.Training, got {type(module).__name__}")
    for name, loader in (("train", train), ("validation", validation)):
        if (loader is None and name == "train") or not isinstance(loader, Iterable | None) or isinstance(loader, str):
            raise TypeError(f"{name} must be a loader of batches, got {type(loader).__name__}")
        if isinstance(loader, Tensor | Mapping | Batch):
            raise TypeError(f"{name} must be a loader of batches, got one {type(loader).__name__}: give it in a list")
    for name, flag in (("resume", resume), ("progress", progress)):
        require_flag(name, flag)
    if not isinstance(callbacks, tuple | list) or not all(isinstance(part, Callback) for part in callbacks):
        raise TypeError(f"callbacks must be a list of Lightning's callbacks, got {callbacks!r}")
    if about is not None and not isinstance(about, Mapping):
        raise TypeError(f"about must be a dictionary of settings by name, or None, got {type(about).__name__}")
    out = require_path("out", out)
    chosen = loggers(out, logger)
    found = {**configuration(module, train, precision, about), "initialisation": initialisation}
    recorded = Recorded(found)
    parts: list[Callback] = [RandomState(), Interruption(), recorded, *callbacks]
    auxiliary = isinstance(module.objective, ZForcingELBO | HeldELBO)
    if auxiliary and not any(isinstance(part, MechanismLog) for part in callbacks):
        parts.append(MechanismLog(LOOK_EVERY, gradient_norms=False))
    if progress:
        parts.append(Progress())
    if validation is not None:
        parts.append(Best(out))
        if patience is not None:
            parts.append(EarlyStopping("validation/elbo", mode="max", patience=patience))
    parts.append(Checkpoints(out / "checkpoints", checkpoint_every, keep))
    with quiet():
        trainer = lightning.Trainer(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy="ddp" if devices * num_nodes > 1 else "auto",
            plugins=[SafeCheckpointIO(), *mixed(precision)],
            precision=None if mixed(precision) else precision,  # type: ignore[arg-type]  # checked by Lightning
            logger=chosen,
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
    batches = Batches(train, max_steps * module.accumulate)
    first = trainer.is_global_zero
    with hold(out) if first else contextlib.nullcontext(), warnings.catch_warnings(), quiet():
        if resume:
            require_same(out, found)
        elif first:
            require_new(out)
        start = latest(out / "checkpoints") if resume else None
        if resume:
            log.info("no checkpoint in %s: starting", out) if start is None else log.info("resuming from %s", start)
        if start is None:
            recorded.starts = initialise(module, train, initialisation)
        for expected in QUIET:
            warnings.filterwarnings("ignore", expected)
        trainer.fit(
            module, batches, None if validation is None else Pass(validation), ckpt_path=start, weights_only=True
        )
    return trainer


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what Lightning tells at every start: devices that are not there, and products of its maker."""
    told = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    before = told.level
    told.setLevel(logging.WARNING)
    try:
        yield
    finally:
        told.setLevel(before)


def loggers(out: Path, logger: Any = None) -> list[Logger]:
    """Loggers by the argument of :func:`fit`; those of this package have a new folder per start of the run.

    Raises:
        ImportError: TensorBoard is asked for and not installed.
        TypeError, ValueError: something that is no logger, or an unknown name.
    """
    installed = importlib.util.find_spec("tensorboard") is not None
    given = ["csv", *["tensorboard"][: int(installed)]] if logger is None else logger
    table, found = CSVLogger(out, "logs"), list[Logger]()
    for one in given if isinstance(given, list | tuple) else [given]:
        if not isinstance(one, str | Logger):
            raise TypeError(
                "logger must be 'csv', 'tensorboard', a logger of Lightning, a list of these, or None, got "
                f"{type(one).__name__}"
            )
        if isinstance(one, Logger):
            found.append(one)
        elif require_choice("logger", one, LOGGERS) == "csv":
            found.append(table)
        elif not installed:
            raise ImportError("logger='tensorboard' needs TensorBoard: pip install zf-pyro[tensorboard]")
        else:
            found.append(TensorBoardLogger(out, "logs", table.version))
    return found
