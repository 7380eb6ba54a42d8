"""The IMDB experiment's data: short sentences of reviews, from the aclImdb tree or a file of reviews."""

from pathlib import Path

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
    """Prepare reviews: the official test set where there is one, a tenth of the others for validation.

    Args:
        out: The folder to make.
        source: The aclImdb folder; or a file in UTF-8: .csv or .tsv with a header line, else a review a line.
        unsup: Train on the reviews without ratings (train/unsup), too.
        text_column: Of a .csv or .tsv file, the column that holds the text.
        max_words: Longest sentence to take, in words, the end token not counted; 16 as in the paper.
        vocabulary_size: Words at most, the unknown and the end token included; 16,000 as in the paper.
        overwrite: Replace an ``out`` that holds prepared data.

    Returns:
        The record of ``out``.

    Raises:
        ImportError: tokenizers is not installed.
        FileNotFoundError: ``source`` or a folder of the tree is missing.
        FileExistsError: ``out`` holds something else.
        ValueError: A review that is empty or not UTF-8, a table without the column, too few reviews, no short
            sentences, or a number below its least.
        OSError: The disk is full.
    """
    text_request("imdb", [], max_words, vocabulary_size)  # refuses bad numbers before all is read
    reviews = read_reviews(source, unsup=unsup, text_column=text_column)
    request = text_request("imdb", reviews.sources, max_words, vocabulary_size, sha256=reviews.sha256())
    return prepare_text(out, request, lambda: split_reviews(reviews), overwrite=overwrite)
