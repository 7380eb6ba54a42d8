"""Check of the guide by its importance weights, and by the gaps between bounds and the evidence."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import require_array
from ..inference import effective_sample_size
from .arviz_versions import FEWEST_DRAWS, good_k, group, pareto_k
from .remedies import FOR_SEQUENCES


class WeightCheck(NamedTuple):
    """Statistics of the importance weights p(x, z) / q(z | x) of samples from the guide; each (sequence,).

    With a perfect guide all weights of a sequence are equal: k-hat 0, efficiency 1, no gap. k-hat detects a guide that
    is far too narrow or in the wrong place, and misses one that is too wide. The gaps measure every difference, in
    nats. See docs/diagnostics.md.
    """

    pareto_k: np.ndarray
    """Pareto k-hat by ArviZ's PSIS. Above :attr:`good_k`, importance weighting is unreliable with so few samples."""
    efficiency: np.ndarray
    """Effective sample size as a share of the samples; 1 at best, 1 / samples at worst."""
    elbo: np.ndarray
    """Mean log-weight, nats: an estimate of the evidence lower bound."""
    importance_weighted: np.ndarray
    """Log mean weight, nats: the bound of Burda et al. 2016, https://arxiv.org/abs/1509.00519, over all samples."""
    evidence: np.ndarray
    """Given log p(x), nats: exact, annealed or by particles; NaN if none was given."""
    good_k: float
    """min(1 - 1 / log10(samples), 0.7), below which PSIS is reliable (Vehtari et al. 2024)."""
    sequences: np.ndarray
    """Names of the sequences, as given to :func:`zf_pyro.to_arviz`; numbers from 0 otherwise."""

    @property
    def gap(self) -> np.ndarray:
        """Best estimate of log p(x) minus the ELBO, nats: an estimate of KL(q(z | x) || p(z | x)).

        The best estimate is the given evidence or the importance-weighted bound, whichever is higher. Without evidence
        and with a guide that misses the posterior, the bound over few samples is too low, and so is the gap.
        """
        return np.fmax(self.evidence, self.importance_weighted) - self.elbo

    @property
    def remaining(self) -> np.ndarray:
        """Given evidence minus the importance-weighted bound, nats; NaN if none was given."""
        return self.evidence - self.importance_weighted

    def bad_tails(self) -> np.ndarray:
        """Indices of sequences with a k-hat above :attr:`good_k`."""
        return np.flatnonzero(self.pareto_k > self.good_k)

    def summary(self) -> str:
        """Medians and counts in one line, and what to do where a k-hat is bad."""
        gap, k = np.nanmedian(self.gap), np.median(self.pareto_k)
        text = (
            f"{len(self.bad_tails())} of {len(self.pareto_k)} sequences with k-hat above {self.good_k:.2f}; median "
            f"k-hat {k:.2f}, efficiency {np.median(self.efficiency):.2f}, gap to the evidence at least {gap:.2f} nats"
        )
        return f"{text}; {FOR_SEQUENCES}" if len(self.bad_tails()) else text


def check_weights(data: Any, evidence: Tensor | np.ndarray | None = None) -> WeightCheck:
    """Check the guide by the importance weights of its samples.

    Args:
        data: result of :func:`zf_pyro.to_arviz` with ``posterior="guide"`` and the group sample_stats.
        evidence: log p(x) of each sequence from another source, (sequence,) nats: exact, the ``log_evidence`` of a
            particle filter, or of :class:`zf_pyro.inference.AnnealedImportanceSampling`.

    Raises:
        ValueError: the samples are not from the guide, or fewer than 25 (PSIS cannot fit a tail to fewer), or the
            evidence is not one value per sequence.
    """
    stats = group(data, "sample_stats")
    kind = stats.attrs.get("posterior")
    if kind != "guide":
        raise ValueError(f"data must hold samples from the guide, got {kind!r}: to_arviz(..., posterior='guide')")
    stacked = stats["log_weight"].stack(__sample__=("chain", "draw")).transpose("sequence", "__sample__")
    values = stacked.values.astype(np.float64)
    sequences, draws = values.shape
    if draws < FEWEST_DRAWS:
        raise ValueError(f"data must hold at least {FEWEST_DRAWS} draws a sequence to fit a tail to, got {draws}")
    known = np.full(sequences, np.nan) if evidence is None else _numbers(evidence)
    if known.shape != (sequences,):
        raise ValueError(f"evidence must be one number a sequence, shape ({sequences},), got {known.shape}")
    log_weights = torch.from_numpy(values.T)  # (draws, sequence)
    return WeightCheck(
        pareto_k=pareto_k(values),
        efficiency=effective_sample_size(log_weights).numpy() / draws,
        elbo=values.mean(1),
        importance_weighted=log_weights.logsumexp(0).numpy() - np.log(draws),
        evidence=known,
        good_k=good_k(draws),
        sequences=stacked["sequence"].values,
    )


def _numbers(values: Tensor | np.ndarray) -> np.ndarray:
    array = require_array("evidence", values)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"evidence must hold numbers, one a sequence, got {type(values).__name__} of {array.dtype}")
    return array.astype(np.float64)
