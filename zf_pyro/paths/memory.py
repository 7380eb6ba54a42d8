"""Memory that a run of model and guide takes."""

from ..networks import StepFunctions


def run_bytes(net: StepFunctions, batch_size: int, num_steps: int, gradients: bool) -> int:
    """Bytes that one more particle takes in a run of model and guide: roughly, within 2.4 times of those measured."""
    like = net.emission_layer.weight
    numbers = 30 * net.hidden_dim if gradients else 12 * net.hidden_dim
    numbers += 12 * net.latent_dim + 2 * like.shape[0]
    return num_steps * batch_size * numbers * like.element_size()
