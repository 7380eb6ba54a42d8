"""FIVO: the filtering variational objective, a particle filter's evidence estimate as a training loss."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..checks import require_flag, require_room, require_tensor
from ..models import StochasticRNN
from ..networks import State
from ..paths import RunInputs, prepare_inputs, run_bytes
from ..smc import (
    Filtered,
    FilterSettings,
    Known,
    TwistedRun,
    known_sequences,
    random_numbers,
    run_filter,
    start_states,
    steps_of,
)
from .objective import Objective, refuse_free_nats
from .programs import PyroProgram, network_of, refuse_handlers
from .schedules import Schedule


class FIVO(Objective):
    """E[log p^(x)] with p^(x) a particle filter's unbiased estimate of the evidence: Maddison et al. 2017.

    https://arxiv.org/abs/1705.09279. By Jensen's inequality it is a lower bound on log p(x) for each sequence. The loss
    is its negative, summed over the sequences. Without resampling it is :class:`ImportanceWeightedELBO`.

    The filter (:class:`zf_pyro.inference.ParticleFilter`) runs step by step on the model's step functions, not on
    Pyro's sites. Model and guide must therefore be ``net.model`` and ``net.guide``. Other programs, and handlers such
    as plates and scales, are refused, since they would have no effect.

    Gradients flow through the samples, the weights, and the states of resampled particles. They leave out how the
    parameters change *which* particles are resampled. That is a bias in exchange for far less variance, and the paper
    trains this way. ``resampling_gradient=True`` adds the missing part: for each resampling, the gradient of the
    log-probability of the ancestors times the estimate of log p of the frames that follow.

    - It requires multinomial resampling. Under systematic and stratified resampling the ancestors depend on where the
      cumulative weights lie on a fixed grid. The probability of a choice can be arbitrarily small against its
      derivative, so the gradient has infinite variance.
    - At thresholds other than 0 and 1 it still leaves out that a small change of the weights can decide whether a
      sequence resamples.

    Args:
        num_particles: K, for each sequence.
        proposal: ``"posterior"`` or ``"prior"``; the latter trains the model alone.
        resampling: ``"systematic"``, ``"stratified"`` or ``"multinomial"``. None: multinomial with the resampling
            gradient, systematic otherwise.
        threshold: resample where the effective sample size is below this share of K.
        resampling_gradient: add the gradient of the resampling.
        kl_weight: beta, a number or a schedule. Log-weights are log p(x_t | h_t) + beta (log p(z_t) - log q(z_t)). The
            objective is a bound on log p(x) only at 1.
        free_nats: must be 0, since there is no KL of each step to bound.
        retain_graph: as for any Pyro ELBO.

    Attributes:
        step: training steps taken, on which the schedule depends.
        bound: the latest value of the objective for each sequence, without gradients; (batch,) nats. A bound on
            log p(x) if beta was 1. None before the first.

    Raises:
        ValueError: no particles, a threshold outside [0, 1], an unknown proposal or resampling, a resampling gradient
            without multinomial resampling, a negative weight, or free nats.
    """

    def __init__(
        self,
        num_particles: int = 16,
        *,
        proposal: str = "posterior",
        resampling: str | None = None,
        threshold: float = 0.5,
        resampling_gradient: bool = False,
        kl_weight: float | Schedule = 1.0,
        free_nats: float = 0.0,
        retain_graph: bool | None = None,
    ) -> None:
        refuse_free_nats("FIVO", free_nats)
        require_flag("resampling_gradient", resampling_gradient)
        super().__init__(kl_weight, num_particles, vectorize_particles=True, retain_graph=retain_graph)
        if resampling is None:
            resampling = "multinomial" if resampling_gradient else "systematic"
        if resampling_gradient and resampling != "multinomial":
            raise ValueError(
                f"resampling must be 'multinomial' with resampling_gradient=True, got {resampling!r}: the "
                "log-probability of the ancestors that it draws has a gradient of infinite variance"
            )
        self.settings = FilterSettings(num_particles, proposal, resampling, threshold)
        self.resampling_gradient = resampling_gradient
        self.bound: Tensor | None = None

    def _losses(self, model: PyroProgram, guide: PyroProgram, args: Any, kwargs: Any) -> Iterator[Tensor]:
        """The loss; a scalar.

        Raises:
            TypeError: model and guide are not those of one net, or handlers are around them.
            MemoryError: the particles do not fit.
        """
        own = type(self).__name__
        net = network_of(own, model, guide)
        if (type(net).model, type(net).guide) != (StochasticRNN.model, StochasticRNN.guide):
            raise TypeError(
                f"{own} runs the step functions of a net, not the programs that {type(net).__name__} overrides: use "
                "ImportanceWeightedELBO"
            )
        refuse_handlers(own)
        net.register()
        run, lengths = _inputs(net, *args, **kwargs)
        found = self._filtered(net, run, lengths)
        bound = found.log_increments.sum(0)
        self.bound = bound.detach()
        if self.resampling_gradient and torch.is_grad_enabled():
            # ancestors at t are chosen before x_t is weighed: they act on the increments from t on
            to_come = found.log_increments.detach().flip(0).cumsum(0).flip(0)
            chosen = (found.log_choices * to_come).sum(0)
            bound = bound + chosen - chosen.detach()
        yield self._loss(bound, net, run, lengths)

    def _filtered(self, net: StochasticRNN, run: RunInputs, lengths: Tensor | None) -> Filtered:
        shape = run.batch_size, self.num_particles, net.latent_dim
        each = run_bytes(net, run.batch_size, run.num_steps, torch.is_grad_enabled())
        require_room(self.num_particles, each, net.emission_layer.weight.device)
        known = known_sequences(net, run, lengths, self.settings)
        steps, twist = steps_of(net, *known), self._twisted(net, run, known, lengths)
        state = start_states(run, self.num_particles)
        randomness = random_numbers(state.hidden, run.num_steps, shape)
        return run_filter(steps, state, run.mask, randomness, self.settings, self.kl_weight, twist)

    def _twisted(self, net: StochasticRNN, run: RunInputs, known: Known, lengths: Tensor | None) -> TwistedRun | None:
        """The run of a twist; none here."""
        return None

    def _loss(self, bound: Tensor, net: StochasticRNN, run: RunInputs, lengths: Tensor | None) -> Tensor:
        """The loss, a scalar in nats, from the bound of each sequence with its gradients, (batch,)."""
        return -bound.sum()


def _inputs(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    context: Tensor | None = None,
    initial_state: State | None = None,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
) -> tuple[RunInputs, Tensor | None]:
    """Validated inputs of a run, and lengths (batch,)."""
    require_tensor("x", x)
    run = prepare_inputs(net, x, lengths, context, initial_state, covariates=covariates, observed=observed)
    return run, lengths
