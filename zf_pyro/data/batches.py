"""Batches of sequences of similar length: shuffled by a seed, resumable in mid-epoch, divided among processes."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ..checks import require_count, require_flag, require_integer

POOL = 64
"""Batches drawn together and sorted by length. A larger pool needs less padding, but mixes sequences less."""


class LengthBatches(Sampler[list[int]]):
    """Sampler of batches: lists of indices of sequences of similar length.

    The order depends only on ``seed`` and the epoch, not on the number of loader workers. The rank selects a share.
    In an epoch all ranks together see each sequence once, and all ranks get the same number of batches. Some batches
    are smaller if the sizes do not divide. With ``batch_size=1`` no batch can be smaller, so up to ``world_size`` - 1
    sequences are left out of an epoch.

    Without ``shuffle`` the longest sequences come first, so that a batch too large for memory fails at once.

    Under a :class:`torch.utils.data.DataLoader` with workers, the sampler and its state run ahead of the batches used.
    Take :class:`Loader`, which counts the batches it returns.

    Attributes:
        epoch: the current epoch, from 0; set by :meth:`set_epoch`.
        position: batches of this epoch returned so far.
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
        """Check the arguments; nothing is drawn yet.

        Args:
            lengths: frames of each sequence, (sequences,) integers.
            batch_size: sequences per batch on one rank.
            seed: seed of the shuffling.
            shuffle: take a new order every epoch; otherwise one order, the longest first.
            rank: index of this process, 0 to ``world_size`` - 1.
            world_size: number of processes that share the sequences.
            drop_last: leave out the sequences that would make smaller batches.

        Raises:
            ValueError: a size or rank out of range, or too few sequences for one batch per process.
        """
        try:
            self.lengths = torch.as_tensor(lengths)
        except (TypeError, ValueError, RuntimeError) as error:
            got = type(lengths).__name__
            raise ValueError(f"lengths must be integers of shape (sequences,), got {got} ({error})") from error
        other = self.lengths.is_floating_point() or self.lengths.is_complex()
        integers = not other and self.lengths.dtype != torch.bool
        if self.lengths.dim() != 1 or not integers or not len(self.lengths):
            raise ValueError(
                f"lengths must be integers of shape (sequences,), got {self.lengths.dtype} of shape "
                f"{tuple(self.lengths.shape)}"
            )
        self.lengths = self.lengths.long()  # not all integers can be sorted
        batch_size, world_size = require_count("batch_size", batch_size), require_count("world_size", world_size)
        shuffle, drop_last = require_flag("shuffle", shuffle), require_flag("drop_last", drop_last)
        seed = require_count("seed", seed, least=0)
        rank = require_integer("rank", rank, f"between 0 and {world_size - 1} (world_size - 1)", high=world_size - 1)
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
        self._counting: object | None = None  # the iteration that moves the position
        self._start: int | None = None  # of the next iteration, if a Loader counts its batches

    def __len__(self) -> int:
        """Number of batches of one epoch on one rank, whatever the position in it."""
        count = len(self.lengths) - self._left_out()
        return -(-count // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of this epoch from ``position`` on; a finished epoch starts again.

        An iteration that starts while another one runs yields the whole epoch and leaves ``position`` alone.
        """
        if self._start is not None:
            return self._after(self._start)
        return self._counted()

    def _counted(self) -> Iterator[list[int]]:
        start, token = self.begin()
        try:
            for position, indices in enumerate(self._after(start), start + 1):
                self.reach(position, token)
                yield indices
        finally:
            self.end(token)

    def _after(self, start: int) -> Iterator[list[int]]:
        """The batches of this epoch after the first ``start``."""
        for indices in self._rounds()[start:]:
            yield indices.tensor_split(self.world_size)[self.rank].tolist()

    def begin(self) -> tuple[int, object]:
        """Start an iteration: return the number of batches to skip, and the token by which it counts."""
        token = object()
        if self._counting is not None:
            return 0, token
        self._counting = token
        if self.position >= len(self):
            self.position = 0
        return self.position, token

    def reach(self, position: int, token: object) -> None:
        """Set ``position``, if the iteration of ``token`` is the one that counts."""
        if token is self._counting:
            self.position = position

    def end(self, token: object) -> None:
        """End an iteration: the next one counts."""
        if token is self._counting:
            self._counting = None

    @contextlib.contextmanager
    def starting(self, position: int) -> Iterator[None]:
        """Let iterations that are made in the block begin at ``position``, without counting."""
        self._start = position
        try:
            yield
        finally:
            self._start = None

    def set_epoch(self, epoch: int) -> None:
        """Move to the start of another epoch; in the current epoch, keep the position."""
        epoch = require_count("epoch", epoch, least=0)
        if epoch != self.epoch:
            self.epoch, self.position, self._counting = int(epoch), 0, None

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, the position in it, and the settings they belong to; the same on all ranks."""
        return {"epoch": self.epoch, "position": self.position, **self._settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``.

        Raises:
            ValueError: it comes from other sequences or settings, for which its position has no meaning.
        """
        if not isinstance(state, Mapping) or not {"epoch", "position"} <= state.keys():
            raise ValueError(f"state must be that of state_dict(), with epoch and position, got {state!r}")
        settings = self._settings()
        differing = [name for name in settings if state.get(name) != settings[name]]
        if differing:
            name = differing[0]
            raise ValueError(
                f"the state was taken with another {name}, {state.get(name)!r} instead of {settings[name]!r}: "
                "make the batches as they were made then"
            )
        self.epoch, self.position, self._counting = int(state["epoch"]), int(state["position"]), None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_counting": None, "_start": None}

    def _settings(self) -> dict[str, Any]:
        data = hashlib.sha256(self.lengths.to(torch.int64).contiguous().numpy().tobytes()).hexdigest()
        names = ("batch_size", "seed", "shuffle", "world_size", "drop_last")
        return {**{name: getattr(self, name) for name in names}, "lengths": data}

    def _left_out(self) -> int:
        """Number of sequences that an epoch leaves out."""
        rest = len(self.lengths) % (self.batch_size * self.world_size)
        return rest if self.drop_last or self.batch_size == 1 else 0

    def _rounds(self) -> list[Tensor]:
        """The rounds of the epoch: each holds the indices, (sequences,), of one batch for every rank."""
        share = self.batch_size * self.world_size
        generator = torch.Generator().manual_seed(_mix(self.seed, self.epoch))
        if self.shuffle:
            indices = torch.randperm(len(self.lengths), generator=generator)
        else:
            indices = self._by_length(torch.arange(len(self.lengths)))
        indices = indices[: len(indices) - self._left_out()]
        rest = len(indices) % share
        if 0 < rest < self.world_size:  # fewer than ranks: they join a full round, which is then halved
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
        """Sort indices, (sequences,), by the length of their sequences, the longest first."""
        return indices[self.lengths[indices].argsort(descending=True, stable=True)]


def _mix(seed: int, epoch: int) -> int:
    """Generator seed for a pair of seed and epoch, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed} {epoch}".encode()).digest()[:7], "little")
