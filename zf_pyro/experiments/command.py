"""Command line of an experiment: its own flags, and those shared by all."""

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import torch

from ..checks import require_jsonargparse
from ..data import RECORD, Record, read_record
from ..saving import hold, plain, read_run, require_new, require_same
from .presets import CHANGEABLE, Preset
from .settings import Run

SWITCHES = {
    "anneal": "Anneal the KL weight under iwae and fivo too, as under kl_annealing.",
    "resume": "Continue from the latest checkpoint in out.",
    "smoke": "Test run in seconds, with tiny sizes and meaningless results.",
}


def command_line(experiment: Callable[..., None]) -> None:
    """Run ``experiment(run, ...)`` with the flags of the command line.

    Parameters of the experiment after ``run``, and the fields of :class:`~zf_pyro.experiments.Run` and
    :class:`~zf_pyro.experiments.Preset`, become flags. Their descriptions in the docstrings become the help. Names of
    flags may have - in place of _. The default folder is ``runs/NAME``.

    Raises:
        FileExistsError: ``out`` holds a run, and ``--resume`` is off.
        FolderInUseError: another run is writing to ``out``.
        SystemExit: jsonargparse is not installed, or a flag cannot be read; of status 2.
        ValueError: a resumed run with other flags.
    """
    run_experiment(experiment, experiment_parser(experiment).parse_args(underscored(sys.argv[1:])).as_dict())


def experiment_parser(experiment: Callable[..., None]) -> Any:
    """Parser of the flags of an experiment: its own, those of a run, and those of its preset.

    Raises:
        SystemExit: jsonargparse is not installed; of status 2.
    """
    jsonargparse = require_jsonargparse("examples")
    parser = jsonargparse.ArgumentParser(description=(experiment.__doc__ or "").split("\n\n")[0])
    parser.add_function_arguments(experiment, skip={"run"}, as_positional=True)
    parser.add_class_arguments(Run, skip={*SWITCHES, "changes"})
    for switch, text in SWITCHES.items():
        parser.add_argument(f"--{switch}", action="store_true", help=text)
    for name, (kind, text) in preset_flags().items():
        parser.add_argument(f"--{name}", type=kind, default=None, help=f"{text} (default: as in the preset)")
    parser.set_defaults({"out": Path("runs") / experiment.__name__})
    return parser


def run_experiment(experiment: Callable[..., None], flags: dict[str, Any]) -> None:
    """Run an experiment with the flags of its parser, in its folder alone.

    Raises:
        FileExistsError: ``out`` holds a run, and ``--resume`` is off.
        FolderInUseError: another run is writing to ``out``.
        ValueError: a resumed run with other flags.
    """
    found = {name: flags.pop(name) for name in CHANGEABLE}
    changes = {name: plain(value) for name, value in found.items() if value is not None}
    shared = {field.name: flags.pop(field.name) for field in dataclasses.fields(Run) if field.name in flags}
    run = Run(**{**shared, "out": Path(str(shared["out"])), "changes": changes})
    run.own = plain(flags)
    if run.smoke:
        torch.set_num_threads(1)
    if run.share[0]:  # the first process has done the rest
        experiment(run, **flags)
        return
    with hold(run.out):
        require_allowed(run)
        experiment(run, **flags)


def preset_flags() -> dict[str, tuple[Any, str]]:
    """Type and description of each field of a preset that is a flag; None for a value leaves it as it is."""
    kinds = get_type_hints(Preset)
    about = inspect.getdoc(Preset) or ""  # of one indentation: Python 3.13 takes it away when it compiles
    lines = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", about, re.MULTILINE)
    texts = {name: " ".join(text.split()) for name, text in lines}
    return {name: (kinds[name] | None, texts[name]) for name in CHANGEABLE}


def require_allowed(run: Run) -> None:
    """Refuse a new run in a used folder, and a resumed one with other flags, before anything is written.

    Raises:
        FileExistsError: ``out`` holds a run, and ``resume`` is off.
        ValueError: a resumed run with other flags.
    """
    if not run.resume:
        require_new(run.out)
    elif read_run(run.out) is not None:
        require_same(run.out, {"about": run.about})


def prepared_data(run: Run, data: Path | None, prepare: Callable[[Path, Path | None], Record]) -> Path:
    """Folder of prepared data: ``data`` itself if it is prepared, else ``out/data``, prepared from it.

    Args:
        run: the flags.
        data: prepared data, or a corpus as it is distributed; None for the default corpus of ``prepare``.
        prepare: makes a prepared folder from (folder, corpus), and does nothing if it exists.

    Raises:
        Exception: any error of ``prepare``; it names the file that cannot be used, and a remedy.
    """
    if data is not None and (data / RECORD).is_file():
        read_record(data)
        return data
    prepare(run.out / "data", data)
    return run.out / "data"


def underscored(arguments: list[str]) -> list[str]:
    """Replace - by _ in the names of flags."""
    split = (argument.partition("=") for argument in arguments)
    return [
        (f"--{name[2:].replace('-', '_')}" if name.startswith("--") else name) + sign + value
        for name, sign, value in split
    ]
