"""Is the guide right: importance weights of its draws, and the gaps between bounds and the evidence."""

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from .arviz_versions import group, pareto_k


class WeightCheck(NamedTuple):
    """What the importance weights p(x, z) / q(z | x) of the guide's draws say; each (sequence,).

    With a perfect guide all weights of a sequence are equal: k-hat 0, an efficiency of 1, no gap. What each number can
    and cannot see is in docs/diagnostics.md: k-hat sees a guide too narrow by far or in the wrong place, and overlooks
    one that is too wide; the gaps see every difference, in nats.
    """

    pareto_k: np.ndarray
    """Pareto k-hat by ArviZ's PSIS. Above :attr:`good_k`, importance weighting cannot be trusted with so few draws."""
    efficiency: np.ndarray
    """Effective share of the draws, (sum w)^2 / (sum w^2) / draws; 1 at best, 1 / draws at worst."""
    elbo: np.ndarray
    """Mean log-weight, nats: the evidence lower bound as these draws estimate it."""
    importance_weighted: np.ndarray
    """Log mean weight, nats: the bound of Burda et al. 2016, https://arxiv.org/abs/1509.00519, over all draws."""
    evidence: np.ndarray
    """log p(x) as given, nats: exact, annealed or by particles; NaN where none was."""
    good_k: float
    """min(1 - 1 / log10(draws), 0.7), below which PSIS is reliable (Vehtari et al. 2024)."""

    @property
    def gap(self) -> np.ndarray:
        """Best estimate of log p(x) less the ELBO, nats: an estimate of KL(q(z | x) || p(z | x)).

        Against the given evidence, or else the importance-weighted bound, whichever is higher: where the guide misses
        the posterior, the bound over few draws is too low, and the gap with it.
        """
        return np.fmax(self.evidence, self.importance_weighted) - self.elbo

    @property
    def remaining(self) -> np.ndarray:
        """Given evidence less the importance-weighted bound, nats; NaN where none was given."""
        return self.evidence - self.importance_weighted

    def bad_tails(self) -> np.ndarray:
        """Sequences whose k-hat is above :attr:`good_k`."""
        return np.flatnonzero(self.pareto_k > self.good_k)

    def summary(self) -> str:
        """The medians and counts in a line."""
        gap, k = np.nanmedian(self.gap), np.median(self.pareto_k)
        return (
            f"{len(self.bad_tails())} of {len(self.pareto_k)} sequences with k-hat above {self.good_k:.2f}; median "
            f"k-hat {k:.2f}, efficiency {np.median(self.efficiency):.2f}, gap to the evidence at least {gap:.2f} nats"
        )


def check_weights(data: Any, evidence: Tensor | np.ndarray | None = None) -> WeightCheck:
    """Judge the guide by the weights of its draws.

    Args:
        data: what :func:`zf_pyro.to_arviz` made with ``posterior="guide"``, sample_stats included.
        evidence: log p(x) of each sequence (sequence,) in nats from elsewhere, such as
            :class:`zf_pyro.inference.AnnealedImportanceSampling`, the ``log_evidence`` of a particle filter, or exact.

    Raises:
        ValueError: the draws are not the guide's, fewer than 25 (PSIS cannot fit a tail to fewer), or the evidence is
            not one number a sequence.
    """
    stats = group(data, "sample_stats")
    kind = stats.attrs.get("posterior")
    if kind != "guide":
        raise ValueError(f"data must hold draws of the guide, got {kind!r}: to_arviz(..., posterior='guide')")
    log_weight = stats["log_weight"].stack(__sample__=("chain", "draw")).transpose("sequence", "__sample__")
    values = log_weight.values.astype(np.float64)
    sequences, draws = values.shape
    if draws < 25:
        raise ValueError(f"data must hold at least 25 draws a sequence to fit a tail to, got {draws}")
    known = np.full(sequences, np.nan) if evidence is None else _numbers(evidence)
    if known.shape != (sequences,):
        raise ValueError(f"evidence must be one number a sequence, shape ({sequences},), got {known.shape}")
    top = values.max(1, keepdims=True)
    weights = np.exp(values - top)
    return WeightCheck(
        pareto_k=pareto_k(values),
        efficiency=weights.sum(1) ** 2 / (weights**2).sum(1) / draws,
        elbo=values.mean(1),
        importance_weighted=np.log(weights.mean(1)) + top[:, 0],
        evidence=known,
        good_k=min(1 - 1 / np.log10(draws), 0.7),
    )


def _numbers(values: Tensor | np.ndarray) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return array.astype(np.float64)
