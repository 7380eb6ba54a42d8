"""ParticleFilter: evidence estimates and smoothed latents of every sequence by sequential Monte Carlo."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import int64, require_count, require_room, require_tensor
from ..models import StochasticRNN, guided
from ..networks import State
from ..paths import prepare_inputs, step_width
from .filter import FilterSettings, filter_sequences
from .online import OnlineFilter, OnlineStep
from .online_start import start_online
from .twist import Twist, require_twist


class _Results(NamedTuple):
    """Results of a particle filter that are tensors in any case."""

    log_evidence: Tensor
    """Log of an unbiased estimate of p(x), for each sequence; (batch,) nats. The log itself is biased downwards."""
    log_increments: Tensor
    """Its parts, the estimates of log p(x_t | x_1..x_{t-1}), zero beyond a length; (time, batch) nats. Under a twist
    those of log p(x_t | x_1..x_{t-1}) + log E[r_t] - log E[r_{t-1}]."""
    ess: Tensor
    """Effective sample size 1 / sum_k v_k^2 after each step, before resampling; (time, batch) particles. Beyond a
    length, that of the last real step."""
    log_weights: Tensor
    """Normalised log-weights log v_k after a sequence's last real step; (particles, batch)."""
    z: Tensor
    """The particles as they were proposed, zero beyond a length; (time, particles, batch, latent)."""
    ancestors: Tensor
    """Index of the particle of the step before that each continues; (time, particles, batch). At the first step
    0..particles-1."""


class FilterResult(_Results):
    """Results of a particle filter, without gradients.

    Attributes:
        x: frames as the particles completed them where something was not seen, (time, particles, batch, *frame). None
            where no particle samples frames, and so none of the fields.
    """

    x: Tensor | None = None

    def with_frames(self, x: Tensor | None) -> "FilterResult":
        """The same results with frames (time, particles, batch, *frame), or None."""
        made = FilterResult(*self)
        made.x = x
        return made

    def smoothed(self, num_draws: int) -> Tensor:
        """Sample whole latent paths given the whole sequence, z_1..z_T ~ p(z | x), up to the error of the particles.

        A particle of the last step is sampled by its weight and traced back through its ancestors. The early steps of
        a long sequence descend from few particles. If all samples of a step are alike, take more particles.

        Args:
            num_draws: paths per sequence, sampled with replacement.

        Returns:
            (num_draws, batch, time, latent); zero beyond a length, as :meth:`zf_pyro.ZForcing.states` takes it.

        Raises:
            ValueError: ``num_draws`` is not a positive integer.
        """
        return self._traced(self.z, num_draws)

    def imputed(self, num_draws: int) -> Tensor:
        """Sample whole sequences given what was seen, x_1..x_T ~ p(x | seen), up to the error of the particles.

        What was seen is as it was; the rest is traced as the latents of :meth:`smoothed` are.

        Args:
            num_draws: samples per sequence, with replacement.

        Returns:
            (num_draws, batch, time, *frame); beyond a length, without meaning.

        Raises:
            ValueError: ``num_draws`` is not a positive integer, or no particle sampled frames.
        """
        if self.x is None:
            raise ValueError(
                "imputed needs frames that particles sampled, and there are none: call run with observed= and a model "
                "of missing='draw', or net.impute"
            )
        flat = self._traced(self.x.flatten(3) if self.x.dim() > 3 else self.x.unsqueeze(-1), num_draws)
        return flat.reshape(*flat.shape[:3], *self.x.shape[3:])

    def _traced(self, values: Tensor, num_draws: int) -> Tensor:
        """Values (time, particles, batch, features) of paths sampled by weight; (num_draws, batch, time, features)."""
        num_draws = require_count("num_draws", num_draws)
        index = torch.multinomial(self.log_weights.T.exp(), num_draws, replacement=True).T
        path: list[Tensor] = []
        for value, ancestors in zip(values.flip(0).unbind(0), self.ancestors.flip(0).unbind(0), strict=True):
            path.append(value.gather(0, index.unsqueeze(-1).expand(*index.shape, value.shape[-1])))
            index = ancestors.gather(0, index)
        return torch.stack(path[::-1], dim=2)


class ParticleFilter:
    """Sequential Monte Carlo on the step functions of a model, for every sequence by itself.

    The estimate of p(x), the product of the mean weights between resamplings, is unbiased for any number of particles
    and any threshold (Del Moral 2004; Doucet, Johansen 2009, "A tutorial on particle filtering and smoothing").
    Pyro's own :class:`pyro.infer.SMCFilter` has one weight per particle for a whole batch and estimates no evidence.

    It runs step by step on ``net.prior``, ``posterior``, ``transition`` and ``emission``, not on Pyro's sites.
    Handlers have no effect. A model with step functions of the user's own works if its prior and posterior are diagonal
    normals, or flows of them.

    Args:
        net: the model. Its mode matters: with dropout, call ``net.eval()`` first.
        num_particles: K, for each sequence.
        proposal: ``"posterior"`` samples z_t from the guide, which depends on later frames through b_t (a guided
            filter); ``"prior"`` from the model (a bootstrap filter).
        resampling: ``"systematic"``, ``"stratified"`` or ``"multinomial"``.
        threshold: a sequence resamples before a step if its effective sample size is below this share of K: 0 never
            (importance sampling), 1 always.
        guide: ``net.guide``, or a guide of :func:`zf_pyro.inference.refine` for the sequences to be filtered.
        twist: log r_t, as :class:`zf_pyro.SIXO` has trained it for this model; None for a filter without a twist. The
            sum of the increments is still log p^(x), but the increments and the weights before the last step are those
            of the twisted targets.

    Raises:
        TypeError: ``net`` is no model of :mod:`zf_pyro.models`, ``twist`` no twist, or another guide.
        ValueError: no particles, a threshold outside [0, 1], or an unknown proposal or resampling.
    """

    def __init__(
        self,
        net: StochasticRNN,
        num_particles: int,
        *,
        proposal: str = "posterior",
        resampling: str = "systematic",
        threshold: float = 0.5,
        guide: Callable[..., Any] | None = None,
        twist: Twist | None = None,
    ) -> None:
        self.net = guided(net, guide, "ParticleFilter")
        self.twist = None if twist is None else require_twist(twist)
        self.settings = FilterSettings(num_particles, proposal, resampling, threshold)
        self.online: OnlineFilter | None = None

    @torch.no_grad()
    def run(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        initial_state: State | None = None,
        *,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> FilterResult:
        """Filter all sequences. A sequence that has ended keeps its weights and particles.

        Args:
            x: (batch, time, frame) floats or (batch, time) integers.
            lengths: real frames of each sequence, (batch,); all of them if None.
            context: the frame before the first, (batch, *frame); a start frame if None.
            initial_state: h_0, each field (batch, hidden) or (particles, batch, hidden); zeros if None.
            covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K.
            observed: True where x was seen, (batch, time) or (batch, time, *frame); None if all was. What was not seen
                may be NaN. A model of ``missing="fill"`` reads the gaps. For any other they are marginalised: each
                particle samples what was not seen from p(x_t | h_t), reads it at the next step, and is weighed by what
                was seen.

        Raises:
            TypeError, ValueError: an argument that the net refuses.
            MemoryError: the particles do not fit; says how many would.
        """
        net, count, lengths = self.net, self.settings.num_particles, int64(lengths)
        require_tensor("x", x)
        known: dict[str, Any] = {"covariates": covariates, "observed": observed}
        run = prepare_inputs(net, x, lengths, context, initial_state, draws=True, **known)
        number = net.emission_layer.weight.element_size()
        history = run.num_steps * run.batch_size * (net.latent_dim * number + 8)
        if run.seen is not None and not net.flag_dim:
            history += run.num_steps * run.batch_size * max(1, net.emission_family.event_shape.numel()) * number
        require_room(count, history + 24 * step_width(net) * number, x.device)
        found = filter_sequences(net, run, lengths, self.settings, self.twist)
        return FilterResult(
            log_evidence=found.log_increments.sum(0),
            log_increments=found.log_increments,
            ess=found.ess,
            log_weights=found.log_weights.T,
            z=found.z.transpose(1, 2),
            ancestors=found.ancestors.transpose(1, 2),
        ).with_frames(None if found.x is None else found.x.transpose(1, 2))

    # One frame at a time --------------------------------------------------------------------------------------------

    def start(
        self,
        batch: int | Any,
        *,
        context: Tensor | None = None,
        initial_state: State | None = None,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
        proposal: str | None = None,
    ) -> OnlineFilter:
        """Begin an online run, which takes in one frame at a time in constant memory.

        Proposals of the frames to come:

        - ``"prior"``: the run equals :meth:`run` of the same proposal step by step.
        - ``"posterior"``: the guide reads the frames up to now. In VRNN, STORN, and SRNN with ``filtering``, it never
          reads others, and the run equals :meth:`run`. A backward RNN reads x_t alone, as at the end of a sequence. It
          was trained to read the future, and may propose worse than the prior: compare the effective sample sizes.

        Frames that are given here are known, so that the proposal of :meth:`run` reads them all.

        :meth:`step` and :meth:`forecast` of this object go on with the run that began last.

        Args:
            batch: number of sequences, none of which has begun; or frames already seen, x (batch, time, *frame) or
                (x, lengths), to be taken in first.
            context: the frame before the first, (batch, *frame); a start frame if None.
            initial_state: h_0, each field (batch, hidden) or (particles, batch, hidden); zeros if None.
            covariates: those of the frames already seen, (batch, time, K), for a model of ``covariate_dim`` K.
            observed: True where these frames are not missing, (batch, time) or (batch, time, *frame).
            proposal: ``"posterior"`` or ``"prior"``, of the frames to come. If None, that of the filter, but the prior
                where the guide has a backward RNN.

        Returns:
            The run.

        Raises:
            TypeError: the filter has a twist or a refined guide, which look at later frames.
            TypeError, ValueError: an argument that the net refuses.
            MemoryError: the particles do not fit; says how many would.
        """
        if self.twist is not None:
            raise TypeError("twist must be left out for an online run: it looks at later frames")
        self.online = start_online(
            self.net, self.settings, batch, proposal, context, initial_state, covariates, observed
        )
        return self.online

    def step(
        self, x_t: Tensor, covariates_t: Tensor | None = None, *, observed: Tensor | None = None, tail_samples: int = 0
    ) -> OnlineStep:
        """Take in one frame x_t (batch, *frame) of each sequence; see :meth:`.OnlineFilter.step`."""
        return self._begun().step(x_t, covariates_t, observed=observed, tail_samples=tail_samples)

    def forecast(self, horizon: int, covariates: Tensor | None = None, *, num_samples: int = 100) -> Tensor:
        """Sample the next frames, (num_samples, batch, horizon, *frame); see :meth:`.OnlineFilter.forecast`."""
        return self._begun().forecast(horizon, covariates, num_samples=num_samples)

    def _begun(self) -> OnlineFilter:
        if self.online is None:
            raise RuntimeError("start(batch) comes before the first step: begin with the number of sequences")
        return self.online
