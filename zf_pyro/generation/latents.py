"""Latents of given frames, and frames of given latents."""

import torch
from torch import Tensor

from ..networks import PosteriorScan, State, StepFunctions, joined, latent_of
from ..paths import KnownSteps, known_steps, real_frames


def prompted(
    net: StepFunctions,
    x: Tensor,
    lengths: Tensor,
    context: Tensor | None,
    count: int,
    covariates: Tensor | None = None,
) -> State:
    """The state after each prompt, with latents sampled from the posterior.

    One of ``count`` samples is chosen by its weight p(x, z) / q(z | x).

    Args:
        net: the model.
        x: (batch, time, frame) floats or (batch, time) int64.
        lengths: real frames of each prompt; (batch,).
        context: the frame before the first, or None.
        count: number of samples.
        covariates: c_1..c_T, (batch, time, K), or None.

    Returns:
        A State of (batch, hidden).
    """
    batch, time = x.shape[:2]
    real = real_frames(lengths, time)
    known = known_steps(net, x.transpose(0, 1), lengths, covariates, None)
    x = known.x.transpose(0, 1)
    b = backward_of(net, known, lengths)
    noise = torch.randn(time, count, batch, net.latent_dim, dtype=b.dtype, device=b.device)
    u = inputs_of(net, known, context)
    scan = net.scan_posterior(net.initial_state((count, batch)), u, b, noise)
    sequences, chosen = torch.arange(batch, device=x.device), torch.zeros_like(lengths)
    if count > 1:
        prior = latent_of(net.prior(scan.before), "prior", net.latent_dim)
        weight = net.emission(scan.after).log_prob(x.transpose(0, 1).unsqueeze(1)) + prior.log_prob(scan.z)
        weight = (weight - scan.log_prob(noise)).where(real.unsqueeze(1), 0.0).sum(0)
        chosen = torch.distributions.Categorical(logits=weight.T).sample()
    return State(*(field[lengths, chosen, sequences] for field in scan.states))


def posterior_means(
    net: StepFunctions,
    x: Tensor,
    lengths: Tensor | None,
    context: Tensor | None,
    covariates: Tensor | None = None,
) -> PosteriorScan:
    """Run the posterior with every z_t at its mean, or at what a flow makes of the mean of its normal.

    Args:
        net: the model.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        context: the frame before the first, (batch, *frame), or None.
        covariates: c_1..c_T, (batch, time, K), or None.
    """
    x = x.long() if net.emission_family.integer else x
    known = known_steps(net, x.transpose(0, 1), lengths, covariates, None)
    b = backward_of(net, known, lengths)
    noise = b.new_zeros(*b.shape[:2], net.latent_dim)
    u = inputs_of(net, known, context)
    return net.scan_posterior(net.initial_state(x.shape[:1]), u, b, noise)


def backward_of(net: StepFunctions, known: KnownSteps, lengths: Tensor | None) -> Tensor:
    """b_1..b_T of given sequences with ``lengths`` (batch,) or None; (time, batch, backward)."""
    if known.covariates is None:
        return net.backward_states(known.x.transpose(0, 1), lengths)
    mask = None if lengths is None else real_frames(lengths, len(known.x))
    return net.scan_backward(known.read, mask, lengths)


def inputs_of(net: StepFunctions, known: KnownSteps, context: Tensor | None) -> Tensor:
    """u_1..u_T of given sequences with the context (batch, *frame) or None; (time, batch, ...)."""
    more = () if known.covariates is None else (known.covariates.transpose(0, 1),)
    return net.inputs(known.x.transpose(0, 1), context, *more).transpose(0, 1)


def decode(net: StepFunctions, z: Tensor, first: Tensor, covariates: Tensor | None = None) -> Tensor:
    """The likeliest frames given z (time, ..., latent), each fed back as the next input; (time, ..., *frame).

    Covariates are (time, ..., K), and ``first`` is a frame (..., *frame).
    """
    batch_shape = z.shape[1:-1]
    state = net.initial_state(batch_shape)
    u_t, frames = first.expand(*batch_shape, *net.emission_family.event_shape), []
    for t, z_t in enumerate(z.unbind(0)):
        read = joined(net, u_t, None if covariates is None else covariates[t])
        state = net.transition(net.past(state, read), read, z_t)
        u_t = net.emission_family.mode(net.emission(state))
        frames.append(u_t)
    return torch.stack(frames)


def stretched(z: Tensor, own: Tensor, lengths: Tensor, steps: int) -> Tensor:
    """Stretch latents to other lengths, by linear interpolation between neighbouring steps.

    Args:
        z: (time, batch, latent).
        own: real steps of each sequence; (batch,).
        lengths: target lengths; (num, batch).
        steps: time size of the result.

    Returns:
        (steps, num, batch, latent); beyond ``lengths`` the last latent.
    """
    t = torch.arange(steps, device=z.device, dtype=z.dtype).view(-1, 1, 1)
    place = (t * (own - 1) / (lengths - 1).clamp(min=1)).minimum((own - 1).to(z.dtype))
    below = place.floor().long()
    above, share = (below + 1).minimum(own - 1), (place - below).unsqueeze(-1)
    sequences = torch.arange(z.shape[1], device=z.device)
    return z[below, sequences].lerp(z[above, sequences], share)
