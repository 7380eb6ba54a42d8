"""One step of a particle filter: from h_{t-1} of many particles to z_t, h_t and what weighs them.

:class:`Steps` calls the step functions of a net, whatever they are, and gradients flow through it. :class:`PreparedSteps`
is the same without gradients, for a net whose step functions are its class's own: what depends on known sequences alone
is computed once, weights that multiply the same numbers are one product, and results are overwritten by what comes next.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .model import ZForcing
from .networks import ConcatenateCell, ConditionalLayerNormCell, State


class Moved(NamedTuple):
    """What a step makes of the particles."""

    z: Tensor
    """z_t as proposed; (sequences, particles, latent)."""
    state: State
    """h_t; (sequences, particles, hidden)."""
    log_likelihood: Tensor
    """log p(x_t | h_t); (sequences, particles) nats."""
    log_ratio: Tensor
    """log p(z_t | h_{t-1}) - log q(z_t | h_{t-1}, b_t), zero where the prior proposes; (sequences, particles) nats."""


class Steps:
    """The step functions of a net over some sequences.

    Args:
        net: whose step functions these are.
        u: inputs (time, sequences, *frame).
        b: backward states (time, sequences, hidden), or None where the prior proposes.
        x: frames (time, sequences, *frame).
    """

    def __init__(self, net: ZForcing, u: Tensor, b: Tensor | None, x: Tensor) -> None:
        self.net = net
        self.x = x.unsqueeze(2).unbind(0)
        self._prepare(u.unsqueeze(2), None if b is None else b.unsqueeze(2))

    def _prepare(self, u: Tensor, b: Tensor | None) -> None:
        self.u = u.unbind(0)
        self.b = None if b is None else b.unbind(0)

    def move(self, state: State, t: int, noise: Tensor) -> Moved:
        """Step t for h_{t-1} (sequences, particles, hidden) and normal noise (sequences, particles, latent)."""
        prior = self.net.prior(state)
        q = prior if self.b is None else self.net.posterior(state, self.b[t])
        z = q.base_dist.loc + q.base_dist.scale * noise
        ratio = torch.zeros_like(z[..., 0]) if self.b is None else prior.log_prob(z) - q.log_prob(z)
        state = self.net.transition(state, self.u[t], z)
        return Moved(z, state, self.net.emission(state).log_prob(self.x[t]), ratio)


class PreparedSteps(Steps):
    """The same for a net that :func:`can_be_prepared`, without gradients."""

    def _prepare(self, u: Tensor, b: Tensor | None) -> None:
        net = self.net
        prior, posterior = net.prior_network, net.posterior_network
        self.gates = GATES[type(net.cell)](net.cell)
        self.drives = net.cell.inputs(net.embedding(u)).unbind(0)
        first, second, bias = prior.loop_weights()
        rest = prior.rest().expand(*u.shape[:3], -1)
        if b is not None:
            others = posterior.loop_weights()
            rest = torch.cat([rest, posterior.rest(b)], dim=-1)
            first = torch.cat([first, others[0]])
            second = _both(second, others[1])
            bias = torch.cat([bias, others[2]]).view(2, 2, -1).transpose(0, 1).flatten()
        self.rests = rest.unbind(0)
        self.guided = b is not None
        self.first = torch.cat([self.gates.hidden_weight, first]).t()
        self.second, self.bias = second.t(), bias

    def move(self, state: State, t: int, noise: Tensor) -> Moved:
        shape = noise.shape[:2]
        hidden, cell, noise = (field.reshape(-1, field.shape[-1]) for field in (*state, noise))
        recurrent, inner = torch.mm(hidden, self.first).split([4 * cell.shape[1], len(self.second)], dim=1)
        inner = _clipped((inner.view(*shape, -1) + self.rests[t]).flatten(0, 1))
        z, ratio = self._propose(torch.addmm(self.bias, inner, self.second), noise)
        gates = self.gates(recurrent, z)
        gates.view(*shape, -1).add_(self.drives[t])
        i, f, o = gates[:, : 3 * cell.shape[1]].sigmoid_().chunk(3, dim=1)
        # A copy in one piece: tanh of rows with gaps between them takes up to fifteen times as long
        candidate = gates[:, 3 * cell.shape[1] :].contiguous().tanh_()
        cell = torch.mul(f, cell).addcmul_(i, candidate)
        hidden = torch.tanh(cell, out=candidate).mul_(o)
        moved = State(hidden.view(*shape, -1), cell.view(*shape, -1))
        likelihood = self.net.emission(moved).log_prob(self.x[t])
        return Moved(z.view(*shape, -1), moved, likelihood, ratio.view(shape))

    def _propose(self, parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """z_t (rows, latent) and log p(z_t) - log q(z_t) (rows,) from means, then log-variances, of p, then q."""
        locs, log_variances = parameters.clamp_(-8.0, 8.0).chunk(2, dim=1)
        scales = log_variances.mul(0.5).exp_()
        if not self.guided:
            return torch.addcmul(locs, scales, noise), torch.zeros_like(noise[:, 0])
        (loc, q_loc), (scale, q_scale) = locs.chunk(2, dim=1), scales.chunk(2, dim=1)
        (log_variance, q_log_variance) = log_variances.chunk(2, dim=1)
        z = torch.addcmul(q_loc, q_scale, noise)
        distance = (z - loc).div_(scale)
        terms = (q_log_variance - log_variance).addcmul_(noise, noise).addcmul_(distance, distance, value=-1.0)
        return z, terms.sum(1).mul_(0.5)


class ConcatenateGates:
    """The gates of a :class:`~zf_pyro.networks.ConcatenateCell` but for what its input sets."""

    def __init__(self, cell: ConcatenateCell) -> None:
        self.hidden_weight = cell.hidden_weights.weight
        """What h_{t-1} is to be multiplied with; (4 hidden, hidden)."""
        (weight,) = cell.modulation_weights()
        self.weight = weight.t()

    def __call__(self, recurrent: Tensor, z: Tensor) -> Tensor:
        """For W h_{t-1} (rows, 4 hidden), which may be overwritten, and z_t (rows, latent); (rows, 4 hidden)."""
        return recurrent.addmm_(z, self.weight)


class ConditionalLayerNormGates:
    """The gates of a :class:`~zf_pyro.networks.ConditionalLayerNormCell` but for what its input sets."""

    def __init__(self, cell: ConditionalLayerNormCell) -> None:
        weight = cell.hidden_weights.weight
        # The mean that the norm takes away is linear in h_{t-1}: it is taken away from the weight, once
        self.hidden_weight = weight - weight.mean(0)
        """What h_{t-1} is to be multiplied with; (4 hidden, hidden)."""
        first, first_bias, second, second_bias = cell.modulation_weights()
        # A hidden unit that is always 1 carries the bias: adding it to a product takes half as long as the product
        self.first = torch.cat([first, torch.zeros_like(first[:1])]).t()
        self.first_bias = torch.cat([first_bias, torch.ones_like(first_bias[:1])])
        gain, shift = second_bias.chunk(2)
        self.second = torch.cat([second, torch.cat([1.0 + gain, shift]).unsqueeze(1)], dim=1).t()

    def __call__(self, recurrent: Tensor, z: Tensor) -> Tensor:
        """As of :class:`ConcatenateGates`."""
        modulation = torch.mm(_clipped(torch.addmm(self.first_bias, z, self.first)), self.second)
        gain, shift = modulation.chunk(2, dim=1)  # the gain is 1 + g_t
        gain.clamp_(-2.0, 4.0)
        shift.clamp_(-3.0, 3.0)
        norm = torch.linalg.vector_norm(recurrent, dim=1, keepdim=True)
        scale = norm.square_().div_(recurrent.shape[1]).add_(1e-5).rsqrt_()
        return shift.addcmul_(recurrent.mul_(scale), gain)


GATES = {ConcatenateCell: ConcatenateGates, ConditionalLayerNormCell: ConditionalLayerNormGates}
"""The gates of a transition by its class."""


def steps_of(net: ZForcing, u: Tensor, b: Tensor | None, x: Tensor) -> Steps:
    """The faster form of a step that ``net`` allows; arguments as for :class:`Steps`."""
    names = ("prior", "posterior", "transition")
    own = all(getattr(type(net), name) is getattr(ZForcing, name) and name not in vars(net) for name in names)
    prepared = own and type(net.cell) in GATES and net.recurrence != "reference" and not torch.is_grad_enabled()
    return (PreparedSteps if prepared else Steps)(net, u, b, x)


def _clipped(x: Tensor) -> Tensor:
    """:func:`zf_pyro.networks.clipped_leaky_relu`, in the place of x."""
    return F.leaky_relu(x, 1.0 / 3.0, inplace=True).clamp_(-3.0, 3.0)


def _both(first: Tensor, second: Tensor) -> Tensor:
    """Weights of two networks, (means and log-variances, hidden) each, as one that gives the means of both first."""
    (loc, log_variance), (other_loc, other_log_variance) = first.chunk(2), second.chunk(2)
    return torch.cat([torch.block_diag(loc, other_loc), torch.block_diag(log_variance, other_log_variance)])
