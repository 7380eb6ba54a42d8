"""Trained models that the package holds, for examples, documentation and tests."""

from pathlib import Path

from ..checks import require_choice
from .base import StochasticRNN
from .zforcing import ZForcing

FOLDER = Path(__file__).parent / "weights"
PRETRAINED: dict[str, type[StochasticRNN]] = {
    "vowels": ZForcing,
    "vowels-annealing": ZForcing,
    "vowels-elbo": ZForcing,
}
"""Classes of the models, by name."""


def pretrained(name: str) -> StochasticRNN:
    """Load a small trained model, on the CPU, in evaluation mode. Nothing is downloaded.

    They are ``ZForcing`` of utterances of :func:`zf_pyro.data.load_vowels`, 12 standardised cepstra per frame, latents
    of size 16, as ``python examples/quickstart.py --seed 0`` trains them on 216 utterances of nine speakers:

    - ``"vowels"`` with an annealed KL weight and auxiliary,
    - ``"vowels-annealing"`` with an annealed KL weight,
    - ``"vowels-elbo"`` by the plain ELBO; its latents have collapsed.

    ``normalisation`` holds ``mean`` and ``scale`` of the cepstra, each (12,), in the units of the data set's files.

    Args:
        name: one of :data:`PRETRAINED`.

    Raises:
        ValueError: an unknown name.
        ImportError: safetensors is not installed.
    """
    return PRETRAINED[require_choice("name", name, PRETRAINED)].load(FOLDER / name)
