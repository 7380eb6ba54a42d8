"""A report of text and figures as one HTML file that needs nothing beside it."""

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
    """A part of a report."""

    title: str
    """Its heading."""
    text: str
    """Plain text, shown as it is, line by line."""
    figure: "Figure | None" = None
    """A matplotlib figure below the text."""


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write an HTML file with the figures inside, as PNG.

    Args:
        path: the file; its folder must exist.
        title: of the page.
        sections: its parts, in order.
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
