"""What a path needs of a net, and the parameters a run was made with."""

import torch

from ..networks import StepFunctions


class Stamp:
    """The parameters a run was made with, so that a density asked for later is never of others."""

    def __init__(self, net: StepFunctions) -> None:
        self.net = net
        self.gradients = torch.is_grad_enabled()
        self.training = net.training
        self.parameters = list(net.parameters())
        self.versions = [p._version for p in self.parameters]

    def matches(self, other: "Stamp") -> bool:
        return (
            self.net is other.net
            and self.gradients == other.gradients
            and self.training == other.training
            and self.versions == other.versions
            and all(a is b for a, b in zip(self.parameters, other.parameters, strict=True))
        )

    def check(self) -> None:
        if self.versions != [p._version for p in self.parameters]:
            raise RuntimeError(
                "the parameters changed after this trace was made (an optimiser step, or load_state_dict) and its "
                "densities were not yet computed; call trace.compute_log_prob() before the change, or trace anew"
            )
