"""Jumps between files and wings of zf_pyro during one training step, as a measure of how the code reads.

    python benchmarks/step_trace.py

One ``svi.step`` over three time steps is profiled, after a warm-up step. Frames of other packages are skipped.

- Calls: Python function calls inside zf_pyro. Resuming a generator counts as a call.
- Current frame: the innermost zf_pyro frame on the stack. Each call and each return sets it.
- Change of file: the current frame after an event lies in another file than before the event. Entering a callee in
  another file counts one, and so does returning to its caller.
- Wing: the first path component under ``zf_pyro/``, or the module name for modules at the top.
- Change of wing: the same as a change of file, for wings.

Python 3.12 and later inline comprehensions, so their counts are slightly lower than those of Python 3.11.
"""

import itertools
import platform
import sys
from collections.abc import Callable
from json import dumps
from pathlib import Path
from types import FrameType

import jsonargparse
import pyro
import torch
from pyro.infer import SVI
from pyro.optim import Adam

import zf_pyro
from zf_pyro import ZForcing, ZForcingELBO, emissions

ROOT = Path(zf_pyro.__file__).parent
MOST_WING_CHANGES = 250
"""Goal. The flat layout before the wings had 1,180 changes of wing and 1,188 of file, over 26 files."""


def new_step() -> Callable[[], object]:
    """A training step of a small model with all terms of the objective, three frames of four sequences."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    net = ZForcing(emissions.Gaussian(2), embed_dim=4, hidden_dim=4, latent_dim=2, mlp_dim=4)
    svi = SVI(net.model, net.guide, Adam({"lr": 1e-3}), ZForcingELBO(aux_weight=0.1, backward_weight=0.1))
    x = torch.randn(4, 3, 2)
    return lambda: svi.step(x)


def traced(step: Callable[[], object]) -> tuple[int, list[Path]]:
    """Number of package calls of ``step``, and the file of the current frame after each event, relative to ROOT."""
    prefix = f"{ROOT}/"
    stack: list[str] = []
    current: list[str] = []
    calls = 0

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        path = frame.f_code.co_filename
        if event not in ("call", "return") or not path.startswith(prefix):
            return
        if event == "call":
            calls += 1
            stack.append(path)
        else:
            stack.pop()
        current.extend(stack[-1:])

    sys.setprofile(profile)
    try:
        step()
    finally:
        sys.setprofile(None)
    return calls, [Path(path).relative_to(ROOT) for path in current]


def count(step: Callable[[], object]) -> dict[str, int]:
    """The counts of the module's docstring."""
    calls, files = traced(step)
    wings = [file.parts[0].removesuffix(".py") for file in files]
    return {
        "calls": calls,
        "files": len(set(files)),
        "changes of file": sum(a != b for a, b in itertools.pairwise(files)),
        "wings": len(set(wings)),
        "changes of wing": sum(a != b for a, b in itertools.pairwise(wings)),
    }


def main(json: Path | None = None, smoke: bool = False) -> None:
    """Count jumps between files and wings during one training step.

    Args:
        json: File to write the counts to.
        smoke: No effect, as the full run takes seconds.
    """
    torch.set_num_threads(1)
    step = new_step()
    step()
    counts = count(step)
    print(f"one svi.step, 3 time steps; Python {platform.python_version()}, pyro {pyro.__version__}")
    for name, value in counts.items():
        print(
            f"  {name:<15}  {value:>5,}" + (f"  goal at most {MOST_WING_CHANGES}" if name == "changes of wing" else "")
        )
    if json is not None:
        json.write_text(dumps(counts, indent=1))


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(main, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="No effect: the full run takes seconds.")
    main(**parser.parse_args().as_dict())
