"""A linear-Gaussian model with a closed-form posterior, whose guide is exact or wrong in a chosen way.

z_t = c z_{t-1} + noise, x_t = a z_t + s noise, and h_t is z_t. Backwards in time, p(x_t..x_T | z_t) is proportional to
exp(-precision z_t^2 / 2 + slope z_t). These two values are b_t: z_{t-1} and b_t give the exact normal
q(z_t | z_{t-1}, x_t..x_T).
"""

import torch
from pyro.distributions import Normal
from torch import nn

from zf_pyro import State, ZForcing, emissions

C, A, S = 0.8, 1.0, 0.5


class InformationFilter(nn.Module):
    """Backward states b_t = (precision, slope) of p(x_t..x_T | z_t); x (time, batch, 1) -> (time, batch, 2)."""

    def forward(self, x, lengths=None):
        precision, slope, b = torch.zeros_like(x[0]), torch.zeros_like(x[0]), []
        for t in reversed(range(len(x))):
            precision, slope = (
                A**2 / S**2 + C**2 * precision / (1 + precision),
                A * x[t] / S**2 + C * slope / (1 + precision),
            )
            if lengths is not None:
                real = (t < lengths).unsqueeze(-1)
                precision, slope = precision * real, slope * real
            b.append(torch.cat([precision, slope], -1))
        return torch.stack(b[::-1])


class LinearGaussian(ZForcing):
    """The model; its guide is exact, has variance times ``narrow``, mean off by ``shift`` deviations, or ignores x."""

    def __init__(self, narrow=1.0, shift=0.0, blind=False):
        super().__init__(emissions.Gaussian(1), embed_dim=1, hidden_dim=2, latent_dim=1, mlp_dim=1)
        self.narrow, self.shift, self.blind = narrow, shift, blind
        self.embedding, self.backward_rnn = nn.Identity(), InformationFilter()
        self.double().eval()

    def scan_backward(self, x, mask, lengths):
        return self.backward_rnn(self.embedding(x), lengths)

    def prior(self, state):
        loc = C * state.hidden[..., :1]
        return Normal(loc, torch.ones_like(loc)).to_event(1)

    def posterior(self, state, b_t):
        precision, slope = b_t.split(1, -1)
        if self.blind:
            return self.prior(state)
        variance = 1 / (1 + precision)
        loc = (C * state.hidden[..., :1] + slope) * variance + self.shift * variance.sqrt()
        loc, scale = torch.broadcast_tensors(loc, (self.narrow * variance).sqrt())
        return Normal(loc, scale).to_event(1)

    def transition(self, state, u_t, z_t):
        hidden = torch.cat([z_t, torch.zeros_like(z_t)], -1)
        return State(hidden, hidden)

    def emission(self, state):
        loc = A * state.hidden[..., :1]
        return Normal(loc, torch.full_like(loc, S)).to_event(1)

    def auxiliary(self, z_t, state):
        return Normal(torch.cat([z_t, z_t], -1), 1.0).to_event(1)


def exact_evidence(x):
    """Compute log p(x) of x (batch, time, 1), as one multivariate normal; (batch,) nats."""
    time = x.shape[1]
    powers = torch.arange(time)
    transfer = torch.where(powers[:, None] >= powers, C ** (powers[:, None] - powers).clamp(min=0).double(), 0.0)
    covariance = A**2 * transfer @ transfer.T + S**2 * torch.eye(time, dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal(torch.zeros(time, dtype=torch.float64), covariance)
    return normal.log_prob(x[..., 0])


def exact_moments(x):
    """Compute the mean (batch, time) and variance (time,) of every z_t given x (batch, time, 1)."""
    time = x.shape[1]
    powers = torch.arange(time)
    transfer = torch.where(powers[:, None] >= powers, C ** (powers[:, None] - powers).clamp(min=0).double(), 0.0)
    prior = torch.linalg.inv(transfer @ transfer.T)
    covariance = torch.linalg.inv(prior + A**2 / S**2 * torch.eye(time, dtype=torch.float64))
    return x[..., 0] @ covariance * A / S**2, covariance.diagonal()


def simulated(batch, time, seed=0):
    """Sample x (batch, time, 1) from the model."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, batch, time, generator=generator, dtype=torch.float64)
    z, x = torch.zeros(batch, dtype=torch.float64), []
    for t in range(time):
        z = C * z + noise[0, :, t]
        x.append(A * z + S * noise[1, :, t])
    return torch.stack(x, 1).unsqueeze(-1)


def joint(time):
    """Compute the covariance of (z_1..z_T, x_1..x_T) of the linear-Gaussian model."""
    powers = torch.arange(time).double()
    z = torch.tril(C ** (powers[:, None] - powers).abs())
    transfer = torch.cat([torch.cat([z, torch.zeros_like(z)], 1), torch.cat([A * z, S * torch.eye(time)], 1)])
    return transfer @ transfer.T


def conditional(time, wanted, given, values):
    """Compute the mean (batch, wanted) and covariance of some of (z, x) given values (batch, given) of others."""
    covariance = joint(time)
    gain = torch.linalg.solve(covariance[given][:, given], covariance[given][:, wanted]).T
    return values @ gain.T, covariance[wanted][:, wanted] - gain @ covariance[given][:, wanted]
