"""Peer (g): the careful loops under ``torch.compile``, whole or a step at a time.

The whole loop is unrolled by the compiler, which may take very long. So :func:`choose` first compiles forward and
backward in a process of its own, which is ended at a limit. Where that is too long, one step is compiled and called in
a loop. What follows the loop is compiled in both forms; PyTorch's RNNs before it are called as they are.
"""

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection

import torch
from hand_written import Parts, loss_of, unrolled
from torch import Tensor, nn

FORMS = {"loop": "the whole time loop", "step": "one step of the loop"}
"""What is compiled, by form."""


def compiled_loss(parts: Parts, form: str, backend: str = "inductor") -> Callable[..., Tensor]:
    """A loss under torch.compile, of a network, x (batch, time, frame), noise (time, batch, latent) and weights.

    Graph breaks are errors, and sizes are constants.
    """
    compiled = partial(torch.compile, fullgraph=True, dynamic=False, backend=backend)
    loop = form == "loop"
    run = compiled(partial(unrolled, parts.step)) if loop else partial(unrolled, compiled(parts.step))
    whole = parts._replace(finish=compiled(parts.finish))

    def loss(net: nn.Module, x: Tensor, noise: Tensor, *weights: float) -> Tensor:
        return loss_of(whole, net, x, noise, run, *weights)

    return loss


@contextmanager
def fresh_cache() -> Iterator[None]:
    """Compile into a temporary folder, so that no earlier run shortens a compilation."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[name] = folder
        try:
            yield
        finally:
            del os.environ[name]
            if before is not None:
                os.environ[name] = before


def attempt(make: Callable[[str], Callable[[], object]], form: str, threads: int, connection: Connection) -> None:
    """Make a training step, run it once, and send the seconds, or what went wrong."""
    os.setsid()  # a group of its own, so that the compiler's processes end with it
    torch.set_num_threads(threads)
    start = time.perf_counter()
    try:
        make(form)()
    except Exception as error:
        connection.send(f"failed: {(str(error).strip() or type(error).__name__).splitlines()[0]}")
    else:
        connection.send(time.perf_counter() - start)


def compile_seconds(make: Callable[[str], Callable[[], object]], form: str, limit: float) -> float | str:
    """Seconds to compile a form and run it once, in a process of its own; or why it did not."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=attempt, args=(make, form, torch.get_num_threads(), theirs))
    process.start()
    theirs.close()
    try:
        if not ours.poll(limit):
            return f"not within {limit:.0f} s"
        result = ours.recv()
        process.join(60.0)  # it ends by itself, and takes down what it started
        return result
    except EOFError:
        return "its process ended"
    finally:
        if process.is_alive():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has no group of its own yet, or has ended
                process.kill()
        process.join()


def choose(make: Callable[[str], Callable[[], object]], limit: float) -> tuple[str | None, str]:
    """The first form that compiles within ``limit`` seconds, None if none does, and what was found.

    Args:
        make: gives the training step of a form; it can be pickled.
        limit: seconds for forward and backward, as in the first step of a training run.
    """
    found = []
    for form, name in FORMS.items():
        result = compile_seconds(make, form, limit)
        if isinstance(result, float):
            return form, "; ".join([*found, f"{name} is compiled, in {result:.0f} s"])
        found.append(f"{name}: {result}")
    return None, "; ".join(found)
