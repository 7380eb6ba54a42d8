"""Textbook Pyro programs, written step by step from the step functions: the reference for every path."""

from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch

from zf_pyro.networks import AutoregressiveFlow, base_of


class KnownNoise(dist.Normal):
    """A normal whose samples use given noise, (..., latent)."""

    def __init__(self, loc, scale, noise):
        super().__init__(loc, scale)
        self.noise = noise

    def expand(self, batch_shape, _instance=None):
        return KnownNoise(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.noise)

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.noise


class KnownFlow(AutoregressiveFlow):
    """A flow whose samples use given noise, (..., latent)."""

    def __init__(self, loc, scale, flows, noise):
        super().__init__(loc, scale, flows)
        self.noise = noise

    def expand(self, batch_shape, _instance=None):
        wide = super().expand(batch_shape).base
        return KnownFlow(wide.loc, wide.scale, self.flows, self.noise)

    def rsample(self, sample_shape=()):
        return self.from_noise(self.noise)[0]


def with_noise(latent, noise):
    """The same distribution, whose samples use given noise, (..., latent)."""
    base = base_of(latent)
    if isinstance(latent, AutoregressiveFlow):
        return KnownFlow(base.loc, base.scale, latent.flows, noise)
    return KnownNoise(base.loc, base.scale, noise).to_event(1)


class Textbook:
    """Model and guide in Pyro's usual style: one sample statement after another, in time order.

    Args:
        net: the step functions.
        noise: noise of some steps, {t: (..., latent)}, for each run of the guide in turn; sampled where not given.
    """

    def __init__(self, net, noise=()):
        self.net = net
        self.noise = iter(noise)

    def _start(self, x, context, initial_state, num_steps, batch_shape):
        """Return h_0, u_1, the number of steps and the number of sequences."""
        net = pyro.module(f"textbook_{self.net.name}", self.net)
        family = net.emission_family
        shape = tuple(batch_shape) if x is None else x.shape[:1]
        num_steps = num_steps if x is None else x.shape[1]
        state = net.initial_state(shape) if initial_state is None else initial_state
        if context is None:
            dtype = torch.long if family.integer else net.emission_layer.weight.dtype
            context = family.start(torch.zeros(shape[-1], *family.event_shape, dtype=dtype))
        return state, context, num_steps, shape[-1]

    def _masked(self, lengths, t):
        return nullcontext() if lengths is None else poutine.mask(mask=t < lengths)

    def model(
        self,
        x=None,
        lengths=None,
        *,
        context=None,
        initial_state=None,
        num_steps=None,
        batch_shape=None,
        covariates=None,
        observed=None,
    ):
        net = self.net
        state, u_t, num_steps, batch_size = self._start(x, context, initial_state, num_steps, batch_shape)
        seen_before = None
        frames = []
        with pyro.plate("sequences", batch_size, dim=-1):
            for t in range(num_steps):
                with self._masked(lengths, t):
                    read = beside(net, u_t, covariates, t, seen_before)
                    past = net.past(state, read)
                    z_t = pyro.sample(f"z_{t}", net.prior(past))
                    state = net.transition(past, read, z_t)
                    if observed is None:
                        u_t = pyro.sample(f"x_{t}", net.emission(state), obs=None if x is None else x[:, t])
                    else:
                        seen_before = observed[:, t]
                        given = seen_alone(net.emission(state), seen_before)
                        u_t = pyro.sample(f"x_{t}", given, obs=frame_for_density(x[:, t], seen_before))
                    frames.append(u_t)
                    if observed is not None:
                        u_t = filled(net, u_t, seen_before)
        return torch.stack(torch.broadcast_tensors(*frames), dim=-1 - len(net.emission_family.event_shape))

    def guide(self, x, lengths=None, *, context=None, initial_state=None, covariates=None, observed=None):
        net = self.net
        state, first, num_steps, batch_size = self._start(x, context, initial_state, None, None)
        more = {"covariates": covariates, "observed": observed}
        more = {name: value for name, value in more.items() if value is not None}
        b, frames, flags = net.backward_states(x, lengths, **more).unbind(0), [first], [None]
        for t in range(num_steps):
            seen = None if observed is None else observed[:, t]
            frames.append(x[:, t] if seen is None else filled(net, x[:, t], seen))
            flags.append(seen)
        u = [beside(net, frames[t], covariates, t, flags[t]) for t in range(num_steps)]
        noise = next(self.noise, {})
        with pyro.plate("sequences", batch_size, dim=-1):
            for t in range(num_steps):
                with self._masked(lengths, t):
                    past = net.past(state, u[t])
                    q = net.posterior(past, b[t])
                    if t in noise:
                        q = with_noise(q, noise[t])
                    z_t = pyro.sample(f"z_{t}", q)
                    state = net.transition(past, u[t], z_t)


def beside(net, frame, covariates, t, seen=None):
    """What a network reads at step t: a frame (..., *frame), or with covariates and flags beside it."""
    if not net.covariate_dim and not net.flag_dim:
        return frame
    scalar = not net.emission_family.event_shape
    parts = [frame.unsqueeze(-1).double() if scalar else frame]
    if covariates is not None:
        parts.append(covariates[:, t])
    if net.flag_dim:
        flags = torch.ones(net.flag_dim, dtype=torch.float64) if seen is None else elements(seen, net).double()
        parts.append(flags)
    shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*shape, -1) for part in parts], -1)


def elements(seen, net):
    """Flags of frames (batch,) or elements (batch, frame), as a network reads them; (batch, flags)."""
    return seen.unsqueeze(-1).expand(-1, net.flag_dim) if seen.dim() == 1 else seen


def filled(net, frame, seen):
    """A frame with the start frame in place of what was not seen."""
    start = net.emission_family.start(frame)
    if seen.dim() == 1 and frame.dim() > 1:
        seen = seen.unsqueeze(-1)
    return torch.where(seen, frame, start)


def frame_for_density(frame, seen):
    """A frame with zeros, of which every emission of the tests has a density, in place of what was not seen."""
    if seen.dim() < frame.dim():
        seen = seen.unsqueeze(-1)
    return torch.where(seen, frame, torch.zeros_like(frame))


def seen_alone(emission, seen):
    """The emission of a frame, of which only what was seen counts."""
    if seen.dim() == 1:
        return emission.mask(seen)
    return emission.base_dist.mask(seen).to_event(1)


def hand_terms(net, x, lengths, z, *, context=None, initial_state=None, auxiliary=True):
    """Compute the objective's terms from its equations, for latents z (batch, time, latent); each (time, batch)."""
    u, b, frames = net.inputs(x, context), net.backward_states(x, lengths), x.unbind(1)
    state = net.initial_state(x.shape[:1]) if initial_state is None else initial_state
    terms = {"log_likelihood": [], "kl": [], "auxiliary": [], "backward": []}
    for t in range(x.shape[1]):
        past = net.past(state, u[:, t])
        q, p = net.posterior(past, b[t]), net.prior(past)
        flow = isinstance(q, AutoregressiveFlow)  # its KL has no closed form
        kl = q.log_prob(z[:, t]) - p.log_prob(z[:, t]) if flow else torch.distributions.kl_divergence(q, p)
        terms["kl"].append(kl)
        if auxiliary:
            terms["auxiliary"].append(net.auxiliary(z[:, t], past).log_prob(b[t].detach()))
        state = net.transition(past, u[:, t], z[:, t])
        terms["log_likelihood"].append(net.emission(state).log_prob(frames[t]))
        known = t > 0 or context is not None
        if auxiliary:
            before = net.backward_emission(b[t]).log_prob(u[:, t]) if known else torch.zeros_like(terms["kl"][0])
            terms["backward"].append(before)
    real = True if lengths is None else torch.arange(x.shape[1]).unsqueeze(1) < lengths
    return {name: torch.where(torch.as_tensor(real), torch.stack(steps), 0.0) for name, steps in terms.items() if steps}
