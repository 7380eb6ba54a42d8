"""The step functions of a stochastic recurrent network: one Protocol for every wing that runs them."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ..emissions import Emission
from .as_built import change_of
from .cells import Transition
from .state import PosteriorScan, State

Function = TypeVar("Function", bound=Callable[..., Any])
_WITH_FAST_FORM: set[Callable[..., Any]] = set()


class PlainLoopWarning(UserWarning):
    """A part of a model was changed, so that its plain loops run instead of the fast ones."""


class StepFunctions(Protocol):
    """A network with latents z_t, as paths, generation, filters and objectives see it.

    The step functions are pure: tensors with any leading batch dimensions in, distributions and states out. The scans
    are the same functions over whole sequences, with time first.
    """

    training: bool
    latent_dim: int
    hidden_dim: int
    has_auxiliary: bool
    """Whether b_t comes from a backward RNN, so that the auxiliary applies."""
    flow_elements: int
    """Elements that a pass through the flows of the posterior keeps for its gradient, for a step of a particle."""
    emission_family: Emission
    emission_layer: nn.Linear
    covariate_dim: int
    """K, covariates of a step."""
    flag_dim: int
    """Flags of a step, 1 for seen and 0 for unseen, that the network reads beside a frame."""
    frame_dropout: float
    """Probability of hiding x_{t-1} from the recurrence, in training mode."""
    changes: set[str]
    """Changes to parts that a warning has named."""

    @property
    def backward_dim(self) -> int:
        """Size of b_t."""
        ...

    @property
    def unrefined(self) -> "StepFunctions":
        """The network without corrections of its posterior; itself in most cases."""
        ...

    def parts_of(self, step_function: str) -> dict[str, type[nn.Module]]:
        """Names and built kinds of the parts that the fast form of a step function reads."""
        ...

    def inputs(
        self,
        x: Tensor,
        context: Tensor | None = None,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> Tensor:
        """u_t = x_{t-1}; x (batch, time, *frame), the result likewise, or with what is read beside it."""
        ...

    def backward_states(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> Tensor:
        """b_1..b_T of x (batch, time, *frame); (time, batch, backward)."""
        ...

    def scan_backward(self, x: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        """b_1..b_T of what is read (time, batch, ...), with the mask (time, batch) and lengths (batch,)."""
        ...

    def initial_state(self, batch_shape: Sequence[int]) -> State:
        """h_0; each field (*batch_shape, hidden)."""
        ...

    def past(self, state: State, u_t: Tensor) -> State:
        """What z_t depends on, from the state after step t - 1 and u_t (..., *frame)."""
        ...

    def prior(self, past: State) -> TorchDistribution:
        """p(z_t | past); event (latent,)."""
        ...

    def posterior(self, past: State, b_t: Tensor) -> TorchDistribution:
        """q(z_t | past, b_t); event (latent,)."""
        ...

    def transition(self, past: State, u_t: Tensor, z_t: Tensor) -> State:
        """The state after step t, h_t = f(u_t, z_t, h_{t-1})."""
        ...

    def emission(self, state: State) -> TorchDistribution:
        """p(x_t | h_t); the event is one frame."""
        ...

    def auxiliary(self, z_t: Tensor, past: State) -> TorchDistribution:
        """p_xi(b_t | z_t, h_{t-1}); event (backward,)."""
        ...

    def backward_emission(self, b_t: Tensor) -> TorchDistribution:
        """p_bwd(x_{t-1} | b_t) for b_t (..., backward); the event is one frame."""
        ...

    def scan_posterior(self, state: State, u: Tensor, b: Tensor, noise: Tensor) -> PosteriorScan:
        """Sample z_1..z_T from the posterior; u, b and noise (time, ..., features)."""
        ...

    def scan_states(self, state: State, u: Tensor, z: Tensor) -> State:
        """h_0..h_T for known latents; each field (time + 1, ..., hidden)."""
        ...

    def scan_past(self, before: State, u: Tensor, after: State) -> State:
        """:meth:`past` of every step, from the states before and after it; u (time, ..., *frame)."""
        ...

    def scan_prior(self, before: State) -> TorchDistribution:
        """p(z_t | h_{t-1}) at every step; batch shape (time, ...)."""
        ...

    def scan_auxiliary(self, z: Tensor, before: State, b: Tensor) -> Tensor:
        """log p_xi(b_t | z_t, h_{t-1}) at every step; (time, ...) nats."""
        ...

    def loop_transition(self) -> Transition:
        """:meth:`transition` for a loop without gradients, with products of weights formed once."""
        ...

    def parameters(self) -> Any:
        """The parameters, as of :class:`torch.nn.Module`."""
        ...

    def eval(self) -> Any:
        """Evaluation mode, as of :class:`torch.nn.Module`."""
        ...

    def modules(self) -> Any:
        """The modules, as of :class:`torch.nn.Module`."""
        ...


def with_fast_form(function: Function) -> Function:
    """Mark a step function for which the package has a fast form that reads weights instead of calling it."""
    _WITH_FAST_FORM.add(function)
    return function


def own_step_functions(net: StepFunctions, *names: str) -> bool:
    """Whether fast forms stand for these step functions of a model.

    They do if the class has the package's own functions, and every part under them is as the package built it.
    Otherwise the plain form runs, which calls functions and modules. A warning names each changed part once per model.
    A subclass that overrides a step function gets none.

    Args:
        net: the model.
        names: of step functions, such as ``"posterior"``.
    """
    for name in names:
        if getattr(type(net), name, None) not in _WITH_FAST_FORM:
            return False
        change = f"{name} was set on the instance" if name in vars(net) else None
        for part, kind in net.parts_of(name).items():
            change = change or change_of(getattr(net, part), kind, part)
        if change is not None:
            if change not in net.changes:
                net.changes.add(change)
                warnings.warn(
                    f"{change}, so {type(net).__name__} runs its plain loops, which are slower; the values are "
                    "those of the changed network",
                    PlainLoopWarning,
                    stacklevel=2,
                )
            return False
    return True
