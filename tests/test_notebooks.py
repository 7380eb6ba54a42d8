"""Tutorials: whole notebooks with outputs, in short sentences, whose links, names and pictures are right."""

import importlib.util
import re
import subprocess
import sys

import pytest

from .test_docs import ROOT, WORDS, resolved, sentences

nbformat = pytest.importorskip("nbformat", reason="the notebooks need zf-pyro[docs]")

FOLDER = ROOT / "docs" / "tutorials"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
FEWER_WORDS = 20
"""Words of a sentence on average, fewer than on other pages: tutorials are read first."""
MOST_BYTES = 400_000
every_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


def cells(name, kind):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def text(name):
    return "\n\n".join(cell.source for cell in cells(name, "markdown"))


@every_notebook
def test_a_notebook_is_valid_and_small(name):
    nbformat.validate(nbformat.read(FOLDER / f"{name}.ipynb", as_version=4))
    assert (FOLDER / f"{name}.ipynb").stat().st_size < MOST_BYTES


@every_notebook
def test_a_notebook_has_its_outputs_and_no_errors_or_warnings(name):
    code = cells(name, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs
    assert all(output.output_type in ("stream", "display_data", "execute_result") for output in outputs)
    assert all(output.name == "stdout" for output in outputs if output.output_type == "stream")


@every_notebook
def test_a_notebook_says_why_it_has_two_sizes(name):
    assert 'FULL = os.environ.get("ZF_PYRO_NOTEBOOKS") != "small"  # ' in cells(name, "code")[0].source


@every_notebook
def test_every_picture_has_alt_text(name):
    shown = [cell for cell in cells(name, "code") if any("image/png" in o.get("data", {}) for o in cell.outputs)]
    assert shown
    for cell in shown:
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        assert len(alt.split()) >= 8, cell.source


@every_notebook
def test_sentences_are_short(name):
    assert FEWER_WORDS < WORDS
    counts = [len(sentence.split()) for sentence in sentences(text(name))]
    assert sum(counts) / len(counts) <= FEWER_WORDS
    assert max(counts) <= 40


@every_notebook
def test_a_notebook_links_on_and_its_links_resolve(name):
    links = re.findall(r"\]\(([^)\s]+)\)", text(name))
    inside = [link for link in links if not link.startswith(("http:", "https:"))]
    assert len(inside) >= 2
    for link in inside:
        path, _, fragment = link.partition("#")
        place = FOLDER / path
        assert place.exists() or path in COMING, f"{name} links to {link}"
        if fragment and place.exists():
            headings = re.findall(r"^##* (.+)$", place.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert fragment in anchors, f"{name} links to {link}"


COMING = ("../start.md",)
"""Pages of the site that are written apart from the notebooks."""


@every_notebook
def test_names_of_the_package_exist(name):
    source = "\n".join(cell.source for cell in cells(name, "code"))
    for found in sorted(set(re.findall(r"\bzf_pyro(?:\.\w+)+", text(name) + source))):
        assert resolved(found), f"{name} names {found}"


@every_notebook
def test_commands_name_files_that_exist(name):
    for path in re.findall(r"(?:python |`)((?:examples|benchmarks|tests|docs)/[\w/.-]*\w)", text(name)):
        assert (ROOT / path).exists(), f"{name} names {path}"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("nbclient") is None, reason="the notebooks run by nbclient: zf-pyro[docs]")
@every_notebook
def test_a_notebook_runs_at_small_size(name):
    command = [sys.executable, str(ROOT / "docs" / "notebooks.py"), "--small", "--only", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
