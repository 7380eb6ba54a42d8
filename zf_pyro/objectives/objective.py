"""The base of all training objectives: schedule of the KL weight, Pyro's interface, and the loss as a module."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any, Self

import pyro
import torch
from pyro.infer import ELBO
from pyro.infer.elbo import ELBOModule
from pyro.infer.util import is_validation_enabled, torch_item
from pyro.poutine import Trace
from pyro.poutine.plate_messenger import PlateMessenger
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, warn_if_nan
from torch import Tensor, nn

from ..checks import require_count, require_flag
from ..networks import handlers, runs_eagerly, under
from .programs import PyroProgram, check_programs, check_roles, owner_of, refuse_class
from .schedules import Schedule, as_schedule, weight_at
from .terms import Terms
from .traces import replayed_traces


class Objective(ELBO):
    """A loss for :class:`pyro.infer.SVI`, and as a module ``elbo(model, guide)``.

    Args:
        kl_weight: beta, a number or a schedule.
        num_particles: samples of the latents.
        pyro_settings: as for any Pyro ELBO.

    Attributes:
        step: training steps taken, on which the schedules depend: gradients computed by :class:`~pyro.infer.SVI`, or
            losses computed with gradients enabled by the module ``elbo(model, guide)`` in training mode.
        terms: parts of the latest loss, a :class:`~zf_pyro.Terms` without gradients; None where there are none.

        measure_earned: whether ``terms.earned`` is measured.

    Raises:
        ValueError: a negative weight, or no particles.
        TypeError: the class was given to SVI in place of an instance.
    """

    measure_earned: bool = False

    def __new__(cls, *settings: Any, **pyro_settings: Any) -> Self:
        """Refuse the call of a loss, ``loss(model, guide, data)``, that SVI makes where it was given the class."""
        refuse_class(settings, cls)
        return super().__new__(cls)

    def __init__(self, kl_weight: float | Schedule, num_particles: int, **pyro_settings: Any) -> None:
        nesting, retain = (pyro_settings.get(name) for name in ("max_plate_nesting", "retain_graph"))
        if nesting not in (None, math.inf):
            require_count("max_plate_nesting", nesting, least=0)
        if retain is not None:
            require_flag("retain_graph", retain)
        super().__init__(num_particles=require_count("num_particles", num_particles), **pyro_settings)
        self.kl_schedule = as_schedule("kl_weight", kl_weight)
        self.step = 0
        self.terms: Terms | None = None

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Networks of the objective's own, trained with those of the programs; none by default."""
        return ()

    @property
    def kl_weight(self) -> float:
        """beta at the current step."""
        return weight_at("kl_weight", self.kl_schedule, self.step)

    def state_dict(self) -> dict[str, int]:
        """The training step, on which the schedules depend."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue the schedules from :meth:`state_dict`.

        Raises:
            ValueError: ``state`` is no such state.
        """
        step = state.get("step") if isinstance(state, Mapping) else None
        if step is None:
            raise ValueError(f"state must be that of state_dict(), with the training step, got {state!r}")
        self.step = require_count("step", step, least=0)

    def __call__(self, model: PyroProgram, guide: PyroProgram) -> "ObjectiveModule":
        """The loss as a module, ``elbo(net.model, net.guide)(x, lengths)``, with each parameter once."""
        check_programs(model, guide)
        return ObjectiveModule(model, guide, self)

    @runs_eagerly
    def differentiable_loss(self, model: PyroProgram, guide: PyroProgram, *args: Any, **kwargs: Any) -> Tensor:
        """The differentiable loss, a scalar in nats."""
        check_programs(model, guide)
        loss = torch.stack(list(self._losses(model, guide, args, kwargs))).sum()
        if is_validation_enabled():
            warn_if_nan(loss, "loss")  # reads the loss back from the device
        return loss

    def loss(self, model: PyroProgram, guide: PyroProgram, *args: Any, **kwargs: Any) -> float:
        """The loss as a float in nats, at the weights of the current step."""
        return torch_item(self.differentiable_loss(model, guide, *args, **kwargs))

    @runs_eagerly
    def loss_and_grads(self, model: PyroProgram, guide: PyroProgram, *args: Any, **kwargs: Any) -> float:
        """Compute the loss, a float in nats, and add its gradients to the parameters, one graph at a time."""
        total = torch_item(self.backward(model, guide, *args, **kwargs))
        warn_if_nan(torch.as_tensor(total), "loss")
        return total

    def backward(self, model: PyroProgram, guide: PyroProgram, *args: Any, **kwargs: Any) -> Tensor:
        """As :meth:`loss_and_grads`, but the loss stays a scalar tensor: nothing waits for the device."""
        check_programs(model, guide)
        total: Tensor | float = 0.0
        for loss in self._losses(model, guide, args, kwargs):
            if loss.requires_grad:
                with torch.autocast(loss.device.type, enabled=False):  # as torch advises; autocast would round sums
                    loss.backward(retain_graph=self.retain_graph)
            total = total + loss.detach()
        self.step += 1
        return torch.as_tensor(total)

    @abstractmethod
    def _losses(self, model: PyroProgram, guide: PyroProgram, args: Any, kwargs: Any) -> Iterator[Tensor]:
        """Scalar losses with separate graphs, whose sum is the loss."""

    def _get_trace(self, model: PyroProgram, guide: PyroProgram, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        return self._checked(*replayed_traces(model, guide, *args, **kwargs))

    def _checked(self, model_trace: Trace, guide_trace: Trace) -> tuple[Trace, Trace]:
        check_roles(model_trace, guide_trace)
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
        return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)

    def _guess_max_plate_nesting(self, model: PyroProgram, guide: PyroProgram, args: Any, kwargs: Any) -> None:
        """As Pyro, whose trial run is blocked from outer handlers, but with the plates around the objective.

        The random state stays as it is. A resumed run makes the trial run too, and would differ from one in one piece.
        """
        plates = [handler for handler in handlers() if isinstance(handler, PlateMessenger)]

        def inside(program: PyroProgram) -> PyroProgram:
            def run(*args: Any, **kwargs: Any) -> Any:
                with under([*handlers(), *plates]):
                    return program(*args, **kwargs)

            return run if plates else program

        with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
            super()._guess_max_plate_nesting(inside(model), inside(guide), args, kwargs)

    def _vectorized_num_particles(self, fn: PyroProgram) -> PyroProgram:
        if self.num_particles == 1:
            return fn

        def particles(*args: Any, **kwargs: Any) -> Any:
            with pyro.plate("num_particles_vectorized", self.num_particles, dim=-int(self.max_plate_nesting)):
                return fn(*args, **kwargs)

        return particles


class ObjectiveModule(ELBOModule):
    """The loss of a fixed model and guide, as a module with the parameters of both."""

    elbo: Objective

    def __init__(self, model: PyroProgram, guide: PyroProgram, elbo: Objective) -> None:
        super().__init__(model, guide, elbo)  # type: ignore[arg-type]  # Pyro takes any callables
        self.nets = networks_of(model, guide, elbo)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, a scalar in nats, for the arguments of model and guide.

        Raises:
            TypeError: it was given to SVI, which passes model and guide as well.
        """
        if args and owner_of(args[0]) is not None:
            name = type(self.elbo).__name__
            raise TypeError(f"SVI takes the objective, loss={name}(), not its loss of a model and guide, {name}()(...)")
        loss = super().forward(*args, **kwargs)
        if self.training and torch.is_grad_enabled():
            self.elbo.step += 1
        return loss

    def get_extra_state(self) -> dict[str, int]:
        """The objective's state, saved with the module's."""
        return self.elbo.state_dict()

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore the objective's state."""
        self.elbo.load_state_dict(state)


def networks_of(model: PyroProgram, guide: PyroProgram, objective: Any) -> nn.ModuleList:
    """The networks of the two programs and of an objective, each once."""
    own = objective.networks if isinstance(objective, Objective) else ()
    owners = {id(net): net for net in (owner_of(model), owner_of(guide), *own) if net is not None}
    return nn.ModuleList(owners.values())


def refuse_free_nats(objective: str, free_nats: float) -> None:
    """Refuse free nats for an objective of importance weights.

    Raises:
        ValueError: they are not 0.
    """
    if not isinstance(free_nats, Real) or free_nats != 0.0:
        raise ValueError(
            f"free_nats must be 0 for {objective}, got {free_nats!r}: free nats hold up the KL of each step, and a "
            "bound of importance weights has no KL, only log-ratios of single draws, which may be of either sign; "
            "anneal kl_weight instead, or use ZForcingELBO"
        )
