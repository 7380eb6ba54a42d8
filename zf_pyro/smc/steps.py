"""One step of a particle filter: from h_{t-1} of many particles to z_t, h_t and their log-densities.

- :class:`FilterSteps` calls the step functions of any model.
- :class:`PreparedSteps` computes the part that depends on known sequences once, before the first step, with gradients.
- :class:`InPlaceSteps` has no gradients. It also joins weights that multiply the same input, and overwrites results.

The latter two are for a :class:`~zf_pyro.ZForcing` of one layer with the package's own step functions
(:func:`zf_pyro.smc.forms.steps_of`).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..models import StochasticRNN, ZForcing
from ..networks import (
    ConcatenateCell,
    ConditionalLayerNormCell,
    State,
    bounded,
    clipped_leaky_relu,
    latent_of,
    normals_proposed,
    proposed,
    sampled,
)


class Moved(NamedTuple):
    """Results of one step for all particles."""

    z: Tensor
    """z_t as proposed; (sequences, particles, latent)."""
    state: State
    """h_t; (sequences, particles, hidden)."""
    log_likelihood: Tensor
    """log p(x_t | h_t); (sequences, particles) nats."""
    log_ratio: Tensor
    """log p(z_t | h_{t-1}) - log q(z_t | h_{t-1}, b_t), zero where the prior proposes; (sequences, particles) nats."""


class Gaps(NamedTuple):
    """Gaps of some sequences."""

    seen: Tensor
    """True for parts of frames that were seen; (time, sequences, flags)."""
    covariates: Tensor | None
    """c_1..c_T; (time, sequences, K). None without."""
    first: Tensor
    """The frame of u_1; (sequences, *frame)."""

    def taken(self, time: slice, rows: Tensor) -> "Gaps":
        """Those of some steps and sequences, ``rows`` (sequences,)."""
        covariates = None if self.covariates is None else self.covariates[time, rows]
        return Gaps(self.seen[time, rows], covariates, self.first[rows])


class FilterSteps:
    """The step functions of a model over some sequences.

    Args:
        net: the model.
        u: inputs (time, sequences, *frame).
        b: backward states (time, sequences, hidden), or None where the prior proposes.
        x: frames (time, sequences, *frame).
        gaps: what was not seen of them; None if all was.
    """

    def __init__(self, net: StochasticRNN, u: Tensor, b: Tensor | None, x: Tensor, gaps: Gaps | None = None) -> None:
        self.net = net
        self.guided, self.gaps = b is not None, gaps
        self.x = x.unsqueeze(2).unbind(0)
        self.seen = None if gaps is None else gaps.seen.unsqueeze(2).unbind(0)
        self._prepare(u.unsqueeze(2), None if b is None else b.unsqueeze(2))

    def _prepare(self, u: Tensor, b: Tensor | None) -> None:
        self.u = u.unbind(0)
        self.b = () if b is None else b.unbind(0)

    def start(self, state: State) -> State:
        """h_0 in the form that :meth:`move` takes and returns; each field (sequences, particles, hidden)."""
        return state

    def past(self, state: State, t: int) -> State:
        """What z_t depends on, each field (sequences, particles, hidden), from h_{t-1}."""
        return self.net.past(state, self.u[t])

    def propose(self, past: State, t: int, noise: Tensor) -> tuple[Tensor, Tensor]:
        """z_t (sequences, particles, latent) from noise of its shape, and log p(z_t) - log q(z_t), 0 unguided."""
        size = noise.shape[-1]
        prior = latent_of(self.net.prior(past), "prior", size)
        if not self.guided:
            return sampled(prior, noise)[0], torch.zeros_like(noise[..., 0])
        return proposed(prior, latent_of(self.net.posterior(past, self.b[t]), "posterior", size), noise)

    def transition(self, past: State, t: int, z_t: Tensor) -> State:
        """h_t, each field (sequences, particles, hidden), from z_t (sequences, particles, latent)."""
        return self.net.transition(past, self.u[t], z_t)

    def hidden(self, state: State, z_t: Tensor) -> Tensor:
        """h_t as the model's states hold it, from this form's state and z_t; (sequences, particles, hidden)."""
        return state.hidden

    def completed(self, state: State) -> Tensor | None:
        """x_t with what was not seen of it as each particle sampled it, (sequences, particles, *frame), from the state
        after step t, each field (sequences, particles, hidden). None: particles sample no frames."""
        return None

    def move(self, state: State, t: int, noise: Tensor) -> Moved:
        """Propose, move and weigh; h_{t-1} (sequences, particles, hidden), noise (sequences, particles, latent)."""
        past = self.past(state, t)
        z, ratio = self.propose(past, t, noise)
        state = self.transition(past, t, z)
        return Moved(z, state, self.log_likelihood(self.net.emission(state), t), ratio)

    def log_likelihood(self, emission: TorchDistribution, t: int) -> Tensor:
        """log p of what was seen of x_t under p(x_t | h_t), of batch shape (sequences, particles); in nats."""
        if self.seen is None:
            return emission.log_prob(self.x[t])
        return self.net.emission_family.log_prob(emission, self.x[t], self.seen[t])


class PreparedSteps(FilterSteps):
    """The same, with the part that depends on u and b alone computed once."""

    net: ZForcing

    def _prepare(self, u: Tensor, b: Tensor | None) -> None:
        net = self.net
        embedded = net.embedding(u)
        read = (embedded,) if net.latents_see_input else ()
        self.drives = net.cell.inputs(embedded).unbind(0)
        self.first, self.second, self.bias = net.posterior_network.loop_weights()
        self.contexts = () if b is None else net.posterior_network.rest(b, *read).unbind(0)
        self.prior_first, self.prior_second, self.prior_bias = net.prior_network.loop_weights()
        self.rests = net.prior_network.rest(*read).unbind(0) if read else ()

    def past(self, state: State, t: int) -> State:
        return state

    def propose(self, past: State, t: int, noise: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = self.prior(past, t)
        if not self.guided:
            return loc + scale * noise, torch.zeros_like(noise[..., 0])
        return normals_proposed((loc, scale), self.posterior(past, t), noise)

    def prior(self, past: State, t: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of p(z_t | past); both (sequences, particles, latent)."""
        if not self.rests:
            return bounded(self.net.prior_network(past.hidden))
        hidden = clipped_leaky_relu(F.linear(past.hidden, self.prior_first) + self.rests[t])
        return bounded(F.linear(hidden, self.prior_second, self.prior_bias))

    def posterior(self, past: State, t: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z_t | past, b_t); both (sequences, particles, latent)."""
        hidden = clipped_leaky_relu(F.linear(past.hidden, self.first) + self.contexts[t])
        return bounded(F.linear(hidden, self.second, self.bias))

    def transition(self, past: State, t: int, z_t: Tensor) -> State:
        return self.net.cell.advance(past, self.drives[t], self.net.cell.modulation(z_t))


class InPlaceSteps(FilterSteps):
    """The same without gradients, in as few operations and passes over memory as possible."""

    net: ZForcing

    def _prepare(self, u: Tensor, b: Tensor | None) -> None:
        net = self.net
        self.gates = GATES[type(net.cell)](net.cell)
        embedded = net.embedding(u)
        read = (embedded,) if net.latents_see_input else ()
        self.drives = net.cell.inputs(embedded).unbind(0)
        first, second, self.bias = net.prior_network.loop_weights()
        rest = net.prior_network.rest(*read).expand(*embedded.shape[:3], -1)
        if b is not None:
            q_first, q_second, q_bias = net.posterior_network.loop_weights()
            rest = torch.cat([rest, net.posterior_network.rest(b, *read)], dim=-1)
            first = torch.cat([first, q_first])
            second = means_first(torch.block_diag(second, q_second))
            self.bias = means_first(torch.cat([self.bias, q_bias]))
        self.rests = rest.unbind(0)
        self.first, self.second = torch.cat([self.gates.hidden_weight, first]).t(), second.t()

    def move(self, state: State, t: int, noise: Tensor) -> Moved:
        shape, width = noise.shape[:2], 3 * self.net.hidden_dim
        hidden, cell, noise = (field.reshape(-1, field.shape[-1]) for field in (*state, noise))
        recurrent, inner = torch.mm(hidden, self.first).split([4 * self.net.hidden_dim, len(self.second)], dim=1)
        inner = _clipped(inner.unflatten(0, shape) + self.rests[t]).flatten(0, 1)
        z, ratio = self._propose(torch.addmm(self.bias, inner, self.second), noise)
        gates = self.gates(recurrent, z)
        gates.unflatten(0, shape).add_(self.drives[t])
        i, f, o = gates[:, :width].sigmoid_().chunk(3, dim=1)
        # Contiguous: tanh of rows with gaps between them takes up to fifteen times as long.
        candidate = gates[:, width:].contiguous().tanh_()
        cell = torch.mul(f, cell).addcmul_(i, candidate)
        hidden = torch.tanh(cell, out=candidate).mul_(o)
        moved = State(hidden.unflatten(0, shape), cell.unflatten(0, shape))
        log_likelihood = self.log_likelihood(self.net.emission(moved), t)
        return Moved(z.unflatten(0, shape), moved, log_likelihood, ratio.unflatten(0, shape))

    def _propose(self, parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """z_t (rows, latent) and log p(z_t) - log q(z_t) (rows,) from means, then log-variances, of p, then q."""
        locs, log_variances = parameters.clamp_(-8.0, 8.0).chunk(2, dim=1)
        scales = log_variances.mul(0.5).exp_()
        if not self.guided:
            return torch.addcmul(locs, scales, noise), torch.zeros_like(noise[:, 0])
        pairs = (part.chunk(2, dim=1) for part in (locs, scales, log_variances))
        (loc, q_loc), (scale, q_scale), (log_variance, q_log_variance) = pairs
        z = torch.addcmul(q_loc, q_scale, noise)
        distance = (z - loc).div_(scale)
        terms = (q_log_variance - log_variance).addcmul_(noise, noise).addcmul_(distance, distance, value=-1.0)
        return z, terms.sum(1).mul_(0.5)


class ConcatenateGates:
    """The latent part of the gates of a :class:`~zf_pyro.networks.ConcatenateCell`, without gradients."""

    def __init__(self, cell: ConcatenateCell) -> None:
        self.hidden_weight = cell.hidden_weights.weight
        """W, the weight of h_{t-1}; (4 hidden, hidden)."""
        (weight,) = cell.modulation_weights()
        self.weight = weight.t()

    def __call__(self, recurrent: Tensor, z: Tensor) -> Tensor:
        """The gates (rows, 4 hidden) from z_t (rows, latent) and W h_{t-1} (rows, 4 hidden), which is overwritten."""
        return recurrent.addmm_(z, self.weight)


class ConditionalLayerNormGates:
    """The same for a :class:`~zf_pyro.networks.ConditionalLayerNormCell`, with the norm of the hidden part."""

    def __init__(self, cell: ConditionalLayerNormCell) -> None:
        weight = cell.hidden_weights.weight
        # The norm subtracts the mean over features. The mean is linear in h_{t-1}: subtract it from the weight, once.
        self.hidden_weight = weight - weight.mean(0)
        """W, the weight of h_{t-1}; (4 hidden, hidden)."""
        first, first_bias, second, second_bias = cell.modulation_weights()
        # A constant hidden unit carries the second bias: adding it separately takes half as long as the product.
        self.first = torch.cat([first, torch.zeros_like(first[:1])]).t()
        self.first_bias = torch.cat([first_bias, torch.ones_like(first_bias[:1])])
        gain, shift = second_bias.chunk(2)
        self.second = torch.cat([second, torch.cat([1.0 + gain, shift]).unsqueeze(1)], dim=1).t()

    def __call__(self, recurrent: Tensor, z: Tensor) -> Tensor:
        """The gates (rows, 4 hidden); arguments as for :class:`ConcatenateGates`."""
        modulation = torch.mm(_clipped(torch.addmm(self.first_bias, z, self.first)), self.second)
        gain, shift = modulation.chunk(2, dim=1)  # 1 + g_t and s_t
        gain.clamp_(-2.0, 4.0)
        shift.clamp_(-3.0, 3.0)
        norm = torch.linalg.vector_norm(recurrent, dim=1, keepdim=True)
        scale = norm.square_().div_(recurrent.shape[1]).add_(1e-5).rsqrt_()
        return shift.addcmul_(recurrent.mul_(scale), gain)


GATES = {ConcatenateCell: ConcatenateGates, ConditionalLayerNormCell: ConditionalLayerNormGates}
"""Gates by the class of the transition's cell."""


def _clipped(x: Tensor) -> Tensor:
    """:func:`zf_pyro.networks.clipped_leaky_relu`, in place."""
    return F.leaky_relu(x, 1.0 / 3.0, inplace=True).clamp_(-3.0, 3.0)


def means_first(numbers: Tensor) -> Tensor:
    """Reorder rows (means of p, log-variances of p, means of q, log-variances of q) so that both means come first."""
    return numbers.unflatten(0, (2, 2, -1)).transpose(0, 1).flatten(0, 2)
