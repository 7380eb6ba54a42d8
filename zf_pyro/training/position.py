"""Where in the data a run is: batches without end, from any position on, and Lightning's own counts to match."""

import itertools
import signal
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler

Position = tuple[int, int]
"""Epoch, and batches of it."""


class Batches:
    """The batches of a run: a loader's, epoch after epoch, as many as the run has steps.

    To Lightning this is one long epoch, so that a run can stop and go on anywhere in it. The loader's order has to be a
    function of the epoch alone: :class:`zf_pyro.data.LengthBatches`, which goes straight to a position, or any loader
    without shuffling, of which batches are read and dropped to get there.

    Args:
        loader: any iterable of batches that can be gone through again and again.
        num_batches: how many to give.

    Raises:
        ValueError: the loader shuffles by torch's global random numbers, which resuming could not repeat.
    """

    def __init__(self, loader: Iterable[Any], num_batches: int) -> None:
        self.loader, self.num_batches = loader, num_batches
        if isinstance(loader, DataLoader):
            if isinstance(loader.sampler, RandomSampler) or isinstance(
                getattr(loader.batch_sampler, "sampler", None), RandomSampler
            ):
                raise ValueError(
                    "the loader's order comes from torch's global random numbers, which a resumed run cannot repeat: "
                    "give it batch_sampler=zf_pyro.data.LengthBatches(lengths, batch_size), or use zf_pyro.data.Loader"
                )
            loader.generator = (
                loader.generator or torch.Generator()
            )  # else workers' seeds are drawn from the global one
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
        """What decides the order: the loader's batch sampler, or the loader itself."""
        return getattr(self.loader, "batch_sampler", self.loader)

    def _epoch(self, epoch: int, done: int) -> Iterator[Any]:
        """The batches of an epoch behind the first ``done``."""
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
        """The latest two positions, by the number of batches before them; and what the order depends on."""
        settings = self._order.state_dict() if hasattr(self._order, "load_state_dict") else {}
        return {"given": self.given, "positions": self.positions, "settings": settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind ``given`` batches.

        Raises:
            ValueError: the state is of other data.
        """
        if hasattr(self._order, "load_state_dict"):
            self._order.load_state_dict(state["settings"])
        self.given = state["given"]
        self.positions = {self.given: tuple(state["positions"][self.given])}


class Pass:
    """One pass over a loader each time; any iterable of batches, where Lightning takes a list for several loaders."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return sum(1 for _ in self.loader) if not isinstance(self.loader, Sized) else len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


def continued(checkpoint: dict[str, Any]) -> None:
    """Make the counts of a checkpoint those of a run that is about to train its next batch.

    Checkpoints are saved between two batches, but in Lightning's counts that is the start of a batch, the end of an
    epoch or the end of the run, each of which its loops go on from in another way: some validate again, some count a
    step twice. Here all are one: the end of a batch whose validation is done.
    """
    fit = checkpoint["loops"]["fit_loop"]
    streams = fit["state_dict"].get("combined_loader", [])
    if not streams or "positions" not in streams[0]:
        return  # trained without Batches
    done = fit["epoch_loop.batch_progress"]["current"]["completed"]
    streams[0]["given"] = done
    counts = {"ready": done, "started": done, "processed": done, "completed": done - 1}  # which Lightning completes
    fit["epoch_loop.batch_progress"] |= {"total": dict(counts), "current": dict(counts), "is_last_batch": False}
    fit["epoch_loop.state_dict"]["_batches_that_stepped"] = done - 1
    begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    fit["epoch_progress"] |= {"total": dict(begun), "current": dict(begun)}


def _leave_interrupts_to_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
