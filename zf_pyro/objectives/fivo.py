"""FIVO: the filtering variational objective, a particle filter's evidence estimate as a training loss."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..checks import require_room
from ..models import StochasticRNN
from ..networks import State
from ..paths import prepare_inputs, run_bytes
from ..smc import Filtered, FilterSettings, known_sequences, random_numbers, run_filter, start_states, steps_of
from .objective import Objective, PyroProgram, owner_of, refuse_free_nats
from .schedules import Schedule


class FIVO(Objective):
    """E[log p^(x)] with p^(x) a particle filter's unbiased estimate of the evidence: Maddison et al. 2017.

    https://arxiv.org/abs/1705.09279. A lower bound on log p(x) for each sequence, by Jensen's inequality; its negative,
    summed over the sequences, is the loss. Without resampling it is :class:`ImportanceWeightedELBO`.

    The filter (:class:`zf_pyro.inference.ParticleFilter`) goes step by step on the net's step functions, and not on
    Pyro's sites, so that model and guide must be ``net.model`` and ``net.guide`` themselves; handlers do not reach it.
    Arguments are theirs.

    Gradients flow through the draws and the weights, and through the states of resampled particles. What they leave out
    is how the parameters change *which* particles are resampled: a bias, in exchange for far less variance, and what
    the paper trains with. ``resampling_gradient=True`` adds it: for each resampling, the gradient of the
    log-probability of the ancestors drawn times the estimate of log p of the frames that follow. It needs
    multinomial resampling. Under systematic and stratified resampling the log-probability of the ancestors has a
    gradient too, but of infinite variance: they are chosen by where the weights' sum lies against a fixed grid, and the
    probability of a choice can be arbitrarily small against its derivative. At thresholds other than 0 and 1 even
    this leaves out one thing, that a small change of the weights can make a sequence resample or not.

    Args:
        num_particles: K, of each sequence.
        proposal: ``"posterior"`` or ``"prior"``; with the latter only the model is trained.
        resampling: ``"systematic"``, ``"stratified"`` or ``"multinomial"``. None: multinomial with the resampling
            gradient, systematic otherwise.
        threshold: resample where the effective sample size is below this share of K.
        resampling_gradient: add the resampling's own gradient.
        kl_weight: beta, a number or a schedule: log-weights are then log p(x_t | h_t) + beta (log p(z_t) - log q(z_t)),
            and the objective is a bound on log p(x) only at 1.
        free_nats: 0. There is no KL of each step here that could be held up.
        retain_graph: as for any Pyro ELBO.

    Attributes:
        step: training steps taken, which the schedule goes by.
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
            TypeError: model and guide are not those of one net.
            MemoryError: the particles do not fit.
        """
        found = self._filtered(_net_of(model, guide), *args, **kwargs)
        bound = found.log_increments.sum(0)
        self.bound = bound.detach()
        if self.resampling_gradient and torch.is_grad_enabled():
            # choices at t were made before x_t was weighed, and matter from there on
            to_come = found.log_increments.detach().flip(0).cumsum(0).flip(0)
            chosen = (found.log_choices * to_come).sum(0)
            bound = bound + chosen - chosen.detach()
        yield -bound.sum()

    def _filtered(
        self,
        net: StochasticRNN,
        x: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        initial_state: State | None = None,
    ) -> Filtered:
        net.register()
        run = prepare_inputs(net, x, lengths, context, initial_state)
        shape = run.batch_size, self.num_particles, net.latent_dim
        each = run_bytes(net, run.batch_size, run.num_steps, torch.is_grad_enabled())
        require_room(self.num_particles, each, x.device)
        steps = steps_of(net, *known_sequences(net, run, lengths, self.settings))
        state = start_states(run, self.num_particles)
        randomness = random_numbers(state.hidden, run.num_steps, shape)
        return run_filter(steps, state, run.mask, randomness, self.settings, self.kl_weight)


def _net_of(model: PyroProgram, guide: PyroProgram) -> StochasticRNN:
    """The net whose programs these are."""
    net = owner_of(model)
    programs = (model, StochasticRNN.model), (guide, StochasticRNN.guide)
    own = all(getattr(run, "__func__", None) is program for run, program in programs)
    if not isinstance(net, StochasticRNN) or owner_of(guide) is not net or not own:
        raise TypeError(
            "FIVO runs the step functions of a net, so model and guide must be net.model and net.guide of one "
            f"zf_pyro.ZForcing, got {model!r} and {guide!r}; for other programs, or under handlers, use "
            "ImportanceWeightedELBO"
        )
    return net
