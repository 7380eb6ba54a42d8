"""Builds the time loops in C with the options that the compiler takes, which pyproject.toml cannot find out.

Only setuptools reads this file, while it builds the package; pyproject.toml names it.

Each option of pyproject.toml is tried and left out if it is refused. Threads come from OpenMP. The environment variable
ZF_PYRO_OPENMP says which, where the first choice is not wanted:

- unset: the compiler's own (-fopenmp), if it has one; none on macOS, where PyTorch brings a library (libomp) that stops
  a program when it meets a second one;
- 0: none, so that the loops run on one thread;
- a folder: libomp in its subfolders include and lib, for Apple's compiler, which has none of its own.
"""

import os
import sys
import tempfile
from pathlib import Path

from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CompileError, LinkError

OPTIONS = tuple[list[str], list[str]]
"""Options of the compiler and of the linker."""


def openmp() -> list[OPTIONS]:
    """Options for OpenMP to try, the best first."""
    wanted = os.environ.get("ZF_PYRO_OPENMP", "")
    if wanted == "0" or (sys.platform == "darwin" and not wanted):
        return []
    if wanted:
        folder = Path(wanted)
        return [(["-Xpreprocessor", "-fopenmp", f"-I{folder / 'include'}"], [f"-L{folder / 'lib'}", "-lomp"])]
    return [(["-fopenmp"], ["-fopenmp"])]


class BuildLoops(build_ext):
    """Builds extensions with the options that work."""

    def build_extensions(self) -> None:
        """Choose the options of every extension, then build it."""
        chosen = next((options for options in openmp() if self.takes(*options, parallel=True)), ([], []))
        for extension in self.extensions:
            taken = [option for option in extension.extra_compile_args or [] if self.takes([option], [])]
            extension.extra_compile_args = [*taken, *chosen[0]]
            extension.extra_link_args = [*(extension.extra_link_args or []), *chosen[1]]
        super().build_extensions()

    def takes(self, compiling: list[str], linking: list[str], parallel: bool = False) -> bool:
        """Tell whether a small file compiles and links with these options, into several threads if ``parallel``."""
        check = "#ifndef _OPENMP\n#error no OpenMP\n#endif\n" if parallel else ""
        loop = "#pragma omp parallel\n" if parallel else ""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "trial.c"
            source.write_text(f"{check}void trial(int *number) {{\n{loop}    {{ (*number)++; }}\n}}\n")
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=compiling)
                self.compiler.link_shared_object(objects, str(Path(folder) / "trial.so"), extra_postargs=linking)
            except (BaseError, CompileError, LinkError):  # also where there is no compiler
                return False
        return True
