"""Seconds and peak memory of training steps, in this process or one of their own."""

import multiprocessing
import pathlib
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import pyro
import torch
from contenders import Peer, Work, contenders, keys


def seconds(function: Callable[[], object], device: str) -> float:
    """Wall time of one call, in seconds."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def serve(connection: Connection, key: str, work: Work, device: str, peer: Peer, threads: int) -> None:
    """Time one contender in this process on request, until told to stop."""
    torch.set_num_threads(threads)
    pyro.enable_validation(False)
    steps = contenders(work, device, peer)
    while connection.recv():
        steps["clear"]()
        connection.send(seconds(steps[key], device))


class Apart:
    """Contenders in a separate process each."""

    def __init__(self, work: Work, device: str, peer: Peer) -> None:
        context = multiprocessing.get_context("spawn")
        self.connections = {}
        for key in keys(device, peer):
            self.connections[key], theirs = context.Pipe()
            context.Process(
                target=serve, args=(theirs, key, work, device, peer, torch.get_num_threads()), daemon=True
            ).start()
            theirs.close()  # so that a process that fails ends the wait for it

    def seconds(self, key: str) -> float:
        """Wall time of one step, in seconds."""
        self.connections[key].send(True)
        return self.connections[key].recv()

    def stop(self) -> None:
        """End the processes."""
        for connection in self.connections.values():
            connection.send(False)


def peak_bytes(key: str, work: Work, device: str) -> int:
    """Peak memory of training steps beyond what was allocated before, in bytes; needs a fresh process."""
    pyro.enable_validation(False)
    steps = contenders(work, device, Peer(None))
    if device == "cuda":
        steps[key]()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        steps[key]()
        return torch.cuda.max_memory_allocated() - before
    before = resident_bytes("VmRSS")
    for _ in range(3):
        steps["clear"]()
        steps[key]()
    return max(1, resident_bytes("VmHWM") - before)  # tiny steps may fit into memory that was free


def resident_bytes(field: str) -> int:
    """Resident memory of this process, now (VmRSS) or at its peak (VmHWM), in bytes; Linux only."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))
