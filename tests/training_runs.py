"""A tiny training run as a function, for processes that tests start."""

import logging
import multiprocessing
import os
import socket
import warnings
from pathlib import Path

import pyro
import torch
from torch.utils.data import Dataset

import zf_pyro
from zf_pyro import Linear, ZForcingELBO, emissions
from zf_pyro.data import LengthBatches, Loader
from zf_pyro.training import Training, fit

torch.set_num_threads(1)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

PROCESSES = multiprocessing.get_context("forkserver")
"""Start method: fork from a process that has imported everything."""
PROCESSES.set_forkserver_preload([__name__])

SIZES = {"embed_dim": 4, "hidden_dim": 5, "latent_dim": 3, "mlp_dim": 4}


class Sequences(Dataset):
    """Twelve random sequences of 2 to 6 frames."""

    def __init__(self, seed=0, count=12):
        generator = torch.Generator().manual_seed(seed)
        self.lengths = torch.randint(2, 7, (count,), generator=generator)
        self.items = [torch.randn(int(n), 2, generator=generator) for n in self.lengths]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def loader(seed=0, batch_size=4, workers=0, **shares):
    """Batches of :class:`Sequences`."""
    data = Sequences(seed)
    return Loader(data, LengthBatches(data.lengths, batch_size, **shares), num_workers=workers)


def tiny_net(seed=1, cls=zf_pyro.ZForcing, **settings):
    """A small network, the same for a given seed."""
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    return cls(emissions.Gaussian(2), **SIZES, **settings)


def objective():
    """Objective with weights that change over the first steps."""
    return ZForcingELBO(Linear(0.2, 1.0, 9), aux_weight=Linear(0.1, 0.0, 7))


def train(out, max_steps=10, *, net=None, batches=None, module=None, **settings):
    """Run from fixed initial parameters and data; the trained network."""
    net = tiny_net(dropout=0.2) if net is None else net
    module = module or Training(net.model, net.guide, objective(), pyro.optim.Adam({"lr": 1e-2}), plateau=1)
    quiet = {"progress": False, "accelerator": "cpu", "checkpoint_every": 2, "validate_every": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(module, batches or loader(), loader(7, shuffle=False), out=out, max_steps=max_steps, **quiet | settings)
    return net


def weights(net):
    """Copies of the parameters by name."""
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


def run(out, **settings):
    """Train, and save the final parameters to ``out/final.pt``; a target for processes."""
    torch.save(weights(train(out, **settings)), Path(out) / "final.pt")


def final(out):
    """Final parameters that :func:`run` saved."""
    return torch.load(Path(out) / "final.pt", weights_only=True)


def start(target, *arguments, **settings):
    """Start ``target`` in a new process."""
    process = PROCESSES.Process(target=target, args=arguments, kwargs=settings)
    process.start()
    return process


def rank(number, world, port, target, *arguments, **settings):
    """Run ``target`` as one process of a group, in the environment that torchrun would set."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(number), "NODE_RANK": "0"}
    target(*arguments, devices=world, **settings)


def free_port():
    """A free port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def together(target, *arguments, world=2, **settings):
    """Start ``target`` in a group of ``world`` processes."""
    port = free_port()
    return [start(rank, number, world, port, target, *arguments, **settings) for number in range(world)]


def join(processes, seconds=60):
    """Wait for processes to end, and kill the others; exit codes, None for those killed."""
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.exitcode is None:
            process.kill()
            process.join()
    return codes
