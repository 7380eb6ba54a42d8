"""Words as numbers, by HuggingFace's tokenizers: https://huggingface.co/docs/tokenizers.

A word is a run of letters, digits and underscores, apostrophes within it included; or a number, with its points and
commas. Any other visible character is a word of its own. Everything is in lower case and Unicode's form NFC, and every
apostrophe straight.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..folders.writer import sync

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "tokenizer.json"
"""The vocabulary's file name in a prepared folder."""
UNKNOWN, END = "<unk>", "<eos>"
MIN_COUNT = 2
"""Occurrences that make a word of the vocabulary; those seen once teach a model how likely unknown words are."""


class Vocabulary:
    """The words that have a number, the unknown token 0 and the end token 1.

    Attributes:
        tokenizer: the library's, with all that is to know.
        sha256: of its file; the identity of the vocabulary.
    """

    unknown, end = 0, 1

    def __init__(self, tokenizer: "Tokenizer") -> None:
        tokenizer.encode_special_tokens = True  # a text's own "<eos>" is three words; the file does not keep this
        self.tokenizer = tokenizer
        self.sha256 = hashlib.sha256(tokenizer.to_str(pretty=True).encode()).hexdigest()

    @classmethod
    def of(cls, sentences: Iterable[str], size: int) -> "Vocabulary":
        """The most frequent words of sentences, as many as ``size`` allows, of those that occur at least twice.

        Words of one frequency come in the order of their letters: the same sentences always give the same numbers.

        Args:
            sentences: of the training set.
            size: numbers at most, those of the unknown and the end token included; at least 3.

        Raises:
            ImportError: tokenizers is not installed.
            ValueError: a smaller size.
        """
        if size < 3:
            raise ValueError(f"vocabulary_size must be at least 3 (a word, the unknown and the end token), got {size}")
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
        """The vocabulary of a prepared folder.

        Args:
            folder: that holds ``tokenizer.json``.
            sha256: that the folder's record gives the vocabulary.

        Raises:
            ImportError: tokenizers is not installed.
            FileNotFoundError: no such file.
            ValueError: the file is damaged, or the vocabulary of another preparation.
        """
        path = Path(folder) / FILE
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
        """Write ``tokenizer.json``, and wait until it is on the disk."""
        with open(folder / FILE, "w", encoding="utf-8") as file:
            file.write(self.tokenizer.to_str(pretty=True))
            sync(file)

    def require(self, sha256: str, whose: str) -> None:
        """Refuse what was made with another vocabulary, under which the numbers mean other words.

        Args:
            sha256: of the vocabulary that ``whose`` was made with.
            whose: what that is, such as ``the net in runs/imdb``.

        Raises:
            ValueError: it is another one.
        """
        if sha256 != self.sha256:
            raise ValueError(
                f"{whose} was made with another vocabulary (sha256 {sha256}) than this data ({self.sha256}): take the "
                "data that it was made with, or train anew"
            )

    def __len__(self) -> int:
        """How many numbers there are, the unknown and the end token included."""
        return self.tokenizer.get_vocab_size()

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """The numbers of the words of each sentence, the end token after the last word."""
        return [[*encoding.ids, self.end] for encoding in self.tokenizer.encode_batch(list(sentences))]

    def decode(self, symbols: Tensor | Sequence[int]) -> str:
        """The words of one sequence up to its end token, with a space between two.

        Args:
            symbols: (time,) integers.

        Raises:
            ValueError: a number that stands for no word.
        """
        words: list[str] = []
        for symbol in [int(symbol) for symbol in symbols]:
            if symbol == self.end:
                break
            word = self.tokenizer.id_to_token(symbol) if symbol >= 0 else None
            if word is None:
                raise ValueError(f"symbols must lie between 0 and {len(self) - 1}, got {symbol}")
            words.append(word)
        return " ".join(words)


def split_words(sentences: Iterable[str]) -> list[list[str]]:
    """The words of each sentence, as any vocabulary sees them.

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
