"""Data sets of sequences: one type over memory-mapped storage, one collate, batches by length."""

from .batches import LengthBatches, Loader
from .sequences import Batch, Sequences, Windows, collate

__all__ = ["Batch", "LengthBatches", "Loader", "Sequences", "Windows", "collate"]
