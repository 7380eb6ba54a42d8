"""Contender (i) of ``train_step.py``: a training step whose loops run on the fused machine, which a setting chooses."""

import os
from collections.abc import Callable

SETTING = "ZF_PYRO_MACHINE"
"""The environment variable that chooses a machine."""


def on_the_fused_machine(step: Callable[[], object]) -> Callable[[], object]:
    """A step that captures its graph, at the first call, with the loops on the fused machine."""

    def run() -> object:
        before = os.environ.get(SETTING)
        os.environ[SETTING] = "fused"
        try:
            return step()
        finally:
            if before is None:
                del os.environ[SETTING]
            else:
                os.environ[SETTING] = before

    return run
