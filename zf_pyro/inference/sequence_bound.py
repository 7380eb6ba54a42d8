"""Log-weights and bounds of given sequences, with corrections of the guide and gradients in these."""

import math
from typing import cast

import torch
from torch import Tensor

from ..models import Corrections, StochasticRNN, correctable
from ..networks import State, base_of
from ..paths import RunInputs, backward_states_of, prepare_inputs

AT_ONCE = 16
"""Samples of each sequence that are evaluated at once."""
SEEDS = 2**62


def mean_bound(log_weights: Tensor, num_particles: int) -> Tensor:
    """Importance-weighted bound of ``num_particles`` samples, (batch,) nats: its mean over groups of the samples.

    Args:
        log_weights: (samples, batch) nats; the samples are a multiple of ``num_particles``.
        num_particles: samples in a group.
    """
    return (log_weights.unflatten(0, (-1, num_particles)).logsumexp(1) - math.log(num_particles)).mean(0)


def new_seed() -> int:
    """A seed, drawn from torch's random state."""
    return int(torch.randint(SEEDS, ()))


class SequenceBound:
    """The importance-weighted bound of some sequences as a function of corrections of the guide.

    Args:
        net: the model, with fixed parameters.
        arguments: x, lengths, context and initial state.
        more: covariates (batch, time, K), and what was seen, ``observed``.
    """

    def __init__(self, net: StochasticRNN, *arguments: object, **more: Tensor | None) -> None:
        self.net = net
        self.run: RunInputs = prepare_inputs(net, *arguments, **more)  # type: ignore[arg-type]  # as the caller's
        with torch.no_grad():
            self.b = backward_states_of(net, self.run, cast(Tensor | None, arguments[1]))
            self._require_normal()

    def _require_normal(self) -> None:
        """Refuse a posterior of another kind."""
        past = self.net.past(self.run.initial_state, cast(Tensor, self.run.u)[0])
        correctable(self.net, "posterior", self.net.posterior(past, self.b[0]))
        correctable(self.net, "prior", self.net.prior(past))

    def log_weights(self, corrections: Corrections, noise: Tensor) -> Tensor:
        """log p(x, z) - log q(z | x) of samples, (particles, batch) nats.

        The gradient in the corrections is that through the samples z alone. The rest, -d log q at fixed z, has
        expectation zero for one particle, and is what the doubly reparameterised gradient replaces.

        Args:
            corrections: of these sequences, (time, batch, latent).
            noise: standard normal, (time, particles, batch, latent).
        """
        net, run = self.net, self.run
        changed = corrections.noise(noise)
        state = State(*(field.expand(*noise.shape[1:-1], -1) for field in run.initial_state))
        scan = net.scan_posterior(state, cast(Tensor, run.u), self.b, changed)
        prior = base_of(net.scan_prior(scan.before))
        seen = None if run.seen is None else run.seen.unsqueeze(1)
        frames = net.emission_family.log_prob(net.emission(scan.after), cast(Tensor, run.x).unsqueeze(1), seen)
        shift, log_scale = (part.detach().unsqueeze(1) for part in corrections)
        again = changed * (-log_scale).exp() - shift  # the noise as a function of z, with the corrections held fixed
        ratio = (scan.scale / prior.scale).log() + log_scale
        ratio = ratio + 0.5 * (again.square() - ((scan.z - prior.loc) / prior.scale).square())
        steps = frames + ratio.sum(-1)
        return (steps if run.mask is None else steps.where(run.mask.unsqueeze(1), 0.0)).sum(0)

    @torch.no_grad()
    def weighed(self, corrections: Corrections, num_samples: int, seed: int) -> Tensor:
        """Log-weights of samples whose noise has a seed; (samples, batch) nats, without gradients."""
        like = corrections.shift
        generator = torch.Generator(like.device).manual_seed(seed)
        found = []
        for first in range(0, num_samples, AT_ONCE):
            count = min(AT_ONCE, num_samples - first)
            noise = like.new_empty(len(like), count, *like.shape[1:]).normal_(generator=generator)
            found.append(self.log_weights(corrections, noise))
        return torch.cat(found)

    def zeros(self) -> Corrections:
        """Corrections that leave the guide as it is; each (time, batch, latent)."""
        like, shape = self.run.initial_state.hidden, (self.run.num_steps, self.run.batch_size, self.net.latent_dim)
        return Corrections(like.new_zeros(shape), like.new_zeros(shape))
