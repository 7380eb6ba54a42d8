"""Speech corpora as prepared folders: TIMIT, Blizzard 2013, or any folder of audio.

Waveforms have the form of the paper's experiments (https://arxiv.org/abs/1711.05411): 16 kHz, standardised by the
scalar mean and deviation of the training set, in frames of 200 samples. The folder stores all 16-bit samples;
:class:`zf_pyro.data.Sequences` standardises and frames them. The paper's training windows of 40 frames are
``Windows(Sequences(out, "train"), 40)``.
"""

import contextlib
import dataclasses
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ...checks import require_count, require_flag, require_integer, require_number, require_path
from ..folders.download import NLTK_TIMIT, NLTK_TIMIT_HASH, fetch
from ..folders.files import for_record, require_names, sha256_of
from ..folders.preparing import existing, preparing, require_place, require_same
from ..folders.record import Record, versions_of
from . import listings
from .audio import check_audio, check_length, read_audio
from .listings import Corpus

RATE = 16_000
"""Sampling rate of the paper's experiments, in Hz."""
FRAME = 200
"""Samples per frame in the paper's experiments: 12.5 ms."""


def prepare_timit(
    out: Path,
    source: Path | None = None,
    sa: bool = True,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    frame: int = FRAME,
    overwrite: bool = False,
) -> Record:
    """Prepare TIMIT, one sequence per utterance.

    Args:
        out: Folder to write.
        source: Folder of the LDC's TIMIT (LDC93S1) in any casing, or of NLTK's sample. By default the sample is
            downloaded: 160 utterances of 16 speakers, 22 MB, under a non-commercial licence.
        sa: Take the two SA sentences, which all speakers read, in training and test alike.
        validation: Fraction of the training speakers to hold out for validation.
        test: Fraction of them to hold out for the test split, only if there are no official test speakers.
        seed: Seed of the sampling of speakers.
        frame: Samples of a frame.
        overwrite: Replace an earlier preparation.

    Raises:
        FileNotFoundError, ValueError: a source or file cannot be used; the message names it and the remedy.
        FileExistsError: ``out`` holds something else.
        OSError: the disk is full.
    """
    out = require_path("out", out)
    source = None if source is None else require_path("source", source)
    require_place(out, overwrite=overwrite)
    options: dict[str, Any] = {"sa": require_flag("sa", sa), **_sampling(validation, test, seed)}
    with _sample() if source is None else contextlib.nullcontext(source) as root:
        return prepare_speech(
            listings.timit(root, **options), out, options, frame=frame, resample=False, overwrite=overwrite
        )


def prepare_blizzard(
    out: Path,
    source: Path,
    part: Literal["segmented", "unsegmented"] = "segmented",
    validation: float = 0.05,
    test: float = 0.05,
    seed: int = 0,
    rate: int = RATE,
    frame: int = FRAME,
    overwrite: bool = False,
) -> Record:
    """Prepare Blizzard 2013, one sequence per utterance (segmented) or per chapter (unsegmented).

    Args:
        out: Folder to write.
        source: Folder of the corpus.
        part: Files to take: segmented, the wav files that prompts.gui lists; unsegmented, all mp3 files.
        validation: Fraction of the files to hold out for validation.
        test: Fraction of the files to hold out for the test split.
        seed: Seed of the sampling of files.
        rate: Sampling rate to resample to, in Hz.
        frame: Samples of a frame.
        overwrite: Replace an earlier preparation.

    Raises:
        FileNotFoundError, ValueError: a source or file cannot be used; the message names it and the remedy.
        FileExistsError: ``out`` holds something else.
        OSError: the disk is full.
    """
    out = require_path("out", out)
    source = require_path("source", source)
    require_place(out, overwrite=overwrite)
    options: dict[str, Any] = {"part": part, **_sampling(validation, test, seed)}
    return prepare_speech(
        listings.blizzard(source, **options), out, options, rate=rate, frame=frame, overwrite=overwrite
    )


def prepare_folder(
    out: Path,
    source: Path,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    rate: int = RATE,
    frame: int = FRAME,
    overwrite: bool = False,
) -> Record:
    """Prepare any folder of audio, one sequence per file; top folders train, validation and test are the splits.

    Args:
        out: Folder to write.
        source: Folder with audio anywhere below it.
        validation: Fraction of the files to hold out for validation.
        test: Fraction of the files to hold out for the test split.
        seed: Seed of the sampling of files.
        rate: Sampling rate to resample to, in Hz.
        frame: Samples of a frame.
        overwrite: Replace an earlier preparation.

    Raises:
        FileNotFoundError, ValueError: a source or file cannot be used; the message names it and the remedy.
        FileExistsError: ``out`` holds something else.
        OSError: the disk is full.
    """
    out = require_path("out", out)
    source = require_path("source", source)
    require_place(out, overwrite=overwrite)
    options = _sampling(validation, test, seed)
    return prepare_speech(listings.folder(source, **options), out, options, rate=rate, frame=frame, overwrite=overwrite)


def _sampling(validation: float, test: float, seed: int) -> dict[str, Any]:
    """The settings of what is held out, as plain numbers."""
    given = {"validation": validation, "test": test}
    parts = {name: require_number(name, part, "a number") for name, part in given.items()}
    return {**parts, "seed": require_count("seed", seed, least=0)}


def prepare_speech(
    corpus: Corpus,
    out: Path,
    options: dict[str, Any],
    *,
    rate: int = RATE,
    frame: int = FRAME,
    resample: bool = True,
    overwrite: bool = False,
) -> Record:
    """Store the audio files of a corpus, one sequence per file, unless ``out`` holds them already.

    All headers are checked before anything is written. Memory holds one block of one file at a time.

    Args:
        corpus: the files of each split.
        out: the folder to write.
        options: the arguments of the listing, for the record.
        rate: sampling rate to resample to, in Hz.
        frame: samples per frame; no file may be shorter.
        resample: accept files of higher rates; otherwise only of ``rate``.
        overwrite: replace an earlier preparation.

    Returns:
        The record of ``out``.

    Raises:
        FileNotFoundError, ValueError: a file cannot be used; the message names it and the remedy.
        FileExistsError: ``out`` holds something else.
        OSError: the disk is full.
    """
    rate = require_integer("rate", rate, "positive", 1)
    frame = require_integer("frame", frame, "positive", 1)
    files = sorted(name for names in corpus.splits.values() for name in names)
    require_names(corpus.root, files)
    settings = {**options, "rate": rate, "resampler": "soxr HQ" if resample else None}
    sources: list[list[Any]] = [[name, (corpus.root / name).stat().st_size] for name in files]
    request = Record(corpus.name, "int16", frame, settings, sources, notes=corpus.notes)
    if not overwrite:
        require_same(out, request, hashes=False)  # before all files are read
    sizes = dict(sources)
    hashes = {name: sha256_of(corpus.root / name) for name in _progress(files, "hashing", sizes)}
    request = dataclasses.replace(request, hashes=hashes, left_out=for_record(corpus.left_out))
    found = existing(out, request, overwrite=overwrite)
    if found is not None:
        return found
    for name in _progress(files, "checking", None):
        check_audio(corpus.root / name, rate, frame, resample=resample)
    with preparing(out, request, overwrite=overwrite) as preparation:
        moments = {}
        for split, names in corpus.splits.items():
            with preparation.split(split) as writer:
                for name in _progress(names, f"{split:>10}", sizes):
                    before = writer.count
                    writer.add(read_audio(corpus.root / name, rate), name)
                    check_length(corpus.root / name, writer.count - before, frame)
                moments[split] = writer.mean, writer.variance
        mean, variance = moments["train"]
        if not variance:
            raise ValueError(
                f"the training files of {corpus.root} hold one value throughout, silence: they are no speech"
            )
        preparation.note(mean=mean, scale=variance**0.5, versions=versions_of(["soundfile", "soxr"]))
    return preparation.record


@contextlib.contextmanager
def _sample() -> Iterator[Path]:
    """Unpack NLTK's TIMIT sample into a temporary folder."""
    archive = fetch(NLTK_TIMIT, NLTK_TIMIT_HASH)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
        yield Path(folder)


def _progress(names: list[str], title: str, sizes: dict[str, int] | None) -> Iterator[str]:
    """Yield the names with a progress bar, by bytes or, without sizes, by files."""
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("preparing shows its progress by tqdm: pip install zf-pyro[data]") from error
    if sizes is None:
        yield from tqdm(names, title, unit="file")
        return
    with tqdm(desc=title, total=sum(sizes[name] for name in names), unit="B", unit_scale=True) as progress:
        for name in names:
            yield name
            progress.update(sizes[name])
