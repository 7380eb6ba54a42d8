"""Batches of sequences of like length: shuffled by a seed, resumable in mid-epoch, shared out to processes."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from .sequences import Batch, collate

POOL = 64
"""Batches that are drawn together and sorted by length: more waste less on padding, and mix sequences less."""


class LengthBatches(Sampler[list[int]]):
    """Lists of indices, each a batch of sequences of like length.

    The order is a function of ``seed`` and the epoch alone: nothing depends on the number of loader workers, and on the
    rank only which share is handed out. In an epoch all ranks together see each sequence once, and each rank as many
    batches as any other. To that end some batches are made smaller where the numbers do not divide. With
    ``batch_size=1`` nothing can be made smaller: fewer than ``world_size`` sequences are then left out of an epoch.

    Without ``shuffle`` the longest sequences come first, so that a batch too large for memory shows at once.

    Under a :class:`torch.utils.data.DataLoader` with workers the sampler runs ahead of what was used, and so would its
    state: take :class:`Loader`, which counts what came out.

    Attributes:
        epoch: which one, from 0; set by :meth:`set_epoch`.
        position: batches of this epoch handed out so far.
    """

    def __init__(
        self,
        lengths: Tensor | Sequence[int],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        """Take the lengths; nothing is drawn yet.

        Args:
            lengths: frames of each sequence, (sequences,) integers.
            batch_size: sequences of a batch on one rank.
            seed: of the shuffling.
            shuffle: a new order every epoch; else one order, the longest first.
            rank: this process's number, 0 to ``world_size`` - 1.
            world_size: number of processes that share the sequences.
            drop_last: leave out what would make smaller batches.

        Raises:
            ValueError: a size or rank out of range, or too few sequences for one batch a process.
        """
        self.lengths = torch.as_tensor(lengths)
        if self.lengths.dim() != 1 or self.lengths.is_floating_point() or not len(self.lengths):
            raise ValueError(f"lengths must be integers of shape (sequences,), got {tuple(self.lengths.shape)}")
        for name, value in (("batch_size", batch_size), ("world_size", world_size)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be between 0 and {world_size - 1} (world_size - 1), got {rank!r}")
        needed = batch_size * world_size if drop_last else world_size
        if len(self.lengths) < needed:
            raise ValueError(
                f"{len(self.lengths)} sequences do not make one batch for each of {world_size} processes"
                + (f" of {batch_size} with drop_last" if drop_last else "")
                + ": take smaller batches or fewer processes"
            )
        self.batch_size, self.seed, self.shuffle, self.drop_last = batch_size, seed, shuffle, drop_last
        self.rank, self.world_size = rank, world_size
        self.epoch = self.position = 0

    def __len__(self) -> int:
        """Batches of one epoch on one rank, wherever in it the sampler is."""
        count = len(self.lengths) - self._left_out()
        return -(-count // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of this epoch from ``position`` on; from the first on where the epoch was at its end."""
        if self.position >= len(self):
            self.position = 0
        for indices in self._rounds()[self.position :]:
            self.position += 1
            yield indices.tensor_split(self.world_size)[self.rank].tolist()

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of another epoch; the present one goes on where it was."""
        if epoch != self.epoch:
            self.epoch, self.position = int(epoch), 0

    def state_dict(self) -> dict[str, Any]:
        """The epoch and the position in it, and what they are good for; the same on all ranks."""
        return {"epoch": self.epoch, "position": self.position, **self._settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken.

        Raises:
            ValueError: it comes from other sequences or settings, under which its position means nothing.
        """
        settings = self._settings()
        differing = [name for name in settings if state.get(name) != settings[name]]
        if differing:
            name = differing[0]
            raise ValueError(
                f"the state was taken with another {name}, {state.get(name)!r} instead of {settings[name]!r}: "
                "make the batches as they were made then"
            )
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def _settings(self) -> dict[str, Any]:
        data = hashlib.sha256(self.lengths.to(torch.int64).contiguous().numpy().tobytes()).hexdigest()
        names = ("batch_size", "seed", "shuffle", "world_size", "drop_last")
        return {**{name: getattr(self, name) for name in names}, "lengths": data}

    def _left_out(self) -> int:
        """Sequences that an epoch does without."""
        rest = len(self.lengths) % (self.batch_size * self.world_size)
        return rest if self.drop_last or self.batch_size == 1 else 0

    def _rounds(self) -> list[Tensor]:
        """The epoch as indices of one batch a rank each."""
        share = self.batch_size * self.world_size
        generator = torch.Generator().manual_seed(_mix(self.seed, self.epoch))
        if self.shuffle:
            indices = torch.randperm(len(self.lengths), generator=generator)
        else:
            indices = self._by_length(torch.arange(len(self.lengths)))
        indices = indices[: len(indices) - self._left_out()]
        rest = len(indices) % share
        if (
            0 < rest < self.world_size
        ):  # too few to share out by themselves: they join a full round, which is then halved
            ends = [*self._by_length(indices[len(indices) - share - rest :]).tensor_split(2)]
        else:
            ends = [self._by_length(indices[len(indices) - rest :])] if rest else []
        whole = indices[: len(indices) - sum(map(len, ends))]
        pools = whole.split(max(1, POOL // self.world_size) * share)
        rounds = [part for pool in pools if len(pool) for part in self._by_length(pool).split(share)] + ends
        if self.shuffle:
            rounds = [rounds[i] for i in torch.randperm(len(rounds), generator=generator).tolist()]
        return rounds

    def _by_length(self, indices: Tensor) -> Tensor:
        """The same indices, the longest sequence first."""
        return indices[self.lengths[indices].argsort(descending=True, stable=True)]


def _mix(seed: int, epoch: int) -> int:
    """A generator's seed of its own for each pair, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed} {epoch}".encode()).digest()[:7], "little")


class Loader(DataLoader[Tensor]):
    """A loader of padded batches whose state counts what came out of it, whatever its workers fetched ahead."""

    def __init__(
        self, sequences: Dataset[Tensor], batches: LengthBatches, *, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        super().__init__(
            sequences,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )
        self.batches = batches
        self._used: int | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """The batches that are left of the epoch."""
        epoch, position = self.batches.epoch, self.batches.position
        self._used = 0 if position >= len(self.batches) else position
        try:
            for batch in super().__iter__():
                self._used += 1
                yield batch
        finally:
            if self.batches.epoch == epoch:
                self.batches.position = self._used
            self._used = None

    def state_dict(self) -> dict[str, Any]:
        """That of the batches, at what came out."""
        state = self.batches.state_dict()
        return state if self._used is None else {**state, "position": self._used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken, from the next pass on: see :meth:`LengthBatches.load_state_dict`."""
        self.batches.load_state_dict(state)
