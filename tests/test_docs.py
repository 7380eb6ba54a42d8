"""README and docs: Python blocks run, links and names resolve, sentences are short."""

import ast
import functools
import importlib
import json
import re
import textwrap
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pyro
import pytest

from zf_pyro import ZForcing, emissions
from zf_pyro.data import Record, preparing

from .conftest import of_the_sources

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
HOME = "https://github.com/zf-pyro/zf-pyro/blob/main/"
"""The README names pages by whole addresses, so that it reads the same on a package index."""
every_page = pytest.mark.parametrize("page", PAGES)


@functools.cache
def text_of(page: str) -> str:
    return (ROOT / page).read_text()


@functools.cache
def blocks_of(page: str) -> list[str]:
    """Fenced Python blocks of a page, in order; those inside a list item are dedented."""
    found = re.findall(r"^ *```python\n(.*?)^ *```$", text_of(page), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


# Python blocks ------------------------------------------------------------------------------------------------------

EXAMPLE = re.compile(r"<!-- example -->\n```python\n(.*?)```\n<!-- end of example -->", re.DOTALL)
"""The README's first example, ten lines that print ten lines."""
FROM_README = ("docs/diagnostics.md", "docs/inference.md", "docs/online.md")
"""Pages that say that they start from the names of the README's first example."""
SMALLER = {
    "docs/start.md": {"range(200)": "range(3)", ".test[:2]": ".test.take(torch.arange(20))[:2]"},
    "docs/diagnostics.md": {"num_samples=200": "num_samples=30"},
    "docs/training.md": {"max_steps=1000": "max_steps=2"},
    "docs/how-to/cluster.md": {"max_steps=1000": "max_steps=2"},
}
"""Settings that the test makes smaller, by page."""


class Session:
    """A page's blocks, run in order in one namespace and one folder."""

    def __init__(self, page: str, folder: Path) -> None:
        self.page, self.folder, self.done = page, folder, 0
        self.names: dict[str, object] = {}
        for out in ("prepared/timit", "runs/timit/data"):
            prepare_speech(folder / out)
        sizes = {"embed_dim": 4, "hidden_dim": 8, "latent_dim": 2, "mlp_dim": 4}
        ZForcing(emissions.Gaussian(200), **sizes).save(folder / "runs/timit/net")
        if page in FROM_README:
            exec(EXAMPLE.search(text_of("README.md"))[1], self.names)

    def run_to(self, number: int) -> None:
        """Run the blocks up to ``number`` that have not run yet; with several workers, earlier ones may have not."""
        for index in range(self.done, number + 1):
            code = blocks_of(self.page)[index]
            for shown, smaller in SMALLER.get(self.page, {}).items():
                code = code.replace(shown, smaller)
            exec(compile(code, f"{self.page}:{index}", "exec"), self.names)
            self.done = index + 1


def prepare_speech(out: Path) -> None:
    """A folder as ``python -m zf_pyro.data.prepare timit`` leaves it, of a few frames of noise."""
    random = np.random.default_rng(0)
    with preparing(out, Record("timit", "int16", frame=200, settings={}, sources=[])) as preparation:
        for split, lengths in {"train": (90, 75), "validation": (20, 12), "test": (45, 41, 30)}.items():
            with preparation.split(split) as writer:
                for length in lengths:
                    writer.add((300 * random.normal(size=200 * length)).astype(np.int16))
            if split == "train":
                preparation.note(mean=writer.mean, scale=writer.variance**0.5)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A page's session, made at its first block."""
    return functools.cache(lambda page: Session(page, tmp_path_factory.mktemp("page")))


@pytest.fixture
def few_docstrings(monkeypatch):
    """Docstrings of a few modules alone, so that preparing them takes no time."""
    monkeypatch.setattr("zf_pyro.data.text.docstrings.library_sources", lambda root: sorted(root.glob("c*.py")))


@pytest.mark.filterwarnings("ignore:.* have a k-hat above")  # of networks barely trained
@pytest.mark.parametrize(
    ("page", "number"),
    [pytest.param(page, n, id=f"{page}:{n}") for page in PAGES for n in range(len(blocks_of(page)))],
)
def test_a_python_block_runs(page, number, session, few_docstrings, monkeypatch):
    monkeypatch.chdir(session(page).folder)
    session(page).run_to(number)


def test_settings_made_smaller_are_on_their_pages():
    for page, settings in SMALLER.items():
        assert all(any(shown in block for block in blocks_of(page)) for shown in settings)


def test_the_ten_lines_of_the_readme_print_ten_lines(capsys):
    pyro.set_rng_seed(0)
    names: dict[str, object] = {}
    code = EXAMPLE.search(text_of("README.md"))[1]
    assert len([line for line in code.splitlines() if line]) == 10
    exec(code, names)
    assert names["frames"].shape == (4, 20, 12)
    assert len(capsys.readouterr().out.splitlines()) == 10


@pytest.mark.parametrize(("section", "lines"), [("Digits", 20), ("Text", 2), ("Music", 4), ("Your own sequences", 4)])
def test_blocks_about_data_print_what_they_read(section, lines, few_docstrings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```python\n(.*?)```", text_of("docs/data.md").split(f"## {section}\n")[1], re.DOTALL)[1]
    names: dict[str, object] = {}
    exec(block, names)
    assert len(capsys.readouterr().out.splitlines()) == lines
    assert section != "Your own sequences" or len(names["train"]) == 25


# Links and names ----------------------------------------------------------------------------------------------------


def headings(page: str) -> list[str]:
    return re.findall(r"^##* (.+)$", re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL), re.MULTILINE)


def anchor(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@of_the_sources
@every_page
def test_links_inside_the_repository_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)):
        target = target.removeprefix(HOME)
        if target.startswith(("http:", "https:")):
            continue
        path, _, fragment = target.partition("#")
        place = (ROOT / page).parent / path if path else ROOT / page
        assert place.exists(), f"{page} links to {target}"
        if fragment:
            found = [anchor(heading) for heading in headings(str(place.resolve().relative_to(ROOT)))]
            assert fragment in found, f"{page} links to {target}"


@every_page
def test_names_of_the_package_exist(page):
    for name in sorted(set(re.findall(r"\bzf_pyro(?:\.\w+)+", text_of(page)))):
        assert resolved(name), f"{page} names {name}"


def resolved(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        return functools.reduce(lambda owner, part: getattr(owner, part, None), parts[size:], found) is not None
    return False


@functools.cache
def documented() -> tuple[object, ...]:
    """What has an entry in the reference."""
    found = []
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        for kind, name in re.findall(r"^\.\. (currentmodule|auto\w+|py:data):: (\S+)$", page.read_text(), re.MULTILINE):
            if kind == "currentmodule":
                module = importlib.import_module(name)
            else:
                found.append(getattr(module, name))
    return tuple(found)


def names_used(code: str) -> dict[str, object]:
    """Names of the package that code imports, or takes from its modules. Modules themselves are left out."""
    modules: dict[str, ModuleType] = {}
    used: dict[str, object] = {}
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "zf_pyro":
                    name = alias.name if alias.asname else "zf_pyro"
                    modules[alias.asname or name] = importlib.import_module(name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "zf_pyro":
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                found = getattr(module, alias.name)
                if isinstance(found, ModuleType):
                    modules[alias.asname or alias.name] = found
                else:
                    used[f"{node.module}.{alias.name}"] = found
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            found = getattr(modules[node.value.id], node.attr, None)
            if not isinstance(found, ModuleType):
                used[f"{modules[node.value.id].__name__}.{node.attr}"] = found
    return used


def test_names_used_by_code_are_those_imported_and_those_of_modules():
    imports = "import zf_pyro\nfrom zf_pyro import VRNN, emissions as e\n"
    code = imports + "net = VRNN(e.Gaussian(2))\nzf_pyro.pretrained('vowels')\n"
    assert list(names_used(code)) == ["zf_pyro.VRNN", "zf_pyro.pretrained", "zf_pyro.emissions.Gaussian"]


def code_of(page: str) -> str:
    """All Python of a page or of a notebook."""
    if not page.endswith(".ipynb"):
        return "\n".join(blocks_of(page))
    cells = json.loads(text_of(page))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


NOTEBOOKS = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))]


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS])
def test_names_used_by_a_page_are_in_the_reference(page):
    """By identity, since a name may be imported from several modules."""
    entries = {id(found) for found in documented()}
    missing = [name for name, found in names_used(code_of(page)).items() if id(found) not in entries]
    assert not missing, f"{page} uses {missing}, which docs/reference lacks"


def test_the_command_line_has_an_entry_for_each_corpus():
    shown = re.findall(r"zf_pyro\.data\.prepare (\w+)\n", text_of("docs/reference/command-line.md"))
    assert shown == list(importlib.import_module("zf_pyro.data.prepare").CORPORA)


@of_the_sources
@every_page
def test_files_of_the_repository_exist(page):
    named = re.findall(r"(?<![\w/.])((?:zf_pyro|tests|examples|benchmarks|docs)/[\w/.*-]*\w)", text_of(page))
    missing = [path for path in named if not list(ROOT.glob(path))]
    assert not missing, f"{page} names {missing}"


def test_the_readme_has_at_most_120_lines():
    assert len(text_of("README.md").splitlines()) <= 120


def test_the_home_of_the_readme_is_that_of_the_package():
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert f"{urls['Source']}/blob/main/" == HOME


# Short sentences ----------------------------------------------------------------------------------------------------

WORDS, MOST_WORDS = 22, 40
"""Words of a sentence: the average of a page, and the most in one."""


def sentences(text: str) -> list[str]:
    """Sentences of a page's prose: parts that end in . ! ? or :, paragraphs and list items.

    Code blocks, comments, tables, headings, images, the URLs of links and the folded commands of runs are left out.
    """
    text = re.sub(r"<details>\n<summary>Commands of the runs</summary>.*?</details>", "", text, flags=re.DOTALL)
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->|!\[[^\]]*\]\([^)]*\)", "", text, flags=re.DOTALL)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"^ *[|#].*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"(?<=\n\n)(?: {4}.*\n)+", "\n", text)  # code by indentation
    text = re.sub(r"^ *(?:[-*]|\d+\.) ", "\n\n", text, flags=re.MULTILINE).replace("*", "")
    parts = [part for paragraph in re.split(r"\n\s*\n", text) for part in re.split(r"(?<=[.!?:])\s+", paragraph)]
    return [part.strip() for part in parts if re.search(r"\w", part)]


FOLDED = "\n<details>\n<summary>Commands of the runs</summary>\n\n- `a b`\n\n</details>\n"


def test_sentences_are_split_at_stops_paragraphs_and_list_items():
    text = (
        "# Title\n\nOne *two*. [Three](a.b) four:\n\n- five\n  six\n- seven `a.b`\n\n| a |\n"
        + FOLDED
        + "\n\n    b\n\n```\nx\n```\n"
    )
    assert sentences(text) == ["One two.", "Three four:", "five\n  six", "seven `a.b`"]


FIRST_PAGES, FIRST_WORDS = ("README.md", "docs/start.md"), 20
"""Pages that a newcomer reads first, and the average of their sentences."""


@every_page
def test_sentences_are_short(page):
    counts = sorted((len(sentence.split()), sentence) for sentence in sentences(text_of(page)))
    most = FIRST_WORDS if page in FIRST_PAGES else WORDS
    assert sum(count for count, _ in counts) / max(1, len(counts)) <= most
    assert not counts or counts[-1][0] <= MOST_WORDS, counts[-1]


@every_page
def test_a_long_page_has_sections(page):
    words = sum(len(sentence.split()) for sentence in sentences(text_of(page)))
    assert words <= 1_500 or len(re.findall(r"^## ", text_of(page), re.MULTILINE)) >= 3
