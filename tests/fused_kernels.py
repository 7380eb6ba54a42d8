"""Compile the kernels of Z-Forcing's loops for an H100, without one, and print their sizes.

    python -m tests.fused_kernels

Without arguments the sizes are small. ``--hidden 1024 --rows 32`` are those of a benchmark.
"""

import argparse
import warnings

import torch

from zf_pyro import ZForcing, ZForcingELBO, emissions
from zf_pyro.recurrence.engine.fused import fused_machine
from zf_pyro.recurrence.engine.fused.kernels import Kernel, launch_kernel, loop_kernel
from zf_pyro.recurrence.engine.fused.phases import launches
from zf_pyro.recurrence.engine.operations import draw, draw_back

from .fused_programs import programs_of


def kernels(hidden: int, rows: int) -> list[Kernel]:
    """Kernels of a step and of a whole loop, forward and backward.

    Embedding and MLP have half the hidden size, latents a quarter.
    """
    net = ZForcing(
        emissions.Gaussian(4), embed_dim=hidden // 2, hidden_dim=hidden, latent_dim=hidden // 4, mlp_dim=hidden // 2
    )
    x = torch.randn(rows, 2, 4)
    programs = programs_of(lambda: ZForcingELBO().loss_and_grads(net.model, net.guide, x))
    loops = [program for program in programs if any(i.operation in (draw, draw_back) for i in program)]
    settings = rows, torch.float32, "ieee"
    launched = [launch_kernel(launch, *settings) for program in loops for launch in launches(program)]
    return launched + [loop_kernel(launches(program), *settings) for program in loops]


def compiled(found: Kernel) -> bytes:
    """Machine code of a kernel, with the arguments' properties that a launch would pass on."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    whole = "def loop" in found.text
    function = fused_machine.compiled(found.text, "loop" if whole else "step")
    kinds, fixed = dict.fromkeys(("t", "first", "steps", "by", "rows"), "i32") | {"arrived": "*i64"}, {}
    for k, (tensor, _) in enumerate(found.rings):
        kinds |= {f"p{k}": "*fp32", f"n{k}": "i32", f"o{k}": "i32"}
        for name, stride in zip("sfr", tensor.stride(), strict=True):
            kinds[f"{name}{k}"] = "constexpr" if stride == 1 else "i32"
            fixed |= {f"{name}{k}": 1} if stride == 1 else {}
    ordered = {name: kinds[name] for name in function.arg_names}
    source = ASTSource(fn=function, signature=ordered, constexprs=fixed)
    options = {"enable_fp_fusion": True} | ({"launch_cooperative_grid": True} if whole else {})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["cubin"]


def main() -> None:
    """Compile all kernels."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--rows", type=int, default=20)
    given = parser.parse_args()
    warnings.simplefilter("error")
    every = kernels(given.hidden, given.rows)
    for found in every:
        print(
            f"{found.blocks:5} blocks of features, {len(found.rings):3} rings, {len(compiled(found)):7} bytes of code"
        )
    print(f"{len(every)} kernels")


if __name__ == "__main__":
    main()
