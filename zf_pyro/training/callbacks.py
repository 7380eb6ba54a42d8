"""Callbacks of a run: random state, falling step size, seconds, interruption by signals, progress bar."""

import math
import signal
import sys
import time
from typing import Any

import numpy as np
import pyro
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from ..checks import require_count, require_number


class RandomState(Callback):
    """Random state in checkpoints: torch's on CPU and GPU, NumPy's and Python's, which are all that Pyro uses.

    - Each process has its own random seed.
    - Every validation uses the same random numbers, so that validations can be compared.
    - Validation leaves the random state of training unchanged.
    """

    def __init__(self) -> None:
        self.pending: dict[str, Any] | None = None
        self.training: dict[str, Any] | None = None
        self.seed = torch.initial_seed() % 2**31

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give every process its own random seed."""
        if trainer.global_rank:
            pyro.set_rng_seed(self.seed + trainer.global_rank)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Restore the loaded state: from here on only the batch uses random numbers."""
        if self.pending is not None:
            restore(self.pending)
            self.pending = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the seed of validation; keep the random state of training."""
        self.training = capture()
        pyro.set_rng_seed(self.seed + trainer.global_rank)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the random state of training."""
        if self.training is not None:
            restore(self.training)
            self.training = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the states of all processes, by rank."""
        own = self.training or self.pending or capture()
        states: list[Any] = [own]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, own)
        checkpoint["random"] = {"seed": self.seed, "states": states}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Load the state of this process.

        Raises:
            ValueError: the checkpoint comes from another number of processes.
        """
        states = checkpoint["random"]["states"]
        if len(states) != trainer.world_size:
            raise ValueError(
                f"the checkpoint is of {len(states)} processes and cannot go on with {trainer.world_size}: the batches "
                "are shared out in another way; take as many devices as before"
            )
        self.seed, self.pending = checkpoint["random"]["seed"], states[trainer.global_rank]


def capture() -> dict[str, Any]:
    """Random state of this process, in tensors and plain values."""
    state = pyro.util.get_rng_state()
    name, keys, *rest = state["numpy"]
    numpy = {"name": name, "keys": torch.from_numpy(keys.astype(np.int64)), "rest": rest}
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"torch": state["torch"], "random": state["random"], "numpy": numpy, "cuda": cuda}


def restore(state: dict[str, Any]) -> None:
    """Set the random state that :func:`capture` returned."""
    numpy = state["numpy"]
    keys = numpy["keys"].numpy().astype(np.uint32)
    known = {"torch": state["torch"], "random": state["random"], "numpy": (numpy["name"], keys, *numpy["rest"])}
    pyro.util.set_rng_state(known)
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


class CosineDecay(Callback):
    """Step size that falls along half a cosine: a function of the step alone, so that a resumed run repeats it.

    Args:
        first: step size at step 0.
        num_steps: steps until the last step size, which all further steps have.
        last: share of ``first`` at the end.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(self, first: float, num_steps: int, last: float = 0.01) -> None:
        self.first = require_number("first", first, "a positive number", 0.0, ends="(]")
        self.num_steps = require_count("num_steps", num_steps)
        self.last = require_number("last", last, "a share between 0 and 1", 0.0, 1.0)

    def at(self, step: int) -> float:
        """Step size at a step, counted from 0."""
        done = min(step / self.num_steps, 1.0)
        return self.first * (self.last + (1.0 - self.last) * 0.5 * (1.0 + math.cos(math.pi * done)))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the step size of all parameters."""
        for optimiser in trainer.optimizers:
            for group in optimiser.param_groups:
                group["lr"] = self.at(trainer.global_step)


class Stopwatch(Callback):
    """Seconds of training over all starts of a run.

    What a killed process did after its last checkpoint is not in them.
    """

    def __init__(self) -> None:
        self.before = 0.0
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since this was made, and those of earlier starts up to the checkpoint that was loaded."""
        return self.before + time.perf_counter() - self.start

    def state_dict(self) -> dict[str, float]:
        """The seconds so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Continue from :meth:`state_dict`."""
        self.before = state_dict["seconds"]


class Interruption(Callback):
    """Ctrl-C and SIGTERM end the run after the current step, with everything saved. A second signal ends it at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers."""

        def stop(number: int, frame: Any) -> None:
            pl_module.stop_wanted = True  # type: ignore[assignment]  # an attribute of Training
            signal.signal(number, self.before[number])

        self.before = {number: signal.signal(number, stop) for number in self.SIGNALS}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the previous signal handlers."""
        self.on_train_end(trainer, pl_module)


class Progress(TQDMProgressBar):
    """One bar over the steps of the whole run: rate, time left, nats per sequence. Validation has none of its own."""

    def init_train_tqdm(self) -> Tqdm:
        """The bar, with the number of steps, which Lightning's own does not know at first."""
        return Tqdm(desc="training", total=self.total_train_batches, unit="step", dynamic_ncols=True, file=sys.stdout)

    def init_validation_tqdm(self) -> Tqdm:
        """No bar: it would cut that of the run in two at every validation."""
        return Tqdm(disable=True)

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Start the bar, which Lightning does not do in a resumed run."""
        self.train_progress_bar = self.init_train_tqdm()

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Leave the bar as it is: a run is one epoch."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Values beside the bar, rounded to four digits."""
        shown = super().get_metrics(trainer, pl_module)
        named = {name.removeprefix("train/"): value for name, value in shown.items() if name not in ("v_num", "step")}
        return {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in named.items()}
