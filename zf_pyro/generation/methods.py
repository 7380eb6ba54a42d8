"""Generation, reconstruction and interpolation, as functions of a model that are its methods."""

from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ..checks import int64, require_count, require_flag, require_number
from ..data import pair_of
from ..emissions import Emission
from ..networks import State, StepFunctions, evaluating
from ..paths import (
    check_context,
    check_covariates,
    check_frames,
    check_lengths,
    check_values,
    real_frames,
    require_finite,
    with_last_repeated,
    zero_padding,
)
from ..recurrence import in_chunks
from .ancestral import ancestral
from .latents import decode, posterior_means, prompted, stretched
from .strategies import drawn, nucleus


class Interpolation(NamedTuple):
    """Interpolated sequences."""

    x: Tensor
    """(num, batch, time, *frame), zero beyond each length; the first of ``num`` belongs to x_a."""
    lengths: Tensor
    """Real frames; (num, batch)."""


def generate(
    net: StepFunctions,
    num_sequences: int,
    num_steps: int,
    *,
    temperature: float = 1.0,
    latent_temperature: float = 1.0,
    greedy: bool = False,
    top_p: float = 1.0,
    prompt: Tensor | tuple[Tensor, Tensor | None] | None = None,
    prompt_particles: int = 1,
    context: Tensor | None = None,
    covariates: Tensor | None = None,
    stop: int | None = None,
) -> Tensor:
    """Generate sequences, z_t ~ p(z_t | h_{t-1}) and x_t ~ p(x_t | h_t) in turn, as ``model(num_steps=...)`` does.

    Args:
        net: the model; in evaluation mode meanwhile, without gradients.
        num_sequences: number of sequences.
        num_steps: frames of each.
        temperature: above 0; p(x_t | h_t) to the power 1 / temperature (:meth:`zf_pyro.emissions.Emission.tempered`).
        latent_temperature: at least 0; factor of the variance of p(z_t | h_{t-1}). 0 takes the prior mean.
        greedy: take the likeliest frame instead of a sample.
        top_p: for symbols, sample from the likeliest ones with this total probability.
        prompt: x or (x, lengths) to continue, one sequence for each new one or a single one for all; lengths may be
            None. Its latents are sampled from the posterior q(z | prompt).
        prompt_particles: K samples of a prompt's latents, of which one is chosen by its weight p(x, z) / q(z | x). As
            K grows, the continuation follows p(continuation | prompt) even if the guide is wrong.
        context: the frame before the first (of the prompt, if there is one); (num_sequences, *frame).
        covariates: c_1, c_2, ..., (num_sequences, steps, K), for a model of ``covariate_dim`` K: of a prompt, then
            of the new frames, which follow each prompt's own length. There must be ``num_steps`` of them, or as
            many more than the longest prompt has frames. Further ones are left out.
        stop: for symbols, the end token. It is repeated after its first occurrence.

    Returns:
        The new frames without the prompt; (num_sequences, num_steps, *frame).

    Raises:
        TypeError, ValueError: an argument out of range or of no meaning for these frames, a prompt that the net
            refuses, or covariates that end before the last new frame.
    """
    family, like = net.emission_family, net.emission_layer.weight
    num_sequences = require_count("num_sequences", num_sequences)
    num_steps = require_count("num_steps", num_steps)
    prompt_particles = require_count("prompt_particles", prompt_particles)
    choose = _choice(family, temperature, require_flag("greedy", greedy), top_p)
    latent_temperature = require_number("latent_temperature", latent_temperature, "a finite number of at least 0", 0.0)
    if stop is not None:
        whole = isinstance(stop, Integral) and not isinstance(stop, bool) and abs(stop) < 2**63
        if not (family.integer and whole and bool(family.valid(torch.tensor(int(stop))))):
            raise ValueError(f"stop must be a symbol of the emission, which holds {family.values}, got {stop!r}")
    if context is not None:
        check_context(context, num_sequences, family, like)
    given = None if prompt is None else _prompt(net, prompt, num_sequences)
    seen = 0 if given is None else int(given[1].max())
    known = check_covariates(covariates, num_sequences, seen + num_steps, net, least=True)
    if known is not None:
        ends = torch.full((num_sequences,), num_steps, device=known.device) if given is None else given[1] + num_steps
        require_finite(known.transpose(0, 1), real_frames(ends, known.shape[1]))
    with torch.no_grad(), evaluating(net):
        if given is None:
            dtype = torch.long if family.integer else like.dtype
            first = torch.zeros(num_sequences, *family.event_shape, dtype=dtype, device=like.device)
            u_t, state = family.start(first), net.initial_state((num_sequences,))
            u_t = u_t if context is None else context.to(dtype)
            ahead = known
        else:
            x, lengths = given
            before = None if known is None else _padded(known[:, : x.shape[1]], x.shape[1])
            state = prompted(net, x, lengths, context, prompt_particles, before)
            rows = torch.arange(len(x), device=x.device)
            u_t = x[rows, lengths - 1]
            following = lengths.unsqueeze(1) + torch.arange(num_steps, device=x.device)
            ahead = None if known is None else known[rows.unsqueeze(1), following]
        more = {} if ahead is None else {"covariates": ahead.transpose(0, 1)}
        steps = ancestral(net, state, u_t, num_steps, choose, latent_temperature=latent_temperature, stop=stop, **more)
        return torch.stack([x_t for _, x_t in steps], dim=1)


def reconstruct(
    net: StepFunctions,
    x: Tensor,
    lengths: Tensor | None = None,
    *,
    context: Tensor | None = None,
    covariates: Tensor | None = None,
    teacher_forcing: bool = True,
) -> Tensor:
    """Reconstruct x: the likeliest frames given its latents, each z_t at its posterior mean.

    Where the posterior is a flow, whose mean is not known, z_t is the flow of the mean of its normal.

    Args:
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        context: the frame before the first; (batch, *frame).
        covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
        teacher_forcing: feed back the frames of x. If False, feed back the reconstruction, so that only the latents
            (and the context) depend on x.

    Returns:
        Frames of the shape of x, zero beyond each length.

    Raises:
        TypeError, ValueError: arguments that the net refuses.
    """
    require_flag("teacher_forcing", teacher_forcing)
    lengths = int64(lengths)
    _check_frames(net, x, lengths, context)
    with torch.no_grad(), evaluating(net):
        scan = posterior_means(net, x, lengths, context, covariates)
        if teacher_forcing:

            def decoded(hidden: Tensor, cell: Tensor) -> Tensor:
                return net.emission_family.mode(net.emission(State(hidden, cell)))

            frames = in_chunks(decoded, *scan.after)
        else:
            x = x.long() if net.emission_family.integer else x
            first = net.emission_family.start(x[:, 0]) if context is None else context.to(x.dtype)
            known = None if covariates is None else covariates.transpose(0, 1)
            if known is not None and lengths is not None:
                known = with_last_repeated(known, lengths)
            frames = decode(net, scan.z, first, known)
        if lengths is not None:
            frames = zero_padding(frames, real_frames(lengths, len(frames)))
        return frames.transpose(0, 1)


def interpolate(
    net: StepFunctions,
    x_a: Tensor,
    x_b: Tensor,
    num: int = 8,
    *,
    lengths_a: Tensor | None = None,
    lengths_b: Tensor | None = None,
    covariates_a: Tensor | None = None,
    covariates_b: Tensor | None = None,
) -> Interpolation:
    """Sequences between x_a and x_b through their latents, as in the paper's text experiment.

    z_t = (1 - alpha) z_t(x_a) + alpha z_t(x_b) with alpha from 0 to 1 and latents at their posterior means. Each step
    takes the likeliest frame and feeds it back, so the two ends are ``reconstruct(..., teacher_forcing=False)``.

    If lengths differ, both are stretched to (1 - alpha) length_a + alpha length_b, rounded. Latents of x_a are then
    read at t (length_a - 1) / (length - 1) for t = 0..length - 1, linearly between neighbouring steps.

    Args:
        x_a: (batch, time, frame) floats or (batch, time) integers.
        x_b: the same number of sequences; its time may differ.
        num: sequences per pair, both ends included; at least 2.
        lengths_a: real frames of each sequence of x_a, (batch,); all of them if None.
        lengths_b: of x_b.
        covariates_a: c_1..c_T of x_a, (batch, time, K), for a model of ``covariate_dim`` K. Those of a sequence in
            between are stretched and interpolated as its latents are.
        covariates_b: of x_b.

    Raises:
        TypeError, ValueError: arguments that the net refuses, or fewer than 2 sequences.
    """
    num = require_count("num", num, least=2)  # both ends are among them
    lengths_a, lengths_b = int64(lengths_a, "lengths_a"), int64(lengths_b, "lengths_b")
    for name, x, lengths in (("x_a", x_a, lengths_a), ("x_b", x_b, lengths_b)):
        _check_frames(net, x, lengths, None, name)
    if len(x_a) != len(x_b):
        raise ValueError(f"x_b must hold as many sequences as x_a, {len(x_a)}, got {len(x_b)}")
    with torch.no_grad(), evaluating(net):
        ends = [
            (posterior_means(net, x, lengths, None, covariates).z, _lengths(x, lengths))
            for x, lengths, covariates in ((x_a, lengths_a, covariates_a), (x_b, lengths_b, covariates_b))
        ]
        (z_a, length_a), (z_b, length_b) = ends
        alpha = torch.linspace(0.0, 1.0, num, device=z_a.device, dtype=z_a.dtype).unsqueeze(1)
        lengths = ((1.0 - alpha) * length_a + alpha * length_b).round().long()
        steps = int(lengths.max())

        def between(a: Tensor, b: Tensor) -> Tensor:
            part = (1.0 - alpha).unsqueeze(-1) * stretched(a, length_a, lengths, steps)
            return part + alpha.unsqueeze(-1) * stretched(b, length_b, lengths, steps)

        known = None
        if covariates_a is not None and covariates_b is not None:
            known = between(covariates_a.transpose(0, 1), covariates_b.transpose(0, 1))
        frames = decode(net, between(z_a, z_b), net.emission_family.start(x_a[:, 0]), known)
        real = real_frames(lengths.flatten(), steps).view(steps, *lengths.shape)
        frames = frames.where(real.view(*real.shape, *[1] * (frames.dim() - 3)), 0)
        return Interpolation(frames.movedim(0, 2), lengths)


def _choice(family: Emission, temperature: float, greedy: bool, top_p: float) -> Any:
    """The decoding strategy, a function from p(x_t | h_t) to x_t."""
    advice = "; greedy=True takes the most likely frame"
    temperature = require_number("temperature", temperature, "above 0", 0.0, ends="(]", advice=advice)
    top_p = require_number("top_p", top_p, "a probability in (0, 1]", 0.0, 1.0, "(]")
    if top_p < 1.0 and not family.integer:
        raise ValueError(f"top_p is for symbols (emissions.Categorical): leave it out for {family}")
    if greedy and (temperature, top_p) != (1.0, 1.0):
        raise ValueError("greedy takes the most likely frame: leave temperature and top_p out")
    return family.mode if greedy else partial(_drawn, family=family, temperature=temperature, top_p=top_p)


def _drawn(distribution: TorchDistribution, family: Emission, temperature: float, top_p: float) -> Tensor:
    if temperature != 1.0:
        distribution = family.tempered(distribution, temperature)
    return drawn(distribution if top_p == 1.0 else nucleus(distribution, top_p))


def _prompt(net: StepFunctions, prompt: Any, num_sequences: int) -> tuple[Tensor, Tensor]:
    """One prompt per sequence, with its length."""
    x, lengths = pair_of(prompt, None, "prompt")
    _check_frames(net, x, lengths, None, "prompt")
    if len(x) not in (1, num_sequences):
        raise ValueError(f"prompt must hold one sequence or {num_sequences}, one for each new one, got {len(x)}")
    lengths = _lengths(x, lengths)
    x = x.long() if net.emission_family.integer else x
    return x.expand(num_sequences, *x.shape[1:]), lengths.expand(num_sequences)


def _check_frames(
    net: StepFunctions, x: Tensor, lengths: Tensor | None, context: Tensor | None, name: str = "x"
) -> None:
    like = net.emission_layer.weight
    check_frames(x, net.emission_family, like, name)
    if lengths is not None:
        check_lengths(lengths, x.shape[0], x.shape[1], like.device)
    if context is not None:
        check_context(context, x.shape[0], net.emission_family, like)
    if is_validation_enabled():
        mask = None if lengths is None else real_frames(lengths, x.shape[1])
        check_values(x.transpose(0, 1), mask, net.emission_family, name)


def _padded(covariates: Tensor, num_steps: int) -> Tensor:
    """Covariates (batch, time, K) with the last repeated up to a number of steps, of which prompts have fewer."""
    missing = num_steps - covariates.shape[1]
    return covariates if missing <= 0 else torch.cat([covariates, covariates[:, -1:].expand(-1, missing, -1)], dim=1)


def _lengths(x: Tensor, lengths: Tensor | None) -> Tensor:
    return torch.full((len(x),), x.shape[1], device=x.device) if lengths is None else lengths
