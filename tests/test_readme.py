"""What the README shows runs."""

import pathlib
import re

import pyro

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_the_ten_lines_of_the_readme_run(capsys):
    pyro.set_rng_seed(0)
    block = re.search(r"<!-- example -->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    names: dict[str, object] = {}
    exec(block.group(1), names)
    assert names["frames"].shape == (4, 20, 12)
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_the_readme_names_every_section_in_its_contents():
    text = README.read_text()
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert re.findall(r"^- \[(.+)\]\(#", text, re.MULTILINE) == [s for s in sections if s != "Contents"]
