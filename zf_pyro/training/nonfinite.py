"""Steps whose loss or gradient is not finite: skipped, counted, and an end to training after too many in a row."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..saving import write_atomically


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a loss or a gradient that is not finite."""


class NonFinite:
    """Counts of steps that were not finite, kept on the device so that nobody waits for them.

    Attributes:
        total: such steps so far, a scalar tensor.
        in_row: such steps up to now without a good one between, a scalar tensor.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = self.in_row = torch.zeros(())

    def note(self, bad: Tensor) -> None:
        """Count a step; ``bad`` is 1.0 or 0.0."""
        self.total = self.total.to(bad) + bad
        self.in_row = (self.in_row.to(bad) + bad) * bad

    def state_dict(self) -> dict[str, float]:
        """The counts."""
        return {"total": self.total.item(), "in_row": self.in_row.item()}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """The counts of :meth:`state_dict`."""
        self.total, self.in_row = torch.tensor(state["total"]), torch.tensor(state["in_row"])

    def stop(self, folder: Path, step: int, batch: Any) -> None:
        """Save the latest batch and end training, if there were too many in a row. Waits for the device.

        Raises:
            NonFiniteError: there were.
        """
        if self.in_row.item() < self.limit:
            return
        path = folder / f"nonfinite-step{step}.pt"
        write_atomically(path, lambda file: torch.save(batch, file))
        raise NonFiniteError(
            f"{int(self.in_row)} steps in a row up to step {step} had a loss or gradient that is not finite; the "
            f"parameters are those before them, and the latest batch is in {path} (torch.load). Look for extreme "
            "values in it, take a smaller learning rate, or go on from an earlier checkpoint"
        )
