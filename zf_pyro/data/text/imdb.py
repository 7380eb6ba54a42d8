"""Data of the IMDB experiment: short sentences of reviews, from the aclImdb tree or a file of reviews."""

import dataclasses
from pathlib import Path

from ...checks import require_flag, require_name, require_path
from ..folders.files import for_record
from ..folders.preparing import require_place
from ..folders.record import Record
from .reviews import read_reviews, split_reviews
from .sets import prepare_text, text_request


def prepare_imdb(
    out: Path,
    source: Path,
    *,
    unsup: bool = False,
    text_column: str = "review",
    max_words: int = 16,
    vocabulary_size: int = 16_000,
    overwrite: bool = False,
) -> Record:
    """Prepare reviews: the official test set if there is one, and a tenth of the other reviews for validation.

    Args:
        out: The folder to write.
        source: The aclImdb folder, or a file in UTF-8: .csv or .tsv with a header line, else a review per line, or .gz.
        unsup: Train also on the reviews without ratings (train/unsup).
        text_column: Column of a .csv or .tsv file that holds the text.
        max_words: Length of the longest sentence to take, in words, without the end token; 16 as in the paper.
        vocabulary_size: Size of the vocabulary at most, with the unknown and the end token; 16,000 as in the paper.
        overwrite: Replace an ``out`` that holds prepared data.

    Returns:
        The record of ``out``.

    Raises:
        ImportError: tokenizers is not installed.
        FileNotFoundError: ``source`` or a folder of the tree is missing.
        FileExistsError: ``out`` holds something else.
        ValueError: A review that is empty or not UTF-8, a table without the column, too few reviews, no short
            sentences, or ``max_words`` or ``vocabulary_size`` too small.
        OSError: The disk is full.
    """
    out = require_path("out", out)
    source = require_path("source", source)
    unsup, text_column = require_flag("unsup", unsup), require_name("text_column", text_column)
    text_request("imdb", [], max_words, vocabulary_size)  # refuses bad arguments before the reviews are read
    require_place(out, overwrite=overwrite)
    reviews = read_reviews(source, unsup=unsup, text_column=text_column)
    request = text_request("imdb", reviews.sources, max_words, vocabulary_size, sha256=reviews.sha256())
    request = dataclasses.replace(request, left_out=for_record(reviews.left_out))
    return prepare_text(out, request, lambda: split_reviews(reviews), overwrite=overwrite)
