"""The rules of the house fail where they are broken: in a copy of the package, one break at a time."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import zf_pyro

from . import test_imports as rules

ROOT = Path(zf_pyro.__file__).parent.parent
TESTS = ROOT / "tests" / "test_imports.py"


def append(path, text):
    path.write_text(path.read_text() + text)


BREAKS = {
    "a lower wing imports a higher one": (
        lambda package: append(package / "networks" / "modes.py", "\n\ndef f():\n    from ..models import ZForcing\n"),
        "test_a_wing_imports_only_those_below_it",
    ),
    "something below models names a model": (
        lambda package: append(package / "paths" / "stamp.py", "\nZForcing = None\n"),
        "test_no_wing_below_models_names_a_model",
    ),
    "the plain twin imports the engine": (
        lambda package: append(package / "recurrence" / "reference.py", "\nfrom .engine.buffers import Pool\n"),
        "test_files_of_the_recurrence_import_only_those_below",
    ),
    "a wing is entered past its door": (
        lambda package: append(package / "smc" / "filter.py", "\nfrom ..paths.stamp import Stamp\n"),
        "test_other_wings_are_entered_by_their_door",
    ),
    "another file names the compiled module": (
        lambda package: append(
            package / "recurrence" / "engine" / "loops.py", "\n\ndef f():\n    from . import _compiled\n"
        ),
        "test_only_the_machines_name_the_compiled_module",
    ),
    "a module lies at the top": (
        lambda package: (package / "helpers.py").write_text('"""Helpers."""\n'),
        "test_the_top_holds_the_wings_and_no_more",
    ),
    "a public class stands twice": (
        lambda package: append(package / "smc" / "resampling.py", "\n\nclass State:\n    pass\n"),
        "test_no_public_class_stands_twice",
    ),
    "two wings have a file of one name": (
        lambda package: (package / "smc" / "sites.py").write_text('"""Sites."""\n'),
        "test_no_file_name_stands_in_two_wings_of_which_one_imports_the_other",
    ),
    "a file is too long": (
        lambda package: append(package / "checks.py", "\n" * 300),
        "test_no_file_is_longer_than_one_sitting",
    ),
    "a net is of any type": (
        lambda package: append(package / "smc" / "steps.py", "\n\ndef f(net: 'Any') -> None: ...\n"),
        "test_no_path_or_net_is_of_any_type",
    ),
    "importing draws random numbers": (
        lambda package: append(package / "checks.py", "\ntorch.manual_seed(0)\n"),
        "test_importing_changes_nothing_and_brings_in_no_extras",
    ),
    "an undeclared package is imported": (
        lambda package: append(package / "data" / "vowels.py", "\n\ndef f():\n    import polars\n"),
        "test_what_is_imported_is_declared_and_the_other_way_round",
    ),
    "a public function of a tensor states no shape": (
        lambda package: append(package / "checks.py", "\n\ndef f(x: torch.Tensor) -> None:\n    '''Nothing.'''\n"),
        "test_every_public_function_of_tensors_states_a_shape",
    ),
    "a docstring opens with a question word": (
        lambda package: (package / "smc" / "rules.py").write_text('"""What rules there are."""\n'),
        "test_no_module_docstring_opens_with_a_question_word",
    ),
}


IMPORTING = (
    "test_importing_changes_nothing_and_brings_in_no_extras",
    "test_every_public_function_of_tensors_states_a_shape",
)
"""Rules whose tests import the package; the others read its files alone."""
READ = {name: case for name, case in BREAKS.items() if case[1] not in IMPORTING}
IMPORTED = {name: case for name, case in BREAKS.items() if case[1] in IMPORTING}


def copy_of_the_package(folder):
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "zf_pyro", folder / "zf_pyro", ignore=ignored)
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder / "zf_pyro"


def point_at(package, monkeypatch):
    """Let the rules read another folder."""
    for cached in (rules.parsed, rules.nodes_of, rules.imports, rules.inner_imports, rules.names_of):
        cached.cache_clear()
    monkeypatch.setattr(rules, "ROOT", package)
    monkeypatch.setattr(rules, "FILES", sorted(package.rglob("*.py")))


@pytest.mark.slow
@pytest.mark.parametrize(("breaking", "test"), READ.values(), ids=READ)
def test_a_broken_rule_fails_its_test(breaking, test, tmp_path, monkeypatch):
    package = copy_of_the_package(tmp_path)
    point_at(package, monkeypatch)
    getattr(rules, test)()
    breaking(package)
    point_at(package, monkeypatch)
    with pytest.raises(AssertionError):
        getattr(rules, test)()


@pytest.mark.slow
@pytest.mark.parametrize(("breaking", "test"), IMPORTED.values(), ids=IMPORTED)
def test_a_broken_rule_of_importing_fails_its_test(breaking, test, tmp_path):
    package = copy_of_the_package(tmp_path)
    shutil.copy(TESTS, tmp_path / TESTS.name)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        "pyproject.toml",
        TESTS.name,
        "-k",
        test,
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run():
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    before = run()
    assert before.returncode == 0, before.stdout + before.stderr
    breaking(package)
    after = run()
    assert after.returncode == 1, after.stdout + after.stderr
    assert test in after.stdout
