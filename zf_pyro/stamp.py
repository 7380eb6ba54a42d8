"""What a path needs of a net, and the parameters a run was made with."""

from typing import Any, Protocol

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from .emissions import Emission
from .networks import State
from .recurrence import PosteriorScan


class StepFunctions(Protocol):
    """What a path needs of :class:`~zf_pyro.ZForcing`."""

    training: bool
    latent_dim: int
    emission_family: Emission

    def prior(self, state: State) -> TorchDistribution: ...
    def posterior(self, state: State, b_t: Tensor) -> TorchDistribution: ...
    def transition(self, state: State, u_t: Tensor, z_t: Tensor) -> State: ...
    def emission(self, state: State) -> TorchDistribution: ...
    def auxiliary(self, z_t: Tensor, state: State) -> TorchDistribution: ...
    def backward_emission(self, b_t: Tensor) -> TorchDistribution: ...
    def scan_posterior(self, state: State, u: Tensor, b: Tensor, noise: Tensor) -> PosteriorScan: ...
    def scan_prior(self, before: State) -> TorchDistribution: ...
    def scan_auxiliary(self, z: Tensor, before: State, b: Tensor) -> Tensor: ...
    def scan_states(self, state: State, u: Tensor, z: Tensor) -> State: ...
    def parameters(self) -> Any: ...


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
