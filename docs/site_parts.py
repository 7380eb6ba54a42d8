"""Parts of the site that Sphinx lacks: MathML, docstrings as this package writes them, references, help of programs."""

import contextlib
import functools
import importlib
import io
import os
import re
import sys

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util.docutils import SphinxDirective

PACKAGE = "zf_pyro"
COLUMNS = 100
"""Characters in a line of help."""


# Equations ------------------------------------------------------------------------------------------------------------


def display(self, node: nodes.math_block) -> None:
    """Draw an equation on lines of its own."""
    self.body += [self.starttag(node, "div", CLASS="math"), convert(node.astext(), display="block"), "</div>"]
    raise nodes.SkipNode


def inline(self, node: nodes.math) -> None:
    """Draw an equation within a line."""
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


# Docstrings -----------------------------------------------------------------------------------------------------------


def as_written(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Keep asterisks and bars as they are: ``(..., *shape)``, ``|x|``. Drop what Python says of bare fields."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()
    for k, line in enumerate(lines):
        parts = re.split(r"(``.*?``|`[^`]*`)", line)
        parts[::2] = [re.sub(r"(?<![\\\w])([*|])(?=[\w(|])", r"\\\1", part) for part in parts[::2]]
        lines[k] = "".join(parts)


class WholeAttributes(GoogleDocstring):
    """Docstrings whose attributes have no type before a colon: ``nats: ...`` is all text."""

    def _consume_inline_attribute(self) -> tuple[str, list[str]]:
        return "", self.__class__(self._dedent(self._consume_to_end()), self._config).lines()


# References -----------------------------------------------------------------------------------------------------------


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.Node | None:
    """Resolve a reference that Sphinx did not find: a name by which the package also knows a documented thing.

    What exists in the package and is not documented stays as plain text. What does not exist is a warning.
    """
    if node.get("refdomain") != "py" or "reftarget" not in node:
        return None
    target, last = node["reftarget"], node["reftarget"].rpartition(".")[2]
    domain = env.get_domain("py")
    documented = [name for name in domain.objects if name.rpartition(".")[2] == last]
    owners = [name for name in documented if name.endswith(f".{target}")] or documented
    if len(owners) == 1 and (target == last or target.startswith(PACKAGE)):
        known = domain.objects[owners[0]]
        uri = app.builder.get_relative_uri(node["refdoc"], known.docname)
        reference = nodes.reference("", "", internal=True, refuri=f"{uri}#{known.node_id}")
        reference += content
        return reference
    return content if _exists(target, node.get("py:class")) or target in _words() else None


def _exists(target: str, owner: str | None) -> bool:
    """Whether a dotted name is one of the package's modules, or of something in one."""
    modules = [module for module in sys.modules.values() if getattr(module, "__name__", "").startswith(PACKAGE)]
    starts = [importlib.import_module(PACKAGE), *modules]
    if target.startswith(f"{PACKAGE}."):
        target = target.removeprefix(f"{PACKAGE}.")
    if owner is not None:
        starts += [getattr(module, owner) for module in modules if hasattr(module, owner)]
    return any(_has(start, target.split(".")) for start in starts)


def _has(start: object, names: list[str]) -> bool:
    try:
        functools.reduce(getattr, names, start)
    except AttributeError:
        return False
    return True


@functools.cache
def _words() -> frozenset[str]:
    """Type variables, and names of other packages that annotations give in short form."""
    arrays = {"DataArray", "Dataset", "DataTree", "InferenceData", "Tensor", "Size"}
    return frozenset(arrays | {"Path", "Callable", "Axes", "Figure"})


# Help of programs -----------------------------------------------------------------------------------------------------


class ProgramHelp(SphinxDirective):
    """``program-help module:function command``: the command, and what it prints for ``--help``."""

    required_arguments, optional_arguments = 1, 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Call the function with the arguments of the command and ``--help``."""
        place, _, command = self.arguments[0].partition(" ")
        command = " ".join([command, *self.arguments[1:]]).strip()
        module, _, function = place.partition(":")
        words = command.split()
        skipped = words.index("-m") + 2 if "-m" in words else 1
        text = help_of(module, function, tuple(words[skipped:]))
        return [nodes.literal_block(text, f"$ {command} --help\n\n{text}", language="text")]


@functools.cache
def help_of(module: str, function: str, arguments: tuple[str, ...]) -> str:
    """What a program prints for ``--help``."""
    main, printed = getattr(importlib.import_module(module), function), io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(COLUMNS)
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*arguments, "--help"])
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return printed.getvalue().rstrip()


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the parts to Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    GoogleDocstring._consume_inline_attribute = WholeAttributes._consume_inline_attribute
    app.connect("autodoc-process-docstring", as_written, priority=400)  # before napoleon
    app.connect("missing-reference", resolve)
    app.add_directive("program-help", ProgramHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
