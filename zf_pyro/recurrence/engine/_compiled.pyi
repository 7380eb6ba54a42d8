"""The time loops in C: ``compiled/machine.c``. Absent where there was no compiler when the package was installed."""

OPERATIONS: tuple[str, ...]
"""Names of the operations of :mod:`zf_pyro.recurrence.engine.operations`, by their code."""
PANELS: tuple[int, ...]
"""Rows of a packed weight that are multiplied together: by each set of vector instructions that this processor has,
from the plainest to the widest."""

def run(program: bytes, first: int, steps: int, by: int, wide: int, threads: int, level: int, /) -> None:
    """Run a program of instructions.

    Args:
        program: instructions as ``compiled/machine.c`` lays them out.
        first: the first step.
        steps: how many.
        by: from each step to the next, 1 or -1.
        wide: 1 for float64, 0 for float32.
        threads: at most so many.
        level: an index of PANELS.

    Raises:
        ValueError: the program is not whole instructions, or the processor lacks the level.
    """
