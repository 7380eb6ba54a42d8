"""Curves of training: values by step, kept in the small results of a sweep."""

from collections.abc import Mapping, Sequence

import numpy as np

Curve = Sequence[tuple[float, float]]
"""Steps and values, by step."""
LOGGED = (
    *("validation/elbo", "train/kl", "train/auxiliary", "mechanism/earned"),
    *("mechanism/grad_norm_log_likelihood", "mechanism/grad_norm_kl", "mechanism/grad_norm_auxiliary"),
)
"""Names in the logs of the curves that are kept: nats per sequence, and norms of gradients of the scaled loss."""
MOST_POINTS = 80
"""Points kept of a curve, so that a result stays a small file and all validations of most runs are in it."""


def thinned(curve: Curve, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Means of a curve over at most ``most`` parts of equal numbers of points, each at its last step."""
    if len(curve) <= most:
        return list(curve)
    parts = np.array_split(np.asarray(curve, dtype=np.float64), most)
    return [(float(part[-1, 0]), float(f"{part[:, 1].mean():.6g}")) for part in parts]


def steps_to(curve: Curve, bound: float) -> int | None:
    """The first step at which a curve has reached a bound; None if it never does."""
    return next((int(step) for step, value in curve if value >= bound), None)


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of curves at the steps that all of them have."""
    tables = [dict(curve) for curve in curves]
    shared = sorted(set.intersection(*(set(each) for each in tables))) if tables else []
    return [(step, sum(each[step] for each in tables) / len(tables)) for step in shared]


LATE = {"auxiliary": "train/auxiliary", "earned": "mechanism/earned"}
"""Names in the logs of the auxiliary, and of what z earns of it."""
OF_TRAINING = (*LATE, "gradient")
"""Names of the figures of training that a table can show."""


def of_training(curves: Mapping[str, Curve], name: str) -> float | None:
    """A figure of training: :func:`gradient_ratio` for "gradient", else :func:`late_mean`."""
    return gradient_ratio(curves) if name == "gradient" else late_mean(curves, name)


def gradient_ratio(curves: Mapping[str, Curve]) -> float | None:
    """Norm of the auxiliary's gradient over that of the likelihood's.

    The geometric mean of the measurements in the earlier half of the steps at which the auxiliary has a weight, but for
    the first step. Far above 1 the auxiliary crowds out the likelihood while the network learns to read z.

    Args:
        curves: of a run, by name in the logs.

    Returns:
        None for a run without an auxiliary.
    """
    norms = [dict(curves.get(f"mechanism/grad_norm_{term}", [])) for term in ("auxiliary", "log_likelihood")]
    steps = sorted(step for step in norms[0].keys() & norms[1].keys() if step > 0)
    early = [norms[0][step] / norms[1][step] for step in steps if step <= steps[-1] / 2]
    return float(np.exp(np.log(early).mean())) if early else None


def late_mean(curves: Mapping[str, Curve], name: str) -> float | None:
    """The mean of a curve over the later half of the steps at which what z earns was measured, nats per sequence.

    It is measured while the auxiliary has a weight. In the earlier half the backward RNN has only begun to learn.

    Args:
        curves: of a run, by name in the logs.
        name: one of :data:`LATE`.

    Returns:
        None for a run without an auxiliary.
    """
    earned = curves.get(LATE["earned"], [])
    if not earned:
        return None
    last = earned[-1][0]
    found = [value for step, value in curves.get(LATE[name], []) if last / 2 <= step <= last]
    return sum(found) / len(found) if found else None
