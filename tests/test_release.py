"""The release: one version everywhere, citation and changes that can be read, a site without a warning."""

import importlib.metadata
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import zf_pyro
from zf_pyro.recurrence.engine import machines

ROOT = Path(__file__).parent.parent
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, TOOLS = DECLARED["project"], DECLARED["tool"]


def test_every_file_names_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    latest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert zf_pyro.__version__ == importlib.metadata.version("zf-pyro") == latest == citation["version"]


def test_the_citation_has_what_its_format_asks_for():
    """https://citation-file-format.github.io, version 1.2.0: these keys are required."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["license"] == PROJECT["license"]
    assert [one["authors"][0]["family-names"] for one in citation["references"]] == ["Goyal"]


def test_extras_that_the_documentation_names_exist():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    sources = [*(ROOT / "zf_pyro").rglob("*.py"), *pages]
    named = {name for path in sources for name in re.findall(r"zf[-_]pyro\[([\w,]+)\]", path.read_text())}
    assert {extra for names in named for extra in names.split(",")} <= PROJECT["optional-dependencies"].keys()


def test_the_source_distribution_holds_every_file_that_tests_read():
    """MANIFEST.in names kinds of files, so that a new kind would be left out without a word."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("git knows the files of the repository; there is none here")
    folders = ("docs", "tests", "examples", "benchmarks", ".ci", ".github")
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [Path(name) for name in listed.stdout.split("\0") if name]
    rules = [line.split() for line in (ROOT / "MANIFEST.in").read_text().splitlines()]
    kinds = {rule[1]: rule[2:] for rule in rules if rule[:1] == ["recursive-include"]}
    assert {file.parts[0] for file in files} == set(folders)
    left_out = [file for file in files if not any(fnmatch(file.name, kind) for kind in kinds.get(file.parts[0], ()))]
    assert left_out == []


def test_the_wheel_of_this_machine_passes_the_command_that_tries_it():
    """A wheel without its C loops would install, and be slow without a word."""
    if machines._compiled is None or sys.platform == "win32":
        pytest.skip("the C loops are not built here, which they must be for the command to pass")
    command = TOOLS["cibuildwheel"]["test-command"].replace("python", shlex.quote(sys.executable), 1)
    without = command.replace(
        "import", "import sys; sys.modules['zf_pyro.recurrence.engine._compiled'] = None; import", 1
    )
    whole, bare = (
        subprocess.run(shlex.split(one), capture_output=True, text=True, cwd=ROOT) for one in (command, without)
    )
    assert whole.returncode == 0, whole.stderr
    assert "the wheel has no C loops" in bare.stderr


def test_wheels_are_built_only_where_pytorch_has_builds():
    """The commands that try a wheel import torch, which no longer has builds for Macs with Intel's processors."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "wheels.yml").read_text())["jobs"]
    built = {(row["os"].partition("-")[0], row["archs"]) for row in jobs["wheels"]["strategy"]["matrix"]["include"]}
    assert built == {("ubuntu", "x86_64"), ("ubuntu", "aarch64"), ("macos", "arm64"), ("windows", "AMD64")}
    assert TOOLS["cibuildwheel"]["test-skip"] == "*-musllinux_*"


def test_constraints_leave_to_torch_what_its_cuda_builds_pin_themselves():
    """A pin of Triton or of NVIDIA's libraries makes the README's command impossible where torch is a CUDA build."""
    named = {
        re.split(r"[=<>\[ ]", line)[0].lower()
        for path in ROOT.glob("constraints*.txt")
        for line in path.read_text().splitlines()
        if line and not line.startswith("#")
    }
    assert "torch" in named
    assert {name for name in named if name == "triton" or name.startswith(("nvidia", "cuda"))} == set()


def test_the_oldest_versions_that_are_allowed_are_those_that_are_tested():
    """The bounds of what ``.ci/run`` installs with constraints-lowest.txt are its pins. It excepts torch."""
    (asked,) = re.findall(r"-c constraints-lowest\.txt (.*)", (ROOT / ".ci" / "run").read_text())
    extras, tools = re.fullmatch(r'"\.\[([\w,]+)\]" (.*)', asked).groups()
    bounds = {}
    for line in [*PROJECT["dependencies"], *required(extras.split(","))]:
        bounds.setdefault(Requirement(line).name, set()).add(str(Requirement(line).specifier))
    testing = map(Requirement, PROJECT["optional-dependencies"]["test"])
    bounds |= {one.name: {str(one.specifier)} for one in testing if one.name in tools.split()}
    del bounds["torch"]
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert set(tools.split()) <= bounds.keys() <= pins.keys()
    for name, found in bounds.items():
        assert {Version(one.removeprefix(">=")) for one in found} == {Version(pins[name])}, name


def required(extras):
    """Requirements of extras, those of the extras that they name included."""
    for line in (line for extra in extras for line in PROJECT["optional-dependencies"][extra]):
        if Requirement(line).name == "zf-pyro":
            yield from required(Requirement(line).extras)
        else:
            yield line


def test_continuous_integration_names_tests_that_exist_and_says_what_it_skips():
    """On another Python a test file that was renamed would be missed after twenty minutes."""
    path = ROOT / ".ci" / "run"
    text = path.read_text()
    named = " ".join(re.findall(r"tests/\S+", text))
    listed = subprocess.run(["bash", "-euc", f"ls -d {named}"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert listed.returncode == 0, listed.stderr
    assert len(listed.stdout.split()) > 20
    subprocess.run(["bash", "-n", path], check=True)
    said = " ".join(re.findall(r'echo "\.ci/run: (.*)"', text))
    assert all(f"no {what} here" in said for what in ("$program", "Python 3.12", "Python 3.13"))


def test_the_readme_has_only_whole_addresses():
    """A package index shows it, where no address is relative."""
    targets = re.findall(r"\]\(([^)\s]+)\)", (ROOT / "README.md").read_text())
    assert targets
    assert all(target.startswith("https://") for target in targets)


def test_pages_of_the_site_are_each_in_a_table_of_contents():
    docs = ROOT / "docs"
    listed = set()
    for page in docs.rglob("*.md"):
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL):
            lines = [line for line in tree.splitlines() if line and not line.startswith(":")]
            entries = [line.partition("<")[2].rstrip(">") or line for line in lines]
            listed |= {(page.parent / entry).resolve() for entry in entries}
    pages = {page.with_suffix("").resolve() for page in docs.rglob("*.md")}
    assert pages - {(docs / "index").resolve()} <= listed


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, and the run of the command that built it."""
    for needed in ("sphinx", "myst_nb", "pydata_sphinx_theme", "latex2mathml"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed: pip install zf-pyro[docs]")
    out = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", ROOT / "docs", out]
    return out, subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(site):
    out, done = site
    assert done.returncode == 0, done.stderr
    searched = (out / "searchindex.js").read_text()
    assert "particlefilter" in searched.lower()


@pytest.mark.slow
def test_every_page_of_the_site_opens_in_a_browser_without_a_fault(site):
    if importlib.util.find_spec("playwright") is None or not any(map(shutil.which, ("chromium", "google-chrome"))):
        pytest.skip("a browser is needed: pip install zf-pyro[browser], and Chromium")
    command = [sys.executable, ROOT / "docs" / "browse.py", site[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
