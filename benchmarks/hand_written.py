"""Hand-written PyTorch loops of the models: minus the ELBO, summed over the batch.

They are written with care: recurrences without latents are one call of PyTorch's RNNs, priors and emissions run over
the whole sequence, and only what follows z_t runs step by step. The parameters are those of the package's models at
their default settings, so that both do the same work. x is (batch, time, frame), noise (time, batch, latent).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zf_pyro import DMM, SRNN, STORN, VRNN
from zf_pyro.networks import MLP, ConcatenateCell, FeatureCell


def phi(x: Tensor) -> Tensor:
    """The nonlinearity of all networks; (...) to (...)."""
    return torch.clamp(F.leaky_relu(x, 1.0 / 3.0), -3.0, 3.0)


def mlp(net: MLP, x: Tensor) -> Tensor:
    """Apply an MLP to x (..., in), giving (..., out)."""
    return net.second(phi(net.first(x)))


def clamped(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance from (..., 2 latent)."""
    loc, log_variance = torch.clamp(parameters, -8.0, 8.0).chunk(2, -1)
    return loc, log_variance


def divergence(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> Tensor:
    """KL(q || p) of diagonal normals by mean and log-variance, each (..., latent), summed over everything; a scalar."""
    (loc, log_variance), (p_loc, p_log_variance) = q, p
    ratio = torch.exp(log_variance - p_log_variance)
    return 0.5 * (p_log_variance - log_variance + ratio + (loc - p_loc) ** 2 * torch.exp(-p_log_variance) - 1.0).sum()


def shifted(x: Tensor) -> Tensor:
    """The frame before each, zeros before the first; (time, batch, frame)."""
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def likelihood(net: nn.Module, hidden: Tensor, x: Tensor) -> Tensor:
    """Sum of log p(x_t) of frames (time, batch, frame), from the last hidden layer (time, batch, mlp); a scalar."""
    return net.emission_family.distribution(net.emission_layer(hidden)).log_prob(x).sum()


def posterior_loop(
    network: MLP, rest: Tensor, noise: Tensor, z: Tensor, added: tuple[MLP, Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """z_0..z_T, means and log-variances of q, whose network reads z_{t-1} beside ``rest`` (time, batch, mlp)."""
    latent_dim = z.shape[-1]
    weight, latents, locs, log_variances = network.first.weight[:, :latent_dim], [z], [], []
    more = None if added is None else added[1].unbind(0)
    for t, (rest_t, noise_t) in enumerate(zip(rest.unbind(0), noise.unbind(0), strict=True)):
        loc, log_variance = clamped(network.second(phi(F.linear(z, weight) + rest_t)))
        if added is not None and more is not None:
            prior = added[0]
            inner = phi(F.linear(z, prior.first.weight[:, :latent_dim]) + more[t])
            mean = F.linear(inner, prior.second.weight[:latent_dim], prior.second.bias[:latent_dim])
            loc = loc + torch.clamp(mean, -8.0, 8.0)
        z = loc + torch.exp(0.5 * log_variance) * noise_t
        latents.append(z)
        locs.append(loc)
        log_variances.append(log_variance)
    return torch.stack(latents), torch.stack(locs), torch.stack(log_variances)


def srnn_loss(net: SRNN, x: Tensor, noise: Tensor) -> Tensor:
    """SRNN with GRUs and a residual posterior, whose backward RNN reads frames."""
    x = x.transpose(0, 1)
    latent_dim = noise.shape[-1]
    d = net.forward_rnn.layers[0](net.embedding(shifted(x)))[0]
    b = net.backward_rnn.recurrence.layers[0](net.embedding(x).flip(0))[0].flip(0)
    prior, posterior = net.prior_network, net.posterior_network
    prior_rest = F.linear(d, prior.first.weight[:, latent_dim:], prior.first.bias)
    rest = F.linear(torch.cat([d, b], -1), posterior.first.weight[:, latent_dim:], posterior.first.bias)
    z, loc, log_variance = posterior_loop(posterior, rest, noise, torch.zeros_like(noise[0]), (prior, prior_rest))
    kl = divergence((loc, log_variance), clamped(mlp(prior, torch.cat([z[:-1], d], -1))))
    return kl - likelihood(net, phi(net.emission_hidden(torch.cat([z[1:], d], -1))), x)


def dmm_loss(net: DMM, x: Tensor, noise: Tensor) -> Tensor:
    """DMM with a gated transition and a backward LSTM."""
    x = x.transpose(0, 1)
    latent_dim, transition, posterior = noise.shape[-1], net.prior_network, net.posterior_network
    b = net.backward_rnn.lstm(net.embedding(x).flip(0))[0].flip(0)
    rest = F.linear(b, posterior.first.weight[:, latent_dim:], posterior.first.bias)
    z, loc, log_variance = posterior_loop(posterior, rest, noise, net.z_0.expand_as(noise[0]))
    proposed, gate = mlp(transition.proposal, z[:-1]), torch.sigmoid(mlp(transition.gate, z[:-1]))
    mean = (1 - gate) * transition.linear(z[:-1]) + gate * proposed
    scale = F.softplus(torch.clamp(transition.deviation(phi(proposed)), -8.0, 8.0))
    kl = divergence((loc, log_variance), (mean, 2.0 * scale.log()))
    return kl - likelihood(net, net.emission_hidden(z[1:]), x)


def vrnn_loss(net: VRNN, x: Tensor, noise: Tensor) -> Tensor:
    """VRNN with an LSTM of one layer and feature networks."""
    x = x.transpose(0, 1)
    cell: FeatureCell = net.cell
    frames, posterior = net.embedding(x), net.posterior_network
    given = cell.input_weights(net.embedding(shifted(x))).unbind(0)
    rest = F.linear(frames, posterior.first.weight[:, net.hidden_dim :], posterior.first.bias).unbind(0)
    h = c = x.new_zeros(x.shape[1], net.hidden_dim)
    z = torch.zeros_like(noise[0])
    hiddens, latents, locs, log_variances = [], [], [], []
    for given_t, rest_t, noise_t in zip(given, rest, noise.unbind(0), strict=True):
        gates = given_t + F.linear(h, cell.hidden_weights.weight) + mlp(cell.modulation_network, z)
        i, f, o, g = gates.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        inner = phi(F.linear(h, posterior.first.weight[:, : net.hidden_dim]) + rest_t)
        loc, log_variance = clamped(posterior.second(inner))
        z = loc + torch.exp(0.5 * log_variance) * noise_t
        for values, value in ((hiddens, h), (latents, z), (locs, loc), (log_variances, log_variance)):
            values.append(value)
    hidden, features = torch.stack(hiddens), phi(cell.modulation_network.first(torch.stack(latents)))
    kl = divergence((torch.stack(locs), torch.stack(log_variances)), clamped(mlp(net.prior_network, hidden)))
    inner = phi(net.emission_hidden(hidden) + net.emission_latent(features))
    return kl - likelihood(net, inner, x)


def storn_loss(net: STORN, x: Tensor, noise: Tensor) -> Tensor:
    """STORN with a standard normal prior and LSTMs, each of which is one call of PyTorch's."""
    x = x.transpose(0, 1)
    cell: ConcatenateCell = net.cell
    loc, log_variance = clamped(mlp(net.posterior_network, net.recognition_rnn.rnn(net.embedding(x))[0]))
    z = loc + torch.exp(0.5 * log_variance) * noise
    latent_weight = cell.latent_weights.weight @ cell.latent_projection.weight
    given = torch.cat([cell.input_weights.weight, latent_weight], 1), cell.hidden_weights.weight
    chunks = (part.chunk(4) for part in (*given, cell.input_weights.bias))
    weights = [torch.cat([i, f, g, o]) for i, f, o, g in chunks]  # the order of PyTorch's gates
    start = x.new_zeros(1, x.shape[1], net.hidden_dim)
    inputs = torch.cat([net.embedding(shifted(x)), z], -1)
    parameters = [*weights, torch.zeros_like(weights[2])]
    h = torch.lstm(inputs, (start, start), parameters, True, 1, 0.0, True, False, False)[0]
    kl = divergence((loc, log_variance), (torch.zeros_like(loc), torch.zeros_like(loc)))
    return kl - likelihood(net, h, x)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "VRNN": vrnn_loss,
    "SRNN": srnn_loss,
    "STORN": storn_loss,
    "DMM": dmm_loss,
}
"""Minus the ELBO by model."""
