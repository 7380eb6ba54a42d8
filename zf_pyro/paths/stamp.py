"""The parameters that a run was made with, and whether two runs got equal tensors."""

import torch
from torch import Tensor

from ..networks import StepFunctions, versions


class Stamp:
    """The parameters and the mode that a run was made with.

    Densities are computed after the run, when they are requested. The stamp tells whether the parameters are still the
    same then.

    Args:
        net: the model.
    """

    def __init__(self, net: StepFunctions) -> None:
        self.net = net
        self.gradients = torch.is_grad_enabled()
        self.training = net.training
        self.parameters = list(net.parameters())
        self.versions = versions(self.parameters)

    def matches(self, other: "Stamp") -> bool:
        """Whether another run was made with the same parameters, in the same mode."""
        return (
            self.net.unrefined is other.net.unrefined
            and self.gradients == other.gradients
            and self.training == other.training
            and self.versions == other.versions
            and all(a is b for a, b in zip(self.parameters, other.parameters, strict=True))
        )

    def check(self) -> None:
        """Refuse to compute densities if the parameters changed.

        Raises:
            RuntimeError: they did.
        """
        if self.versions != versions(self.parameters):
            raise RuntimeError(
                "the parameters changed after this trace was made (an optimiser step, or load_state_dict) and its "
                "densities were not yet computed; call trace.compute_log_prob() before the change, or trace anew"
            )


def same_elements(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two tensors, each (...), are the same or equal in shape, dtype and elements, without gradients.

    On a GPU, and while torch.jit traces, only the same tensor is taken: a comparison of elements would wait for the
    device, or be compiled in.
    """
    if a is b or a is None or b is None or torch.jit.is_tracing():
        return a is b
    constant = not (a.requires_grad or b.requires_grad)
    return constant and a.device.type == b.device.type == "cpu" and a.dtype == b.dtype and torch.equal(a, b)
