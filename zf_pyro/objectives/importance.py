"""ImportanceWeightedELBO: the bound of many particles, with two estimators of its gradient."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ..checks import require_flag, require_room
from ..models import StochasticRNN
from ..paths import LatentStep, run_bytes
from .log_weights import densities
from .objective import Objective, refuse_free_nats
from .programs import PyroProgram, owner_of
from .schedules import Schedule
from .traces import replayed, scaled


class ImportanceWeightedELBO(Objective):
    """log (1/K sum_k w_k) with w_k = p(x, z_k) / q(z_k | x), for each sequence: Burda, Grosse, Salakhutdinov 2016.

    https://arxiv.org/abs/1509.00519. The loss is the negative bound, summed over the sequences. All particles are
    sampled in one run, along a new dimension. Paths are scored as a batch. Other sites count as follows:

    - A site in a plate at dim -1 of the same size as ``sequences`` enters the weight of the sequence of its index.
    - A site in no such plate, for example a latent shared by all sequences, enters the weight of each particle as a
      whole. Then there is one weight per particle for the batch, as in :class:`pyro.infer.RenyiELBO`: a shared latent
      cannot be weighted differently for two sequences.
    - A scale that all sites share (subsampling, ``poutine.scale``) multiplies the bound and leaves the weights alone.
      It is a number, or one weight per sequence. ``RenyiELBO`` puts it inside.
    - Scales that differ, for example around the model alone, temper the log-densities inside the weights.

    **Doubly reparameterised gradient** (Tucker, Lawson, Gu, Maddison 2019, https://arxiv.org/abs/1810.04152). The
    reparameterised gradient contains -sum_k v_k d log q(z_k) / d lambda at fixed z_k, with v_k the normalised weights.
    Its expectation is zero only for K = 1, and its variance hides the signal as K grows. An expression of equal
    expectation replaces it, which leaves

        sum_k v_k d log p(x, z_k) / d lambda  +  sum_k v_k^2 (d log w_k / d z_k) (d z_k / d lambda),

    the first term at fixed z_k. d log w / d z is the derivative through the whole rest of the sequence, h_t included.

    - The paper states the identity for parameters of q alone. It depends only on how a parameter acts, so it also holds
      for parameters that model and guide share. Here these are the embedding and the transition, through which
      q(z_t | h_{t-1}, b_t) sees h. As part of p they get the first term, as part of q the second; their role in log q
      at fixed z is dropped.
    - With a KL weight beta, the factor v_k^2 becomes (1 - beta) v_k + beta v_k^2.
    - The cost is a second run of the recurrence and a third backward pass.

    Args:
        num_particles: K.
        doubly_reparameterised: use the gradient above instead of the derivative of the loss.
        kl_weight: beta, a number or a schedule. The weights are p(x | z) (p(z) / q(z | x))^beta, for the latents of
            paths alone. The objective is a bound on log p(x) only at 1.
        free_nats: must be 0, since there is no KL of each step to bound.
        max_plate_nesting: as for any Pyro ELBO; found by a trial run if not given.
        retain_graph: as for any Pyro ELBO.

    Attributes:
        step: training steps taken, on which the schedule depends.
        bound: the latest bound on log p(x) of each sequence, at beta 1, without scale and gradients; (batch,) nats, or
            (1,) with one weight for the batch. None before the first.

    Raises:
        ValueError: no particles, a negative weight, or free nats.
    """

    def __init__(
        self,
        num_particles: int = 16,
        *,
        doubly_reparameterised: bool = False,
        kl_weight: float | Schedule = 1.0,
        free_nats: float = 0.0,
        max_plate_nesting: float = float("inf"),
        retain_graph: bool | None = None,
    ) -> None:
        refuse_free_nats("ImportanceWeightedELBO", free_nats)
        require_flag("doubly_reparameterised", doubly_reparameterised)
        super().__init__(
            kl_weight,
            num_particles,
            vectorize_particles=True,
            max_plate_nesting=max_plate_nesting,
            retain_graph=retain_graph,
        )
        self.doubly_reparameterised = doubly_reparameterised
        self.bound: Tensor | None = None

    def _losses(self, model: PyroProgram, guide: PyroProgram, args: Any, kwargs: Any) -> Iterator[Tensor]:
        """The loss; a scalar.

        Raises:
            MemoryError: the particles do not fit.
        """
        net, x = owner_of(guide), args[0] if args else kwargs.get("x")
        if isinstance(net, StochasticRNN) and isinstance(x, Tensor) and x.dim() > 1:
            gradients = torch.is_grad_enabled()
            again = self.doubly_reparameterised and gradients
            each = (2 if again else 1) * run_bytes(net, x.shape[0], x.shape[1], gradients, inverted=again)
            require_room(self.num_particles, each, x.device)
        if self.max_plate_nesting == float("inf"):
            self._guess_max_plate_nesting(model, guide, args, kwargs)
        model, guide = self._vectorized_num_particles(model), self._vectorized_num_particles(guide)
        if self.doubly_reparameterised and torch.is_grad_enabled():
            yield self._doubly_reparameterised(model, guide, args, kwargs)
            return
        found = densities(*self._get_trace(model, guide, args, kwargs), "ImportanceWeightedELBO")
        self.bound = self._mean(found.log_weights()).detach().reshape(-1)
        yield -scaled(self._mean(found.log_weights(self.kl_weight)), found.scale).sum()

    def _mean(self, log_weights: Tensor) -> Tensor:
        """Log of the mean weight over the particles; (particles, ...) to (...)."""
        if self.num_particles == 1:
            return log_weights
        return log_weights.logsumexp(0) - math.log(self.num_particles)

    def _doubly_reparameterised(self, model: PyroProgram, guide: PyroProgram, args: Any, kwargs: Any) -> Tensor:
        """The loss, a scalar, whose derivative is the doubly reparameterised gradient."""
        drawn = self._get_guide_trace(guide, args, kwargs)
        fixed, pairs = drawn.copy(), []
        sites: dict[str, Any] = dict(drawn.nodes)
        for name, site in sites.items():
            if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site):
                leaf = site["value"].detach().requires_grad_(site["value"].is_floating_point())
                fixed.nodes[name] = {**site, "value": leaf}
                if site["value"].requires_grad:
                    pairs.append((site["value"], leaf))
        again = replayed(guide, fixed, *args, **kwargs)
        found = densities(*self._checked(replayed(model, fixed, *args, **kwargs), again), "ImportanceWeightedELBO")
        beta = self._beta(drawn)
        log_weights = found.log_weights(beta)
        self.bound = self._mean(found.log_weights()).detach().reshape(-1)
        with torch.no_grad():
            value = -scaled(self._mean(log_weights), found.scale).sum()
            share = torch.ones_like(log_weights) if self.num_particles == 1 else log_weights.softmax(0)
            squared = (1.0 - beta) * share + beta * share.square()
        objective = (found.scale * share * found.log_joint(beta)).sum()
        if pairs:
            values, leaves = zip(*pairs, strict=True)
            through = (found.scale * squared * log_weights).sum()
            slopes = torch.autograd.grad(through, leaves, retain_graph=True, allow_unused=True)
            terms = [(slope * z).sum() for slope, z in zip(slopes, values, strict=True) if slope is not None]
            objective = objective + sum(terms)
        return value - (objective - objective.detach())

    def _get_guide_trace(self, guide: PyroProgram, args: Any, kwargs: Any) -> Trace:
        """A run of the guide that a second run can repeat.

        Raises:
            ValueError: dropout is active, so that it cannot.
        """
        trace = replayed(guide, Trace(), *args, **kwargs)
        steps: list[Any] = [s["fn"] for s in trace.nodes.values() if isinstance(s.get("fn"), LatentStep)]
        for net in {id(step.path.net): step.path.net for step in steps}.values():
            dropped = any(isinstance(part, nn.Dropout) and part.training and part.p > 0.0 for part in net.modules())
            if dropped or (net.training and net.frame_dropout):
                raise ValueError(
                    "doubly_reparameterised runs the guide twice and needs the same guide both times, which dropout "
                    "prevents: build the net with dropout=0.0 and frame_dropout=0.0, or train it under net.eval()"
                )
        return trace

    def _beta(self, guide_trace: Trace) -> float:
        """The KL weight.

        Raises:
            ValueError: the doubly reparameterised gradient does not hold for it.
        """
        beta = self.kl_weight
        own = [
            name
            for name, site in guide_trace.nodes.items()
            if site["type"] == "sample" and not isinstance(site["fn"], LatentStep)
            if not site["is_observed"] and not site_is_subsample(site)
        ]
        if beta != 1.0 and own:
            raise ValueError(
                f"kl_weight must be 1 with doubly_reparameterised where the guide has latents beside the path, got "
                f"{beta} and {own[0]!r}: the weight is for the path's latents alone, and the gradient through a draw "
                "cannot be split between the two; use doubly_reparameterised=False"
            )
        return beta
