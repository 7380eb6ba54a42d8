"""Position of a run in its data: batches from any position, and matching counts in Lightning's checkpoints."""

import itertools
import signal
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from ..checks import require_count
from ..networks import BATCHES_STEPPED

Position = tuple[int, int]
"""Epoch, and number of batches within it."""


class Batches:
    """Batches of a run: those of a loader, epoch after epoch, up to a total number.

    For Lightning this is one long epoch, in which a run can stop and resume anywhere. The order of the loader must
    depend on the epoch alone. :class:`zf_pyro.data.LengthBatches` seeks to a position. Any other loader without
    shuffling is read up to the position, and those batches are dropped.

    Args:
        loader: any iterable of batches that can be iterated repeatedly.
        num_batches: total number of batches.

    Raises:
        ValueError: the loader shuffles by torch's global random numbers, which a resumed run cannot repeat.
    """

    def __init__(self, loader: Iterable[Any], num_batches: int) -> None:
        if not isinstance(loader, Iterable) or isinstance(loader, str | Tensor | Mapping):
            raise TypeError(f"loader must be an iterable of batches, got {type(loader).__name__}")
        self.loader, self.num_batches = loader, require_count("num_batches", num_batches)
        if isinstance(loader, DataLoader):
            if isinstance(loader.sampler, RandomSampler) or isinstance(
                getattr(loader.batch_sampler, "sampler", None), RandomSampler
            ):
                raise ValueError(
                    "the loader's order comes from torch's global random numbers, which a resumed run cannot repeat: "
                    "give it batch_sampler=zf_pyro.data.LengthBatches(lengths, batch_size), or use zf_pyro.data.Loader"
                )
            # Without a generator the workers' seeds come from torch's global random numbers.
            loader.generator = loader.generator or torch.Generator()
            loader.worker_init_fn = loader.worker_init_fn or _leave_interrupts_to_the_parent
        self.given = 0
        self.positions: dict[int, Position] = {0: (0, 0)}

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Any]:
        first, done = self.positions[self.given]
        for epoch in itertools.count(first):
            before = self.given
            if before >= self.num_batches:
                return
            for position, batch in enumerate(self._epoch(epoch, done), done + 1):
                self.given += 1
                self.positions = {self.given - 1: self.positions[self.given - 1], self.given: (epoch, position)}
                yield batch
                if self.given >= self.num_batches:
                    break
            if self.given == before and done == 0:
                raise ValueError("the loader gave no batches")
            done = 0

    @property
    def _order(self) -> Any:
        """Object that determines the order: the loader's batch sampler, or the loader itself."""
        return getattr(self.loader, "batch_sampler", self.loader)

    def _epoch(self, epoch: int, done: int) -> Iterator[Any]:
        """Batches of an epoch after the first ``done``."""
        order = self._order
        if hasattr(order, "set_epoch"):
            order.set_epoch(epoch)
        if isinstance(self.loader, DataLoader) and self.loader.generator is not None:
            self.loader.generator.manual_seed(epoch)
        if not hasattr(order, "load_state_dict"):
            return itertools.islice(iter(self.loader), done, None)
        if done and done >= len(order):
            return iter(())
        order.load_state_dict({**order.state_dict(), "epoch": epoch, "position": done})
        return iter(self.loader)

    def state_dict(self) -> dict[str, Any]:
        """Latest two positions, by the number of batches before them, and the settings of the order."""
        settings = self._order.state_dict() if hasattr(self._order, "load_state_dict") else {}
        return {"given": self.given, "positions": self.positions, "settings": settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after ``given`` batches.

        Raises:
            ValueError: the state comes from other data.
        """
        if hasattr(self._order, "load_state_dict"):
            self._order.load_state_dict(state["settings"])
        self.given = state["given"]
        self.positions = {self.given: tuple(state["positions"][self.given])}


class Pass:
    """One pass over any iterable of batches. It also wraps lists, which Lightning would take for several loaders."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return sum(1 for _ in self.loader) if not isinstance(self.loader, Sized) else len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


def continued(checkpoint: dict[str, Any]) -> None:
    """Set the counts of a checkpoint to those of a run that is about to train its next batch.

    Checkpoints are saved between two batches. In Lightning's counts that may be the start of a batch, the end of an
    epoch or the end of the run, from which its loops resume differently: some validate again, some count a step twice.
    Here all become the same: the end of a batch after its validation.
    """
    fit = checkpoint["loops"]["fit_loop"]
    streams = fit["state_dict"].get("combined_loader", [])
    if not streams or "positions" not in streams[0]:
        return  # trained without Batches
    done = fit["epoch_loop.batch_progress"]["current"]["completed"]
    streams[0]["given"] = done
    counts = {"ready": done, "started": done, "processed": done, "completed": done - 1}  # Lightning adds the last
    fit["epoch_loop.batch_progress"] |= {"total": dict(counts), "current": dict(counts), "is_last_batch": False}
    fit["epoch_loop.state_dict"][BATCHES_STEPPED] = done - 1
    begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    fit["epoch_progress"] |= {"total": dict(begun), "current": dict(begun)}


def _leave_interrupts_to_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
