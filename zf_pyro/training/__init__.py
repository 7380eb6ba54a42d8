"""Training that can be relied on: Lightning around SVI's step, checkpoints, faults, several devices."""

from .checkpoints import CheckpointError, SafeCheckpointIO, latest
from .module import Training, adam
from .nonfinite import NonFiniteError
from .position import Batches
from .run import fit

__all__ = [
    "Batches",
    "CheckpointError",
    "NonFiniteError",
    "SafeCheckpointIO",
    "Training",
    "adam",
    "fit",
    "latest",
]
