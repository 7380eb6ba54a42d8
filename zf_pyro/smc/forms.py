"""The choice between the forms of a filter's step."""

import torch
from torch import Tensor

from ..models import VRNN, RefinedNetwork, StochasticRNN, ZForcing
from ..networks import own_step_functions
from .gap_steps import GapSteps
from .refined_steps import RefinedSteps
from .steps import GATES, FilterSteps, Gaps, InPlaceSteps, PreparedSteps
from .vrnn_steps import VRNNSteps


def steps_of(net: StochasticRNN, u: Tensor, b: Tensor | None, x: Tensor, gaps: Gaps | None = None) -> FilterSteps:
    """The fastest form that the model, gradients and autocast allow.

    Args:
        net: the model.
        u: inputs (time, sequences, *frame).
        b: backward states (time, sequences, hidden), or None where the prior proposes.
        x: frames (time, sequences, *frame).
        gaps: what was not seen of them; None if all was.
    """
    if gaps is not None and not net.flag_dim:
        return GapSteps(net, b, x, gaps)
    if isinstance(net, RefinedNetwork):
        if b is None:
            return steps_of(net.net, u, None, x, gaps)
        own, corrections = net.split(b)
        return RefinedSteps(net, steps_of(net.net, u, own, x, gaps), corrections)
    names = ("past", "prior", "transition") if b is None else ("past", "prior", "posterior", "transition")
    if not isinstance(net, VRNN | ZForcing) or not net.has_fast_loops or net.recurrence == "reference":
        return FilterSteps(net, u, b, x, gaps)
    if not own_step_functions(net, *names):
        return FilterSteps(net, u, b, x, gaps)
    if isinstance(net, VRNN):
        return (VRNNSteps if own_step_functions(net, "emission") else FilterSteps)(net, u, b, x, gaps)
    # In-place operations need one dtype, and under autocast each operation chooses its own.
    free = not torch.is_grad_enabled() and not torch.is_autocast_enabled(x.device.type)
    return (InPlaceSteps if free and type(net.cell) in GATES else PreparedSteps)(net, u, b, x, gaps)
