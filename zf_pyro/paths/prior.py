"""The model's path: it runs step by step, or is scored as a batch once every value is known."""

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..networks import Latent, State, StepFunctions, joined
from .inputs import RunInputs
from .known import filled, flags_before
from .path import LatentPath, align
from .posterior import PATH_OF_FIRST_LATENT, PosteriorPath
from .sites import FrameStep


class PriorPath(LatentPath):
    """One run of the model: z_t ~ p(z_t | h_{t-1}), then x_t ~ p(x_t | h_t).

    Args:
        net: the model.
        run: the inputs of the run.
    """

    step_function = "prior"

    def __init__(self, net: StepFunctions, run: RunInputs) -> None:
        super().__init__(net, run)
        self.x: list[Tensor] = []
        self.emission = net.emission_family
        self._frame_shape, self._frame_gradients = self.emission.event_shape, self.emission.has_rsample
        self.frames_given = None if run.x is None else run.x.unbind(0)
        self._untouched = run.x is not None
        self._frame_group: TorchDistribution | None = None
        self._frame_log_probs: dict[bool, tuple[Tensor, ...]] = {}

    @property
    def finished(self) -> bool:
        return len(self.x) == self.run.num_steps

    def frame(self, t: int) -> FrameStep:
        """The distribution of x_t, not computed yet."""
        step = FrameStep(self, t, self.batch_shape, self._frame_shape)
        step.has_rsample = self._frame_gradients
        return step

    def observed(self, t: int) -> Tensor | None:
        """The given frame at step t; (batch, *frame), or None where the model generates."""
        return None if self.frames_given is None else self.frames_given[t]

    def record_frame(self, x_t: Tensor) -> Tensor:
        """Record the value that the sample statement returned for x_t; (..., *frame)."""
        t = len(self.x)
        if self.frames_given is None or x_t is not self.frames_given[t]:
            self._untouched = False
            self._widen(x_t.shape[: x_t.dim() - self.run.first.dim() + 1])
        self.x.append(x_t)
        return x_t

    def inputs(self, start: int, stop: int) -> Tensor:
        if self._untouched and self.run.u is not None:
            return self.run.u[start:stop]
        frames = self.x[start - 1 : stop - 1] if start else [self.run.first, *self.x[: stop - 1]]
        stacked = torch.stack(torch.broadcast_tensors(*frames))
        if not self.net.covariate_dim and not self.net.flag_dim:
            return stacked
        dims = stacked.dim() - self.run.first.dim()
        covariates = None if self.run.covariates is None else align(self.run.covariates[start:stop], dims)
        flags = None
        if self.run.seen is not None:
            flags = align(flags_before(self.run.seen, self.run.first_seen)[start:stop], dims)
            stacked = filled(stacked, flags, self.emission)
        return joined(self.net, stacked, covariates, flags)

    def local(self, t: int) -> Latent:
        with torch.set_grad_enabled(self.stamp.gradients):
            return self.checked(self.net.prior(self.past(t)))

    def frame_step(self, t: int) -> TorchDistribution:
        """The distribution of x_t, from the step function."""
        with torch.set_grad_enabled(self.stamp.gradients):
            return self.net.emission(self.state(t + 1))

    def stacked(self) -> State:
        if self._stacked is None and len(self.states) == 1:
            guide = self._replayed()
            if guide is not None:
                self._stacked, self._pairs = guide.stacked(), guide.neighbours()
        return super().stacked()

    def _replayed(self) -> PosteriorPath | None:
        """The guide's path, if this run was replayed with its very samples, on the same input."""
        found = PATH_OF_FIRST_LATENT.get(self.z[0])
        guide = None if found is None else found()
        if (
            guide is not None
            and self._untouched
            and guide.finished
            and guide.run.same_input(self.run)
            and all(a is b for a, b in zip(guide.z, self.z, strict=True))
            and guide.batch_shape == self.batch_shape
            and guide.stamp.matches(self.stamp)
        ):
            return guide
        return None

    def _all_steps(self) -> Latent:
        return self.checked(self.net.scan_prior(self.before()))

    def frame_group(self) -> TorchDistribution:
        """The distributions of all x_t of a finished run; batch shape (time, ...)."""
        if self._frame_group is None:
            self.stamp.check()
            with torch.set_grad_enabled(self.stamp.gradients):
                self._frame_group = self.net.emission(self.after())
        return self._frame_group

    def frames(self) -> Tensor:
        """x_1..x_T; (time, ..., *frame)."""
        if self._untouched and self.run.x is not None:
            return self.run.x
        return torch.stack(torch.broadcast_tensors(*self.x))

    def result(self, x: Tensor | None) -> Tensor:
        """The program's result, (..., batch, time, *frame): x itself if every frame was observed as it is."""
        if self._untouched and x is not None:
            return x
        return self.frames().movedim(0, -self.run.first.dim())

    def frame_log_prob(self) -> Tensor:
        """Log-densities of all x_t of a finished run, in nats; (time, ...)."""
        x = align(self.frames(), len(self.batch_shape), self.run.first.dim() - 1)
        seen = self.run.seen
        if seen is None:
            return self.frame_group().log_prob(x)
        return self.emission.log_prob(self.frame_group(), x, align(seen, len(self.batch_shape)))

    def frame_step_log_prob(self, t: int, value: Tensor) -> Tensor:
        """Log-density of ``value`` (..., *frame) at x_t, given the values recorded before it; (...) nats."""
        if self.finished and value is self.x[t]:
            gradients = torch.is_grad_enabled()
            if gradients not in self._frame_log_probs:
                self._frame_log_probs[gradients] = self.frame_log_prob().unbind(0)
            return self._frame_log_probs[gradients][t]
        seen = None if self.run.seen is None else self.run.seen[t]
        return self.emission.log_prob(self.frame_step(t), value, seen)
