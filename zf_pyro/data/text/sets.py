"""Documents as sequences of words, one sequence per sentence, with counts of what is left out or unknown."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...checks import require_choice, require_integer, require_path
from ..folders.preparing import existing, preparing
from ..folders.record import Record, read_record, versions_of
from ..sequences import Sequences
from .reviews import Review
from .sentences import sentences
from .vocabulary import END, MIN_COUNT, UNKNOWN, Vocabulary, require_vocabulary_size, split_words

PACKAGES = ("tokenizers",)
"""Packages used in addition to NumPy, for the record."""
_CHUNK = 10_000
"""Sentences encoded at a time."""


class TextSets(NamedTuple):
    """The three parts of a text; items are (time,) int64 word indices, the last of them the end token."""

    train: Sequences
    validation: Sequences
    test: Sequences
    vocabulary: Vocabulary
    """Words by index; ``len(vocabulary)`` symbols."""
    record: Record
    """Settings of the preparation; its ``notes`` count documents, sentences and unknown words of each part."""

    def labels(self, part: str) -> list[str] | None:
        """The label of each sentence's document, such as pos or neg, in the order of a part.

        Args:
            part: train, validation or test.

        Returns:
            None if the documents have no labels, or the folder was prepared before labels were kept.

        Raises:
            ValueError: no such part.
        """
        require_choice("part", part, ("train", "validation", "test"))
        runs = self.record.notes[part].get("labels")
        return None if runs is None else [label for label, count in runs for _ in range(count)]


def text_request(
    corpus: str, sources: list[list[Any]], max_words: int, vocabulary_size: int, **settings: Any
) -> Record:
    """Describe a preparation of text, as a record without splits.

    Args:
        corpus: name of the corpus.
        sources: (file, bytes) of each source.
        max_words: length of the longest sentence to take, in words, without the end token.
        vocabulary_size: size of the vocabulary at most, with the unknown and the end token.
        settings: everything else that determines the result.

    Raises:
        ValueError: ``max_words`` or ``vocabulary_size`` is too small.
    """
    max_words = require_integer("max_words", max_words, "at least 1", 1)
    require_vocabulary_size(vocabulary_size)
    settings |= {"max_words": max_words, "vocabulary_size": int(vocabulary_size), "min_count": MIN_COUNT}
    return Record(corpus, "int64", None, settings, sources, versions=versions_of(PACKAGES))


def prepare_text(
    out: Path, request: Record, read: Callable[[], Mapping[str, Sequence[Review]]], *, overwrite: bool
) -> Record:
    """Store documents as sequences of words, one per sentence, unless ``out`` holds them already.

    Sentences of more than ``max_words`` words or of punctuation only are left out. The vocabulary is built from the
    remaining training sentences.

    Args:
        out: the folder to write.
        request: the record from :func:`text_request`.
        read: returns the documents of ``train``, ``validation`` and ``test``; not called if ``out`` holds the result.
        overwrite: replace an ``out`` that holds prepared data.

    Returns:
        The record of ``out``.

    Raises:
        FileExistsError: ``out`` holds something else.
        ValueError: a part has no sentence that is short enough.
        OSError: the disk is full.
        ImportError: tokenizers is not installed.
    """
    found = existing(out, request, overwrite=overwrite)
    if found is not None:
        Vocabulary.read(out, found.notes["vocabulary"]["sha256"])
        return found
    max_words = request.settings["max_words"]
    taken, notes = {}, {}
    for name, documents in read().items():
        taken[name], counts = _take(documents, max_words, name)
        notes[name] = counts
        if not taken[name]:
            raise ValueError(
                f"no sentence of the {counts['sentences']} in {name} has at most {max_words} words: set max_words "
                "higher, or see that sentences end at line breaks or full stops"
            )
    vocabulary = Vocabulary.of(taken["train"], request.settings["vocabulary_size"])
    known = set(taken["train"])
    with preparing(out, request, overwrite=overwrite) as preparation:
        for name, chosen in taken.items():
            unknown = 0
            with preparation.split(name) as writer:
                for symbols in _encoded(vocabulary, chosen, name):
                    writer.add(np.array(symbols, np.int64))
                    unknown += symbols.count(vocabulary.unknown)
            words = writer.count - len(chosen)
            notes[name] |= {"words": words, "unknown_words": unknown, "out_of_vocabulary": unknown / words}
            notes[name]["also_in_train"] = None if name == "train" else sum(sentence in known for sentence in chosen)
        vocabulary.write(preparation.folder)
        tokens = {
            "size": len(vocabulary),
            "sha256": vocabulary.sha256,
            UNKNOWN: vocabulary.unknown,
            END: vocabulary.end,
        }
        preparation.note(notes={"vocabulary": tokens, **notes})
    return preparation.record


def load_text(folder: Path | str) -> TextSets:
    """Load the parts of a prepared folder of text, and its vocabulary.

    Raises:
        ImportError: tokenizers is not installed.
        FileNotFoundError: the folder was not prepared, or one of its files is missing.
        ValueError: it holds no text, its files are truncated or foreign, or its vocabulary is that of another run.
    """
    record = read_record(require_path("folder", folder))
    if "vocabulary" not in record.notes:
        raise ValueError(f"{folder} holds {record.corpus}, no text: give a folder prepared from imdb or docstrings")
    vocabulary = Vocabulary.read(folder, record.notes["vocabulary"]["sha256"])
    train, validation, test = (Sequences(folder, split) for split in ("train", "validation", "test"))
    return TextSets(train, validation, test, vocabulary, record)


def _take(documents: Sequence[Review], max_words: int, name: str) -> tuple[list[str], dict[str, Any]]:
    """Select the sentences that are short enough and contain a word; count the others, and note documents' labels."""
    from tqdm import tqdm

    taken: list[str] = []
    labels: list[list[Any]] = []  # runs of (label, sentences), since documents of a label follow one another
    counts: dict[str, Any] = {
        "documents": len(documents),
        "sentences": 0,
        "too_long": 0,
        "without_words": 0,
        "taken": 0,
    }
    for document in tqdm(documents, desc=f"sentences of {name}", unit="document", leave=False):
        found, before = sentences(document.text), len(taken)
        counts["sentences"] += len(found)
        for sentence, words in zip(found, split_words(found), strict=True):
            if len(words) > max_words:
                counts["too_long"] += 1
            elif not any(word[0].isalnum() for word in words):
                counts["without_words"] += 1
            else:
                taken.append(sentence)
        if not labels or labels[-1][0] != document.label:
            labels.append([document.label, 0])
        labels[-1][1] += len(taken) - before
    counts["taken"] = len(taken)
    if all(document.label is not None for document in documents):
        counts["labels"] = labels
    return taken, counts


def _encoded(vocabulary: Vocabulary, chosen: Sequence[str], name: str) -> Iterator[list[int]]:
    from tqdm import tqdm

    with tqdm(total=len(chosen), desc=f"writing {name}", unit="sentence", leave=False) as progress:
        for start in range(0, len(chosen), _CHUNK):
            part = vocabulary.encode(chosen[start : start + _CHUNK])
            yield from part
            progress.update(len(part))
