"""Memory and time at scale: long sequences by segments, large batches, streamed data, several processes.

    python benchmarks/scale.py                            # the table; about five minutes
    python benchmarks/scale.py --row "[recomputed_100000]"

One step of the full objective, forward and backward, of a network with hidden 128, embedding and MLP 64, latent 32, on
Gaussian frames, float32. Each row runs in a process of its own, by the command in its last column:

- ``plain``, ``recomputed`` and ``truncated``: two sequences of so many steps, by ``ZForcingELBO`` and by
  ``SegmentedELBO`` in segments of 500 steps.
- ``batch``: so many sequences of 20 steps, frames of 12.
- ``stream``: training with Adam on 32 sequences of 40 frames of 200 values from a prepared folder of 1 GiB, of which
  an epoch is read. The folder is written by another process. ``stream_64`` has 64 MiB.
- ``processes``: so many training processes at once, one thread each, 32 sequences of 100 steps.

Memory is the peak of resident memory above that before the step, in MiB (for processes: of the largest). Data that the
step reads is made before, but for ``stream``, where it is the peak of all that follows a first small step. Linux only.
"""

import multiprocessing
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import NamedTuple

import jsonargparse
import numpy as np
import pyro
import torch
from measuring import resident_bytes

from zf_pyro import ZForcing, ZForcingELBO, emissions
from zf_pyro.data import LengthBatches, Loader, Record, Sequences, preparing
from zf_pyro.objectives import SegmentedELBO

WEIGHTS = (1.0, 0.1, 0.1)
"""Weights of KL, auxiliary and backward terms."""
HEADER = (
    "| row | memory, MiB | seconds per step | µs per frame | steps per second | command |\n|---|---|---|---|---|---|"
)


class Found(NamedTuple):
    """What a row has measured."""

    memory: float
    """MiB."""
    seconds: float
    """Per step."""
    frames: int
    """Frames of a step."""
    each: tuple[float, ...] = ()
    """Steps per second of each process, where there are several."""


def network(frame_dim: int, hidden: int) -> ZForcing:
    """The network of all rows."""
    torch.manual_seed(0)
    sizes = {"embed_dim": hidden // 2, "hidden_dim": hidden, "latent_dim": hidden // 4, "mlp_dim": hidden // 2}
    return ZForcing(emissions.Gaussian(frame_dim), **sizes)


def step_of(elbo: ZForcingELBO | SegmentedELBO, num_steps: int, batch_size: int, frame_dim: int, hidden: int) -> Found:
    """Memory and time of one step, after a small one."""
    net = network(frame_dim, hidden)
    elbo.loss_and_grads(net.model, net.guide, torch.randn(2, 8, frame_dim))
    x = torch.randn(batch_size, num_steps, frame_dim)
    before, start = resident_bytes("VmRSS"), time.perf_counter()
    elbo.loss_and_grads(net.model, net.guide, x)
    taken = time.perf_counter() - start
    return Found((resident_bytes("VmHWM") - before) / 2**20, taken, batch_size * num_steps)


def long(kind: str, num_steps: int, hidden: int = 128, segment: int = 500) -> Found:
    """Two long sequences."""
    if kind == "plain":
        return step_of(ZForcingELBO(*WEIGHTS), num_steps, 2, 1, hidden)
    elbo = SegmentedELBO(*WEIGHTS, segment=segment, truncate=kind == "truncated")
    return step_of(elbo, num_steps, 2, 1, hidden)


def batch(batch_size: int, num_steps: int = 20, hidden: int = 128) -> Found:
    """A batch of short sequences."""
    return step_of(ZForcingELBO(*WEIGHTS), num_steps, batch_size, 12, hidden)


def write(folder: pathlib.Path, num_bytes: int, size: int) -> None:
    """Write a prepared folder of random 16-bit samples, in sequences of ``size`` samples."""
    generator = np.random.default_rng(0)
    request = Record("synthetic", "int16", 200, {"bytes": num_bytes}, [], scale=1000.0)
    with preparing(folder, request) as preparation, preparation.split("train") as split:
        for _ in range(num_bytes // (2 * size)):
            split.add(generator.integers(-2000, 2000, size, dtype=np.int16))


def stream(
    num_bytes: int = 2**30, num_steps: int = 40, batch_size: int = 32, steps: int = 20, hidden: int = 128
) -> Found:
    """Train on some batches of an epoch and read the others."""
    with tempfile.TemporaryDirectory() as root:
        folder = pathlib.Path(root) / "data"
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(folder, num_bytes, 200 * num_steps))
        writer.start()
        writer.join()
        if writer.exitcode:
            raise RuntimeError(f"the data was not written: exit status {writer.exitcode}")
        net, elbo = network(200, hidden), ZForcingELBO(*WEIGHTS)
        adam = torch.optim.Adam(net.parameters(), lr=1e-4)
        elbo.loss_and_grads(net.model, net.guide, torch.randn(2, 8, 200))
        adam.step()
        adam.zero_grad()
        before, taken, start = resident_bytes("VmRSS"), [], time.perf_counter()
        train = Sequences(folder, "train")
        for count, (x, lengths) in enumerate(Loader(train, LengthBatches(train.lengths, batch_size))):
            if count < steps:
                elbo.loss_and_grads(net.model, net.guide, x, lengths)
                adam.step()
                adam.zero_grad()
                taken.append(time.perf_counter() - start)
                start = time.perf_counter()
        return Found((resident_bytes("VmHWM") - before) / 2**20, min(taken), batch_size * num_steps)


def process(connection: Connection, num_steps: int, batch_size: int, duration: float, hidden: int) -> None:
    """Train for ``duration`` seconds when told to, and send steps per second and memory."""
    torch.set_num_threads(1)
    pyro.enable_validation(False)
    net, elbo, x = network(1, hidden), ZForcingELBO(*WEIGHTS), torch.randn(batch_size, num_steps, 1)
    before = resident_bytes("VmRSS")
    for _ in range(2):
        elbo.loss_and_grads(net.model, net.guide, x)
    connection.send("ready")
    connection.recv()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < duration:
        elbo.loss_and_grads(net.model, net.guide, x)
        count += 1
    connection.send((count / (time.perf_counter() - start), (resident_bytes("VmHWM") - before) / 2**20))


def processes(
    count: int, num_steps: int = 100, batch_size: int = 32, duration: float = 10.0, hidden: int = 128
) -> Found:
    """Training processes at once."""
    context, connections = multiprocessing.get_context("spawn"), []
    for _ in range(count):
        ours, theirs = context.Pipe()
        context.Process(target=process, args=(theirs, num_steps, batch_size, duration, hidden), daemon=True).start()
        theirs.close()
        connections.append(ours)
    for ready in (True, False):
        for connection in connections:
            connection.recv() if ready else connection.send("go")
    each, memory = zip(*(connection.recv() for connection in connections), strict=True)
    return Found(max(memory), 1.0 / (sum(each) / count), batch_size * num_steps, each)


ROWS: dict[str, Callable[..., Found]] = {
    "plain_10000": partial(long, "plain", 10_000),
    "recomputed_10000": partial(long, "recomputed", 10_000),
    "recomputed_100000": partial(long, "recomputed", 100_000),
    "truncated_10000": partial(long, "truncated", 10_000),
    "truncated_100000": partial(long, "truncated", 100_000),
    "batch_1000": partial(batch, 1_000),
    "batch_10000": partial(batch, 10_000),
    "stream_64": partial(stream, 2**26),
    "stream": stream,
    "processes_1": partial(processes, 1),
    "processes_2": partial(processes, 2),
    "processes_4": partial(processes, 4),
}
"""Measurements by row."""
SMOKE = {
    "plain_10000": partial(long, "plain", 6, 4),
    "recomputed_10000": partial(long, "recomputed", 6, 4, 3),
    "truncated_10000": partial(long, "truncated", 6, 4, 3),
    "batch_1000": partial(batch, 3, 2, 4),
    "stream": partial(stream, 32_000, 4, 2, 2, 4),
    "processes_2": partial(processes, 2, 3, 2, 0.1, 4),
}
"""The same at tiny sizes; only the first of them in a process of its own."""


def line(row: str, found: Found) -> str:
    """A row of the table."""
    each = " + ".join(f"{rate:.2f}" for rate in found.each) or f"{1 / found.seconds:.3g}"
    command = f"`python benchmarks/scale.py --row '[{row}]'`"
    cells = f"{found.memory:.0f}", f"{found.seconds:.3g}", f"{1e6 * found.seconds / found.frames:.3g}", each, command
    return f"| {row} | {' | '.join(cells)} |"


def main(row: list[str] | None = None, smoke: bool = False) -> None:
    """Print the table.

    Args:
        row: Names of rows; all by default.
        smoke: Only check that everything runs, at tiny sizes; the results are meaningless.
    """
    rows = SMOKE if smoke else ROWS
    unknown = [name for name in row or () if name not in rows]
    if unknown or row == []:
        raise ValueError(f"row must be a list of {', '.join(rows)}, got {row}")
    if smoke:
        torch.set_num_threads(1)
    pyro.enable_validation(False)
    if row and len(row) == 1:
        print(f"{HEADER}\n{line(row[0], rows[row[0]]())}")
        return
    print(f"CPU, {torch.get_num_threads()} threads; torch {torch.__version__}, pyro {pyro.__version__}\n\n{HEADER}")
    for place, name in enumerate(row or rows):
        if smoke and place:
            print(line(name, rows[name]()))
            continue
        command = [sys.executable, __file__, "--row", f"[{name}]", *(["--smoke"] if smoke else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        print(done.stdout.splitlines()[-1], flush=True)


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(main, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that everything runs, at tiny sizes.")
    main(**parser.parse_args().as_dict())
