"""Training by SVI's step under Lightning: resumable checkpoints, fault tolerance, several devices."""

from ..saving import FolderInUseError
from .callbacks import CosineDecay, Stopwatch
from .checkpoints import CheckpointError, SafeCheckpointIO, latest
from .mechanism_log import CrowdingAuxiliaryWarning, MechanismLog, UnearnedAuxiliaryWarning
from .module import Training, adam
from .nonfinite import NonFiniteError
from .position import Batches
from .run import fit

__all__ = [
    "Batches",
    "CheckpointError",
    "CosineDecay",
    "CrowdingAuxiliaryWarning",
    "FolderInUseError",
    "MechanismLog",
    "NonFiniteError",
    "SafeCheckpointIO",
    "Stopwatch",
    "Training",
    "UnearnedAuxiliaryWarning",
    "adam",
    "fit",
    "latest",
]
