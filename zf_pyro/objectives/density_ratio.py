"""Training of a twist by classification: matched and mismatched pairs of a state and its future."""

import torch
from torch import Tensor

from ..generation import ancestral, drawn
from ..models import StochasticRNN
from ..networks import State, evaluating, joined
from ..paths import RunInputs
from ..smc import Twist


def density_ratio_loss(
    twist: Twist, net: StochasticRNN, run: RunInputs, lengths: Tensor | None, num_negatives: int
) -> Tensor:
    """Cross-entropy of finding the state h_t that belongs to a future b_{t+1} among mismatched ones.

    Sequences are sampled from the model, as many and as long as those of the run. The pair (h_t, b_{t+1}) of a sequence
    is a sample of p(h_t, b_{t+1}). States of ``num_negatives`` other sequences at the same t stand for p(h_t). At the
    optimum log r_t is log p(b_{t+1} | h_t) up to a function of b_{t+1}, whatever the number of negatives
    (van den Oord, Li, Vinyals 2018, https://arxiv.org/abs/1807.03748, section 2.3). One negative is the logistic
    regression of the SIXO paper. Gradients reach the twist alone.

    Args:
        twist: log r_t.
        net: the model. It is in evaluation mode meanwhile.
        run: inputs of the run, for h_0, the first input and the number of steps.
        lengths: real frames of each sequence, (batch,); None if all are.
        num_negatives: mismatched states per pair; at most one less than there are sequences.

    Returns:
        The loss summed over sequences and steps, a scalar in nats. A single sequence is sampled twice.
    """
    # Of the first particle; by index, since the cell of some models is empty.
    start = [field[(0,) * (field.dim() - 2)] for field in run.initial_state]
    state = State(*(field.expand(run.batch_size, -1) for field in start))
    first, mask = run.first, run.mask
    covariates = run.covariates
    if run.batch_size == 1:
        covariates = None if covariates is None else torch.cat([covariates, covariates], dim=1)
        state, first = State(*(torch.cat([field, field]) for field in state)), torch.cat([first, first])
        lengths = None if lengths is None else torch.cat([lengths, lengths])
        mask = None if mask is None else torch.cat([mask, mask], dim=1)
    full = torch.autocast(first.device.type, enabled=False)  # samples in the dtype of frames
    with torch.no_grad(), evaluating(net), full:
        pairs = list(ancestral(net, state, first, run.num_steps, drawn, covariates=covariates))
        z, x = (torch.stack(values) for values in zip(*pairs, strict=True))
        u = joined(net, torch.cat([first.unsqueeze(0), x[:-1]]), covariates)
        states = net.scan_states(state, u, z).hidden[1:-1]
        more = {} if covariates is None else {"covariates": covariates.transpose(0, 1)}
        b = net.backward_states(x.transpose(0, 1), lengths, **more)[1:]
    if mask is not None:
        b = torch.where(mask[1:].unsqueeze(-1), b, 0.0)
    count = b.shape[1]
    shifts = [0, *(torch.randperm(count - 1)[:num_negatives] + 1).tolist()]
    logits = torch.stack([twist(states.roll(shift, 1), b) for shift in shifts])
    losses = logits.logsumexp(0) - logits[0]
    return (losses if mask is None else torch.where(mask[1:], losses, 0.0)).sum()
