"""Text into sentences, by a rule that needs no model and no list of a language's words but a few abbreviations.

A sentence ends at a line break, and after one or more of ``. ! ? …`` (closing quotes and brackets included) where white
space and then anything but a lower-case letter follow. It does not end after a single letter ("J. Smith") or one of
:data:`ABBREVIATIONS`. Text in lower case throughout is therefore split at its line breaks alone.
"""

import re

ABBREVIATIONS = frozenset({"cf", "dr", "e.g", "i.e", "mr", "mrs", "ms", "prof", "st", "vol", "vs"})
"""Words after which a full stop ends nothing, in lower case: such as hardly end a sentence."""

_END = re.compile(r"(?P<stop>[.!?\u2026]+)[\"'\u201d\u2019)\]]*\s+(?=\S)")
_LAST_WORD = re.compile(r"[^\s(\[\"'\u201c\u2018]+$")
_BREAK = re.compile(r"<br\s*/?>|[\r\n]+", re.IGNORECASE)


def sentences(text: str) -> list[str]:
    """The sentences of a text in order, white space at their ends removed, none empty.

    Line breaks are those of the text and HTML's ``<br />``, which the Large Movie Review Dataset has in their place.
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
