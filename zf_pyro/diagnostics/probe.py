"""Linear probe: accuracy of a linear classifier of labels, for example speakers, on the latents."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..checks import require_array, require_count
from .arviz_versions import group


class Probe(NamedTuple):
    """Accuracies by stratified cross-validation over sequences."""

    accuracy: float
    """Accuracy of a logistic regression on the mean latent of a sequence."""
    baseline: float
    """Accuracy of always predicting the most frequent label."""
    error: float
    """Standard error of ``accuracy``, binomial."""
    num_labels: int
    """Number of different labels."""

    def summary(self) -> str:
        """All results in one line."""
        return (
            f"linear probe {100 * self.accuracy:.1f} % (+- {100 * self.error:.1f}) of {self.num_labels} labels, "
            f"majority {100 * self.baseline:.1f} %"
        )


def linear_probe(data: Any, labels: Sequence[Any] | np.ndarray | None = None, *, folds: int = 5) -> Probe:
    """Classify sequences by the mean of their latents over samples and real steps.

    A high accuracy does not show that the latents are used: z also depends on the earlier frames through its prior.
    Compare it with that of another run, and consider the KL as well.

    Args:
        data: result of :func:`zf_pyro.to_arviz` with the posterior group.
        labels: one label per sequence; those in constant_data if None.
        folds: number of cross-validation folds; each label must occur at least as often.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: no labels, not one per sequence, a single label, or a label with fewer sequences than folds.
    """
    try:
        from sklearn.dummy import DummyClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError("linear_probe needs scikit-learn: pip install zf-pyro[diagnostics]") from error
    folds = require_count("folds", folds, least=2)
    features = group(data, "posterior")["z"].mean(("chain", "draw", "step")).transpose("sequence", ...).values
    if labels is None:
        constants = group(data, "constant_data")
        if "labels" not in constants:
            raise ValueError("labels must be given, here or as to_arviz(..., labels=...)")
        labels = constants["labels"].values
    classes = require_array("labels", labels)
    if classes.shape != (len(features),):
        raise ValueError(f"labels must be one a sequence, shape ({len(features)},), got {classes.shape}")
    names, counts = np.unique(classes, return_counts=True)
    if len(names) < 2 or counts.min() < folds:
        raise ValueError(
            f"labels must hold at least 2 different ones, each at least folds = {folds} times; got {len(names)}, "
            f"the rarest {counts.min()} times"
        )
    split = StratifiedKFold(folds, shuffle=True, random_state=0)
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    accuracy = cross_val_score(regression, features, classes, cv=split).mean()
    baseline = cross_val_score(DummyClassifier(strategy="most_frequent"), features, classes, cv=split).mean()
    deviation = np.sqrt(accuracy * (1 - accuracy) / len(classes))
    return Probe(float(accuracy), float(baseline), float(deviation), len(names))
