"""Counts of steps with a non-finite loss or gradient, and an error after too many in a row."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..saving import write_atomically


class NonFiniteError(RuntimeError):
    """Too many successive steps had a non-finite loss or gradient."""


class NonFinite:
    """Counts of non-finite steps, kept on the device so that counting does not wait for it.

    Attributes:
        total: non-finite steps so far, a scalar tensor.
        in_row: non-finite steps since the last finite one, a scalar tensor.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = self.in_row = torch.zeros(())

    def note(self, bad: Tensor) -> None:
        """Count a step; ``bad`` is a scalar, 1.0 if the step is not finite, else 0.0."""
        self.total = self.total.to(bad) + bad
        self.in_row = (self.in_row.to(bad) + bad) * bad

    def state_dict(self) -> dict[str, float]:
        """Return the counts."""
        return {"total": self.total.item(), "in_row": self.in_row.item()}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Load the counts of :meth:`state_dict`."""
        self.total, self.in_row = torch.tensor(state["total"]), torch.tensor(state["in_row"])

    def stop(self, folder: Path, step: int, batch: Any) -> None:
        """After too many non-finite steps in a row, save the latest batch and raise. Waits for the device.

        Raises:
            NonFiniteError: too many non-finite steps in a row.
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
