"""The command zf-pyro: its subcommands run, describe themselves, and end with a sentence where they cannot."""

import importlib
import subprocess
import sys

import pytest

from zf_pyro.experiments import commands
from zf_pyro.experiments.commands.info import facts

pytest.importorskip("jsonargparse", reason="the command line needs jsonargparse")


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "zf_pyro", "info"], capture_output=True, text=True, check=True)
    assert "zf-pyro  " in done.stdout
    assert "none that PyTorch can use" in done.stdout or "GPU  " in done.stdout


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_subcommand_describes_itself_and_its_flags(name, capsys):
    with pytest.raises(SystemExit) as ended:
        commands.main([name, "--help"])
    assert ended.value.code == 0
    assert (commands.COMMANDS[name].__doc__ or "").splitlines()[0] in " ".join(capsys.readouterr().out.split())


def test_an_unknown_subcommand_is_refused(capsys):
    with pytest.raises(SystemExit):
        commands.main(["train_all"])
    assert "train_all" in capsys.readouterr().err


def test_an_error_of_a_file_or_a_value_ends_with_a_sentence(monkeypatch):
    def info() -> None:
        """Fail."""
        raise ValueError("horizon must be a positive integer, got 0")

    monkeypatch.setitem(commands.COMMANDS, "info", info)
    with pytest.raises(SystemExit, match="error: horizon must be a positive integer, got 0"):
        commands.main(["info"])


def test_info_names_what_is_missing(monkeypatch):
    module = importlib.import_module("zf_pyro.experiments.commands.info")  # the name alone is the function
    monkeypatch.setattr(module, "PACKAGES", ("torch", "no-such-package"))
    found = facts()
    assert found["no-such-package"] == "not installed"
    assert found["torch"][0].isdigit()
    assert "cores" in found["processor"]
