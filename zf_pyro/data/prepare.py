"""Command line that prepares a corpus: ``python -m zf_pyro.data.prepare CORPUS --source DIR --out DIR``."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..checks import require_jsonargparse
from .folders.files import summary
from .folders.record import Record
from .images.digits import prepare_digits
from .images.mnist import prepare_mnist
from .music.polyphonic import prepare_polyphonic
from .speech.prepare import prepare_blizzard, prepare_folder, prepare_timit
from .text.docstrings import prepare_docstrings
from .text.imdb import prepare_imdb

CORPORA: dict[str, Callable[..., Record]] = {
    "timit": prepare_timit,
    "blizzard": prepare_blizzard,
    "folder": prepare_folder,
    "mnist": prepare_mnist,
    "digits": prepare_digits,
    "imdb": prepare_imdb,
    "docstrings": prepare_docstrings,
    "polyphonic": prepare_polyphonic,
}
"""The function that prepares each corpus. Its parameters become flags, its docstring their help."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare the corpus that the command line names, and print a summary.

    Raises:
        SystemExit: with a sentence, where a file or a value cannot be used; of status 2, where a flag cannot be read,
            or jsonargparse is not installed.
    """
    jsonargparse = require_jsonargparse("data")
    parser = jsonargparse.ArgumentParser(prog="python -m zf_pyro.data.prepare", description="Prepare a corpus.")
    commands = parser.add_subcommands(dest="corpus")
    for name, prepare in CORPORA.items():
        command = jsonargparse.ArgumentParser(description=prepare.__doc__.splitlines()[0] if prepare.__doc__ else "")
        command.add_function_arguments(prepare, skip={"overwrite"})
        command.add_argument("--overwrite", action="store_true", help="Replace an earlier preparation.")
        commands.add_subcommand(name, command, help=command.description)
    flags: dict[str, Any] = parser.parse_args(arguments).as_dict()
    corpus = flags["corpus"]
    try:
        record = CORPORA[corpus](**flags[corpus])
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
    print(describe(record))
    print(f"in {flags[corpus]['out']}")


def describe(record: Record) -> str:
    """Summarise a prepared folder: a line per split, one of what was left out, the vocabulary or mean and deviation."""
    unit = "words and ends of sentences" if record.frame is None else f"frames of {record.frame}"
    lines = [
        f"{name:>10}: {split.num_sequences:,} sequences, {split.num_values // (record.frame or 1):,} {unit}"
        for name, split in record.splits.items()
    ]
    if record.left_out:
        lines.append(f"{'left out':>10}: {summary(record.left_out)}; named in record.json")
    if "vocabulary" in record.notes:
        rates = (f"{name} {record.notes[name]['out_of_vocabulary']:.2%}" for name in record.splits)
        return "\n".join([*lines, f"vocabulary: {record.notes['vocabulary']['size']:,}; unknown: {', '.join(rates)}"])
    if "notes_per_frame" in record.notes.get("train", {}):
        rates = (f"{name} {record.notes[name]['notes_per_frame']:.2f}" for name in record.splits)
        lines.append(f"{'notes':>10}: {', '.join(rates)} per frame")
        ignored = {kind: sum(found.values()) for kind, found in record.notes.get("ignored_notes", {}).items()}
        lines += [f"{kind:>10}: {count:,} notes; files in record.json" for kind, count in ignored.items() if count]
        return "\n".join(lines)
    return "\n".join([*lines, f"{'mean':>10}: {record.mean:.6g}, deviation {record.scale:.6g}"])


if __name__ == "__main__":
    main()
