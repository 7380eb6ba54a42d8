"""Models by name, and the values of the flags that are names."""

from ..models import DMM, SRNN, STORN, VRNN, StochasticRNN, ZForcing

MODELS: dict[str, type[StochasticRNN]] = {"zforcing": ZForcing, "vrnn": VRNN, "srnn": SRNN, "storn": STORN, "dmm": DMM}
"""Stochastic networks by the name that ``--model`` takes."""

CHOICES: dict[str, tuple[str, ...]] = {
    "model": tuple(MODELS),
    "objective": ("elbo", "kl_annealing", "zforcing", "iwae", "fivo"),
    "preset": ("paper", "released", "small", "large"),
    "baseline": ("rnn", "rnn_layer_norm", "linear_gaussian"),
    "initialisation": ("data", "released"),
    "device": ("auto", "cpu", "cuda"),
    "precision": ("32-true", "64-true", "bf16-mixed"),
    "logger": ("csv", "tensorboard"),
}
"""Values of the flags that are names."""
NONE_ALLOWED = ("baseline", "logger")
"""Flags among them that may be left out."""
OF_PARTICLES = ("iwae", "fivo")
"""Objectives of several samples of the latents, which have a number of particles."""
