"""Values and gradients of all loops in another build of the C loops, for ``test_recurrence_compilers.py``.

``python built.py MACHINE OUT``: takes the machine MACHINE.so through networks of several sizes, at every level and with
one and two threads, and writes the results, in a list, and what the build says of itself to OUT.
"""

import sys
from types import SimpleNamespace

import torch
from sanitised import load_machine, network, results

SIZES = tuple(
    dict(zip(("particles", "time", "batch", "frame", "embed", "hidden", "latent", "mlp"), sizes, strict=True))
    for sizes in ((1, 6, 32, 5, 24, 40, 9, 33), (3, 4, 5, 3, 7, 13, 4, 11), (1, 5, 1, 2, 16, 64, 16, 16))
)


def main():
    file, out = sys.argv[1:]
    machine = load_machine(file)
    from zf_pyro.recurrence.engine import machines

    machines.WORTH_A_THREAD = 1
    found = []
    for level in range(len(machine.PANELS)):
        machines._compiled = SimpleNamespace(run=machine.run, PANELS=machine.PANELS[: level + 1])
        for k, sizes in enumerate(SIZES):
            for dtype in (torch.float32, torch.float64):
                for threads in (1, 2):
                    torch.set_num_threads(threads)
                    transition = ("conditional_layer_norm", "concatenate")[k % 2]
                    found.append(results(network(sizes, transition, False, dtype, k), sizes, k))
    build = {name: getattr(machine, name) for name in ("COMPILER", "THREADED", "OPTIMISED", "LEVELS")}
    torch.save((build, found), out)


if __name__ == "__main__":
    main()
