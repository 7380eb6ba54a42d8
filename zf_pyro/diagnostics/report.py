"""Report of text and figures as one self-contained HTML file."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body {{ font-family: sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }}
img {{ max-width: 100% }} pre {{ background: #f4f4f4; padding: .6rem; overflow-x: auto }}</style>
</head><body><h1>{title}</h1>
{body}
</body></html>
"""


class Section(NamedTuple):
    """Section of a report."""

    title: str
    """Heading."""
    text: str
    """Plain text, shown line by line without formatting."""
    figure: "Figure | None" = None
    """Matplotlib figure below the text."""


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write an HTML file with embedded PNG figures.

    Args:
        path: the file; its folder must exist.
        title: title of the page.
        sections: sections in order.
    """
    body = "\n".join(_part(section) for section in sections)
    path.write_text(_PAGE.format(title=html.escape(title), body=body), encoding="utf-8")


def _part(section: Section) -> str:
    image = "" if section.figure is None else f'<p><img src="{_data_url(section.figure)}" alt=""></p>'
    return f"<h2>{html.escape(section.title)}</h2>\n<pre>{html.escape(section.text)}</pre>\n{image}"


def _data_url(figure: "Figure") -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
