"""Contenders (i) to (k) of ``train_step.py``: a training step whose loops run in Triton's kernels by a setting."""

import os
from collections.abc import Callable

SETTING = "ZF_PYRO_MACHINE"
"""The environment variable that chooses a machine."""


def on_machine(name: str, step: Callable[[], object]) -> Callable[[], object]:
    """A step with its loops on a machine, ``fused`` or ``persistent``; a graph is captured at the first call."""

    def run() -> object:
        before = os.environ.get(SETTING)
        os.environ[SETTING] = name
        try:
            return step()
        finally:
            if before is None:
                del os.environ[SETTING]
            else:
                os.environ[SETTING] = before

    return run
