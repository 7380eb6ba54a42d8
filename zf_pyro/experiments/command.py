"""An experiment as a command line: its own flags, and those that all share."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..data import RECORD, Record, read_record
from .settings import Run

SWITCHES = {
    "resume": "Go on from the latest checkpoint in out.",
    "smoke": "Only see that all of it runs, in seconds, with tiny sizes; the results mean nothing.",
}


def command_line(experiment: Callable[..., None]) -> None:
    """Run ``experiment(run, ...)`` with the flags of the command line.

    Parameters of the experiment after ``run``, and the fields of :class:`~zf_pyro.experiments.Run`, become flags; their
    descriptions in the docstrings become the help. In a flag's name - is as good as _. The folder is ``runs/NAME`` by
    default.
    """
    try:
        import jsonargparse
    except ImportError as error:
        raise ImportError("the command line needs jsonargparse: pip install zf-pyro[examples]") from error
    parser = jsonargparse.ArgumentParser(description=(experiment.__doc__ or "").split("\n\n")[0])
    parser.add_function_arguments(experiment, skip={"run"})
    parser.add_class_arguments(Run, skip=set(SWITCHES))
    for switch, text in SWITCHES.items():
        parser.add_argument(f"--{switch}", action="store_true", help=text)
    parser.set_defaults({"out": Path("runs") / experiment.__name__})
    flags: dict[str, Any] = parser.parse_args(_underscored(sys.argv[1:])).as_dict()
    shared = {field.name: flags.pop(field.name) for field in dataclasses.fields(Run)}
    run = Run(**{**shared, "out": Path(str(shared["out"]))})
    run.out.mkdir(parents=True, exist_ok=True)
    if run.smoke:
        torch.set_num_threads(1)
    experiment(run, **flags)


def prepared_data(run: Run, data: Path | None, prepare: Callable[[Path, Path | None], Record]) -> Path:
    """The folder of prepared data: ``data`` itself if it is one, else ``out/data``, prepared from it.

    Args:
        run: the flags.
        data: prepared data, or a corpus as it is distributed; None for what ``prepare`` does without.
        prepare: makes a prepared folder from (folder, corpus), and does nothing if it is there.

    Raises:
        Whatever ``prepare`` raises: the file that cannot be used, and what to do.
    """
    if data is not None and (data / RECORD).is_file():
        read_record(data)
        return data
    prepare(run.out / "data", data)
    return run.out / "data"


def _underscored(arguments: list[str]) -> list[str]:
    """The arguments with _ for - in the names of flags."""
    split = (argument.partition("=") for argument in arguments)
    return [
        (f"--{name[2:].replace('-', '_')}" if name.startswith("--") else name) + sign + value
        for name, sign, value in split
    ]
