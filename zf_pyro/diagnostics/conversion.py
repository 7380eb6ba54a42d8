"""to_arviz: posterior samples of the latents of sequences as ArviZ data, with all groups that ArviZ's tools read."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import MCMC
from torch import Tensor

from ..checks import require_count, require_flag
from ..data import progress_bar
from ..evaluation import EncodedPart, encoded_parts, require_evaluation, require_given
from ..models import RefinedGuide, StochasticRNN, guided
from ..networks import chain_diagnostics
from ..paths import replaced, seen_parts
from .arviz_groups import Table
from .arviz_names import SEQUENCE, require_constants, require_names
from .arviz_versions import assemble, require_arviz
from .loo_values import LooValues
from .per_step import DENSITIES, Quantity, Step, draw, generate, has_analytic_kl, log_weight
from .posterior_draws import Plan, plan, posterior_draws, require_same_sequences, thinned

GROUPS = (
    *("posterior", "prior", "posterior_predictive", "prior_predictive"),
    *("log_likelihood", "sample_stats", "observed_data", "constant_data"),
)
"""Groups that :func:`to_arviz` can make."""
KL_ATTRIBUTE = {
    True: "analytic",
    False: "log q - log p at one draw of q, whose mean is the KL: a flow has no analytic one",
}
"""Attribute ``kl`` of the group sample_stats, by whether the KL has a closed form."""


@torch.no_grad()
def to_arviz(
    net: StochasticRNN,
    x: Tensor,
    lengths: Tensor | None = None,
    *,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    posterior: str | MCMC | RefinedGuide = "guide",
    num_samples: int | None = None,
    num_chains: int | None = None,
    num_particles: int | None = None,
    groups: Iterable[str] = GROUPS,
    hidden: bool = False,
    labels: Sequence[Any] | Tensor | None = None,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    constant_data: Mapping[str, Any] | None = None,
    batch_size: int = 32,
    chunk: int = 100,
    progress: bool = False,
) -> Any:
    """Sample z for each sequence and return ArviZ data: InferenceData (ArviZ 0.x) or DataTree (ArviZ 1.x).

    Values beyond a sequence's length are NaN in every group, so that means, quantiles and densities leave them out.
    Integer frames become floats where there is padding.

    Samples from the guide, and of importance resampling, are independent. R-hat and effective sample size over them
    show neither mixing nor whether the guide is right. Each chain of the smoother is a separate particle filter, so
    R-hat shows whether the filters agree. Chains of MCMC are the chains of that MCMC run.

    Groups, with dims beside (chain, draw):

    - ``posterior``: ``z`` (sequence, step, latent), and with ``hidden`` also ``h`` (sequence, step, unit).
    - ``sample_stats``: ``log_p`` = log p(x, z), ``log_q`` = log q(z | x), ``log_weight`` = log_p - log_q (sequence);
      ``kl`` = KL(q || p) of a step at the sample, and of a flow an estimate, as the attribute ``kl`` says, and
      ``x_given_z`` = log p(x_t | h_t) (sequence, step); all in nats.
      ``lp`` is ``log_p`` summed over sequences (no further dims). For MCMC also ``diverging`` (no further dims) and
      ``acceptance_rate`` (chain).
    - ``log_likelihood``: ``x`` (sequence), over which ``az.loo`` gives log p(x) and the k-hat of the weights of samples
      from the guide, whatever the posterior (:class:`~zf_pyro.diagnostics.loo_values.LooValues`). Its coordinate
      ``log_evidence`` (sequence) is the log-mean-weight.
    - ``prior``, ``prior_predictive``: ``z`` and ``x`` (sequence, step[, feature]) from the model alone, with as many
      steps per sequence as the data.
    - ``posterior_predictive``: ``x`` sampled at the states of the posterior sample, given the true frames before.
    - ``observed_data``: ``x``. ``constant_data``: ``lengths`` (sequence), ``mask`` (sequence, step), and what is given.

    Every group with sequences has the coordinate ``labels`` (sequence) if labels are given.

    Args:
        net: the model, in evaluation mode.
        x: (batch, time, frame) floats or (batch, time) integers.
        lengths: real frames of each sequence, (batch,); all of them if None.
        covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
        observed: True where x was seen, (batch, time) or (batch, time, *frame), for a model of ``missing="fill"``.
        posterior: ``"guide"``; ``"importance"`` (samples from the guide, resampled by weight); ``"smoother"`` (a
            :class:`~zf_pyro.inference.ParticleFilter`); a guide of :func:`zf_pyro.inference.refine` for these
            sequences, in place of ``net.guide`` in all groups; or a :class:`pyro.infer.MCMC` that was run over the
            latents of ``net.model`` on the same sequences.
        num_samples: samples per chain; 100 by default, and all there are for MCMC.
        num_chains: chains, 1 by default. ``az.rhat`` needs two.
        num_particles: candidates per chain of importance resampling, or particles per filter; by default ten times
            ``num_samples`` and at least 100.
        groups: groups to make, of :data:`GROUPS`.
        hidden: whether the posterior group holds the hidden states.
        labels: one label per sequence, for example its speaker; (batch,).
        coords: values by dimension, for example ``{"sequence": ids, "step": times, "feature": names}``. Those left out
            are numbered from 0.
        dims: names of dimensions by variable as in ArviZ, for example ``{"x": ["sequence", "step", "cepstrum"]}``. The
            first two stay.
        constant_data: further constants by name, (sequence,), (sequence, step) or (sequence, step, ...). Covariates are
            among them.
        batch_size: sequences processed at once.
        chunk: samples processed at once. With ``batch_size`` it bounds the memory needed beside the result.
        progress: whether to show a progress bar.

    Raises:
        TypeError, ValueError: x or lengths that ``net`` refuses, a model in training mode, an unknown posterior or
            group, MCMC samples of other sequences or none at all, a bad count, or names, labels or constants
            that do not fit.
        ImportError: ArviZ is older than 0.21.
    """
    require_arviz()
    require_evaluation(net)
    refined = isinstance(posterior, RefinedGuide)
    if isinstance(posterior, RefinedGuide):
        net, posterior = guided(net, posterior, "to_arviz"), "guide"
    given = require_given(net, x, lengths, covariates=covariates, observed=observed)
    x, lengths = given.x, given.lengths
    batch_size, chunk = require_count("batch_size", batch_size), require_count("chunk", chunk)
    real = torch.ones(x.shape[:2], dtype=torch.bool)
    if lengths is not None:
        real = torch.arange(x.shape[1]) < lengths.cpu().unsqueeze(1)
    if given.covariates is not None and (constant_data is None or isinstance(constant_data, Mapping)):
        constant_data = {"covariates": given.covariates, **(constant_data or {})}
    constants = require_constants(constant_data, x, real)
    names = require_names(net, x, coords, dims, labels, constants)
    for name, flag in (("hidden", hidden), ("progress", progress)):
        require_flag(name, flag)
    wanted = _known(groups)
    sizes = plan(posterior, num_samples, num_chains, num_particles, chunk)
    if isinstance(posterior, MCMC):
        require_same_sequences(posterior, net, x)
    table = Table(sizes, _with_gaps(net, x, given.observed), real, names)
    weights = LooValues(sizes.total, len(x))
    total = x.shape[0] * sizes.total
    with progress_bar("posterior draws", "draw", total, progress) as bar:
        for batch in encoded_parts(net, x, lengths, batch_size, **given.named):
            with pyro.validation_enabled(False):  # encoded_parts has validated the inputs
                _fill(table, weights, net, batch, sizes, wanted, hidden)
                kl_attribute = KL_ATTRIBUTE[has_analytic_kl(net, batch)]
            bar.update(len(batch.rows) * sizes.total)
    if "log_likelihood" in wanted:
        values, log_evidence = weights.values()
        table.whole("log_likelihood", "x", values, (SEQUENCE,))
        table.coordinate("log_likelihood", "log_evidence", log_evidence)
    if "sample_stats" in wanted:
        table.joint()
        if isinstance(posterior, MCMC):
            _mcmc_statistics(table, posterior, sizes)
    if "observed_data" in wanted:
        table.observed()
    if "constant_data" in wanted:
        table.constants(constants)
    about = {"guide": "refined" if refined else "amortised", "kl": kl_attribute}
    return assemble({name: table.dataset(name, _attributes(name, sizes, about)) for name in GROUPS if name in wanted})


def _with_gaps(net: StochasticRNN, x: Tensor, observed: Tensor | None) -> Tensor:
    """Frames (batch, time, *frame) with NaN where nothing was seen; symbols stay as they are."""
    if observed is None or net.emission_family.integer:
        return x
    nothing = torch.full_like(x, torch.nan)
    return replaced(x, seen_parts(observed, net.emission_family), nothing, net.emission_family)


def _attributes(name: str, sizes: Plan, about: Mapping[str, str]) -> dict[str, str]:
    """Attributes of a group, by ArviZ's names where it has them; ``about`` is of guide and KL."""
    try:
        version = metadata.version("zf-pyro")
    except metadata.PackageNotFoundError:
        version = "unknown: not installed"
    mcmc = sizes.name == "mcmc"
    found = {
        "created_at": datetime.now(UTC).isoformat(),
        "creation_library": "zf_pyro",
        "creation_library_version": version,
        "creation_library_language": "Python",
        "inference_library": "pyro" if mcmc else "zf_pyro",
        "inference_library_version": pyro.__version__ if mcmc else version,
    }
    if name in ("posterior", "posterior_predictive", "sample_stats"):
        mixing = "independent: no chain whose mixing R-hat could show"
        found |= {"posterior": sizes.name, "draws": "of a Markov chain" if mcmc else mixing, "guide": about["guide"]}
        found |= {"kl": about["kl"]} if name == "sample_stats" else {}
    elif name == "log_likelihood":
        found |= {"draws": "from the guide, independent, whatever the posterior", "guide": about["guide"]}
    elif name.startswith("prior"):
        found["draws"] = "from the model alone, independent"
    return found


def _known(groups: Iterable[str]) -> tuple[str, ...]:
    if not isinstance(groups, Iterable):
        raise TypeError(f"groups must be some of {GROUPS}, got {type(groups).__name__}")
    names = (groups,) if isinstance(groups, str) else tuple(groups)
    unknown = [name for name in names if not isinstance(name, str) or name not in GROUPS]
    if unknown or not names:
        raise ValueError(f"groups must be some of {GROUPS}, got {names}")
    return names


def _fill(
    table: Table,
    weights: LooValues,
    net: StochasticRNN,
    batch: EncodedPart,
    sizes: Plan,
    wanted: tuple[str, ...],
    hidden: bool,
) -> None:
    """Write all samples of one batch."""
    from_guide = sizes.name == "guide"
    quantities = _quantities(wanted, hidden, from_guide)
    for first, values in posterior_draws(net, batch, sizes, quantities) if quantities else ():
        put = table.writer(batch, first)
        if "posterior" in wanted:
            put("posterior", "z", values[Step.z])
            if hidden:
                put("posterior", "h", values[Step.hidden])
        if "sample_stats" in wanted:
            log_p = batch.sum(values[Step.log_likelihood] + values[Step.log_prior])
            log_q = batch.sum(values[Step.log_guide])
            put("sample_stats", "log_p", log_p)
            put("sample_stats", "log_q", log_q)
            put("sample_stats", "log_weight", log_p - log_q)
            put("sample_stats", "kl", values[Step.kl])
            put("sample_stats", "x_given_z", values[Step.log_likelihood])
        if "log_likelihood" in wanted and from_guide:
            weights.add(batch, first, log_weight(values))
        if "posterior_predictive" in wanted:
            put("posterior_predictive", "x", values[Step.x])
    if "log_likelihood" in wanted and not from_guide:
        for first in range(0, sizes.total, sizes.chunk):
            values = draw(net, batch, min(sizes.chunk, sizes.total - first), DENSITIES)
            weights.add(batch, first, log_weight(values))
    prior = {"prior", "prior_predictive"} & set(wanted)
    for first in range(0, sizes.total, sizes.chunk) if prior else ():
        count = min(sizes.chunk, sizes.total - first)
        z, x = generate(net, batch.run.num_steps, count, batch.run.batch_size, batch.run.covariates)
        put = table.writer(batch, first)
        if "prior" in wanted:
            put("prior", "z", z)
        if "prior_predictive" in wanted:
            put("prior_predictive", "x", x)


def _quantities(wanted: tuple[str, ...], hidden: bool, from_guide: bool) -> list[Quantity]:
    """Quantities of a step that these groups need."""
    needed: dict[str, Sequence[Quantity]] = {
        "posterior": (Step.z, Step.hidden) if hidden else (Step.z,),
        "sample_stats": (*DENSITIES, Step.kl),
        "log_likelihood": DENSITIES if from_guide else (),
        "posterior_predictive": (Step.x,),
    }
    return list(dict.fromkeys(quantity for group in wanted for quantity in needed.get(group, ())))


def _mcmc_statistics(table: Table, mcmc: MCMC, sizes: Plan) -> None:
    """Add divergences and acceptance rates, where the kernel reports them."""
    found = chain_diagnostics(mcmc)
    chains = found[: sizes.num_chains]
    if chains and all("divergences" in chain for chain in chains):
        have = mcmc.num_samples
        diverging = np.zeros((sizes.num_chains, have), dtype=bool)
        for row, chain in zip(diverging, chains, strict=True):
            row[list(chain["divergences"])] = True
        table.per_draw("sample_stats", "diverging", diverging[:, thinned(have, sizes.num_samples).numpy()])
    if chains and all("acceptance rate" in chain for chain in chains):
        table.per_chain("sample_stats", "acceptance_rate", np.array([float(c["acceptance rate"]) for c in chains]))
