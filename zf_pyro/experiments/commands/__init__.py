"""The command ``zf-pyro``: one subcommand a file, each a function whose parameters are its flags."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..command import experiment_parser, run_experiment, underscored
from .diagnosis import diagnose
from .forecast_table import forecast
from .from_table import prepare
from .info import info
from .scoring import evaluate
from .training_run import train

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, Callable[..., None]] = {
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "forecast": forecast,
    "diagnose": diagnose,
    "info": info,
}
"""Subcommands by name. Their parameters become flags, their docstrings the help."""
EXPERIMENTS = ("train",)
"""Those with the flags of all experiments."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the subcommand of the command line. Names of flags may have - in place of _.

    Raises:
        ImportError: jsonargparse is not installed.
        SystemExit: with a sentence, where a file or a value cannot be used.
    """
    try:
        import jsonargparse
    except ImportError as error:
        raise ImportError("the command line needs jsonargparse: pip install zf-pyro[examples]") from error
    parser = jsonargparse.ArgumentParser(
        prog="zf-pyro", description="Stochastic recurrent networks from the command line: COMMAND --help tells more."
    )
    commands = parser.add_subcommands(dest="command")
    for name, function in COMMANDS.items():
        lines = (function.__doc__ or "").strip().splitlines()
        if name in EXPERIMENTS:
            command = experiment_parser(function)
        else:
            command = jsonargparse.ArgumentParser(description=lines[0])
            command.add_function_arguments(function, as_positional=False)
        commands.add_subcommand(name, command, help=lines[0])
    flags: dict[str, Any] = parser.parse_args(
        underscored(list(sys.argv[1:] if arguments is None else arguments))
    ).as_dict()
    name = flags["command"]
    try:
        if name in EXPERIMENTS:
            run_experiment(COMMANDS[name], flags[name])
        else:
            COMMANDS[name](**flags[name])
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
