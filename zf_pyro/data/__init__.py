"""Sequence data sets in memory-mapped storage, padded batches by length, and the preparation of corpora."""

from .arguments import (
    POSITIONAL,
    ContextBatch,
    GivenSequences,
    arguments_of,
    batches_of,
    call_with,
    given_of,
    givens_of,
    is_batch,
    pair_of,
)
from .batches import LengthBatches
from .folders.preparing import preparing
from .folders.record import RECORD, Record, read_record
from .images.digits import load_digits, prepare_digits
from .images.mnist import prepare_mnist
from .images.sets import Binarized, ImageSets, load_images
from .loader import Loader
from .music.midi import MidiPiece, read_midi, write_midi
from .music.polyphonic import prepare_polyphonic
from .music.rolls import Rolls
from .music.sets import PolyphonicSets, load_polyphonic
from .music.transposition import Transposed
from .padding import Batch, collate
from .progress import progress_bar
from .sequences import Sequences, Windows
from .series.arrays import from_arrays
from .series.batch import SeriesBatch, SeriesItem, collate_series, require_horizon
from .series.folder import from_folder
from .series.frames import from_dataframe
from .series.joining import continued, joined
from .series.scaling import Scaling
from .series.series import Series
from .series.splitting import SeriesSets, split_series
from .series.storing import empty_like, load_series, save_series
from .speech.prepare import prepare_blizzard, prepare_folder, prepare_timit
from .text.docstrings import load_docstrings, prepare_docstrings
from .text.imdb import prepare_imdb
from .text.sets import TextSets, load_text
from .text.vocabulary import Vocabulary
from .vowels import NUM_CEPSTRA, Utterances, Vowels, load_vowels

__all__ = [
    "NUM_CEPSTRA",
    "POSITIONAL",
    "RECORD",
    "Batch",
    "Binarized",
    "ContextBatch",
    "GivenSequences",
    "ImageSets",
    "LengthBatches",
    "Loader",
    "MidiPiece",
    "PolyphonicSets",
    "Record",
    "Rolls",
    "Scaling",
    "Sequences",
    "Series",
    "SeriesBatch",
    "SeriesItem",
    "SeriesSets",
    "TextSets",
    "Transposed",
    "Utterances",
    "Vocabulary",
    "Vowels",
    "Windows",
    "arguments_of",
    "batches_of",
    "call_with",
    "collate",
    "collate_series",
    "continued",
    "empty_like",
    "from_arrays",
    "from_dataframe",
    "from_folder",
    "given_of",
    "givens_of",
    "is_batch",
    "joined",
    "load_digits",
    "load_docstrings",
    "load_images",
    "load_polyphonic",
    "load_series",
    "load_text",
    "load_vowels",
    "pair_of",
    "prepare_blizzard",
    "prepare_digits",
    "prepare_docstrings",
    "prepare_folder",
    "prepare_imdb",
    "prepare_mnist",
    "prepare_polyphonic",
    "prepare_timit",
    "preparing",
    "progress_bar",
    "read_midi",
    "read_record",
    "require_horizon",
    "save_series",
    "split_series",
    "write_midi",
]
