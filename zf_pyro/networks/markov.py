"""Networks of the deep Markov model: the gated transition of latents, and the combiner of its guide.

Krishnan, Shalit, Sontag, "Structured Inference Networks for Nonlinear State Space Models", AAAI 2017,
https://arxiv.org/abs/1609.09869. Their ReLU is :func:`.clipped_leaky_relu` here, as in all networks of this package.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .feedforward import MLP, clipped_leaky_relu


class GatedTransition(nn.Module):
    """Mean and standard deviation of p(z_t | z_{t-1}), between a linear and a nonlinear transition.

    loc = (1 - g) (W z + c) + g m,  g = sigmoid(MLP(z)),  m = MLP(z),  scale = softplus(V phi(m) + d).

    W starts as the identity. The argument of softplus is clamped to [-8, 8], so that no scale vanishes. With covariates
    all three read (z, c_t) in place of z, and W starts as the identity in z.

    Args:
        latent_dim: size of z_t.
        mlp_dim: hidden size of both MLPs.
        covariate_dim: size of c_t.
    """

    def __init__(self, latent_dim: int, mlp_dim: int, covariate_dim: int = 0) -> None:
        super().__init__()
        read = latent_dim + covariate_dim
        self.gate = MLP((read,), mlp_dim, latent_dim)
        self.proposal = MLP((read,), mlp_dim, latent_dim)
        self.linear = nn.Linear(read, latent_dim)
        self.deviation = nn.Linear(latent_dim, latent_dim)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation from z_{t-1}, or (z_{t-1}, c_t), (..., read); each (..., latent)."""
        proposed = self.proposal(z)
        loc = torch.lerp(self.linear(z), proposed, self.gate(z).sigmoid())
        return loc, positive(self.deviation(clipped_leaky_relu(proposed)))


class Combiner(nn.Module):
    """Mean and standard deviation of q(z_t | z_{t-1}, b_t), from an average of hidden states.

    h = (tanh(W z_{t-1} + c) + the states in b_t) / their number,  loc = V h + d,  scale = softplus(V' h + d').

    Args:
        latent_dim: size of z_t.
        hidden_dim: size of a state.
        num_states: states that b_t holds side by side.
    """

    def __init__(self, latent_dim: int, hidden_dim: int, num_states: int) -> None:
        super().__init__()
        self.num_states = num_states
        self.first = nn.Linear(latent_dim, hidden_dim)
        self.second = nn.Linear(hidden_dim, 2 * latent_dim)

    def forward(self, z: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation, each (..., latent), from z_{t-1} (..., latent) and b_t (..., states x hidden)."""
        states = b.unflatten(-1, (self.num_states, -1)).sum(-2)
        loc, deviation = self.second((self.first(z).tanh() + states) / (self.num_states + 1)).chunk(2, dim=-1)
        return loc, positive(deviation)


def positive(parameters: Tensor) -> Tensor:
    """softplus of parameters (...) clamped to [-8, 8]."""
    return F.softplus(parameters.clamp(-8.0, 8.0))
