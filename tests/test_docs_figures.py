"""Figures and tables of the documentation: each has a command, and none is older than what makes it."""

import importlib.util
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest

from zf_pyro.experiments.plan import read_plan

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def figures():
    """The module ``docs/figures.py``, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_figure_is_stale(figures):
    assert figures.stale() == [], "make them again: python docs/figures.py NAME"


def test_every_picture_and_every_notebook_has_a_command(figures):
    found = [*(ROOT / "docs").glob("*.png"), *(ROOT / "docs" / "tutorials").glob("*.ipynb")]
    assert {str(path.relative_to(ROOT)) for path in found} <= figures.FIGURES.keys()


def test_every_command_names_a_program_and_data_that_exist(figures):
    for made in figures.FIGURES.values():
        assert all(list(ROOT.glob(pattern)) for pattern in made.sources), made
        first = made.command.split()[0]
        assert first == "-m" or (ROOT / first).exists(), made


def test_every_result_that_a_table_reads_makes_it_stale(figures):
    """Files of all rows of the tables that a command writes; the plan itself too."""
    checked = 0
    for name, made in figures.FIGURES.items():
        words = shlex.split(made.command)
        if "zf_pyro.experiments.table" not in words:
            continue
        plan = ROOT / words[words.index("zf_pyro.experiments.table") + 1]
        pattern = words[words.index("--tables") + 1] if "--tables" in words else "*"
        known = {path for source in made.sources for path in ROOT.glob(source)}
        sweep = read_plan(plan)
        rows = [row.name for table in sweep.tables if fnmatch(table.name, pattern) for row in table.rows]
        read = {plan, *(path for row in rows for path in (ROOT / sweep.results).glob(f"{row}.*"))}
        assert read <= known, f"{name} does not name {sorted(path.name for path in read - known)[:3]}"
        checked += 1
    assert checked > 5


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('"""Says this."""\nx = 1  # one\n', '"""Says that."""\n\nx = 1\n', True),
        ("def f():\n    '''One.'''\n    return 1\n", "def f():\n    return 1  # yes\n", True),
        ("x = 1\n", "x = 2\n", False),
    ],
    ids=["comments", "docstrings", "code"],
)
def test_what_is_said_of_a_program_does_not_make_its_figure_stale(figures, one, other, same, tmp_path):
    first, second = tmp_path / "one.py", tmp_path / "other.py"
    first.write_text(one)
    second.write_text(other)
    assert (figures.meaning(first) == figures.meaning(second)) is same
