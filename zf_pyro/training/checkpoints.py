"""Checkpoints with a checksum, which are loaded without executing code from them."""

import hashlib
import io
import itertools
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ..checks import require_path
from ..saving import remove_partial, write_atomically

NAME = r"step(\d+)\.ckpt"
PATTERN = re.compile(NAME)
MAGIC = b"zf_pyro checkpoint 1\n"
"""First line of a checkpoint; the second is the sha256 of the rest."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used."""


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files with a checksum, written atomically and loaded without executing code.

    A file is two lines of text, then the output of ``torch.save``. After the checksum is verified, it is read by
    ``torch.load(weights_only=True)``, which builds only tensors and plain values and refuses every other pickle.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path`` atomically.

        Raises:
            OSError: the disk is full, or another error of the system; an older file at ``path`` is still there.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        digest = hashlib.sha256(content.getbuffer()).hexdigest().encode()
        write_atomically(Path(path), lambda file: file.writelines((MAGIC, digest, b"\n", content.getbuffer())))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load the checkpoint at ``path`` onto the CPU.

        Raises:
            FileNotFoundError: there is none.
            CheckpointError: it was truncated or changed, is no checkpoint of this package, or holds more than tensors
                and plain values.
        """
        content = _verified(Path(path))
        try:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # pickles can fail in any way
            raise CheckpointError(f"{path} holds what is no checkpoint and was not executed: {error}") from error


def _verified(path: Path) -> memoryview:
    """Content after the first two lines, its checksum verified."""
    content = path.read_bytes()
    if not content.startswith(MAGIC):
        raise CheckpointError(f"{path} is no checkpoint of zf_pyro.training (it does not begin with {MAGIC!r})")
    digest, rest = content[len(MAGIC) : len(MAGIC) + 64], memoryview(content)[len(MAGIC) + 65 :]
    if hashlib.sha256(rest).hexdigest().encode() != digest:
        raise CheckpointError(f"{path} was cut short or changed: its sha256 is not the one in it")
    return rest


def latest(folder: Path) -> Path | None:
    """The newest intact checkpoint in ``folder``; None if there never was one.

    Newer checkpoints that are damaged are warned of and renamed to ``*.refused``.

    Raises:
        CheckpointError: all checkpoints are damaged.
    """
    folder = require_path("folder", folder)
    steps = {path: int(found[1]) for path in folder.glob("*.ckpt") if (found := PATTERN.fullmatch(path.name))}
    for path in sorted(steps, key=steps.__getitem__, reverse=True):
        try:
            _verified(path)
        except FileNotFoundError:  # another process has just renamed it
            continue
        except CheckpointError as error:
            warnings.warn(f"{error}; going back to the one before it", stacklevel=2)
            path.rename(_free_name(path))
        else:
            return path
    if steps or any(folder.glob("*.refused")):
        raise CheckpointError(f"{folder} holds no checkpoint that is whole: see the files *.refused in it")
    return None


def _free_name(path: Path) -> Path:
    """Name for a refused checkpoint that no earlier one has."""
    names = (path.with_suffix(f".{i}.refused" if i else ".refused") for i in itertools.count())
    return next(name for name in names if not name.exists())


class Checkpoints(Checkpoint):
    """Saves the state of a run at regular steps, at its end and on interruption; keeps the latest checkpoints.

    Checkpoints are saved between two batches, after the step and the validation of the first. Each holds the names of
    those that the run has written, and no other file is ever removed.

    Args:
        folder: folder of the files ``step00000100.ckpt`` and so on.
        every: steps between two checkpoints.
        keep: number of checkpoints kept.
    """

    def __init__(self, folder: Path, every: int, keep: int) -> None:
        self.folder, self.every, self.keep = folder, every, keep
        self.saved = 0
        self.written: list[str] = []

    def state_dict(self) -> dict[str, Any]:
        """File names of the checkpoints that this run has written."""
        return {"written": self.written}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the names of :meth:`state_dict`."""
        self.written = [name for name in state["written"] if PATTERN.fullmatch(name)]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove incomplete files of a killed run, and skip the checkpoint that was just loaded."""
        self.saved = trainer.global_step
        if trainer.is_global_zero:
            remove_partial(self.folder, NAME)
            remove_partial(self.folder.parent, r"best\.ckpt|run\.json")

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Save if a checkpoint is due, or if a stop of training was requested.

        Raises:
            KeyboardInterrupt: a stop was requested, and everything is saved. Lightning then shuts the run down.
        """
        if pl_module.stopping or trainer.global_step - self.saved >= self.every:
            self.save(trainer)
        if pl_module.stopping:
            raise KeyboardInterrupt("training was interrupted; everything is saved")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the final state."""
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save now, unless this step is saved already."""
        if trainer.global_step == self.saved:
            return
        name = f"step{trainer.global_step:08d}.ckpt"
        self.written = [*(other for other in self.written if other != name), name]
        trainer.save_checkpoint(self.folder / name, weights_only=False)
        self.saved = trainer.global_step
        old, self.written = self.written[: -self.keep], self.written[-self.keep :]
        if trainer.is_global_zero:
            for name in old:
                (self.folder / name).unlink(missing_ok=True)


class Best(ModelCheckpoint):
    """Lightning's callback that keeps the weights of the best validation, ``best.ckpt``, in a folder that may move."""

    def __init__(self, folder: Path) -> None:
        settings = {"mode": "max", "save_weights_only": True, "enable_version_counter": False}
        super().__init__(folder, "best", "validation/elbo", **settings)  # type: ignore[arg-type]  # mixed settings

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the best score, with paths in the current folder."""
        if state["best_model_path"]:
            path = str(Path(str(self.dirpath)) / "best.ckpt")
            names = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
            super().load_state_dict({**state, **names, "best_k_models": {path: state["best_model_score"]}})
