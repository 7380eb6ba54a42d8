"""Data sets of sequences: one type over memory-mapped storage, one collate, batches by length."""

from .batches import LengthBatches, Loader
from .record import Record
from .sequences import Batch, Sequences, Windows, collate
from .storage import preparing

__all__ = ["Batch", "LengthBatches", "Loader", "Record", "Sequences", "Windows", "collate", "preparing"]
