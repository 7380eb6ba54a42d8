"""Peer (a): one training step as a hand-written PyTorch loop, in the form of the paper's released code.

The time loop computes everything step by step: prior, posterior, KL, auxiliary, layer norm gains and the cell. Only
the output layers run over whole sequences. The parameters are those of a ``ZForcing`` model, so that both do the same
work on the same values. The released code also computes log p(z) and log q(z), which no loss uses; they are left out.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from zf_pyro import ZForcing


def gaussian_log_prob(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-density in nats, summed over the last dim; all (..., frame), the result (...)."""
    terms = -0.5 * math.log(2 * math.pi) - log_variance / 2 - (x - mean) ** 2 / (2 * torch.exp(log_variance))
    return terms.sum(-1)


def gaussian_kl(mean_q: Tensor, log_variance_q: Tensor, mean_p: Tensor, log_variance_p: Tensor) -> Tensor:
    """KL(q || p) of diagonal normals in nats; all (..., latent), the result (...)."""
    ratio = torch.exp(log_variance_q) / torch.exp(log_variance_p)
    distance = (mean_q - mean_p) ** 2 / torch.exp(log_variance_p)
    return (0.5 * (log_variance_p - log_variance_q + ratio + distance - 1.0)).sum(-1)


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Layer norm of x (batch, gates); gain and bias (batch, gates) or (gates,)."""
    mean = torch.mean(x, dim=-1, keepdim=True)
    std = torch.sqrt(torch.var(x, dim=-1, keepdim=True, correction=0) + 1e-5)
    return (x - mean) / std * gain + bias


def mlp(net: torch.nn.Module, x: Tensor) -> Tensor:
    """Apply a zf_pyro MLP to x (..., in), giving (..., out)."""
    hidden = torch.clamp(F.leaky_relu(F.linear(x, net.first.weight, net.first.bias), 1.0 / 3.0), -3.0, 3.0)
    return F.linear(hidden, net.second.weight, net.second.bias)


def lstm_cell(input_gates: Tensor, hidden_gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Next hidden and cell state (batch, hidden) from gate pre-activations (batch, 4 * hidden)."""
    i, f, o, g = (input_gates + hidden_gates).chunk(4, -1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def released_form_loss(
    net: ZForcing, x: Tensor, noise: Tensor, kl_weight: float, aux_weight: float, backward_weight: float
) -> Tensor:
    """Minus the training objective, summed over the batch; x (batch, time, frame), noise (time, batch, latent)."""
    cell = net.cell
    y = x.transpose(0, 1)
    u = torch.cat([torch.zeros_like(y[:1]), y[:-1]])
    b = net.backward_rnn.lstm(net.embedding(y).flip(0))[0].flip(0)
    e = net.embedding(u)
    h = c = x.new_zeros(x.shape[0], net.hidden_dim)
    states, kls, auxiliaries = [], [], []
    for t in range(y.shape[0]):
        mean_p, log_variance_p = torch.clamp(mlp(net.prior_network, h), -8.0, 8.0).chunk(2, 1)
        inferred = torch.clamp(mlp(net.posterior_network, torch.cat((h, b[t]), 1)), -8.0, 8.0)
        mean_q, log_variance_q = inferred.chunk(2, 1)
        kls.append(gaussian_kl(mean_q, log_variance_q, mean_p, log_variance_p))
        z = noise[t] * torch.exp(log_variance_q * 0.5) + mean_q
        target = torch.clamp(mlp(net.auxiliary_network, torch.cat((z, h), 1)), -8.0, 8.0)
        mean_b, log_variance_b = target.chunk(2, 1)
        auxiliaries.append(gaussian_log_prob(b[t].detach(), torch.tanh(mean_b), log_variance_b))
        gain, bias = torch.clamp(mlp(cell.modulation_network, z), -3.0, 3.0).chunk(2, 1)
        input_gates = layer_norm(
            F.linear(e[t], cell.input_weights.weight), cell.input_norm.weight, cell.input_norm.bias
        )
        hidden_gates = layer_norm(F.linear(h, cell.hidden_weights.weight), 1.0 + gain, bias)
        h, c = lstm_cell(input_gates, hidden_gates, c)
        states.append(h)
    mean_x, log_variance_x = net.emission_layer(torch.stack(states)).chunk(2, -1)
    log_likelihood = gaussian_log_prob(y, mean_x, log_variance_x).sum()
    mean_u, log_variance_u = net.backward_emission_layer(b[1:]).chunk(2, -1)
    backward = gaussian_log_prob(u[1:], mean_u, log_variance_u).sum()
    kl, auxiliary = torch.stack(kls).sum(), torch.stack(auxiliaries).sum()
    return -(log_likelihood - kl_weight * kl + aux_weight * auxiliary + backward_weight * backward)
