"""Data sets of sequences: one type over memory-mapped storage, one collate, batches by length."""

from .batches import LengthBatches, Loader
from .digits import load_digits
from .docstrings import load_docstrings
from .images import Binarized, ImageSets, load_images
from .record import Record
from .sequences import Batch, Sequences, Windows, collate
from .storage import preparing
from .text import TextSets, load_text
from .vocabulary import Vocabulary

__all__ = [
    "Batch",
    "Binarized",
    "ImageSets",
    "LengthBatches",
    "Loader",
    "Record",
    "Sequences",
    "TextSets",
    "Vocabulary",
    "Windows",
    "collate",
    "load_digits",
    "load_docstrings",
    "load_images",
    "load_text",
    "preparing",
]
