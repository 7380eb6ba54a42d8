"""Arguments of the constructors of models, each checked by its name, once for all of them."""

from typing import Any

from ..checks import require_choice, require_count, require_flag, require_number
from ..networks import CELLS, RECURRENCES

SIZES = ("embed_dim", "hidden_dim", "latent_dim", "mlp_dim")
CHOICES = {
    "transition": tuple(CELLS),
    "cell": RECURRENCES,
    "prior": ("standard", "trained"),
    "combiner": ("mlp", "average"),
    "missing": ("draw", "fill"),
    "recurrence": ("deferred", "reference"),
}
"""Values of the arguments that are names."""
SWITCHES = (
    *("latents_see_input", "feature_networks", "residual", "filtering", "gated", "bidirectional"),
    *("z_force", "auxiliary_l2"),
)


def checked(**arguments: Any) -> dict[str, Any]:
    """The arguments by name, in the plain types with which they are saved.

    Raises:
        TypeError: a switch that is no bool, or a size that is no number.
        ValueError: a size or number of layers that is no positive integer, a negative number of flows or covariates,
            a dropout outside [0, 1), or an unknown name.
    """
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in (*SIZES, "num_layers", "flow_dim"):
            found[name] = require_count(name, value)
        elif name in ("num_flows", "covariate_dim"):
            found[name] = require_count(name, value, least=0)
        elif name in ("dropout", "frame_dropout"):
            found[name] = require_number(name, value, "a probability in [0, 1)", 0.0, 1.0, "[)")
        elif name in CHOICES:
            found[name] = require_choice(name, value, CHOICES[name])
        elif name in SWITCHES:
            found[name] = require_flag(name, value)
        else:
            raise KeyError(f"no rule for the argument {name}: add it to zf_pyro/models/options.py")
    return found
