"""Hand-written PyTorch loops of the models: minus the ELBO, summed over the batch.

They are written with care, as an expert would in plain PyTorch:

- Recurrences without latents are one call of PyTorch's RNNs.
- Embeddings, input products, priors and emissions run over the whole sequence. Frames smaller than their embedding are
  read by the product of the two weights.
- Only what follows z_t runs step by step. Products that read the same values are one product.

A loss is in three parts (:class:`Parts`), so that the time loop can be compiled apart from the rest. The parameters are
those of the package's models at their default settings, so that both do the same work. In all functions x is (batch,
time, frame), noise (time, batch, latent), and p the parameters by name.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Parameters = dict[str, Tensor]
Tensors = tuple[Tensor, ...]


class Parts(NamedTuple):
    """A loss in three parts."""

    prepare: Callable[[Parameters, Tensor, Tensor], tuple[Tensors, Tensors, Tensors, Tensors]]
    """Weights of the loop, its first state, its inputs (time, ...) and tensors for ``finish``, from p, x and noise."""
    step: Callable[..., tuple[Tensors, Tensors]]
    """The next state and a step's outputs, from weights, state and the inputs of a step."""
    finish: Callable[..., Tensor]
    """The loss, from p, the tensors of ``prepare`` and the outputs (time, ...)."""


def unrolled(
    step: Callable[..., tuple[Tensors, Tensors]], weights: Tensors, state: Tensors, inputs: Tensors
) -> Tensors:
    """Run a step over time; inputs and outputs (time, ...)."""
    recorded = []
    for values in zip(*(sequence.unbind(0) for sequence in inputs), strict=True):
        state, outputs = step(weights, state, *values)
        recorded.append(outputs)
    return tuple(torch.stack(column) for column in zip(*recorded, strict=True))


def loss_of(
    parts: Parts, net: nn.Module, x: Tensor, noise: Tensor, run: Callable[..., Tensors] | None = None, *weights: float
) -> Tensor:
    """The loss of a model; ``run`` runs the loop (default: step by step), ``weights`` are those of ``finish``."""
    p = dict(net.named_parameters())
    loop, state, inputs, known = parts.prepare(p, x, noise)
    outputs = unrolled(parts.step, loop, state, inputs) if run is None else run(loop, state, inputs)
    return parts.finish(p, known, outputs, *weights)


# Pieces -------------------------------------------------------------------------------------------------------------


def phi(x: Tensor) -> Tensor:
    """The nonlinearity of all networks; (...) to (...)."""
    return torch.clamp(F.leaky_relu(x, 1.0 / 3.0), -3.0, 3.0)


def linear(p: Parameters, name: str, x: Tensor) -> Tensor:
    """Apply a linear layer to x (..., in), giving (..., out)."""
    return F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))


def mlp(p: Parameters, name: str, x: Tensor) -> Tensor:
    """Apply an MLP to x (..., in), giving (..., out)."""
    return linear(p, f"{name}.second", phi(linear(p, f"{name}.first", x)))


def layers(p: Parameters, *names: str) -> Tensors:
    """Weight and bias of layers, one after the other."""
    return tuple(p[f"{name}.{kind}"] for name in names for kind in ("weight", "bias"))


def embedded(
    p: Parameters, frames: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """v, W and b with W v + b = ``weight`` e(frames) + ``bias``, in the fewest operations; frames (..., frame)."""
    inner, constant = p["embedding.0.weight"], p["embedding.0.bias"]
    if inner.shape[1] >= inner.shape[0]:
        return F.linear(frames, inner, constant), weight, bias
    constant = weight @ constant
    return frames, weight @ inner, constant if bias is None else constant + bias


def lstm_over(p: Parameters, name: str, frames: Tensor) -> Tensor:
    """States of PyTorch's LSTM over embedded frames (time, batch, frame); (time, batch, hidden)."""
    first, hidden, bias, other = (p[f"{name}.{kind}_l0"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    v, weight, constant = embedded(p, frames, first, bias)
    start = frames.new_zeros(1, frames.shape[1], hidden.shape[1])
    return torch.lstm(v, (start, start), [weight, hidden, constant, other], True, 1, 0.0, True, False, False)[0]


def gru_over(p: Parameters, name: str, frames: Tensor) -> Tensor:
    """States of PyTorch's GRU over embedded frames (time, batch, frame); (time, batch, hidden)."""
    first, hidden, bias, other = (p[f"{name}.{kind}_l0"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    v, weight, constant = embedded(p, frames, first, bias)
    start = frames.new_zeros(1, frames.shape[1], hidden.shape[1])
    return torch.gru(v, start, [weight, hidden, constant, other], True, 1, 0.0, True, False, False)[0]


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Next hidden and cell state (batch, hidden) from gates i, f, o, g (batch, 4 hidden)."""
    switches, candidate = gates.split([3 * cell.shape[-1], cell.shape[-1]], -1)
    i, f, o = torch.sigmoid(switches).chunk(3, -1)
    cell = torch.addcmul(f * cell, i, torch.tanh(candidate))
    return o * torch.tanh(cell), cell


def clamped(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance from (..., 2 latent)."""
    loc, log_variance = torch.clamp(parameters, -8.0, 8.0).chunk(2, -1)
    return loc, log_variance


def sample(loc: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """z from mean, log-variance and standard normal noise, all (..., latent)."""
    return torch.addcmul(loc, torch.exp(0.5 * log_variance), noise)


def divergence(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> Tensor:
    """KL(q || p) of diagonal normals by mean and log-variance, each (..., latent), summed over everything; a scalar."""
    (loc, log_variance), (p_loc, p_log_variance) = q, p
    ratio = torch.exp(log_variance - p_log_variance)
    return 0.5 * (p_log_variance - log_variance + ratio + (loc - p_loc) ** 2 * torch.exp(-p_log_variance) - 1.0).sum()


def shifted(x: Tensor) -> Tensor:
    """The value before each, zeros before the first; (time, ...)."""
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def normal(x: Tensor, loc: Tensor, log_variance: Tensor) -> Tensor:
    """Sum of log-densities in nats of x (..., frame) by mean and log-variance of the same shape; a scalar."""
    terms = 1.8378770664093453 + log_variance + (x - loc) ** 2 * torch.exp(-log_variance)  # log(2 pi)
    return -0.5 * terms.sum()


def likelihood(p: Parameters, hidden: Tensor, x: Tensor, layer: str = "emission_layer") -> Tensor:
    """Sum of log p(x_t) of Gaussian or Bernoulli frames (time, batch, frame), from (time, batch, in); a scalar."""
    parameters = linear(p, layer, hidden)
    if parameters.shape[-1] == x.shape[-1]:
        return -F.binary_cross_entropy_with_logits(parameters, x, reduction="sum")
    return normal(x, *parameters.chunk(2, -1))


# SRNN and DMM, whose latents follow one another through the posterior alone ------------------------------------------


def srnn_prepare(p: Parameters, x: Tensor, noise: Tensor) -> tuple[Tensors, Tensors, Tensors, Tensors]:
    """SRNN with GRUs and a residual posterior, whose backward RNN reads frames."""
    x, size = x.transpose(0, 1), noise.shape[-1]
    d = gru_over(p, "forward_rnn.layers.0", shifted(x))
    b = gru_over(p, "backward_rnn.recurrence.layers.0", x.flip(0)).flip(0)
    prior, posterior = (p[f"{name}_network.first.weight"] for name in ("prior", "posterior"))
    rests = (
        F.linear(torch.cat([d, b], -1), posterior[:, size:], p["posterior_network.first.bias"]),
        F.linear(d, prior[:, size:], p["prior_network.first.bias"]),
    )
    mean = p["prior_network.second.weight"][:size], p["prior_network.second.bias"][:size]
    weights = torch.cat([posterior[:, :size], prior[:, :size]]), *layers(p, "posterior_network.second"), *mean
    return weights, (torch.zeros_like(noise[0]),), (torch.cat(rests, -1), noise), (x, d)


def srnn_step(weights: Tensors, state: Tensors, rest: Tensor, noise: Tensor) -> tuple[Tensors, Tensors]:
    """z_t, with its mean and log-variance, from z_{t-1}; rest (batch, 2 mlp), noise (batch, latent)."""
    joint, second, bias, prior, prior_bias = weights
    inner, before = phi(F.linear(state[0], joint) + rest).chunk(2, -1)
    loc, log_variance = clamped(F.linear(inner, second, bias))
    loc = loc + torch.clamp(F.linear(before, prior, prior_bias), -8.0, 8.0)
    z = sample(loc, log_variance, noise)
    return (z,), (z, loc, log_variance)


def srnn_finish(p: Parameters, known: Tensors, outputs: Tensors) -> Tensor:
    """Minus the ELBO."""
    (x, d), (z, loc, log_variance) = known, outputs
    kl = divergence((loc, log_variance), clamped(mlp(p, "prior_network", torch.cat([shifted(z), d], -1))))
    return kl - likelihood(p, phi(linear(p, "emission_hidden", torch.cat([z, d], -1))), x)


def dmm_prepare(p: Parameters, x: Tensor, noise: Tensor) -> tuple[Tensors, Tensors, Tensors, Tensors]:
    """DMM with a gated transition and a backward LSTM."""
    x, size = x.transpose(0, 1), noise.shape[-1]
    b = lstm_over(p, "backward_rnn.lstm", x.flip(0)).flip(0)
    first = p["posterior_network.first.weight"]
    rest = F.linear(b, first[:, size:], p["posterior_network.first.bias"])
    start = p["z_0"].expand_as(noise[0])
    return (first[:, :size], *layers(p, "posterior_network.second")), (start,), (rest, noise), (x, start)


def dmm_step(weights: Tensors, state: Tensors, rest: Tensor, noise: Tensor) -> tuple[Tensors, Tensors]:
    """z_t, with its mean and log-variance, from z_{t-1}; rest (batch, mlp), noise (batch, latent)."""
    first, second, bias = weights
    loc, log_variance = clamped(F.linear(phi(F.linear(state[0], first) + rest), second, bias))
    z = sample(loc, log_variance, noise)
    return (z,), (z, loc, log_variance)


def dmm_finish(p: Parameters, known: Tensors, outputs: Tensors) -> Tensor:
    """Minus the ELBO."""
    (x, start), (z, loc, log_variance) = known, outputs
    before = torch.cat([start.unsqueeze(0), z[:-1]])
    proposed = mlp(p, "prior_network.proposal", before)
    mean = torch.lerp(
        linear(p, "prior_network.linear", before), proposed, torch.sigmoid(mlp(p, "prior_network.gate", before))
    )
    scale = F.softplus(torch.clamp(linear(p, "prior_network.deviation", phi(proposed)), -8.0, 8.0))
    kl = divergence((loc, log_variance), (mean, 2.0 * scale.log()))
    inner = phi(linear(p, "emission_hidden.2", phi(linear(p, "emission_hidden.0", z))))
    return kl - likelihood(p, inner, x)


# VRNN and STORN -----------------------------------------------------------------------------------------------------


def vrnn_prepare(p: Parameters, x: Tensor, noise: Tensor) -> tuple[Tensors, Tensors, Tensors, Tensors]:
    """VRNN with an LSTM of one layer and feature networks."""
    x = x.transpose(0, 1)
    hidden, first = p["cell.hidden_weights.weight"], p["posterior_network.first.weight"]
    size = hidden.shape[1]
    read = phi(
        linear(p, "embedding.0", torch.cat([torch.zeros_like(x[:1]), x]))
    )  # u_1..u_T are the first T of them, x_1..x_T the last
    given = linear(p, "cell.input_weights", read[:-1])
    rest = F.linear(read[1:], first[:, size:], p["posterior_network.first.bias"])
    features = layers(p, "cell.modulation_network.first", "cell.modulation_network.second")
    weights = hidden, *features, first[:, :size], *layers(p, "posterior_network.second")
    state = x.new_zeros(x.shape[1], size)
    return weights, (state, state, torch.zeros_like(noise[0])), (given, rest, noise), (x,)


def vrnn_step(weights: Tensors, state: Tensors, given: Tensor, rest: Tensor, noise: Tensor) -> tuple[Tensors, Tensors]:
    """h_t and z_t from h_{t-1} and z_{t-1}; given (batch, 4 hidden), rest (batch, mlp), noise (batch, latent)."""
    hidden, one, one_bias, two, two_bias, first, second, bias = weights
    h, c, z = state
    gates = given + F.linear(h, hidden) + F.linear(phi(F.linear(z, one, one_bias)), two, two_bias)
    h, c = lstm_cell(gates, c)
    loc, log_variance = clamped(F.linear(phi(F.linear(h, first) + rest), second, bias))
    z = sample(loc, log_variance, noise)
    return (h, c, z), (h, z, loc, log_variance)


def vrnn_finish(p: Parameters, known: Tensors, outputs: Tensors) -> Tensor:
    """Minus the ELBO."""
    (x,), (h, z, loc, log_variance) = known, outputs
    kl = divergence((loc, log_variance), clamped(mlp(p, "prior_network", h)))
    features = phi(linear(p, "cell.modulation_network.first", z))
    return kl - likelihood(p, phi(linear(p, "emission_hidden", h) + linear(p, "emission_latent", features)), x)


def storn_loss(net: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    """STORN with a standard normal prior and LSTMs, each of which is one call of PyTorch's."""
    p, x = dict(net.named_parameters()), x.transpose(0, 1)
    loc, log_variance = clamped(mlp(p, "posterior_network", lstm_over(p, "recognition_rnn.rnn", x)))
    z = sample(loc, log_variance, noise)
    latent = p["cell.latent_weights.weight"] @ p["cell.latent_projection.weight"]
    v, first, constant = embedded(p, shifted(x), *layers(p, "cell.input_weights"))
    chunks = (part.chunk(4) for part in (torch.cat([first, latent], 1), p["cell.hidden_weights.weight"], constant))
    weights = [torch.cat([i, f, g, o]) for i, f, o, g in chunks]  # the order of PyTorch's gates
    start = x.new_zeros(1, x.shape[1], weights[1].shape[1])
    inputs, parameters = torch.cat([v, z], -1), [*weights, torch.zeros_like(weights[2])]
    h = torch.lstm(inputs, (start, start), parameters, True, 1, 0.0, True, False, False)[0]
    kl = divergence((loc, log_variance), (torch.zeros_like(loc), torch.zeros_like(loc)))
    return kl - likelihood(p, h, x)


PARTS = {
    "VRNN": Parts(vrnn_prepare, vrnn_step, vrnn_finish),
    "SRNN": Parts(srnn_prepare, srnn_step, srnn_finish),
    "DMM": Parts(dmm_prepare, dmm_step, dmm_finish),
}
"""Losses with a loop over time, by model."""
LOSSES: dict[str, Callable[..., Tensor]] = {
    **{name: partial(loss_of, parts) for name, parts in PARTS.items()},
    "STORN": storn_loss,
}
"""Minus the ELBO by model, from the network, x and noise."""
