"""The command ``zf-pyro``: one subcommand a file, each a function whose parameters are its flags."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_type_hints

from ...checks import require_jsonargparse
from ..command import SWITCHES, experiment_parser, run_experiment, underscored
from ..settings import Run
from .diagnose_run import diagnose
from .evaluate_run import evaluate
from .forecast_run import forecast
from .info import info
from .prepare_table import prepare, prepare_corpus
from .search_settings import search
from .train_series import train

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, Callable[..., None]] = {
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "forecast": forecast,
    "diagnose": diagnose,
    "search": search,
    "info": info,
}
"""Subcommands by name. Their parameters become flags, their docstrings the help. One with the parameter
``run: Run`` is an experiment, with the flags of all experiments."""
CORPORA = ("timit", "blizzard", "folder", "mnist", "digits", "imdb", "docstrings", "polyphonic")
"""Corpora that ``prepare`` knows by name, in place of a table."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the subcommand of the command line. Names of flags may have - in place of _.

    Raises:
        SystemExit: with a sentence, where a file or a value cannot be used; of status 2, where a flag cannot be read,
            or jsonargparse is not installed. ``info`` does without it.
    """
    words = underscored(list(sys.argv[1:] if arguments is None else arguments))
    if words[:1] == ["prepare"] and words[1:2] and words[1] in CORPORA:
        prepare_corpus(words[1:])
        return
    name, given = ("info", {}) if words == ["info"] else parsed(words)
    function = COMMANDS[name]
    try:
        run_experiment(function, given) if is_experiment(function) else function(**given)
    except (OSError, ValueError, TypeError, ImportError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not type(error).__module__.startswith("zf_pyro"):
            raise
        sys.exit(f"error: {error}")


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The subcommand of the words of the command line, and its flags by name.

    Raises:
        SystemExit: help was asked for; or, of status 2, a flag cannot be read, or jsonargparse is not installed.
    """
    jsonargparse = require_jsonargparse("series")
    parser = jsonargparse.ArgumentParser(
        prog="zf-pyro", description="Forecasts of series by stochastic recurrent networks, step by step."
    )
    commands = parser.add_subcommands(dest="command")
    for name, function in COMMANDS.items():
        line = (function.__doc__ or "").strip().splitlines()[0]
        if is_experiment(function):
            command = experiment_parser(function)
        else:
            command = jsonargparse.ArgumentParser(description=line)
            command.add_function_arguments(function, as_positional=True)
        commands.add_subcommand(name, command, help=line)
    if words and words[0] in COMMANDS:
        words = [words[0], *completed(words[1:], COMMANDS[words[0]])]
    flags: dict[str, Any] = parser.parse_args(words).as_dict()
    return flags["command"], flags[flags["command"]]


def is_experiment(function: Callable[..., None]) -> bool:
    """True for a function of the flags shared by all experiments."""
    return get_type_hints(function).get("run") is Run


def completed(words: Sequence[str], function: Callable[..., None]) -> list[str]:
    """Arguments as jsonargparse takes them: lists in one word, and true after a switch.

    ``--values a b`` becomes ``--values=["a","b"]``, ``--quantiles 0.05,0.95`` becomes ``--quantiles=[0.05,0.95]``.
    """
    kinds = {f"--{name}": kind for name, kind in get_type_hints(function).items()}
    found: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        kind = kinds.get(word)
        if kind is bool and word[2:] not in SWITCHES:
            found.append(f"{word}={rest.pop(0) if rest and rest[0] in ('true', 'false') else 'true'}")
            continue
        of = _element(kind)
        if of is None:
            found.append(word)
            continue
        parts: list[str] = []
        while rest and not rest[0].startswith("--"):
            parts.append(rest.pop(0))
        if len(parts) == 1 and parts[0].startswith("["):
            found.append(f"{word}={parts[0]}")
        elif of is str:
            found.append(f"{word}={json.dumps(parts)}")
        else:
            found.append(f"{word}=[{','.join(part.strip(',') for part in parts)}]")
    return found


def _element(kind: Any) -> Any:
    """Type of the elements of a list, or of a list that may be None; None for other types."""
    options = () if getattr(kind, "__origin__", None) is dict else (kind, *get_args(kind))
    for option in options:
        if getattr(option, "__origin__", None) is list:
            return get_args(option)[0]
    return None
