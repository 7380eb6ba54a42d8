"""What docs/data.md shows runs."""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs" / "data.md"


def test_sequences_of_ones_own_are_prepared_as_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    section = DOCS.read_text().split("## Your own sequences")[1]
    program = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert program is not None
    names: dict[str, object] = {}
    exec(program.group(1), names)
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert len(names["train"]) == 25


def test_digits_and_docstrings_are_read_as_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zf_pyro.data.text.docstrings.library_sources", lambda root: sorted(root.glob("c*.py")))
    for title, lines in (("Digits", 20), ("Text", 2)):
        program = re.search(r"```python\n(.*?)```", DOCS.read_text().split(f"## {title}\n")[1], re.DOTALL)
        assert program is not None
        exec(program.group(1), {})
        assert len(capsys.readouterr().out.splitlines()) == lines
