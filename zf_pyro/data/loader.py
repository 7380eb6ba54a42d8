"""Data loader of padded batches, whose state counts the batches that it has returned."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..checks import require_count, require_flag
from .batches import LengthBatches
from .padding import Batch, collate, has_columns


class Loader(DataLoader[Tensor]):
    """Data loader of padded batches, x (batch, time, *frame) and lengths (batch,).

    Its state counts the batches returned, not those that workers fetched ahead.

    Args:
        sequences: data set or list with items (time, *frame): tensors, NumPy arrays or lists.
        batches: indices of each batch.
        num_workers: as for :class:`torch.utils.data.DataLoader`.
        pin_memory: likewise.

    Raises:
        TypeError: ``sequences`` is a table, a dictionary or an iterator.
        ValueError: ``batches`` was made for another number of sequences.
    """

    def __init__(
        self,
        sequences: Dataset[Tensor] | Sequence[Any],
        batches: LengthBatches,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        if not hasattr(sequences, "__len__") or not hasattr(sequences, "__getitem__") or has_columns(sequences):
            raise TypeError(
                f"sequences must be a data set or a list, with a length and an item (time, frame) or (time,) at each "
                f"index, got {type(sequences).__name__}: give a list of its sequences"
            )
        if not isinstance(batches, LengthBatches):
            got = type(batches).__name__
            raise TypeError(f"batches must be zf_pyro.data.LengthBatches(lengths, batch_size), got {got}")
        if len(sequences) != len(batches.lengths):
            raise ValueError(
                f"batches must be made from the lengths of all {len(sequences)} sequences, got {len(batches.lengths)} "
                "lengths: give LengthBatches the lengths of this data set, and take torch.utils.data.Subset for a part"
            )
        super().__init__(
            cast(Dataset[Tensor], sequences),
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=require_count("num_workers", num_workers, least=0),
            pin_memory=require_flag("pin_memory", pin_memory),
        )
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yield the remaining batches of the epoch.

        An iteration that starts while another one runs yields the whole epoch, and the state ignores it.
        """
        start, token = self.batches.begin()
        try:
            with self.batches.starting(start):
                batches = super().__iter__()
            for position, batch in enumerate(batches, start + 1):
                self.batches.reach(position, token)
                yield batch
        finally:
            self.batches.end(token)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of ``batches`` after the last batch returned."""
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state`` at the next iteration: see :meth:`LengthBatches.load_state_dict`."""
        self.batches.load_state_dict(state)
