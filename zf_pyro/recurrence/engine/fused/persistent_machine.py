"""The machine that runs a whole loop in one Triton kernel."""

import torch

from ..machines import RunProgram
from ..operations import Instructions
from .fused_machine import FusedMachine, arguments_of, compiled, precision
from .plans import plan

WARPS = 8
"""Warps of a program. With Triton's default, 4, the kernels of Z-Forcing's loops spill registers on an H100."""


class PersistentMachine(FusedMachine):
    """Runs a loop over steps in one kernel, whose programs wait for one another between launches.

    The programs must all run at the same time: there is at most one for each multiprocessor, and the launch is
    cooperative. What is not :func:`~.plans.fusible` runs in PyTorch, as on the fused machine.
    """

    def prepare(self, program: Instructions) -> RunProgram:
        planned = plan(program, precision(), whole=True)
        if planned is None:
            return super().prepare(program)
        ((text, _, blocks, block_rows), places) = planned[0]
        first = program[0].operands[0].tensor
        rows = first.shape[2]
        arguments = arguments_of(program, places)
        arrived = torch.zeros(1, dtype=torch.int64, device=first.device)
        call = compiled(text, "loop")[(min(blocks * -(-rows // block_rows), most_programs(first.device)),)]
        settings = {"num_warps": WARPS, "enable_fp_fusion": True}
        if first.is_cuda:  # the interpreter has one program
            settings["launch_cooperative_grid"] = True

        def run(first_step: int, steps: int, by: int) -> None:
            with torch.cuda.device_of(first):
                call(first_step, steps, by, rows, arrived, *arguments, **settings)

        return run


def most_programs(device: torch.device) -> int:
    """Return the programs that run at the same time: multiprocessors of a GPU, and one in the interpreter on a CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
