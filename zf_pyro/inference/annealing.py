"""AnnealedImportanceSampling: an evidence estimate by Hamiltonian Monte Carlo along a path of distributions."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import require_room
from ..models import StochasticRNN
from ..networks import State
from ..paths import RunInputs, prepare_inputs, run_bytes
from ..recurrence import reference_posterior_scan

STARTS = ("posterior", "prior")
PILOT_CHAINS = 8
"""Chains of the run that finds the step sizes."""
PILOT_RATE = 1.0
"""How fast it changes them: d log(step size) for each unit of acceptance above the target."""


Score = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From noise (time, chains, batch, latent) to log p(x, z) - log start(z), (chains, batch), and z like the noise."""


class AnnealedResult(NamedTuple):
    """What annealed importance sampling found; without gradients."""

    log_evidence: Tensor
    """Log of an unbiased estimate of p(x), for each sequence; (batch,) nats. The log itself is biased downwards."""
    log_weights: Tensor
    """Log-weight of each chain, whose mean weight is the estimate; (chains, batch) nats."""
    z: Tensor
    """Where the chains ended, draws from p(z | x) under their weights; (chains, batch, time, latent). Zero beyond a
    length."""
    acceptance: Tensor
    """Share of the chains that accepted; (transitions, batch)."""
    step_sizes: Tensor
    """Leapfrog step sizes, in standard deviations of the start; (transitions, batch)."""


class Point(NamedTuple):
    """Where the chains are."""

    noise: Tensor
    """(time, chains, batch, latent)."""
    log_ratio: Tensor
    """log p(x, z) - log of the start's density at z; (chains, batch)."""
    slope: Tensor
    """Its derivative for the noise."""


class AnnealedImportanceSampling:
    """Annealed importance sampling over the latents of each sequence: Neal 2001, https://arxiv.org/abs/physics/9803008.

    Chains start from independent draws of the guide (or the prior) and move through the distributions proportional to
    start(z)^(1 - beta) p(x, z)^beta, beta from 0 to 1, by Hamiltonian Monte Carlo; the betas are spaced by a sigmoid
    (Wu et al. 2017, https://arxiv.org/abs/1611.04273). The mean weight of the chains is an unbiased estimate of p(x),
    so that its log is a stochastic lower bound, and one that does not rest on the guide being near: what an
    importance-weighted bound misses because the guide is off shows here. All chains of all sequences move at once, and
    paths are scored as a batch over time.

    Moves are made in the noise e from which the start draws, z_t = mean_t + deviation_t e_t, where the start is a
    standard normal whatever its scales. Each sequence has its own leapfrog step size at each beta, found by a pilot
    run of other chains: step sizes that chains adapt to themselves would bias the estimate.

    Args:
        net: the net. Its mode matters: with dropout, call ``net.eval()`` first.
        num_chains: of each sequence.
        num_temperatures: steps of beta from 0 to 1; one transition between any two.
        leapfrog_steps: of each transition. The cost is ``num_temperatures * leapfrog_steps`` gradients of log p(x, z).
        start: ``"posterior"``, the guide, or ``"prior"``, which knows nothing of x and takes more temperatures.
        target_acceptance: that the pilot run aims at.

    Raises:
        TypeError: ``net`` is no :class:`~zf_pyro.ZForcing`.
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
        target_acceptance: float = 0.7,
    ) -> None:
        if not isinstance(net, StochasticRNN):
            raise TypeError(f"net must be a zf_pyro.ZForcing, got {type(net).__name__}")
        counts = {"num_chains": num_chains, "num_temperatures": num_temperatures, "leapfrog_steps": leapfrog_steps}
        for name, count in counts.items():
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ValueError(f"{name} must be a positive integer, got {count!r}")
        if start not in STARTS:
            raise ValueError(f"start must be one of {sorted(STARTS)}, got {start!r}")
        if not 0.0 < target_acceptance < 1.0:
            raise ValueError(f"target_acceptance must be a probability in (0, 1), got {target_acceptance!r}")
        self.net, self.num_chains, self.leapfrog_steps = net, num_chains, leapfrog_steps
        self.start, self.target_acceptance = start, target_acceptance
        rise = torch.linspace(-4.0, 4.0, num_temperatures + 1, dtype=torch.float64).sigmoid()
        self.betas: list[float] = ((rise - rise[0]) / (rise[-1] - rise[0])).tolist()

    def run(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        initial_state: State | None = None,
    ) -> AnnealedResult:
        """Estimate the evidence of all sequences; arguments as for :meth:`zf_pyro.ZForcing.guide`.

        Raises:
            TypeError, ValueError: an argument that the net refuses.
            MemoryError: the chains do not fit; says how many would.
        """
        prepare_inputs(self.net, x, lengths, context, initial_state)  # refuses what is wrong before anything is cut off
        num_steps = x.shape[1]
        if lengths is not None:
            x = x[:, : int(lengths.max())]
        run = prepare_inputs(self.net, x, lengths, context, initial_state)
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
        """Step sizes for each transition and sequence, each after its own change; (transitions, batch)."""
        lengths = run.num_steps if run.mask is None else run.mask.sum(0)
        like = run.initial_state.hidden
        size = 1.2 * torch.as_tensor(lengths * self.net.latent_dim, dtype=like.dtype, device=like.device) ** -0.25
        sizes = [size.expand(run.batch_size)]
        self._anneal(score, run, PILOT_CHAINS, sizes, adapt=True)
        return torch.stack(sizes[1:]) if len(sizes) > 1 else like.new_empty(0, run.batch_size)

    def _anneal(
        self, score: Score, run: RunInputs, num_chains: int, sizes: list[Tensor], adapt: bool = False
    ) -> tuple[Tensor, Point, Tensor]:
        """Log-weights (chains, batch), where the chains end, and acceptance rates (transitions, batch).

        With ``adapt``, ``sizes`` holds a first step size and is added to; otherwise it holds one a transition.
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
        """One transition that leaves normal(noise) exp(beta log_ratio) invariant, and which chains made it (1 or 0)."""
        energy, new, step = _energy(old, momentum, beta), old, size.unsqueeze(-1)
        for _ in range(self.leapfrog_steps):
            momentum = momentum - 0.5 * step * (new.noise - beta * new.slope)
            new = _point(score, new.noise + step * momentum)
            momentum = momentum - 0.5 * step * (new.noise - beta * new.slope)
        gain = energy - _energy(new, momentum, beta)
        accepted = torch.rand_like(gain).log() < gain  # never where it is not a number
        wide = accepted.unsqueeze(-1)
        point = Point(
            torch.where(wide, new.noise, old.noise),
            torch.where(accepted, new.log_ratio, old.log_ratio),
            torch.where(wide, new.slope, old.slope),
        )
        return point, accepted.to(gain.dtype)


def _score_of(net: StochasticRNN, run: RunInputs, lengths: Tensor | None, start: str) -> Score:
    """The score of whole paths, as a batch over time, chains and sequences."""
    x, u, mask = run.x, run.u, run.mask
    if x is None or u is None:
        raise ValueError("x must be given: there is no evidence to estimate without it")
    frames = x.unsqueeze(1)
    b = net.backward_states(x.transpose(0, 1), lengths)

    def score(noise: Tensor) -> tuple[Tensor, Tensor]:
        state = State(*(field.expand(*noise.shape[1:-1], -1) for field in run.initial_state))
        if start == "posterior":
            scan = net.scan_posterior(state, u, b, noise)
        else:
            scan = reference_posterior_scan(lambda h, _: net.prior(h), net.transition, state, u, b, noise)
        log_prob = net.emission(State(*(field[1:] for field in scan.states))).log_prob(frames)
        if start == "posterior":
            prior = net.prior(State(*(field[:-1] for field in scan.states))).base_dist
            ratio = (scan.scale / prior.scale).log() + 0.5 * noise.square()
            log_prob = log_prob + (ratio - 0.5 * ((scan.z - prior.loc) / prior.scale).square()).sum(-1)
        return (log_prob if mask is None else torch.where(mask.unsqueeze(1), log_prob, 0.0)).sum(0), scan.z

    return score


def _point(score: Score, noise: Tensor) -> Point:
    with torch.enable_grad():
        noise = noise.detach().requires_grad_()
        log_ratio = score(noise)[0]
        (slope,) = torch.autograd.grad(log_ratio.sum(), noise)
    return Point(noise.detach(), log_ratio.detach(), slope)


def _normal(run: RunInputs, shape: tuple[int, ...], mask: Tensor | None) -> Tensor:
    """Standard normal numbers, zero beyond each length."""
    numbers = run.initial_state.hidden.new_empty(shape).normal_()
    return numbers if mask is None else torch.where(mask, numbers, 0.0)


def _energy(point: Point, momentum: Tensor, beta: float) -> Tensor:
    """Minus the log-density of noise and momentum, up to a constant; (chains, batch)."""
    return 0.5 * (point.noise.square() + momentum.square()).sum((0, -1)) - beta * point.log_ratio
