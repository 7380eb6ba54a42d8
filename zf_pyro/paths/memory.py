"""Memory that a run of model and guide takes."""

from ..networks import StepFunctions


def step_width(net: StepFunctions) -> int:
    """The size by which memory of a step grows: that of h_t, or of a state that holds more."""
    return max(net.hidden_dim, net.initial_state((1,)).hidden.shape[-1])


def run_bytes(net: StepFunctions, batch_size: int, num_steps: int, gradients: bool, *, inverted: bool = False) -> int:
    """Estimate the bytes that each particle takes in a run of model and guide.

    Args:
        net: the model, for its sizes.
        batch_size: number of sequences.
        num_steps: steps of the longest sequence.
        gradients: whether a backward pass follows.
        inverted: whether densities of a flow are computed by inversion, a pass for each latent.

    Returns:
        Bytes, within a factor of 2.4 of those measured.
    """
    like, width = net.emission_layer.weight, step_width(net)
    elements = 30 * width if gradients else 12 * width
    elements += 12 * net.latent_dim + 2 * like.shape[0]
    if gradients:
        elements += net.flow_elements * (net.latent_dim if inverted else 1)
    return num_steps * batch_size * elements * like.element_size()
