"""Terms of the objective for one run of the model and one run of the guide."""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..networks import AutoregressiveFlow
from ..paths import PosteriorPath, PriorPath, align


class Terms(NamedTuple):
    """Terms of the objective, each (batch,) in nats, summed over the real steps of a sequence."""

    log_likelihood: Tensor
    """sum_t log p(x_t | h_t)."""
    kl: Tensor
    """sum_t KL(q(z_t | h_{t-1}, b_t) || p(z_t | h_{t-1})); of a flow, log q - log p at the sample, its unbiased
    estimate."""
    auxiliary: Tensor
    """sum_t log p_xi(b_t | z_t [, h_{t-1}]); NaN if its weight was 0, since it is then not computed."""
    backward: Tensor
    """sum_t log p_bwd(x_{t-1} | b_t); NaN if its weight was 0, since it is then not computed."""

    @property
    def elbo(self) -> Tensor:
        """The evidence lower bound, log-likelihood minus KL: no weights, no auxiliary; (batch,) nats."""
        return self.log_likelihood - self.kl


def step_terms(model: PriorPath, guide: PosteriorPath, auxiliary: bool = False, backward: bool = False) -> Terms:
    """Terms of every step of two finished runs, padding included; each (time, ..., batch).

    Args:
        model: the model's run.
        guide: the guide's run that the model was replayed with.
        auxiliary: evaluate the auxiliary, which is NaN otherwise.
        backward: evaluate the backward likelihood, which is NaN otherwise.
    """
    log_likelihood = model.frame_log_prob()
    kl = guide.kl(model)
    absent = log_likelihood.new_full((), float("nan")).expand_as(log_likelihood)
    return Terms(
        log_likelihood,
        kl,
        auxiliary_log_prob(guide) if auxiliary else absent,
        backward_log_prob(guide).expand_as(log_likelihood) if backward else absent,
    )


def require_analytic_kl(model: PriorPath, guide: PosteriorPath) -> None:
    """Refuse free nats where the KL of a step is known by a sample alone.

    Raises:
        TypeError: prior or posterior is a flow.
    """
    for name, group in (("prior", model.group()), ("posterior", guide.group())):
        if isinstance(group, AutoregressiveFlow):
            raise TypeError(
                f"free_nats needs the analytic KL of each step, and there is none of a flow, which the {name} is: use "
                "kl_weight, or build the model with num_flows=0"
            )


def auxiliary_log_prob(guide: PosteriorPath) -> Tensor:
    """log p_xi(b_t | z_t [, h_{t-1}]) at every step, b_t held fixed; (time, ..., batch)."""
    target = align(guide.b.detach(), len(guide.batch_shape))
    return guide.net.scan_auxiliary(guide.latents(), guide.before(), target)


def backward_log_prob(guide: PosteriorPath) -> Tensor:
    """log p_bwd(x_{t-1} | b_t) at every step; (time, ..., batch). Zero at the first step, unless a context is given."""
    frames, context = guide.inputs(0, guide.run.num_steps), guide.run.has_context
    if not context:  # u_1 is then no frame: score another one in its place, and drop the result
        frames = torch.cat([cast(Tensor, guide.run.x)[:1], frames[1:]])
    log_prob = guide.net.backward_emission(guide.b).log_prob(frames)
    if not context:  # here, since the backward pass of a slice of b would write a full-size gradient
        log_prob = torch.cat([torch.zeros_like(log_prob[:1]), log_prob[1:]])
    return align(log_prob, len(guide.batch_shape), 0)
