"""Peer (f): a training step of Z-Forcing as a careful hand-written PyTorch loop, in the manner of hand_written.py.

Inside the time loop is only what depends on the state: the product with h_{t-1} that the gates and the posterior share,
the rest of the posterior, z_t, its gains and shifts, and the gates. Embeddings, the input products of both RNNs, the
posterior's backward half, the prior, the auxiliary and all emissions run over the whole sequence.
"""

import torch
import torch.nn.functional as F
from hand_written import (
    Parameters,
    Parts,
    Tensors,
    clamped,
    divergence,
    embedded,
    layers,
    likelihood,
    lstm_cell,
    lstm_over,
    mlp,
    normal,
    phi,
    sample,
    shifted,
)
from torch import Tensor


def prepare(p: Parameters, x: Tensor, noise: Tensor) -> tuple[Tensors, Tensors, Tensors, Tensors]:
    """Weights, first state and inputs of the loop; x (batch, time, frame), noise (time, batch, latent)."""
    x = x.transpose(0, 1)
    hidden, first = p["cell.hidden_weights.weight"], p["posterior_network.first.weight"]
    width, size = hidden.shape
    b = lstm_over(p, "backward_rnn.lstm", x.flip(0)).flip(0)
    given = F.linear(*embedded(p, shifted(x), p["cell.input_weights.weight"], None))
    given = F.layer_norm(given, (width,), *layers(p, "cell.input_norm"))
    rest = F.linear(b, first[:, size:], p["posterior_network.first.bias"])
    names = "posterior_network.second", "cell.modulation_network.first", "cell.modulation_network.second"
    weights = torch.cat([hidden, first[:, :size]]), *layers(p, *names)
    start = x.new_zeros(x.shape[1], size)
    return weights, (start, start), (given, rest, noise), (x, b)


def step(weights: Tensors, state: Tensors, given: Tensor, rest: Tensor, noise: Tensor) -> tuple[Tensors, Tensors]:
    """z_t and h_t from h_{t-1}; given (batch, 4 hidden), rest (batch, mlp), noise (batch, latent)."""
    joint, second, bias, one, one_bias, two, two_bias = weights
    h, c = state
    gates, inner = F.linear(h, joint).split([given.shape[-1], rest.shape[-1]], -1)
    loc, log_variance = clamped(F.linear(phi(inner + rest), second, bias))
    z = sample(loc, log_variance, noise)
    modulation = F.linear(phi(F.linear(z, one, one_bias)), two, two_bias)
    gain, shift = torch.clamp(modulation, -3.0, 3.0).chunk(2, -1)
    normed = F.layer_norm(gates, gates.shape[-1:])
    h, c = lstm_cell(torch.addcmul(given + shift + normed, gain, normed), c)
    return (h, c), (h, z, loc, log_variance)


def finish(
    p: Parameters,
    known: Tensors,
    outputs: Tensors,
    kl_weight: float = 1.0,
    aux_weight: float = 0.0,
    backward_weight: float = 0.0,
) -> Tensor:
    """Minus the training objective, summed over the batch."""
    (x, b), (h, z, loc, log_variance) = known, outputs
    before = shifted(h)
    kl = divergence((loc, log_variance), clamped(mlp(p, "prior_network", before)))
    objective = likelihood(p, h, x) - kl_weight * kl
    if aux_weight:
        target, scale = clamped(mlp(p, "auxiliary_network", torch.cat([z, before], -1)))
        objective = objective + aux_weight * normal(b.detach(), torch.tanh(target), scale)
    if backward_weight:
        objective = objective + backward_weight * likelihood(p, b[1:], x[:-1], "backward_emission_layer")
    return -objective


ZFORCING = Parts(prepare, step, finish)
"""Z-Forcing with the cell of conditional layer norm."""
