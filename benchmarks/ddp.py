"""Throughput of training with two processes (gloo, one thread each) against one process with one thread.

    python benchmarks/ddp.py

Each process has its own batches of the same size, so that twice the sequences are trained on in a step of two. Runs of
one and of two processes alternate; what is printed is the median of the ratios of a round. The sizes are half those of
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

import torch
from jsonargparse import auto_cli
from lightning.pytorch.callbacks import Callback

from zf_pyro import ZForcing, ZForcingELBO, emissions
from zf_pyro.training import Training, fit

WARM_UP = 2
"""Steps before the clock starts."""


class Clock(Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())


def train(
    rank: int, world: int, port: int, hidden: int, num_steps: int, batch_size: int, steps: int, out: str
) -> float:
    """One process of a run; sequences a second of all processes together."""
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
    """Sequences a second of ``world`` new processes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with tempfile.TemporaryDirectory() as out, multiprocessing.get_context("spawn").Pool(world) as pool:
        return min(pool.starmap(train, [(rank, world, port, *settings, out) for rank in range(world)], chunksize=1))


def main(hidden: int = 512, num_steps: int = 40, batch_size: int = 32, steps: int = 6, rounds: int = 5) -> None:
    """Compare one process with two.

    Args:
        hidden: hidden size; the others have the paper's proportion to it.
        num_steps: frames of a sequence.
        batch_size: sequences of a step of one process.
        steps: counted steps of a run.
        rounds: runs of each.
    """
    pairs = [
        (throughput(1, hidden, num_steps, batch_size, steps), throughput(2, hidden, num_steps, batch_size, steps))
        for _ in range(rounds)
    ]
    for one, two in pairs:
        print(f"one process {one:.1f}, two {two:.1f} sequences a second: {two / one:.2f}")
    ratios = sorted(b / a for a, b in pairs)
    print(f"ratio {statistics.median(ratios):.2f}  [{ratios[0]:.2f}, {ratios[-1]:.2f}]  goal 1.6")


if __name__ == "__main__":
    auto_cli(main)
