"""Report of verdicts, measurements and figures as one self-contained HTML file."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .measurements import Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 1100
"""Width of the text in CSS pixels, so that a window of 1,200 shows all of it."""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 sans-serif; color: #222; background: #fdfdfb; max-width: {width}px; margin: 2rem auto;
  padding: 0 1rem; box-sizing: border-box }}
h1 {{ font-size: 1.6rem }} h2 {{ font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd }}
p, li, td, th {{ overflow-wrap: break-word }}
ul.verdicts {{ list-style: none; padding: 0 }}
ul.verdicts li {{ border-left: 5px solid #9a9a9a; background: #f4f4f0; padding: .5rem .8rem; margin: .5rem 0 }}
ul.verdicts li.good {{ border-color: #3a7d44 }} ul.verdicts li.bad {{ border-color: #b5541c }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #e2e2dc }}
td.value {{ white-space: nowrap; text-align: right }} td.bad {{ color: #a3440f; font-weight: bold }}
figure {{ margin: 1rem 0 }} img {{ max-width: 100%; height: auto }} figcaption {{ color: #555; font-size: .9rem }}
pre {{ background: #f4f4f0; padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere }}
@media print {{ body {{ background: #fff; margin: 0 }} section, figure, tr {{ break-inside: avoid }} }}
</style>
</head><body><h1>{title}</h1>
{body}
</body></html>
"""


class Verdict(NamedTuple):
    """Sentence on top of a report."""

    name: str
    """What it is about, for example a model."""
    text: str
    """The sentence."""
    good: bool
    """Whether all is well."""


class Section(NamedTuple):
    """Section of a report."""

    title: str
    """Heading."""
    text: str = ""
    """Paragraphs, separated by empty lines."""
    measurements: Sequence[Measurement] = ()
    """Numbers, each with its unit and its reference."""
    figure: "Figure | None" = None
    """Matplotlib figure below the text."""
    caption: str = ""
    """Description of the figure."""
    table: str = ""
    """Text laid out in columns, such as a data frame's."""


def write_report(path: Path, title: str, sections: Sequence[Section], verdicts: Sequence[Verdict] = ()) -> None:
    """Write an HTML file with embedded PNG figures: verdicts on top, then the sections.

    Args:
        path: the file; its folder must exist.
        title: title of the page.
        sections: sections in order.
        verdicts: what a reader is to know first.
    """
    lines = [_verdict(verdict) for verdict in verdicts]
    top = f'<ul class="verdicts">\n{chr(10).join(lines)}\n</ul>\n' if lines else ""
    body = top + "\n".join(_part(section) for section in sections)
    path.write_text(_PAGE.format(title=html.escape(title), body=body, width=WIDTH), encoding="utf-8")


def remedies(measured: Mapping[str, Sequence[Measurement]]) -> list[Section]:
    """A section with what to do about failed measurements, each remedy once; none if all pass.

    Args:
        measured: measurements by the name of the model.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for name, measurements in measured.items():
        for one in measurements:
            if one.remedy and one.good is False:
                found.setdefault(one.remedy, {}).setdefault(one.name, []).append(name)
    texts = []
    for remedy, failed in found.items():
        what = "; ".join(f"{name} ({', '.join(models)})" for name, models in failed.items())
        texts.append(f"{what[0].upper()}{what[1:]}.\n\n{remedy[0].upper()}{remedy[1:]}.")
    return [Section("What to do", "\n\n".join(texts))] if texts else []


def _verdict(verdict: Verdict) -> str:
    kind = "good" if verdict.good else "bad"
    return f'<li class="{kind}"><strong>{html.escape(verdict.name)}</strong>: {html.escape(verdict.text)}</li>'


def _part(section: Section) -> str:
    parts = [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.text.split("\n\n") if paragraph.strip()]
    if section.measurements:
        head = "<tr><th>measurement</th><th>value</th><th>unit</th><th>reference</th><th></th></tr>"
        parts.append(f"<table>{head}{''.join(map(_row, section.measurements))}</table>")
    if section.table:
        parts.append(f"<pre>{html.escape(section.table)}</pre>")
    if section.figure is not None:
        caption = f"<figcaption>{html.escape(section.caption)}</figcaption>" if section.caption else ""
        image = f'<img src="{_data_url(section.figure)}" alt="{html.escape(section.caption or section.title)}">'
        parts.append(f"<figure>{image}{caption}</figure>")
    return f"<section><h2>{html.escape(section.title)}</h2>\n{chr(10).join(parts)}</section>"


def _row(one: Measurement) -> str:
    mark = {None: "", True: "fine", False: "look here"}[one.good]
    kind = ' class="bad"' if one.good is False else ""
    name, value, unit, reference = map(html.escape, (one.name, one.value, one.unit, one.reference))
    shown = f'<td>{name}</td><td class="value">{value}</td><td>{unit}</td><td>{reference}</td>'
    return f"<tr>{shown}<td{kind}>{mark}</td></tr>"


def _data_url(figure: "Figure") -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
