"""Networks on the disk, and files that are written whole or not at all."""

from .files import remove_partial, write_atomically
from .nets import DESCRIPTION, SavedNetwork, load_net, save_net

__all__ = [
    "DESCRIPTION",
    "SavedNetwork",
    "load_net",
    "remove_partial",
    "save_net",
    "write_atomically",
]
