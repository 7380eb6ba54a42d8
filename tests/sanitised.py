"""All loops over random shapes in the compiled machine, against the plain one, under the compiler's sanitisers.

Run by ``test_reliability_sanitisers.py``, in a process that preloads the sanitisers' library:
``python sanitised.py FOLDER NAME:FIRST:SHAPES...``. For each job, a forked process takes the machine FOLDER/NAME.so
through so many random shapes, and writes to FOLDER/NAME-FIRST.txt what it did, or what the sanitisers report.
"""

import importlib.util
import os
import random
import sys
import traceback
from functools import partial
from types import SimpleNamespace

import torch

NARROW = (1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13)
"""Sizes around the panels of a weight (6 and 12 rows) and the vectors of float64 (2, 4 and 8)."""
WIDE = (15, 16, 17, 19, 23, 24, 25, 31, 32, 33)
"""Sizes around the vectors of float32 (4, 8 and 16), and tiles of two."""
LARGE = (47, 63, 64, 65, 127, 129, 191, 193, 200)
"""Sizes around a group of two tiles, and the 192 columns that are multiplied at once."""
DTYPES = {torch.float32: 2e-4, torch.float64: 1e-9}
"""Tolerance of each precision, relative and absolute. In float32 rounding errors grow over the steps."""
MACHINE = "zf_pyro.recurrence.engine._compiled"


def load_machine(file):
    """Import the compiled machine ``file`` in place of the installed one."""
    spec = importlib.util.spec_from_file_location(MACHINE, file)
    sys.modules[MACHINE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[MACHINE])
    return sys.modules[MACHINE]


def random_sizes(generator):
    """Sizes of a network and of its data: most are narrow, and some wide or one large."""
    names = ("time", "batch", "frame", "embed", "hidden", "latent", "mlp")
    sizes = {"particles": generator.choice((1, 1, 2, 3)), **{name: generator.choice(NARROW) for name in names}}
    if generator.random() < 0.25:
        large = generator.choice(names)
        return sizes | {"particles": 1, "time": min(sizes["time"], 5), large: generator.choice(LARGE)}
    return sizes | {name: generator.choice(WIDE) for name in generator.sample(names, generator.randint(0, 2))}


def network(sizes, transition, z_force, dtype, seed):
    """A network of these sizes, with weights large enough for gates to move and some clamps to be active."""
    import zf_pyro

    torch.manual_seed(seed)
    dims = {f"{name}_dim": sizes[name] for name in ("embed", "hidden", "latent", "mlp")}
    family = zf_pyro.emissions.Gaussian(sizes["frame"])
    net = zf_pyro.ZForcing(family, **dims, transition=transition, z_force=z_force)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.to(dtype)


def results(net, sizes, seed):
    """Outputs of all loops and all gradients, by name."""
    from zf_pyro import State

    time, batch, dtype = sizes["time"], sizes["batch"], net.emission_layer.weight.dtype
    lead = (batch,) if sizes["particles"] == 1 else (sizes["particles"], batch)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    x = normal(batch, time, sizes["frame"])
    lengths = torch.randint(1, time + 1, (batch,), generator=generator) if seed % 3 else None
    start = State(normal(*lead, net.hidden_dim).tanh(), normal(*lead, net.hidden_dim))
    given = [start.hidden, start.cell, x, normal(time, *lead, net.latent_dim)]
    for value in given:
        value.requires_grad_()
    b = net.backward_states(x, lengths)
    scan = net.scan_posterior(start, net.inputs(x).transpose(0, 1), b, given[3].detach())
    states = net.scan_states(start, net.inputs(x).transpose(0, 1), given[3])
    before = State(*(field[:-1] for field in states))
    prior = net.scan_prior(before).base_dist
    found = {"b": b, "z": scan.z, "h": scan.states.hidden, "c": scan.states.cell, "before": scan.before.hidden}
    found |= {"after": scan.after.hidden, "loc": scan.loc, "scale": scan.scale}
    found |= {"known h": states.hidden, "known c": states.cell, "prior loc": prior.loc, "prior scale": prior.scale}
    found["auxiliary"] = net.scan_auxiliary(given[3], before, b.detach().view(time, *lead[:-1] and (1,), batch, -1))
    chance = random.Random(seed)
    graded = [name for name in found if name == "z" or seed % 3 or chance.random() < 0.5]  # now and then only some
    total = sum((normal(*found[name].shape) * found[name]).sum() for name in graded)
    wanted = {**dict(net.named_parameters()), **dict(zip(("h_0", "c_0", "x", "known z"), given, strict=True))}
    gradients = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    found |= {f"gradient of {name}": g for name, g in zip(wanted, gradients, strict=True) if g is not None}
    return {name: value.detach() for name, value in found.items()}


def compare(machine, first, shapes):
    """Take the loops through random shapes; returns the number of runs of the compiled machine.

    Each shape runs on every instruction set, in one precision and with one cell, which alternate. Where the processor
    has products in bfloat16, shapes in float32 run with them too.
    """
    from zf_pyro.recurrence.engine import buffers, machines

    # Every buffer is an allocation of its own, which the sanitiser guards on both sides. Torch fills it with NaN.
    buffers.Tape.room = lambda tape, *shape: torch.empty(shape, dtype=tape.block.dtype, device=tape.block.device)
    torch.use_deterministic_algorithms(True)
    runs = 0
    for k in range(first, first + shapes):
        sizes, dtype = random_sizes(random.Random(k)), tuple(DTYPES)[k % 2]
        transition = ("conditional_layer_norm", "concatenate")[k // 2 % 2]
        net, tolerance = network(sizes, transition, k % 7 == 0, dtype, k), DTYPES[dtype]
        os.environ["ZF_PYRO_MACHINE"] = "pytorch"
        expected = results(net, sizes, k)
        os.environ["ZF_PYRO_MACHINE"] = "c"
        torch.set_num_threads(2 if k % 15 == 14 else 1)  # threads that share a processor wait long
        machines.WORTH_A_THREAD = 1
        for level in range(len(machine.PANELS)):
            # The widest set of a processor is chosen: this processor has no wider one.
            widest = level + 1 == len(machine.PANELS)
            machines._compiled = SimpleNamespace(
                run=machine.run, PANELS=machine.PANELS[: level + 1], BFLOAT16=widest and machine.BFLOAT16
            )
            found = results(net, sizes, k)
            runs += 1
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                scale = max(1.0, float(value.abs().max()))
                torch.testing.assert_close(
                    found[name],
                    value,
                    rtol=tolerance,
                    atol=tolerance * scale,
                    msg=partial("shape {} {}, level {}, {}: {}".format, k, sizes, level, name),
                )
        if machine.BFLOAT16 and dtype == torch.float32:  # test_recurrence_bfloat16.py has the values
            torch.set_float32_matmul_precision("medium")
            assert all(value.isfinite().all() for value in results(net, sizes, k).values())
            torch.set_float32_matmul_precision("highest")
            runs += 1
        torch.set_num_threads(1)
    return runs


def in_a_child(folder, name, first, shapes):
    """Run one machine in a forked process, with its output in a file; returns the process's id."""
    process = os.fork()
    if process:
        return process
    file = os.open(f"{folder}/{name}-{first}.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    status = 1
    try:
        machine = load_machine(f"{folder}/{name}.so")
        print(f"{compare(machine, first, shapes)} runs at {len(machine.PANELS)} levels", flush=True)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main():
    folder, *jobs = sys.argv[1:]
    torch.set_num_threads(1)
    started = []
    for name, first, shapes in (job.split(":") for job in jobs):
        started.append(in_a_child(folder, name, int(first), int(shapes)))
    for process in started:
        os.waitpid(process, 0)


if __name__ == "__main__":
    main()
