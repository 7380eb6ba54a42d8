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
TUTORIALS = [
    "a_new_model_in_one_page",
    "first_model",
    "from_a_dataframe_to_forecasts",
    "is_the_posterior_right",
    "polyphonic_music",
    "swapping_inference",
    "why_latents_collapse",
]
FEWER_WORDS = 20
"""Words of a sentence on average, fewer than on other pages: tutorials are read first."""
MOST_BYTES = 400_000
every_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


def cells(name, kind):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def text(name):
    return "\n\n".join(cell.source for cell in cells(name, "markdown"))


def test_every_tutorial_is_there():
    assert NOTEBOOKS == TUTORIALS


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
        assert place.exists(), f"{name} links to {link}"
        if fragment:
            headings = re.findall(r"^##* (.+)$", place.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert fragment in anchors, f"{name} links to {link}"


@every_notebook
def test_names_of_the_package_exist(name):
    source = "\n".join(cell.source for cell in cells(name, "code"))
    for found in sorted(set(re.findall(r"\bzf_pyro(?:\.\w+)+", text(name) + source))):
        assert resolved(found), f"{name} names {found}"


@every_notebook
def test_commands_name_files_that_exist(name):
    for path in re.findall(r"(?:python |`)((?:examples|benchmarks|tests|docs)/[\w/.-]*\w)", text(name)):
        assert (ROOT / path).exists(), f"{name} names {path}"


# Running them -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runner():
    """docs/notebooks.py as a module."""
    pytest.importorskip("nbclient", reason="the notebooks run by nbclient: pip install zf-pyro[docs]")
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "docs" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def notebook_of(*outputs):
    cell = nbformat.v4.new_code_cell("pass", outputs=list(outputs), metadata={"execution": {"started": "now"}})
    return nbformat.v4.new_notebook(cells=[cell], metadata={"language_info": {"name": "python", "version": "3.11"}})


def stream(text, name="stderr"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def test_progress_bars_and_volatile_metadata_are_left_out(runner):
    bar = "\rtraining:  50%|#####     | 5/10 [00:01<00:01,  5.0it/s]\rtraining: 100%|##########| 10/10\n"
    result = nbformat.v4.new_output("execute_result", {"text/plain": "<Axes at 0x7f00aa>"})
    notebook = notebook_of(stream(bar + "INFO \t Guessed max_plate_nesting = 2\n"), stream("kept\n", "stdout"), result)
    runner.tidy(notebook, ("/home/someone",))
    (cell,) = notebook.cells
    assert [output.get("text") or output.data["text/plain"] for output in cell.outputs] == ["kept\n", "<Axes>"]
    assert "execution" not in cell.metadata
    assert notebook.metadata == runner.METADATA


def test_a_warning_is_an_error(runner):
    with pytest.raises(runner.OutputError, match="cell 0 wrote to the standard error:\\nUserWarning: 3 of 9"):
        runner.tidy(notebook_of(stream("UserWarning: 3 of 9\n")), ())


def test_a_path_of_this_machine_is_an_error(runner):
    with pytest.raises(runner.OutputError, match="shows /home/someone, a path of this machine"):
        runner.tidy(notebook_of(stream("saved in /home/someone/runs\n", "stdout")), ("/home/someone",))


@pytest.mark.slow
def test_a_failing_cell_ends_in_its_error(runner, tmp_path, monkeypatch, capsys):
    cells = [nbformat.v4.new_code_cell("x = 1"), nbformat.v4.new_code_cell("raise KeyError('the missing one')")]
    written = nbformat.v4.new_notebook(cells=cells)
    nbformat.write(written, tmp_path / "broken.ipynb")
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["notebooks.py"])
    assert runner.main() == 1
    assert "KeyError: 'the missing one'" in capsys.readouterr().err
    assert nbformat.read(tmp_path / "broken.ipynb", as_version=4) == written


@pytest.mark.slow
@every_notebook
def test_a_notebook_runs_at_small_size_and_stays_as_it_is(name, runner):
    before = (FOLDER / f"{name}.ipynb").read_bytes()
    command = [sys.executable, str(ROOT / "docs" / "notebooks.py"), "--small", "--only", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (FOLDER / f"{name}.ipynb").read_bytes() == before
