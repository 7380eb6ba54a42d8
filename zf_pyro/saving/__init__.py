"""Networks and runs on the disk, and files that are written whole or not at all."""

from .configuration import ABSENT, Difference, data_of, differences, name_of, plain
from .files import remove_partial, write_atomically
from .locking import LOCK, FolderInUseError, hold
from .nets import DESCRIPTION, SavedNetwork, load_net, save_net
from .runs import RUN, left_behind, read_run, require_new, require_same, write_run
from .tensors import read_tensors, write_tensors

__all__ = [
    "ABSENT",
    "DESCRIPTION",
    "LOCK",
    "RUN",
    "Difference",
    "FolderInUseError",
    "SavedNetwork",
    "data_of",
    "differences",
    "hold",
    "left_behind",
    "load_net",
    "name_of",
    "plain",
    "read_run",
    "read_tensors",
    "remove_partial",
    "require_new",
    "require_same",
    "save_net",
    "write_atomically",
    "write_run",
    "write_tensors",
]
