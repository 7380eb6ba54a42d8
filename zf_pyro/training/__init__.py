"""Training that can be relied on: Lightning around SVI's step, checkpoints, faults, several devices."""

try:
    import lightning as _lightning  # noqa: F401
except ImportError as error:
    raise ImportError("zf_pyro.training needs Lightning: pip install zf-pyro[training]") from error

from .checkpoints import CheckpointError, SafeCheckpointIO, latest
from .module import Training, adam
from .nonfinite import NonFiniteError
from .position import Batches
from .run import fit

__all__ = ["Batches", "CheckpointError", "NonFiniteError", "SafeCheckpointIO", "Training", "adam", "fit", "latest"]
