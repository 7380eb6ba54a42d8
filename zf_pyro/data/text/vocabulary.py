"""Vocabularies, which map words to indices, by HuggingFace's tokenizers: https://huggingface.co/docs/tokenizers.

A word is a run of letters, digits and underscores, with apostrophes inside it; or a number with its points and commas.
Any other visible character is a word by itself. Text is normalised to lower case, Unicode's form NFC and straight
apostrophes.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...checks import require_array, require_integer, require_path
from ..folders.preparing import VOCABULARY
from ..folders.writer import sync

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNKNOWN, END = "<unk>", "<eos>"
MIN_COUNT = 2
"""Fewest occurrences of a word in the vocabulary. Words seen once teach a model how likely unknown words are."""


class Vocabulary:
    """Words by index, with the unknown token at 0 and the end token at 1.

    Attributes:
        tokenizer: the tokenizer of the library.
        sha256: hash of its file, which identifies the vocabulary.
    """

    unknown, end = 0, 1

    def __init__(self, tokenizer: "Tokenizer") -> None:
        if not hasattr(tokenizer, "to_str") or not hasattr(tokenizer, "encode"):
            got = type(tokenizer).__name__
            raise TypeError(f"tokenizer must be a tokenizers.Tokenizer, got {got}: take Vocabulary.of or .read")
        tokenizer.encode_special_tokens = True  # "<eos>" within a text is three words; the file does not store this
        self.tokenizer = tokenizer
        self.sha256 = hashlib.sha256(tokenizer.to_str(pretty=True).encode()).hexdigest()

    @classmethod
    def of(cls, sentences: Iterable[str], size: int) -> "Vocabulary":
        """Build a vocabulary of the most frequent words of sentences, of those that occur at least twice.

        Words of equal frequency are sorted alphabetically, so that the same sentences always give the same indices.

        Args:
            sentences: sentences of the training set.
            size: size of the vocabulary at most, with the unknown and the end token; at least 3.

        Raises:
            ImportError: tokenizers is not installed.
            ValueError: ``size`` is below 3.
        """
        require_vocabulary_size(size)
        tokenizers = _library()
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token=UNKNOWN))
        tokenizer.normalizer, tokenizer.pre_tokenizer = _normalizer(), _pre_tokenizer()
        trainer = tokenizers.trainers.WordLevelTrainer(
            vocab_size=size, min_frequency=MIN_COUNT, special_tokens=[UNKNOWN, END], show_progress=False
        )
        tokenizer.train_from_iterator(sentences, trainer)
        return cls(tokenizer)

    @classmethod
    def read(cls, folder: Path | str, sha256: str) -> "Vocabulary":
        """Read the vocabulary of a prepared folder.

        Args:
            folder: the folder with ``tokenizer.json``.
            sha256: hash of the vocabulary in the folder's record.

        Raises:
            ImportError: tokenizers is not installed.
            FileNotFoundError: no such file.
            ValueError: the file is damaged, or belongs to another preparation.
        """
        path = require_path("folder", folder) / VOCABULARY
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path} is missing: prepare the folder again with --overwrite") from error
        found = hashlib.sha256(text.encode()).hexdigest()
        if found != sha256:
            raise ValueError(
                f"{path} is not the vocabulary that the data beside it was encoded with (sha256 {found}, the record "
                f"says {sha256}): put the right file there, or prepare the folder again with --overwrite"
            )
        return cls(_library().Tokenizer.from_str(text))

    def write(self, folder: Path) -> None:
        """Write ``tokenizer.json``, and wait until it is on disk."""
        with open(folder / VOCABULARY, "w", encoding="utf-8") as file:
            file.write(self.tokenizer.to_str(pretty=True))
            sync(file)

    def require(self, sha256: str, whose: str) -> None:
        """Refuse a model made with another vocabulary, in which the indices mean other words.

        Args:
            sha256: hash of the vocabulary that ``whose`` was made with.
            whose: name of the model in the error, for example ``the model in runs/imdb``.

        Raises:
            ValueError: the vocabularies differ.
        """
        if sha256 != self.sha256:
            raise ValueError(
                f"{whose} was made with another vocabulary (sha256 {sha256}) than this data ({self.sha256}): take the "
                "data that it was made with, or train anew"
            )

    def __len__(self) -> int:
        """Size of the vocabulary, with the unknown and the end token."""
        return self.tokenizer.get_vocab_size()

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """Convert each sentence to the indices of its words, followed by the end token.

        Raises:
            TypeError: one text, or sentences that are no texts.
        """
        if isinstance(sentences, str) or not isinstance(sentences, Iterable):
            got = type(sentences).__name__
            raise TypeError(f"sentences must be a list of texts, got {got}: give [sentence] for one")
        sentences = list(sentences)
        for i, sentence in enumerate(sentences):
            if not isinstance(sentence, str):
                raise TypeError(f"sentences must be a list of texts, got {type(sentence).__name__} at {i}")
        return [[*encoding.ids, self.end] for encoding in self.tokenizer.encode_batch(sentences)]

    def decode(self, symbols: Tensor | Sequence[int]) -> str:
        """Convert one sequence of indices to words separated by spaces, up to the end token.

        Args:
            symbols: (time,) integers.

        Raises:
            TypeError: they are no integers.
            ValueError: an index outside the vocabulary.
        """
        values = require_array("symbols", symbols)
        if values.ndim != 1 or (values.dtype.kind not in "iu" and len(values)):
            raise TypeError(f"symbols must be integers of shape (time,), got {values.dtype} of shape {values.shape}")
        words: list[str] = []
        for symbol in values.tolist():
            if symbol == self.end:
                break
            word = self.tokenizer.id_to_token(symbol) if symbol >= 0 else None
            if word is None:
                raise ValueError(f"symbols must lie between 0 and {len(self) - 1}, got {symbol}")
            words.append(word)
        return " ".join(words)


def require_vocabulary_size(size: int) -> None:
    """Refuse a size without room for a word beside the two special tokens.

    Raises:
        ValueError: ``size`` is below 3.
    """
    require_integer("vocabulary_size", size, "at least 3 (a word, the unknown and the end token)", 3)


def split_words(sentences: Iterable[str]) -> list[list[str]]:
    """Split each sentence into words, after the normalisation that every vocabulary applies.

    Raises:
        ImportError: tokenizers is not installed.
    """
    normalizer, pre_tokenizer = _normalizer(), _pre_tokenizer()
    return [
        [word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(sentence))]
        for sentence in sentences
    ]


def _normalizer() -> Any:
    normalizers = _library().normalizers
    return normalizers.Sequence([normalizers.NFC(), normalizers.Replace("\u2019", "'"), normalizers.Lowercase()])


def _pre_tokenizer() -> Any:
    tokenizers = _library()
    word = tokenizers.Regex(r"\d+(?:[.,]\d+)+|\w+(?:'\w+)*|[^\w\s]")
    return tokenizers.pre_tokenizers.Split(word, "removed", invert=True)


def _library() -> ModuleType:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError("words are told apart by tokenizers: pip install zf-pyro[data]") from error
    return tokenizers
