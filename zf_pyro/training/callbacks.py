"""What a run does beside training: its random numbers, its way to stop, and what it shows."""

import signal
from typing import Any

import numpy as np
import pyro
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, TQDMProgressBar


class RandomState(Callback):
    """The state of all random numbers (torch's on CPU and GPU, NumPy's, Python's, hence Pyro's), saved and restored.

    Each process has its own, and draws other numbers than the others. Validation draws the same numbers every time, so
    that one can be compared with the next, and leaves no trace in those of training.
    """

    def __init__(self) -> None:
        self.pending: dict[str, Any] | None = None
        self.training: dict[str, Any] | None = None
        self.seed = torch.initial_seed() % 2**31

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Part the ways of the processes."""
        if trainer.global_rank:
            pyro.set_rng_seed(self.seed + trainer.global_rank)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Restore what was loaded, now that nothing draws before the batch does."""
        if self.pending is not None:
            restore(self.pending)
            self.pending = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same numbers for every validation."""
        self.training = capture()
        pyro.set_rng_seed(self.seed + trainer.global_rank)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Those of training go on."""
        if self.training is not None:
            restore(self.training)
            self.training = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The states of all processes, by rank."""
        own = self.training or self.pending or capture()
        states: list[Any] = [own]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, own)
        checkpoint["random"] = {"seed": self.seed, "states": states}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Each process takes its own.

        Raises:
            ValueError: the checkpoint is of another number of processes.
        """
        states = checkpoint["random"]["states"]
        if len(states) != trainer.world_size:
            raise ValueError(
                f"the checkpoint is of {len(states)} processes and cannot go on with {trainer.world_size}: the batches "
                "are shared out in another way; take as many devices as before"
            )
        self.seed, self.pending = checkpoint["random"]["seed"], states[trainer.global_rank]


def capture() -> dict[str, Any]:
    """The random state of this process, in tensors and plain values."""
    state = pyro.util.get_rng_state()
    name, keys, *rest = state["numpy"]
    numpy = {"name": name, "keys": torch.from_numpy(keys.astype(np.int64)), "rest": rest}
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"torch": state["torch"], "random": state["random"], "numpy": numpy, "cuda": cuda}


def restore(state: dict[str, Any]) -> None:
    """What :func:`capture` found."""
    numpy = state["numpy"]
    keys = numpy["keys"].numpy().astype(np.uint32)
    known = {"torch": state["torch"], "random": state["random"], "numpy": (numpy["name"], keys, *numpy["rest"])}
    pyro.util.set_rng_state(known)
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


class Interruption(Callback):
    """Ctrl-C and SIGTERM end the run after the step that is under way, with everything saved; a second one at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over."""

        def stop(number: int, frame: Any) -> None:
            pl_module.stop_wanted = True  # type: ignore[assignment]  # of Training
            signal.signal(number, self.before[number])

        self.before = {number: signal.signal(number, stop) for number in self.SIGNALS}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self.on_train_end(trainer, pl_module)


class Progress(TQDMProgressBar):
    """Lightning's bar over the steps of the whole run; its numbers are nats a sequence, and steps a second."""

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Begin the bar, which a resumed run does not do by itself."""
        super().on_train_start(trainer, *_)
        self.on_train_epoch_start(trainer, *_)

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Say what the bar counts."""
        super().on_train_epoch_start(trainer, *_)
        self.train_progress_bar.set_description("training")

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The numbers beside the bar, rounded to what can be read."""
        shown = super().get_metrics(trainer, pl_module)
        named = {name.removeprefix("train/"): value for name, value in shown.items() if name not in ("v_num", "step")}
        return {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in named.items()}
