"""Training throughput of two processes (gloo, one thread each), against one process with one thread.

    python benchmarks/ddp.py

Each process has its own batches of the same size, so a step of two processes trains on twice the sequences. Runs of
one and of two processes alternate. The median of the ratios within a round is printed. The sizes are half those of
TIMIT.
"""

import functools
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from typing import Any

import jsonargparse
import torch
from lightning.pytorch.callbacks import Callback

from zf_pyro import ZForcing, ZForcingELBO, emissions
from zf_pyro.training import Training, fit

WARM_UP = 2
"""Steps before the clock starts."""


class Clock(Callback):
    """End times of the steps, in seconds."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Record the time."""
        self.times.append(time.perf_counter())


def train(
    rank: int, world: int, port: int, hidden: int, num_steps: int, batch_size: int, steps: int, out: str
) -> float:
    """Run one process; return sequences per second of all processes together."""
    torch.set_num_threads(1)
    if world > 1:
        found = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
        os.environ.update(found)
    torch.manual_seed(0)
    sizes = {"embed_dim": hidden // 2, "hidden_dim": hidden, "latent_dim": hidden // 4, "mlp_dim": hidden // 2}
    net = ZForcing(emissions.Gaussian(200), **sizes)
    generator = torch.Generator().manual_seed(rank)
    batches = [(torch.randn(batch_size, num_steps, 200, generator=generator),)]
    module = Training(net.model, net.guide, ZForcingELBO(aux_weight=0.1), functools.partial(torch.optim.Adam, lr=1e-4))
    clock = Clock()
    quiet = {"accelerator": "cpu", "progress": False, "checkpoint_every": 10**6}
    fit(module, batches, out=out, max_steps=WARM_UP + steps, devices=world, callbacks=[clock], **quiet)
    return world * batch_size * steps / (clock.times[-1] - clock.times[WARM_UP - 1])


def throughput(world: int, *settings: int) -> float:
    """Sequences per second of ``world`` new processes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with tempfile.TemporaryDirectory() as out, multiprocessing.get_context("spawn").Pool(world) as pool:
        return min(pool.starmap(train, [(rank, world, port, *settings, out) for rank in range(world)], chunksize=1))


def main(
    hidden: int = 512,
    num_steps: int = 40,
    batch_size: int = 32,
    steps: int = 6,
    rounds: int = 5,
    smoke: bool = False,
) -> None:
    """Compare one process with two.

    Args:
        hidden: Hidden size. The other sizes keep the paper's ratio to it.
        num_steps: Frames per sequence.
        batch_size: Sequences per step of one process.
        steps: Timed steps per run.
        rounds: Runs of each.
        smoke: Only check that everything runs, at tiny sizes; the results are meaningless.
    """
    if smoke:
        hidden, num_steps, batch_size, steps, rounds = 8, 3, 2, 2, 1
    pairs = [
        (throughput(1, hidden, num_steps, batch_size, steps), throughput(2, hidden, num_steps, batch_size, steps))
        for _ in range(rounds)
    ]
    for one, two in pairs:
        print(f"one process {one:.1f}, two {two:.1f} sequences per second: {two / one:.2f}")
    ratios = sorted(b / a for a, b in pairs)
    print(f"ratio {statistics.median(ratios):.2f}  [{ratios[0]:.2f}, {ratios[-1]:.2f}]  goal 1.6")


if __name__ == "__main__":
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(main, skip={"smoke"})
    parser.add_argument("--smoke", action="store_true", help="Only check that everything runs, at tiny sizes.")
    main(**parser.parse_args().as_dict())
