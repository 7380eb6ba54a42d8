"""Model and guide of a network as programs with ``init`` and ``step``, for Pyro's SMCFilter."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer import SMCFilter
from pyro.infer.smcfilter import SMCState
from torch import Tensor

from ..checks import require_choice, require_count, require_number, require_tensor
from ..models import StochasticRNN, guided, require_model
from ..networks import State, latent_of
from ..paths import RunInputs, prepare_inputs, sequences

PROPOSALS = ("posterior", "prior")


class StepwiseModel:
    """The model, one step per call: z_t ~ p(z_t | h_{t-1}), h_t = f(u_t, z_t, h_{t-1}), x_t ~ p(x_t | h_t).

    The filter's state holds ``hidden``, ``cell`` and ``z``: h_t and z_t of the latest step, each
    (particles, batch, features).

    Args:
        net: the model.
    """

    def __init__(self, net: StochasticRNN) -> None:
        self.net = require_model(net)
        self.run: RunInputs | None = None

    def init(self, state: Any, *args: Any, **kwargs: Any) -> None:
        """Prepare a run on x, lengths, context and initial_state, the arguments of :meth:`zf_pyro.ZForcing.model`."""
        self.run = _given(self.net, args, kwargs)

    def step(self, state: Any, t: int) -> None:
        """Step ``t``, from 0."""
        run = _require_init(self.run)
        u_t = _step(run.u, t)
        past = self.net.past(_before(state, run), u_t)
        with sequences(run.batch_size), _masked(run, t):
            z_t = pyro.sample(f"z_{t}", latent_of(self.net.prior(past), "prior", self.net.latent_dim))
            after = self.net.transition(past, u_t, z_t)
            emission: Any = self.net.emission(after)
            if run.seen is not None:
                emission = self.net.emission_family.masked(emission, run.seen[t])
            pyro.sample(f"x_{t}", emission, obs=_step(run.x, t))
        state["hidden"], state["cell"], state["z"] = after.hidden, after.cell, z_t


class StepwiseGuide:
    """The proposal, one step per call.

    Args:
        net: the model.
        proposal: ``"posterior"``, q(z_t | h_{t-1}, b_t), or ``"prior"`` for a bootstrap filter.

    Raises:
        ValueError: an unknown proposal.
    """

    def __init__(self, net: StochasticRNN, proposal: str = "posterior") -> None:
        self.net, self.proposal = require_model(net), require_choice("proposal", proposal, PROPOSALS)
        self.run: RunInputs | None = None
        self.b: tuple[Tensor, ...] = ()

    def init(self, state: Any, *args: Any, **kwargs: Any) -> None:
        """Prepare a run on the arguments of :meth:`StepwiseModel.init`."""
        self.run = _given(self.net, args, kwargs)
        lengths = args[1] if len(args) > 1 else None
        if self.proposal == "posterior":
            self.b = self.net.scan_backward(cast(Tensor, self.run.read), self.run.mask, lengths).unbind(0)

    def step(self, state: Any, t: int) -> None:
        """Step ``t``, from 0."""
        run = _require_init(self.run)
        past = self.net.past(_before(state, run), _step(run.u, t))
        name = "posterior" if self.b else "prior"
        found = self.net.posterior(past, self.b[t]) if self.b else self.net.prior(past)
        proposed = latent_of(found, name, self.net.latent_dim)
        with sequences(run.batch_size), _masked(run, t):
            pyro.sample(f"z_{t}", proposed)


@torch.no_grad()
def smc_filter(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    context: Tensor | None = None,
    initial_state: State | None = None,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    num_particles: int = 64,
    proposal: str = "posterior",
    guide: Callable[..., Any] | None = None,
    ess_threshold: float = 0.5,
) -> SMCFilter:
    """Run Pyro's :class:`~pyro.infer.SMCFilter` over whole sequences.

    Pyro's filter has one weight per particle for the whole batch, which degenerates as the batch grows, and estimates
    no evidence. :class:`zf_pyro.inference.ParticleFilter` has one weight per particle and sequence.

    Args:
        net: the model.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        context: the frame before the first, (batch, frame) or (batch,); see :meth:`zf_pyro.ZForcing.inputs`.
        initial_state: h_0, each field (..., batch, hidden); zeros if None.
        covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
        observed: True where x was seen, (batch, time) or (batch, time, *frame), for a model of ``missing="fill"``.
        num_particles: particles of the batch.
        proposal: ``"posterior"`` or ``"prior"``.
        guide: ``net.guide``, or a guide of :func:`zf_pyro.inference.refine` for these sequences.
        ess_threshold: share of ``num_particles``; the filter resamples if the effective sample size falls below it.

    Returns:
        The filter after the last step: ``get_empirical()`` has the weighted h_T (``hidden``, ``cell``) and z_T (``z``).

    Raises:
        ValueError: no particles, an unknown proposal, or input that the model refuses.
    """
    num_particles = require_count("num_particles", num_particles)
    expected = "a share of the particles in [0, 1]"
    ess_threshold = require_number("ess_threshold", ess_threshold, expected, 0.0, 1.0)
    device = require_tensor("x", x).device
    # Pyro makes weights and random numbers on the default device.
    with torch.device(device) if device.type != "cpu" else nullcontext():
        smc = SMCFilter(
            StepwiseModel(net),
            StepwiseGuide(guided(net, guide, "SMCFilter"), proposal),
            num_particles,
            max_plate_nesting=1,
            ess_threshold=ess_threshold,
        )
        smc.state = _State(num_particles)
        smc.init(x, lengths, context, initial_state, covariates=covariates, observed=observed)
        for t in range(x.shape[1]):
            smc.step(t)
    return smc


class _State(SMCState):
    """State that keeps the indices of resampling in range.

    By rounding, Pyro's systematic resampling may choose an index one past the last particle.
    """

    def _resample(self, index: Tensor) -> None:
        super()._resample(index.clamp(max=len(index) - 1))


def _given(net: StochasticRNN, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunInputs:
    x, lengths, context, initial_state = (*args, None, None, None)[:4]
    return prepare_inputs(net, x, lengths, context, initial_state, **kwargs)


def _require_init(run: RunInputs | None) -> RunInputs:
    if run is None:
        raise RuntimeError("init(x, lengths) comes before the first step")
    return run


def _before(state: Any, run: RunInputs) -> State:
    return State(state["hidden"], state["cell"]) if state else run.initial_state


def _step(sequence: Tensor | None, t: int) -> Tensor:
    if sequence is None:
        raise ValueError("x must be given: a filter scores frames, it does not generate them")
    return sequence[t]


def _masked(run: RunInputs, t: int) -> Any:
    return poutine.mask(mask=True if run.mask is None else run.mask[t])  # type: ignore[arg-type]
