"""Refinement of a guide for given sequences: semi-amortised variational inference.

Kim et al. 2018, "Semi-amortized variational autoencoders", https://arxiv.org/abs/1802.02550. The guide's network gives
the start, and the posterior of each sequence has corrections of its own, which are optimised.
"""

from collections.abc import Callable

import pyro
import torch
from torch import Tensor

from ..checks import int64, require_count, require_number, require_room, require_tensor
from ..data import GivenSequences, progress_bar
from ..models import BoundGain, Corrections, RefinedGuide, RefinedNetwork, StochasticRNN, require_model
from ..networks import State
from ..paths import prepare_inputs, run_bytes
from .fixed import fixed
from .sequence_bound import AT_ONCE, SequenceBound, mean_bound, new_seed

JUDGED = 64
"""Samples of each sequence, at least, by which corrections are judged, and of which the reported bounds are."""
JUDGEMENTS = 4
"""Times that they are judged, at equal distances, the last time after the last step."""


def refine(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    context: Tensor | None = None,
    initial_state: State | None = None,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    steps: int = 100,
    num_particles: int = 4,
    learning_rate: float = 0.1,
    batch_size: int = 64,
    progress: bool = False,
) -> RefinedGuide:
    """Improve the posterior of given sequences, with model and guide fixed.

    Each latent of each step and sequence has two corrections (:class:`zf_pyro.models.Corrections`). They change mean
    and standard deviation of q(z_t | past, b_t), which still depends on the sampled past. At the start both are zero,
    and the refined guide is ``net.guide``.

    Adam ascends the ELBO of each sequence in the first half of the steps, and its importance-weighted bound in the
    second. The ELBO has the stronger gradient where the guide is far off, the bound asks for no more than its samples
    need. Gradients flow through the samples alone (Roeder et al. 2017, https://arxiv.org/abs/1703.09194; Tucker et al.
    2019, https://arxiv.org/abs/1810.04152). The learning rate falls to zero by a cosine. All sequences are optimised at
    once, in batches of similar length.

    Corrections are judged four times, by the sum of both bounds over 64 samples, with the same noise each time. The
    ELBO tells guides apart that the tighter bound cannot tell apart from so few samples. A sequence keeps the best that
    were seen. Those at the start count, so by this measure no sequence ends worse than it began. The reported bounds
    are of fresh samples, the same noise before and after.

    Weights, their gradients and flags, and the modes of all modules stay as they are. Memory beside the result grows
    with ``batch_size`` and ``num_particles``, not with the number of sequences.

    Args:
        net: the model. Dropout is off.
        x: the sequences; (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each, (batch,); all of them if None.
        context: the frame before the first, (batch, *frame); see :meth:`zf_pyro.ZForcing.inputs`.
        initial_state: h_0, each field (batch, hidden); zeros if None.
        covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
        observed: True where x was seen, (batch, time) or (batch, time, *frame), for a model of ``missing="fill"``.
        steps: optimisation steps; 0 gives the numbers of ``net.guide``.
        num_particles: K, samples of each sequence in a step; with 1 the bound is the ELBO throughout.
        learning_rate: Adam's, in units of the posterior's standard deviation.
        batch_size: sequences optimised at once.
        progress: whether to show a progress bar, over the steps of all batches.

    Returns:
        A guide, called as ``net.guide`` on these sequences or on some of them. Its ``bounds`` has the bounds before and
        after of each sequence, in nats. :data:`zf_pyro.inference.ALGORITHMS` and :mod:`zf_pyro.evaluation` take it as
        ``guide=``, and :func:`zf_pyro.to_arviz` as ``posterior=``.

    Raises:
        TypeError: ``net`` is no model, overrides ``model`` or ``guide``, or has posteriors other than diagonal normals.
        TypeError, ValueError: an argument that the model refuses, or a setting out of range.
        MemoryError: a batch does not fit.
    """
    require_model(net)
    steps, num_particles = require_count("steps", steps, least=0), require_count("num_particles", num_particles)
    learning_rate = require_number("learning_rate", learning_rate, "a positive number", 0.0, ends="(]")
    batch_size, lengths = require_count("batch_size", batch_size), int64(lengths)
    _require_own_programs(net)
    require_tensor("x", x)
    if observed is not None and observed.dim() > 1 and observed.shape[1] == x.shape[1] + 1:
        raise ValueError("observed must have the steps of x to refine a guide: give a context that was seen as a whole")
    run = prepare_inputs(net, x, lengths, context, initial_state, covariates=covariates, observed=observed)
    if run.initial_state.hidden.dim() != 2:
        raise ValueError(
            "initial_state must be one state a sequence, (batch, hidden), to refine a guide, got shape "
            f"{tuple(run.initial_state.hidden.shape)}: call refine for each of them"
        )
    each = run_bytes(net, min(batch_size, len(x)), x.shape[1], gradients=True)
    require_room(max(num_particles, AT_ONCE), each, x.device)
    like = run.initial_state.hidden
    shape = x.shape[1], len(x), net.latent_dim
    result = Corrections(like.new_zeros(shape), like.new_zeros(shape))
    bounds = like.new_empty(4, len(x))
    num_samples = num_particles * -(-JUDGED // num_particles)
    batches = _by_length(lengths, len(x)).to(x.device).split(batch_size)
    with (
        fixed(net),
        pyro.validation_enabled(False),
        torch.autocast(x.device.type, enabled=False),
        progress_bar("refinement", "step", steps * len(batches), progress) as bar,
    ):
        for rows in batches:
            known = GivenSequences(x, lengths, covariates, observed).taken(rows)
            part = SequenceBound(net, *_taken(rows, x, lengths, context, initial_state), **known.named)
            corrections = _optimised(part, steps, num_particles, learning_rate, bar.update)
            for whole, own in zip(result, corrections, strict=True):
                whole[: len(own), rows] = own
            seed = new_seed()
            for i, found in enumerate((part.zeros(), corrections)):
                weighed = part.weighed(found, num_samples, seed)
                bounds[i, rows], bounds[i + 2, rows] = (
                    mean_bound(weighed, num_particles),
                    mean_bound(weighed, num_samples),
                )
    known_by = x if run.read is None else run.read.transpose(0, 1)  # with covariates and flags, if there are any
    network = RefinedNetwork(net, known_by, lengths, result)
    return RefinedGuide(
        network,
        context,
        initial_state,
        BoundGain(bounds[0], bounds[1], bounds[2], bounds[3], num_particles, num_samples),
        steps,
    )


def _require_own_programs(net: StochasticRNN) -> None:
    base = net.net if isinstance(net, RefinedNetwork) else net
    for name in ("model", "guide"):
        if getattr(type(base), name) is not getattr(StochasticRNN, name) or name in vars(base):
            raise TypeError(
                f"net must have the programs of the package to be refined, which runs step functions, and "
                f"{type(base).__name__} has a {name} of its own: refine the network without it"
            )


def _by_length(lengths: Tensor | None, count: int) -> Tensor:
    """Indices of sequences, shortest first; (batch,)."""
    return torch.arange(count) if lengths is None else lengths.cpu().argsort(stable=True)


def _taken(
    rows: Tensor, x: Tensor, lengths: Tensor | None, context: Tensor | None, initial_state: State | None
) -> tuple[Tensor, Tensor | None, Tensor | None, State | None]:
    """The arguments of some sequences, cut to the longest of them."""
    real = None if lengths is None else lengths[rows]
    state = initial_state
    if state is not None:
        state = State(*(field.detach().expand(len(x), -1)[rows] for field in state))
    cut = x[rows] if real is None else x[rows, : int(real.max())]
    return cut.detach(), real, None if context is None else context[rows], state


def _optimised(
    part: SequenceBound, steps: int, num_particles: int, learning_rate: float, done: Callable[[], object]
) -> Corrections:
    """The best corrections seen of each sequence; each (time, batch, latent). ``done`` is called after each step."""
    best = part.zeros()
    if not steps:
        return best
    seed, (time, *rest) = new_seed(), best.shift.shape
    num_samples = num_particles * -(-JUDGED // num_particles)
    highest = _judged(part.weighed(best, num_samples, seed), num_particles)
    with torch.enable_grad():
        current = Corrections(*(torch.zeros_like(correction).requires_grad_() for correction in best))
    optimiser = torch.optim.Adam(current, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    judged = {round(steps * (i + 1) / JUDGEMENTS) for i in range(JUDGEMENTS)}
    for step in range(1, steps + 1):
        noise = best.shift.new_empty(time, num_particles, *rest).normal_()
        with torch.enable_grad():
            log_weights = part.log_weights(current, noise)
            if 2 * step <= steps:
                share = torch.full_like(log_weights, 1.0 / num_particles)  # the ELBO
            else:
                share = log_weights.detach().softmax(0).square()  # the importance-weighted bound
            gradients = torch.autograd.grad(-(share * log_weights).sum(), current)
        for correction, gradient in zip(current, gradients, strict=True):
            correction.grad = gradient.nan_to_num_(0.0, 0.0, 0.0)  # a sequence without a density keeps its corrections
        optimiser.step()
        schedule.step()
        if step in judged:
            found = _judged(part.weighed(current, num_samples, seed), num_particles)
            better = found > highest  # False for NaN
            highest = torch.where(better, found, highest)
            kept = (torch.where(better[:, None], *pair) for pair in zip(current, best, strict=True))
            best = Corrections(*(correction.detach() for correction in kept))
        done()
    return best


def _judged(log_weights: Tensor, num_particles: int) -> Tensor:
    """ELBO plus importance-weighted bound of each sequence, (batch,) nats, from log-weights (samples, batch)."""
    return mean_bound(log_weights, 1) + mean_bound(log_weights, num_particles)
