"""Terms of the objective for one run of the model and one run of the guide."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..networks import AutoregressiveFlow, noise_of, sampled
from ..paths import PosteriorPath, PriorPath, align, flags_before
from .auxiliary import Auxiliary, Statistics

PLAIN = Auxiliary()
"""The auxiliary as in the paper."""
NOT_MEASURED = torch.tensor(float("nan"))
"""Value of a measurement that was not asked for."""


class _Parts(NamedTuple):
    """Parts of the objective."""

    log_likelihood: Tensor
    """sum_t log p(x_t | h_t)."""
    kl: Tensor
    """sum_t KL(q(z_t | h_{t-1}, b_t) || p(z_t | h_{t-1})); of a flow, log q - log p at the sample, its unbiased
    estimate."""
    auxiliary: Tensor
    """sum_t log p_xi(b_t | z_t [, h_{t-1}]); NaN if its weight was 0, since it is then not computed."""
    backward: Tensor
    """sum_t log p_bwd(x_{t-1} | b_t); NaN if its weight was 0, since it is then not computed."""


class Terms(_Parts):
    """Terms of the objective, each (batch,) in nats, summed over the real steps of a sequence.

    Attributes:
        earned: what z earns of the auxiliary, (batch,) nats: sum_t log p_xi(b_t | z_t [, h_{t-1}]) less the same with a
            sample of the prior's z_t, at the same h_{t-1} (:func:`earned_log_prob`). It is no part of the objective,
            and so none of the fields. A scalar NaN unless ``ZForcingELBO(measure_earned=True)`` asks for it.
    """

    earned: Tensor = NOT_MEASURED

    @property
    def elbo(self) -> Tensor:
        """The evidence lower bound, log-likelihood minus KL: no weights, no auxiliary; (batch,) nats."""
        return self.log_likelihood - self.kl

    def with_earned(self, earned: Tensor) -> "Terms":
        """The same terms with what z earns of the auxiliary, (batch,)."""
        made = Terms(*self)
        made.earned = earned
        return made

    @classmethod
    def total(cls, parts: "Sequence[Terms]") -> "Terms":
        """Sum of several terms, what z earns included."""
        found = cls(*(sum(field) for field in zip(*parts, strict=True)))
        if all(part.earned is NOT_MEASURED for part in parts):
            return found
        return found.with_earned(torch.stack([part.earned for part in parts]).sum(0))

    @classmethod
    def mean(cls, parts: "Sequence[Terms]") -> "Terms":
        """Mean of the terms of several runs, what z earns included."""
        total = cls.total(parts)
        found = cls(*(field / len(parts) for field in total))
        return found if total.earned is NOT_MEASURED else found.with_earned(total.earned / len(parts))


def step_terms(
    model: PriorPath,
    guide: PosteriorPath,
    auxiliary: bool = False,
    backward: bool = False,
    form: Auxiliary = PLAIN,
    statistics: Statistics | None = None,
) -> Terms:
    """Terms of every step of two finished runs, padding included; each (time, ..., batch).

    Args:
        model: the model's run.
        guide: the guide's run that the model was replayed with.
        auxiliary: evaluate the auxiliary, which is NaN otherwise.
        backward: evaluate the backward likelihood, which is NaN otherwise.
        form: form of the auxiliary.
        statistics: of its target; of the run's own b_t if None.
    """
    log_likelihood = model.frame_log_prob()
    kl = guide.kl(model)
    absent = log_likelihood.new_full((), float("nan")).expand_as(log_likelihood)
    return Terms(
        log_likelihood,
        kl,
        form.log_prob(guide, statistics=statistics) if auxiliary else absent,
        backward_log_prob(guide).expand_as(log_likelihood) if backward else absent,
    )


@torch.no_grad()
def earned_log_prob(
    model: PriorPath, guide: PosteriorPath, form: Auxiliary = PLAIN, statistics: Statistics | None = None
) -> Tensor:
    """What z earns of the auxiliary at every step, without gradient; (time, ..., batch) nats.

    An unbiased estimate of E_q log p_xi(b_t | z_t, .) - E_p log p_xi(b_t | z_t, .), where z_t of the posterior q and of
    the prior p see the same h_{t-1}. Both samples have the same standard normal noise. So none is drawn, and the
    difference is zero where the posterior is the prior.

    Args:
        model: the model's run.
        guide: the guide's run that the model was replayed with.
        form: form of the auxiliary.
        statistics: of its target; of the run's own b_t if None.
    """
    z = guide.latents()
    of_prior = sampled(model.group(), noise_of(guide.group(), z))[0]
    return form.log_prob(guide, z, statistics) - form.log_prob(guide, of_prior, statistics)


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


def backward_log_prob(guide: PosteriorPath) -> Tensor:
    """log p_bwd(x_{t-1} | b_t) at every step; (time, ..., batch). Zero at the first step, unless a context is given."""
    x, context, seen = cast(Tensor, guide.run.x), guide.run.has_context, guide.run.seen
    # Without a context u_1 is no frame: score another one in its place, and drop the result.
    frames = torch.cat([guide.run.first.unsqueeze(0) if context else x[:1], x[:-1]])
    if seen is not None:
        seen = flags_before(seen, guide.run.first_seen if context else seen[:1])
    log_prob = guide.net.emission_family.log_prob(guide.net.backward_emission(guide.b), frames, seen)
    if not context:  # here, since the backward pass of a slice of b would write a full-size gradient
        log_prob = torch.cat([torch.zeros_like(log_prob[:1]), log_prob[1:]])
    return align(log_prob, len(guide.batch_shape), 0)
