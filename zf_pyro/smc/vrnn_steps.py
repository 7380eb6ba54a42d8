"""One step of a particle filter of VRNN, with what depends on known sequences computed before the first step."""

from typing import cast

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..models import VRNN
from ..networks import FeatureCell, GatedCell, State, clipped_leaky_relu, lstm
from .steps import FilterSteps, Moved, means_first


class VRNNSteps(FilterSteps):
    """The steps of a :class:`~zf_pyro.VRNN` of one LSTM layer, with gradients.

    The state holds phi(z_t), which the emission reads and then the gates, in place of z_t. Weights that multiply the
    same input are joined, and so are prior and posterior, as one network of twice the size: at usual sizes a step takes
    as long as its number of operations.
    """

    net: VRNN

    def _prepare(self, u: Tensor, b: Tensor | None) -> None:
        net, cell = self.net, cast(GatedCell, self.net.cell)
        drives = cell.inputs(net.embedding(u))
        if isinstance(cell, FeatureCell):
            latent_weight, bias = cell.modulation_weights()[2:]
            drives = drives + bias
        else:
            (latent_weight,) = cell.modulation_weights()
        self.drives = drives.unbind(0)
        self.gate_weight = torch.cat([cell.hidden_weights.weight, latent_weight], dim=1)
        self.emission_weight = torch.cat([net.emission_hidden.weight, net.emission_latent.weight], dim=1)
        self.first, self.second, self.bias = net.prior_network.loop_weights()
        rest = net.prior_network.rest().expand(*u.shape[:3], -1)
        if b is not None:
            first, second, bias = net.posterior_network.loop_weights()
            rest = torch.cat([rest, net.posterior_network.rest(b)], dim=-1)
            self.first = torch.cat([self.first, first])
            self.second = means_first(torch.block_diag(self.second, second))
            self.bias = means_first(torch.cat([self.bias, bias]))
        self.rests = rest.unbind(0)

    def start(self, state: State) -> State:
        h, z = state.hidden.tensor_split([self.net.hidden_dim], dim=-1)
        return State(torch.cat([h, self._features(z)], dim=-1), state.cell)

    def hidden(self, state: State, z_t: Tensor) -> Tensor:
        return torch.cat([state.hidden[..., : self.net.hidden_dim], z_t], dim=-1)

    def move(self, state: State, t: int, noise: Tensor) -> Moved:
        past = lstm(F.linear(state.hidden, self.gate_weight) + self.drives[t], state.cell)
        inner = clipped_leaky_relu(F.linear(past.hidden, self.first) + self.rests[t])
        locs, log_variances = F.linear(inner, self.second, self.bias).clamp(-8.0, 8.0).chunk(2, dim=-1)
        scales = (0.5 * log_variances).exp()
        if self.guided:
            pairs = (part.chunk(2, dim=-1) for part in (locs, scales, log_variances))
            (loc, q_loc), (scale, q_scale), (log_variance, q_log_variance) = pairs
            z = torch.addcmul(q_loc, q_scale, noise)
            terms = q_log_variance - log_variance + noise.square() - ((z - loc) / scale).square()
            ratio = 0.5 * terms.sum(-1)
        else:
            z, ratio = torch.addcmul(locs, scales, noise), torch.zeros_like(noise[..., 0])
        moved = State(torch.cat([past.hidden, self._features(z)], dim=-1), past.cell)
        return Moved(z, moved, self.log_likelihood(self._emission(moved), t), ratio)

    def _features(self, z: Tensor) -> Tensor:
        return self.net.cell.features(z) if isinstance(self.net.cell, FeatureCell) else z

    def _emission(self, state: State) -> TorchDistribution:
        net = self.net
        hidden = clipped_leaky_relu(F.linear(state.hidden, self.emission_weight, net.emission_hidden.bias))
        return net.emission_family.distribution(net.emission_layer(hidden), *net.emission_weights)
