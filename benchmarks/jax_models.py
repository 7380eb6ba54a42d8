"""Models of peer (h): minus the objective, summed over the batch, of Z-Forcing, VRNN, SRNN and DMM in JAX.

See jax_scan.py. p are the parameters by name, x (time, batch, frame) and noise (time, batch, latent).
"""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import torch
from jax import Array
from jax_scan import (
    Parameters,
    clamped,
    divergence,
    embedded,
    gru_step,
    layer_norm,
    likelihood,
    linear,
    lstm_cell,
    lstm_step,
    mlp,
    normal,
    phi,
    rnn_over,
    scan,
    shifted,
    spread,
)


def sample(parameters: Array, noise: Array) -> tuple[Array, Array, Array]:
    """z, mean and log-variance from (batch, 2 latent) and noise (batch, latent)."""
    loc, log_variance = clamped(parameters)
    return loc + jnp.exp(0.5 * log_variance) * noise, loc, log_variance


def zforcing_step(products: list, state: tuple, given: Array, noise: Array) -> tuple:
    """z_t and h_t from h_{t-1}."""
    h, c = state
    gates, inner = jnp.split(products[0](h), [given.shape[-1]], -1)
    z, loc, log_variance = sample(products[1](phi(inner)), noise)
    gain, shift = jnp.split(jnp.clip(products[3](phi(products[2](z))), -3.0, 3.0), 2, -1)
    h, c = lstm_cell(given + (1.0 + gain) * layer_norm(gates) + shift, c)
    return (h, c), (h, z, loc, log_variance)


def zforcing_loss(
    p: Parameters,
    x: Array,
    noise: Array,
    kl_weight: float = 1.0,
    aux_weight: float = 0.0,
    backward_weight: float = 0.0,
) -> Array:
    """Z-Forcing with the cell of conditional layer norm; the full objective."""
    hidden, first = p["cell.hidden_weights.weight"], p["posterior_network.first.weight"]
    size = hidden.shape[1]
    b = rnn_over(p, "backward_rnn.lstm", x[::-1], lstm_step, 2)[::-1]
    given = layer_norm(embedded(p, shifted(x), p["cell.input_weights.weight"], 0.0))
    given = given * p["cell.input_norm.weight"] + p["cell.input_norm.bias"]
    rest = b @ first[:, size:].T + p["posterior_network.first.bias"]
    names = "posterior_network.second", "cell.modulation_network.first", "cell.modulation_network.second"
    weights = jnp.concatenate([hidden, first[:, :size]]), *(p[f"{name}.weight"] for name in names)
    adds = (
        jnp.concatenate([jnp.zeros_like(given), rest], -1),
        *(spread(p[f"{name}.bias"], given) for name in names),
    )
    start = jnp.zeros((x.shape[1], size), x.dtype)
    h, z, *q = scan(zforcing_step, weights, adds, (given,), (noise,), (start, start))
    before = shifted(h)
    kl = divergence(tuple(q), clamped(mlp(p, "prior_network", before)))
    objective = likelihood(p, h, x) - kl_weight * kl
    if aux_weight:
        target, scale = clamped(mlp(p, "auxiliary_network", jnp.concatenate([z, before], -1)))
        objective += aux_weight * normal(jax.lax.stop_gradient(b), jnp.tanh(target), scale)
    if backward_weight:
        objective += backward_weight * likelihood(p, b[1:], x[:-1], "backward_emission_layer")
    return -objective


def vrnn_step(products: list, state: tuple, given: Array, noise: Array) -> tuple:
    """h_t and z_t from h_{t-1} and z_{t-1}."""
    h, c, z = state
    h, c = lstm_cell(given + products[0](h) + products[2](phi(products[1](z))), c)
    z, loc, log_variance = sample(products[4](phi(products[3](h))), noise)
    return (h, c, z), (h, z, loc, log_variance)


def vrnn_loss(p: Parameters, x: Array, noise: Array) -> Array:
    """VRNN with an LSTM of one layer and feature networks."""
    hidden, first = p["cell.hidden_weights.weight"], p["posterior_network.first.weight"]
    size = hidden.shape[1]
    read = phi(linear(p, "embedding.0", jnp.concatenate([jnp.zeros_like(x[:1]), x])))
    given = linear(p, "cell.input_weights", read[:-1])
    rest = read[1:] @ first[:, size:].T + p["posterior_network.first.bias"]
    features = "cell.modulation_network.first", "cell.modulation_network.second"
    one, two, second = (p[f"{name}.weight"] for name in (*features, "posterior_network.second"))
    biases = (spread(p[f"{name}.bias"], given) for name in (*features, "posterior_network.second"))
    one_bias, two_bias, second_bias = biases
    adds = jnp.zeros_like(given), one_bias, two_bias, rest, second_bias
    start, z = jnp.zeros((x.shape[1], size), x.dtype), jnp.zeros_like(noise[0])
    weights = hidden, one, two, first[:, :size], second
    h, z, *q = scan(vrnn_step, weights, adds, (given,), (noise,), (start, start, z))
    kl = divergence(tuple(q), clamped(mlp(p, "prior_network", h)))
    features = phi(linear(p, "cell.modulation_network.first", z))
    return kl - likelihood(p, phi(linear(p, "emission_hidden", h) + linear(p, "emission_latent", features)), x)


def srnn_step(products: list, state: tuple, noise: Array) -> tuple:
    """z_t, with its mean and log-variance, from z_{t-1}."""
    inner, before = jnp.split(phi(products[0](state[0])), 2, -1)
    loc, log_variance = clamped(products[1](inner))
    loc = loc + jnp.clip(products[2](before), -8.0, 8.0)
    z = loc + jnp.exp(0.5 * log_variance) * noise
    return (z,), (z, loc, log_variance)


def srnn_loss(p: Parameters, x: Array, noise: Array) -> Array:
    """SRNN with GRUs and a residual posterior, whose backward RNN reads frames."""
    size = noise.shape[-1]
    d = rnn_over(p, "forward_rnn.layers.0", shifted(x), gru_step, 1)
    b = rnn_over(p, "backward_rnn.recurrence.layers.0", x[::-1], gru_step, 1)[::-1]
    prior, posterior = (p[f"{name}_network.first.weight"] for name in ("prior", "posterior"))
    rest = jnp.concatenate([d, b], -1) @ posterior[:, size:].T + p["posterior_network.first.bias"]
    prior_rest = d @ prior[:, size:].T + p["prior_network.first.bias"]
    adds = (
        jnp.concatenate([rest, prior_rest], -1),
        spread(p["posterior_network.second.bias"], d),
        spread(p["prior_network.second.bias"][:size], d),
    )
    joint = jnp.concatenate([posterior[:, :size], prior[:, :size]])
    weights = joint, p["posterior_network.second.weight"], p["prior_network.second.weight"][:size]
    z, *q = scan(srnn_step, weights, adds, (), (noise,), (jnp.zeros_like(noise[0]),))
    kl = divergence(tuple(q), clamped(mlp(p, "prior_network", jnp.concatenate([shifted(z), d], -1))))
    return kl - likelihood(p, phi(linear(p, "emission_hidden", jnp.concatenate([z, d], -1))), x)


def dmm_step(products: list, state: tuple, noise: Array) -> tuple:
    """z_t, with its mean and log-variance, from z_{t-1}."""
    z, loc, log_variance = sample(products[1](phi(products[0](state[0]))), noise)
    return (z,), (z, loc, log_variance)


def dmm_loss(p: Parameters, x: Array, noise: Array) -> Array:
    """DMM with a gated transition and a backward LSTM."""
    size, first = noise.shape[-1], p["posterior_network.first.weight"]
    b = rnn_over(p, "backward_rnn.lstm", x[::-1], lstm_step, 2)[::-1]
    rest = b @ first[:, size:].T + p["posterior_network.first.bias"]
    adds = rest, spread(p["posterior_network.second.bias"], b)
    start = jnp.broadcast_to(p["z_0"], noise[0].shape)
    z, *q = scan(dmm_step, (first[:, :size], p["posterior_network.second.weight"]), adds, (), (noise,), (start,))
    before = jnp.concatenate([start[None], z[:-1]])
    proposed = mlp(p, "prior_network.proposal", before)
    gate = jax.nn.sigmoid(mlp(p, "prior_network.gate", before))
    mean = (1 - gate) * linear(p, "prior_network.linear", before) + gate * proposed
    deviation = jnp.clip(linear(p, "prior_network.deviation", phi(proposed)), -8.0, 8.0)
    kl = divergence(tuple(q), (mean, 2.0 * jnp.log(jax.nn.softplus(deviation))))
    return kl - likelihood(p, phi(linear(p, "emission_hidden.2", phi(linear(p, "emission_hidden.0", z)))), x)


LOSSES: dict[str, Callable[..., Array]] = {
    "ZForcing": zforcing_loss,
    "VRNN": vrnn_loss,
    "SRNN": srnn_loss,
    "DMM": dmm_loss,
}
"""Losses by model."""


def training_step(
    name: str, net: torch.nn.Module, x: torch.Tensor, noise: torch.Tensor, *weights: float
) -> Callable[[], tuple[Array, Parameters]]:
    """A compiled step: the loss and the gradients by name, computed when called.

    x (batch, time, frame), noise (time, batch, latent); ``weights`` are those of the loss. JAX takes as many threads as
    PyTorch has when the process makes its first step.
    """
    os.environ.setdefault("NPROC", str(torch.get_num_threads()))  # read when JAX makes its first array
    p = {key: jnp.asarray(value.detach().cpu().numpy()) for key, value in net.named_parameters()}
    frames, draws = jnp.asarray(x.transpose(0, 1).cpu().numpy()), jnp.asarray(noise.cpu().numpy())
    compiled = jax.jit(jax.value_and_grad(lambda p, x, noise: LOSSES[name](p, x, noise, *weights)))
    return lambda: jax.block_until_ready(compiled(p, frames, draws))
