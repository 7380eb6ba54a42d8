"""Peer (h): the careful loops in JAX, as ``lax.scan`` under ``jit``.

They compute what careful.py and hand_written.py compute, with the same parameters by name. Weight gradients are
deferred: the reverse scan records the gradient of each product, and one product over all steps then forms the gradient
of its weight. JAX alone adds one outer product per step.

Needs jax, which is the extra ``benchmarks``. In all functions p are the parameters by name, and arrays of sequences
are (time, batch, ...).
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

Parameters = dict[str, Array]


# Scans --------------------------------------------------------------------------------------------------------------


def run(step: Callable, weights: tuple, adds: tuple, inputs: tuple, noise: tuple, state: tuple) -> tuple:
    """Outputs of a step over time, and what its products have read.

    ``step(products, state, *inputs, *noise)`` gives the next state and outputs. ``products[k]`` maps x (batch, in) to
    x W_k' + a_k,t with ``weights[k]`` (out, in) and ``adds[k]`` (time, batch, out), and is called once.
    """

    def body(state: tuple, now: tuple) -> tuple:
        adds_t, inputs_t, noise_t = now
        read: dict[int, Array] = {}

        def product(k: int) -> Callable[[Array], Array]:
            def apply(x: Array) -> Array:
                read[k] = x
                return x @ weights[k].T + adds_t[k]

            return apply

        state, outputs = step([product(k) for k in range(len(weights))], state, *inputs_t, *noise_t)
        return state, (outputs, tuple(read[k] for k in range(len(weights))))

    return jax.lax.scan(body, state, (adds, inputs, noise))[1]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan(step: Callable, weights: tuple, adds: tuple, inputs: tuple, noise: tuple, state: tuple) -> tuple:
    """Outputs of :func:`run`, with deferred weight gradients, and none of the noise."""
    return run(step, weights, adds, inputs, noise, state)[0]


def scan_forward(step: Callable, weights: tuple, adds: tuple, inputs: tuple, noise: tuple, state: tuple) -> tuple:
    """Outputs, and what the backward pass needs."""
    outputs, back, read = jax.vjp(
        lambda adds, inputs, state: run(step, weights, adds, inputs, noise, state), adds, inputs, state, has_aux=True
    )
    return outputs, (back, read)


def scan_backward(step: Callable, kept: tuple, gradient: tuple) -> tuple:
    """Gradients of weights, adds, inputs and state from those of the outputs."""
    back, read = kept
    adds, inputs, state = back(gradient)
    weights = tuple(jnp.einsum("tbo,tbi->oi", d, x) for d, x in zip(adds, read, strict=True))
    return weights, adds, inputs, None, state


scan.defvjp(scan_forward, scan_backward)


# Pieces, as in hand_written.py --------------------------------------------------------------------------------------


def phi(x: Array) -> Array:
    """The nonlinearity of all networks; (...) to (...)."""
    return jnp.clip(jnp.where(x > 0, x, x / 3.0), -3.0, 3.0)


def linear(p: Parameters, name: str, x: Array) -> Array:
    """Apply a linear layer to x (..., in), giving (..., out)."""
    y = x @ p[f"{name}.weight"].T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def mlp(p: Parameters, name: str, x: Array) -> Array:
    """Apply an MLP to x (..., in), giving (..., out)."""
    return linear(p, f"{name}.second", phi(linear(p, f"{name}.first", x)))


def spread(bias: Array, like: Array) -> Array:
    """A bias (out,) for each step and sequence of ``like`` (time, batch, ...)."""
    return jnp.broadcast_to(bias, (*like.shape[:2], len(bias)))


def embedded(p: Parameters, frames: Array, weight: Array, bias: Array | float) -> Array:
    """``weight`` e(frames) + ``bias``, in the fewest operations; frames (..., frame)."""
    inner, constant = p["embedding.0.weight"], p["embedding.0.bias"]
    if inner.shape[1] >= inner.shape[0]:
        return (frames @ inner.T + constant) @ weight.T + bias
    return frames @ (weight @ inner).T + (weight @ constant + bias)


def layer_norm(x: Array) -> Array:
    """Layer norm over the last dim without gain and bias."""
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def lstm_cell(gates: Array, cell: Array) -> tuple[Array, Array]:
    """Next hidden and cell state (batch, hidden) from gates i, f, o, g (batch, 4 hidden)."""
    i, f, o, g = jnp.split(gates, 4, -1)
    cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(cell), cell


def lstm_step(products: list, state: tuple, given: Array) -> tuple:
    """A step of an LSTM with PyTorch's order of gates."""
    h, c = state
    i, f, g, o = jnp.split(products[0](h) + given, 4, -1)
    h, c = lstm_cell(jnp.concatenate([i, f, o, g], -1), c)
    return (h, c), (h,)


def gru_step(products: list, state: tuple, given: Array) -> tuple:
    """A step of PyTorch's GRU."""
    hidden, size = products[0](state[0]), state[0].shape[-1]
    r, u = jnp.split(jax.nn.sigmoid(hidden[:, : 2 * size] + given[:, : 2 * size]), 2, -1)
    n = jnp.tanh(given[:, 2 * size :] + r * hidden[:, 2 * size :])
    h = n + u * (state[0] - n)
    return (h,), (h,)


def rnn_over(p: Parameters, name: str, frames: Array, step: Callable, fields: int) -> Array:
    """States of PyTorch's LSTM or GRU over embedded frames (time, batch, frame); (time, batch, hidden)."""
    first, hidden, bias, other = (p[f"{name}.{kind}_l0"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    given = embedded(p, frames, first, bias)
    start = jnp.zeros((frames.shape[1], hidden.shape[1]), frames.dtype)
    return scan(step, (hidden,), (spread(other, given),), (given,), (), (start,) * fields)[0]


def clamped(parameters: Array) -> tuple[Array, Array]:
    """Mean and log-variance from (..., 2 latent)."""
    loc, log_variance = jnp.split(jnp.clip(parameters, -8.0, 8.0), 2, -1)
    return loc, log_variance


def divergence(q: tuple[Array, Array], p: tuple[Array, Array]) -> Array:
    """KL(q || p) of diagonal normals by mean and log-variance, each (..., latent), summed over everything; a scalar."""
    (loc, log_variance), (p_loc, p_log_variance) = q, p
    ratio = jnp.exp(log_variance - p_log_variance)
    return 0.5 * (p_log_variance - log_variance + ratio + (loc - p_loc) ** 2 * jnp.exp(-p_log_variance) - 1.0).sum()


def shifted(x: Array) -> Array:
    """The value before each, zeros before the first; (time, ...)."""
    return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])


def normal(x: Array, loc: Array, log_variance: Array) -> Array:
    """Sum of log-densities in nats of x (..., frame) by mean and log-variance of the same shape; a scalar."""
    return -0.5 * (1.8378770664093453 + log_variance + (x - loc) ** 2 * jnp.exp(-log_variance)).sum()


def likelihood(p: Parameters, hidden: Array, x: Array, layer: str = "emission_layer") -> Array:
    """Sum of log p(x_t) of Gaussian or Bernoulli frames (time, batch, frame), from (time, batch, in); a scalar."""
    parameters = linear(p, layer, hidden)
    if parameters.shape[-1] == x.shape[-1]:
        return (x * parameters - jax.nn.softplus(parameters)).sum()
    return normal(x, *jnp.split(parameters, 2, -1))
