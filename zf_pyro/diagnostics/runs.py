"""Draws of the latents of a batch of sequences, scored: what every diagnostic is computed from."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ..given import Given, check_frames, check_lengths, lay_out
from ..model import ZForcing
from ..networks import State
from ..paths import align
from ..pieces import in_pieces


class Batch(NamedTuple):
    """Sequences of about one length, cut to the longest of them."""

    rows: Tensor
    """Where they stand in the whole; (batch,) int64."""
    given: Given
    """Frames, inputs and mask, by time."""
    b: Tensor
    """Backward states b_t; (time, batch, hidden)."""

    @property
    def u(self) -> Tensor:
        """The inputs u_t; (time, batch, *frame)."""
        if self.given.u is None:
            raise RuntimeError("a batch needs its inputs")
        return self.given.u

    @property
    def x(self) -> Tensor:
        """The frames, zeros beyond each length; (batch, time, *frame)."""
        return _frames(self.given).transpose(0, 1)

    @property
    def real(self) -> Tensor:
        """True on real frames; (time, batch)."""
        if self.given.mask is not None:
            return self.given.mask
        return torch.ones(self.given.num_steps, self.given.batch_size, dtype=torch.bool, device=self.rows.device)

    def sum(self, per_step: Tensor) -> Tensor:
        """(time, draws, batch) summed over the real steps; (draws, batch)."""
        return per_step.where(self.real.unsqueeze(1), 0.0).sum(0)


class Run(NamedTuple):
    """Draws of the latents of one batch with their densities; padding included, which means nothing."""

    z: Tensor
    """(time, draws, batch, latent)."""
    hidden: Tensor
    """h_t; (time, draws, batch, hidden)."""
    cell: Tensor
    """The memory beside h_t; (time, draws, batch, hidden)."""
    log_likelihood: Tensor
    """log p(x_t | h_t); (time, draws, batch), nats."""
    log_prior: Tensor
    """log p(z_t | h_{t-1}); (time, draws, batch), nats."""
    log_guide: Tensor
    """log q(z_t | h_{t-1}, b_t); (time, draws, batch), nats."""
    kl: Tensor
    """KL(q(z_t | h_{t-1}, b_t) || p(z_t | h_{t-1})) of each latent; (time, draws, batch, latent), nats."""

    @property
    def log_weight(self) -> Tensor:
        """log p(x_t, z_t | past) - log q(z_t | past, x), of every step; (time, draws, batch), nats."""
        return self.log_likelihood + self.log_prior - self.log_guide


def require_evaluation(net: ZForcing) -> None:
    """Refuse a net in training mode.

    Raises:
        ValueError: any of its modules is in training mode.
    """
    if any(module.training for module in net.modules()):
        raise ValueError("net must be in evaluation mode, where nothing is dropped out; got training mode: net.eval()")


def require_count(name: str, count: int) -> None:
    """Refuse a count that is not a positive integer.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} must be a positive integer, got {count!r}")


def require_sequences(net: ZForcing, x: Tensor, lengths: Tensor | None) -> None:
    """Refuse x and lengths as a whole, before they are cut into batches.

    Raises:
        TypeError, ValueError: what :meth:`zf_pyro.ZForcing.model` refuses, or a net in training mode.
    """
    require_evaluation(net)
    like = net.emission_layer.weight
    check_frames(x, net.emission_family, like)
    if lengths is not None:
        check_lengths(lengths, x.shape[0], x.shape[1], like.device)


def batches(net: ZForcing, x: Tensor, lengths: Tensor | None, batch_size: int, *, at_least: int = 1) -> Iterator[Batch]:
    """All sequences, shortest first so that a batch holds little padding.

    Args:
        net: the net.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        batch_size: most sequences in a batch, unless that leaves fewer than ``at_least`` in another.
        at_least: fewest sequences in a batch.
    """
    order = torch.arange(len(x)) if lengths is None else lengths.cpu().argsort(stable=True)
    number = min(-(-len(x) // batch_size), max(1, len(x) // at_least))
    for part in order.tensor_split(number):
        rows = part.to(x.device)
        own = None if lengths is None else lengths[rows]
        frames = x[rows] if own is None else x[rows, : int(own.max())]
        given = lay_out(net, frames, own, None, None)
        yield Batch(rows, given, net.backward_states(_frames(given).transpose(0, 1), own))


def draw(net: ZForcing, batch: Batch, count: int) -> Run:
    """``count`` draws of the guide for each sequence."""
    given = batch.given
    noise = batch.b.new_empty(given.num_steps, count, given.batch_size, net.latent_dim).normal_()
    scan = net.scan_posterior(_start(given, count), batch.u, batch.b, noise)
    return _scored(net, batch, scan.z, scan.states, torch.stack([scan.loc, scan.scale]))


def score(net: ZForcing, batch: Batch, z: Tensor) -> Run:
    """Densities of given latents; z (time, draws, batch, latent)."""
    states = net.scan_states(_start(batch.given, z.shape[1]), batch.u, z)

    def posterior(hidden: Tensor, cell: Tensor, b: Tensor) -> Tensor:
        normal = net.posterior(State(hidden, cell), b).base_dist
        return torch.stack([normal.loc, normal.scale], dim=-1)

    parameters = in_pieces(posterior, states.hidden[:-1], states.cell[:-1], align(batch.b, 2))
    return _scored(net, batch, z, states, parameters.movedim(-1, 0))


def _scored(net: ZForcing, batch: Batch, z: Tensor, states: State, guide: Tensor) -> Run:
    frame_dim = len(net.emission_family.event_shape)

    def densities(z: Tensor, loc: Tensor, scale: Tensor, hidden: Tensor, cell: Tensor, *after: Tensor) -> Tensor:
        q, p = Normal(loc, scale, validate_args=False), net.prior(State(hidden, cell)).base_dist
        log_likelihood = net.emission(State(after[0], after[1])).log_prob(after[2])
        sums = torch.stack([log_likelihood, p.log_prob(z).sum(-1), q.log_prob(z).sum(-1)], dim=-1)
        return torch.cat([sums, kl_divergence(q, p)], dim=-1)

    before = [field[:-1] for field in states]
    after = [field[1:] for field in states]
    frames = align(_frames(batch.given), 2, frame_dim)
    scores = in_pieces(densities, z, guide[0], guide[1], *before, *after, frames)
    log_likelihood, log_prior, log_guide = scores[..., :3].unbind(-1)
    return Run(z, after[0], after[1], log_likelihood, log_prior, log_guide, scores[..., 3:])


def predict(net: ZForcing, run: Run) -> Tensor:
    """A frame from p(x_t | h_t) at the states of each draw, under the true frames before; (time, draws, batch, ...)."""
    return torch.stack([net.emission(State(*step)).sample() for step in zip(run.hidden, run.cell, strict=True)])


def generate(net: ZForcing, num_steps: int, count: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Latents and frames from the model by itself; (time, count, batch, latent) and (time, count, batch, *frame)."""
    family, like = net.emission_family, net.emission_layer.weight
    dtype = torch.long if family.integer else like.dtype
    u_t = family.start(torch.zeros(count, batch_size, *family.event_shape, dtype=dtype, device=like.device))
    state = net.initial_state((count, batch_size))
    z, x = [], []
    for _ in range(num_steps):
        z.append(net.prior(state).sample())
        state = net.transition(state, u_t, z[-1])
        u_t = net.emission(state).sample()
        x.append(u_t)
    return torch.stack(z), torch.stack(x)


def _start(given: Given, count: int) -> State:
    return State(*(field.expand(count, *field.shape) for field in given.initial_state))


def _frames(given: Given) -> Tensor:
    if given.x is None:
        raise RuntimeError("a batch needs its frames")
    return given.x
