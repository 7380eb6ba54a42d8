"""Checkpoints that are whole or refused, and of which nothing is executed."""

import hashlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ..saving import remove_partial, write_atomically

MAGIC = b"zf_pyro checkpoint 1\n"
"""First line of a checkpoint; the sha256 of what follows it is the second."""
PATTERN = re.compile(r"step(\d+)\.ckpt")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used."""


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files with a checksum, written atomically, read without executing anything.

    A file is two lines of text, then what ``torch.save`` writes. It is read by ``torch.load(weights_only=True)``, which
    builds tensors and plain values alone and refuses every other pickle, and only once the checksum is found right.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path`` in one move.

        Raises:
            OSError: the disk is full, or another error of the system; what was at ``path`` is still there.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        digest = hashlib.sha256(content.getbuffer()).hexdigest().encode()
        write_atomically(Path(path), lambda file: file.writelines((MAGIC, digest, b"\n", content.getbuffer())))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The checkpoint at ``path``, on the CPU.

        Raises:
            FileNotFoundError: there is none.
            CheckpointError: it was cut short or changed, is no checkpoint of this package, or holds more than tensors
                and plain values.
        """
        content = _verified(Path(path))
        try:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # pickles can fail in any way
            raise CheckpointError(f"{path} holds what is no checkpoint and was not executed: {error}") from error


def _verified(path: Path) -> memoryview:
    """What follows the first two lines, once its checksum is found right."""
    content = path.read_bytes()
    if not content.startswith(MAGIC):
        raise CheckpointError(f"{path} is no checkpoint of zf_pyro.training (it does not begin with {MAGIC!r})")
    digest, rest = content[len(MAGIC) : len(MAGIC) + 64], memoryview(content)[len(MAGIC) + 65 :]
    if hashlib.sha256(rest).hexdigest().encode() != digest:
        raise CheckpointError(f"{path} was cut short or changed: its sha256 is not the one in it")
    return rest


def latest(folder: Path) -> Path | None:
    """The newest checkpoint in ``folder`` that is whole; None if there never was one.

    A newer one that is not whole is reported and renamed to ``*.refused``.

    Raises:
        CheckpointError: there are checkpoints, none of which is whole.
    """
    steps = {path: int(found[1]) for path in folder.glob("*.ckpt") if (found := PATTERN.fullmatch(path.name))}
    for path in sorted(steps, key=steps.__getitem__, reverse=True):
        try:
            _verified(path)
        except FileNotFoundError:  # another process has just renamed it
            continue
        except CheckpointError as error:
            warnings.warn(f"{error}; going back to the one before it", stacklevel=2)
            path.rename(path.with_suffix(".refused"))
        else:
            return path
    if steps or any(folder.glob("*.refused")):
        raise CheckpointError(f"{folder} holds no checkpoint that is whole: see the files *.refused in it")
    return None


class Checkpoints(Checkpoint):
    """Saves the state of the run every so many steps, at its end and when it is interrupted; keeps the latest few.

    Always between two batches, when everything that belongs to the one before is done, validation included.

    Args:
        folder: where; the files are ``step00000100.ckpt`` and so on.
        every: steps from one to the next.
        keep: how many.
    """

    def __init__(self, folder: Path, every: int, keep: int) -> None:
        self.folder, self.every, self.keep = folder, every, keep
        self.saved = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear away what a run that was killed while saving left; do not save again what was just loaded."""
        self.saved = trainer.global_step
        if trainer.is_global_zero:
            remove_partial(self.folder)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Save if it is time, or if somebody wants training to stop.

        Raises:
            KeyboardInterrupt: the latter, once it is saved; Lightning then shuts everything down.
        """
        if pl_module.stopping or trainer.global_step - self.saved >= self.every:
            self.save(trainer)
        if pl_module.stopping:
            raise KeyboardInterrupt("training was interrupted; everything is saved")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of the run."""
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save now, unless this very step is saved."""
        if trainer.global_step == self.saved:
            return
        trainer.save_checkpoint(self.folder / f"step{trainer.global_step:08d}.ckpt", weights_only=False)
        self.saved = trainer.global_step
        if trainer.is_global_zero:
            names = sorted(path for path in self.folder.glob("*.ckpt") if PATTERN.fullmatch(path.name))
            for path in names[: -self.keep]:
                path.unlink()


class Best(ModelCheckpoint):
    """Lightning's keeper of the weights of the best validation, ``best.ckpt``; the run's folder may be moved."""

    def __init__(self, folder: Path) -> None:
        settings = {"mode": "max", "save_weights_only": True, "enable_version_counter": False}
        super().__init__(folder, "best", "validation/elbo", **settings)  # type: ignore[arg-type]  # mixed settings

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The best so far, at where the folder is now."""
        if state["best_model_path"]:
            path = str(Path(str(self.dirpath)) / "best.ckpt")
            names = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
            super().load_state_dict({**state, **names, "best_k_models": {path: state["best_model_score"]}})
