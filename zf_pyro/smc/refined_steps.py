"""One step of a particle filter whose proposal has corrections for the sequences."""

from torch import Tensor

from ..models import Corrections, RefinedNetwork
from ..networks import State
from .steps import FilterSteps, Moved


class RefinedSteps(FilterSteps):
    """The steps of the network without corrections, in whatever form, with its noise shifted and scaled.

    Args:
        net: the corrected network.
        steps: steps of the network without corrections, over some sequences.
        corrections: of these sequences; each (time, sequences, latent).
    """

    def __init__(self, net: RefinedNetwork, steps: FilterSteps, corrections: Corrections) -> None:
        self.net, self.steps, self.x, self.guided = net, steps, steps.x, steps.guided
        pairs = zip(*(part.unsqueeze(2).unbind(0) for part in corrections), strict=True)
        self.corrections = [Corrections(*pair) for pair in pairs]

    def start(self, state: State) -> State:
        return self.steps.start(state)

    def past(self, state: State, t: int) -> State:
        return self.steps.past(state, t)

    def transition(self, past: State, t: int, z_t: Tensor) -> State:
        return self.steps.transition(past, t, z_t)

    def hidden(self, state: State, z_t: Tensor) -> Tensor:
        return self.steps.hidden(state, z_t)

    def move(self, state: State, t: int, noise: Tensor) -> Moved:
        shift, log_scale = self.corrections[t]
        changed = log_scale.exp() * (shift + noise)
        moved = self.steps.move(state, t, changed)
        # The steps take the density of ``changed`` as noise, which has another one under the corrected proposal.
        ratio = (log_scale + 0.5 * (noise.square() - changed.square())).sum(-1)
        return moved._replace(log_ratio=moved.log_ratio + ratio)
