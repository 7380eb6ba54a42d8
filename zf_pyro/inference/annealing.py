"""AnnealedImportanceSampling: an evidence estimate by Hamiltonian Monte Carlo along a path of distributions."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import int64, require_choice, require_count, require_number, require_room, require_tensor
from ..models import StochasticRNN, guided
from ..networks import Latent, State, latent_of
from ..paths import RunInputs, backward_states_of, prepare_inputs, run_bytes
from ..recurrence import reference_posterior_scan

STARTS = ("posterior", "prior")
PILOT_CHAINS = 8
"""Chains of the pilot run, which adapts the step sizes."""
PILOT_RATE = 1.0
"""Adaptation rate of the pilot run: change of log(step size) per unit of acceptance above the target."""


Score = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From noise (time, chains, batch, latent) to log p(x, z) - log start(z), (chains, batch), and z like the noise."""


class AnnealedResult(NamedTuple):
    """Result of annealed importance sampling, without gradients."""

    log_evidence: Tensor
    """Log of an unbiased estimate of p(x), for each sequence; (batch,) nats. The log itself is biased downwards."""
    log_weights: Tensor
    """Log-weights; the mean weight over chains is the estimate of p(x). (chains, batch) nats."""
    z: Tensor
    """Final latents: weighted samples from p(z | x). (chains, batch, time, latent), zero beyond a length."""
    acceptance: Tensor
    """Share of the chains that accepted each transition; (transitions, batch)."""
    step_sizes: Tensor
    """Leapfrog step sizes, in standard deviations of the start; (transitions, batch)."""


class Point(NamedTuple):
    """Current position of the chains."""

    noise: Tensor
    """(time, chains, batch, latent)."""
    log_ratio: Tensor
    """log p(x, z) minus the log-density of the start at z; (chains, batch)."""
    slope: Tensor
    """Gradient of ``log_ratio`` in the noise; like the noise."""


class AnnealedImportanceSampling:
    """Annealed importance sampling over the latents of each sequence: Neal 2001, https://arxiv.org/abs/physics/9803008.

    Chains start from independent samples of the guide (or the prior). Hamiltonian Monte Carlo moves them through the
    distributions proportional to start(z)^(1 - beta) p(x, z)^beta, beta from 0 to 1. The betas are spaced by a sigmoid
    (Wu et al. 2017, https://arxiv.org/abs/1611.04273). The mean weight of the chains is an unbiased estimate of p(x),
    so its log is a stochastic lower bound. Unlike an importance-weighted bound, it does not need a guide close to the
    posterior. All chains of all sequences move at once, and paths are scored as a batch over time.

    Moves are made in the noise e of the start, z_t = mean_t + deviation_t e_t (or a flow of it), in which the start is
    a standard normal.
    Each sequence has its own leapfrog step size at each beta, adapted by a pilot run with other chains: step sizes that
    chains adapt to themselves would bias the estimate.

    Args:
        net: the model. Its mode matters: with dropout, call ``net.eval()`` first.
        num_chains: chains per sequence.
        num_temperatures: steps of beta from 0 to 1, with one transition between any two.
        leapfrog_steps: leapfrog steps per transition. The cost is ``num_temperatures * leapfrog_steps`` gradients of
            log p(x, z).
        start: ``"posterior"``, the guide, or ``"prior"``, which does not see x and needs more temperatures.
        guide: ``net.guide``, or a guide of :func:`zf_pyro.inference.refine` for the sequences of :meth:`run`.
        target_acceptance: acceptance rate that the pilot run aims at.

    Raises:
        TypeError: ``net`` is no model of :mod:`zf_pyro.models`, or another guide.
        ValueError: a count that is not a positive integer, an unknown start, or a target outside (0, 1).
    """

    def __init__(
        self,
        net: StochasticRNN,
        num_chains: int = 16,
        *,
        num_temperatures: int = 50,
        leapfrog_steps: int = 5,
        start: str = "posterior",
        guide: Callable[..., Any] | None = None,
        target_acceptance: float = 0.7,
    ) -> None:
        self.net = guided(net, guide, "AnnealedImportanceSampling")
        self.num_chains = require_count("num_chains", num_chains)
        num_temperatures = require_count("num_temperatures", num_temperatures)
        self.leapfrog_steps = require_count("leapfrog_steps", leapfrog_steps)
        self.start = require_choice("start", start, STARTS)
        expected = "a probability in (0, 1)"
        self.target_acceptance = require_number("target_acceptance", target_acceptance, expected, 0.0, 1.0, "()")
        rise = torch.linspace(-4.0, 4.0, num_temperatures + 1, dtype=torch.float64).sigmoid()
        self.betas: list[float] = ((rise - rise[0]) / (rise[-1] - rise[0])).tolist()

    def run(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        initial_state: State | None = None,
        *,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> AnnealedResult:
        """Estimate the evidence of each sequence.

        Args:
            x: (batch, time, frame) floats or (batch, time) integers.
            lengths: real frames of each sequence, (batch,); all of them if None.
            context: the frame before the first, (batch, frame) or (batch,); see :meth:`zf_pyro.ZForcing.inputs`.
            initial_state: h_0, each field (..., batch, hidden); zeros if None.
            covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
            observed: True where x was seen, (batch, time) or (batch, time, *frame), for a model of ``missing="fill"``.

        Raises:
            TypeError, ValueError: an argument that the model refuses.
            MemoryError: the chains do not fit; the message says how many would.
        """
        lengths = int64(lengths)
        given = (lengths, context, initial_state)
        known: dict[str, Any] = {"covariates": covariates, "observed": observed}
        prepare_inputs(self.net, require_tensor("x", x), *given, **known)  # for its checks, on x before it is cut
        num_steps = x.shape[1]
        if lengths is not None:
            longest = int(lengths.max())
            more = 0 if observed is None else observed.shape[1] - num_steps  # a step in front, of the context
            x = x[:, :longest]
            known["covariates"] = None if covariates is None else covariates[:, :longest]
            known["observed"] = None if observed is None else observed[:, : longest + more]
        run = prepare_inputs(self.net, x, *given, **known)
        each = run_bytes(self.net, run.batch_size, run.num_steps, gradients=True)
        require_room(self.num_chains, each, x.device, "num_chains")
        with torch.no_grad():
            score = _score_of(self.net, run, lengths, self.start)
            steps = self._pilot(score, run)
            log_weights, point, rates = self._anneal(score, run, self.num_chains, list(steps))
            z = score(point.noise)[1]
        if run.mask is not None:
            z = torch.where(run.mask[:, None, :, None], z, 0.0)
        z = torch.nn.functional.pad(z, (0, 0, 0, 0, 0, 0, 0, num_steps - len(z)))
        return AnnealedResult(
            log_evidence=log_weights.logsumexp(0) - math.log(self.num_chains),
            log_weights=log_weights,
            z=z.movedim(0, 2),
            acceptance=rates,
            step_sizes=steps,
        )

    def _pilot(self, score: Score, run: RunInputs) -> Tensor:
        """Step sizes of each transition and sequence from a pilot run; (transitions, batch)."""
        lengths = run.num_steps if run.mask is None else run.mask.sum(0)
        like = run.initial_state.hidden
        size = 1.2 * torch.as_tensor(lengths * self.net.latent_dim, dtype=like.dtype, device=like.device) ** -0.25
        sizes = [size.expand(run.batch_size)]
        self._anneal(score, run, PILOT_CHAINS, sizes, adapt=True)
        return torch.stack(sizes[1:]) if len(sizes) > 1 else like.new_empty(0, run.batch_size)

    def _anneal(
        self, score: Score, run: RunInputs, num_chains: int, sizes: list[Tensor], adapt: bool = False
    ) -> tuple[Tensor, Point, Tensor]:
        """Log-weights (chains, batch), final position of the chains, and acceptance rates (transitions, batch).

        ``sizes`` holds one step size per transition. With ``adapt`` it holds the first, and the others are appended.
        """
        mask = None if run.mask is None else run.mask[:, None, :, None]
        shape = run.num_steps, num_chains, run.batch_size, self.net.latent_dim
        point = _point(score, _normal(run, shape, mask))
        log_weights, rates = torch.zeros_like(point.log_ratio), []
        for i, beta in enumerate(self.betas[1:]):
            log_weights = log_weights + (beta - self.betas[i]) * point.log_ratio
            if i + 2 == len(self.betas):
                break
            point, accepted = self._move(score, point, beta, sizes[i], _normal(run, shape, mask))
            rates.append(accepted.mean(0))
            if adapt:
                sizes.append(sizes[i] * (PILOT_RATE * (rates[-1] - self.target_acceptance)).exp())
        return log_weights, point, torch.stack(rates) if rates else log_weights.new_empty(0, run.batch_size)

    def _move(self, score: Score, old: Point, beta: float, size: Tensor, momentum: Tensor) -> tuple[Point, Tensor]:
        """A transition that leaves normal(noise) exp(beta log_ratio) invariant, and acceptance (1 or 0) by chain."""
        energy, new, step = _energy(old, momentum, beta), old, size.unsqueeze(-1)
        for _ in range(self.leapfrog_steps):
            momentum = momentum - 0.5 * step * (new.noise - beta * new.slope)
            new = _point(score, new.noise + step * momentum)
            momentum = momentum - 0.5 * step * (new.noise - beta * new.slope)
        gain = energy - _energy(new, momentum, beta)
        accepted = torch.rand_like(gain).log() < gain  # False for NaN
        wide = accepted.unsqueeze(-1)
        point = Point(
            torch.where(wide, new.noise, old.noise),
            torch.where(accepted, new.log_ratio, old.log_ratio),
            torch.where(wide, new.slope, old.slope),
        )
        return point, accepted.to(gain.dtype)


def _score_of(net: StochasticRNN, run: RunInputs, lengths: Tensor | None, start: str) -> Score:
    """Score function of whole paths, as a batch over time, chains and sequences."""
    x, u, mask = run.x, run.u, run.mask
    if x is None or u is None:
        raise ValueError("x must be given: there is no evidence to estimate without it")
    frames = x.unsqueeze(1)
    b = backward_states_of(net, run, lengths)
    seen = None if run.seen is None else run.seen.unsqueeze(1)

    def from_prior(past: State, _: Tensor) -> Latent:
        return latent_of(net.prior(past), "prior", net.latent_dim)

    def score(noise: Tensor) -> tuple[Tensor, Tensor]:
        state = State(*(field.expand(*noise.shape[1:-1], -1) for field in run.initial_state))
        if start == "posterior":
            scan = net.scan_posterior(state, u, b, noise)
        else:
            scan = reference_posterior_scan(net.past, from_prior, net.transition, state, u, b, noise)
        log_prob = net.emission_family.log_prob(net.emission(scan.after), frames, seen)
        if start == "posterior":
            prior = latent_of(net.prior(scan.before), "prior", net.latent_dim)
            log_prob = log_prob + (prior.log_prob(scan.z) - scan.log_prob(noise))
        return (log_prob if mask is None else torch.where(mask.unsqueeze(1), log_prob, 0.0)).sum(0), scan.z

    return score


def _point(score: Score, noise: Tensor) -> Point:
    with torch.enable_grad():
        noise = noise.detach().requires_grad_()
        log_ratio = score(noise)[0]
        (slope,) = torch.autograd.grad(log_ratio.sum(), noise)
    return Point(noise.detach(), log_ratio.detach(), slope)


def _normal(run: RunInputs, shape: tuple[int, ...], mask: Tensor | None) -> Tensor:
    """Standard normal noise, zero beyond each length."""
    numbers = run.initial_state.hidden.new_empty(shape).normal_()
    return numbers if mask is None else torch.where(mask, numbers, 0.0)


def _energy(point: Point, momentum: Tensor, beta: float) -> Tensor:
    """Minus the log-density of noise and momentum, up to a constant; (chains, batch)."""
    return 0.5 * (point.noise.square() + momentum.square()).sum((0, -1)) - beta * point.log_ratio
