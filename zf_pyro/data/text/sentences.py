"""Sentence splitting by a rule, without a model and with a short list of abbreviations.

A sentence ends at a line break. It also ends after one or more of ``. ! ? …``, with closing quotes and brackets, if
white space and anything but a lower-case letter follow. It does not end after a single letter ("J. Smith") or one of
:data:`ABBREVIATIONS`. Text that is lower case throughout is therefore split only at its line breaks.
"""

import re

ABBREVIATIONS = frozenset({"cf", "dr", "e.g", "i.e", "mr", "mrs", "ms", "prof", "st", "vol", "vs"})
"""Words, in lower case, after which a full stop ends no sentence: they hardly ever stand last in one."""

_END = re.compile(r"(?P<stop>[.!?\u2026]+)[\"'\u201d\u2019)\]]*\s+(?=\S)")
_LAST_WORD = re.compile(r"[^\s(\[\"'\u201c\u2018]+$")
_BREAK = re.compile(r"<br\s*/?>|[\r\n]+", re.IGNORECASE)


def sentences(text: str) -> list[str]:
    """Split a text into sentences, stripped of white space; none is empty.

    HTML's ``<br />`` counts as a line break, because the Large Movie Review Dataset uses it.
    """
    return [sentence for line in _BREAK.split(text) for sentence in _of_line(line.strip()) if sentence]


def _of_line(line: str) -> list[str]:
    found, start = [], 0
    for end in _END.finditer(line):
        if line[end.end()].islower() or _abbreviated(line[start : end.start()], end["stop"]):
            continue
        found.append(line[start : end.end()].rstrip())
        start = end.end()
    return [*found, line[start:]]


def _abbreviated(before: str, stop: str) -> bool:
    word = _LAST_WORD.search(before)
    if stop != "." or word is None:
        return False
    last = word[0].lower()
    return last in ABBREVIATIONS or (len(last) == 1 and last.isalpha() and last != "i")
