"""The time loops in C (``c/machine.c``). Absent if there was no compiler when the package was installed."""

OPERATIONS: tuple[str, ...]
"""Names of the operations of :mod:`zf_pyro.recurrence.engine.operations`; the index of each is its code."""
PANELS: tuple[int, ...]
"""Rows of a weight in a panel, the rows that are multiplied together. One entry for each set of vector instructions of
this processor (a level), from the plainest to the widest."""
LEVELS: tuple[str, ...]
"""Names of these sets, such as AVX2 or NEON."""
COMPILER: str
"""Name and version of the compiler."""
THREADED: int
"""1 if it had OpenMP. If 0, loops run on one thread."""
OPTIMISED: int
"""1 if it optimised."""
BFLOAT16: int
"""1 if this processor multiplies in bfloat16 at its widest level, and the compiler knew how."""

def run(program: bytes, first: int, steps: int, by: int, kind: int, threads: int, level: int, /) -> None:
    """Run a program.

    Args:
        program: structs ``Instruction`` of ``c/machine.c``, one after the other.
        first: the first step.
        steps: the number of steps.
        by: from one step to the next, 1 or -1.
        kind: 0 for float32, 1 for float64, 2 for float32 with products in bfloat16.
        threads: the largest number of threads.
        level: an index of PANELS.

    Raises:
        ValueError: the program is not whole instructions, or the processor lacks the level or the kind.
    """
