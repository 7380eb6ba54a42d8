"""The guide's path: the whole scan runs ahead, and its samples are returned one by one."""

import weakref
from collections.abc import MutableMapping

import torch
from pyro.distributions import Normal
from torch import Tensor
from torch.distributions import kl_divergence
from torch.utils.weak import WeakTensorKeyDictionary

from ..networks import AutoregressiveFlow, Latent, PosteriorScan, State, StepFunctions
from .inputs import RunInputs
from .path import LatentPath, align, unstack
from .sites import SitePath

PATH_OF_FIRST_LATENT: "MutableMapping[Tensor, weakref.ref[PosteriorPath]]" = WeakTensorKeyDictionary()
"""The guide's path that recorded a tensor as its z_0. Keys and paths are held weakly: no path outlives its trace."""


class PosteriorPath(LatentPath):
    """One run of the guide: z_t ~ q(z_t | h_{t-1}, b_t).

    Args:
        net: the model.
        run: the inputs of the run, x included.
        b: backward states (time, batch, backward).
    """

    step_function = "posterior"

    def __init__(self, net: StepFunctions, run: RunInputs, b: Tensor) -> None:
        super().__init__(net, run)
        self.b = b
        self._ahead: PosteriorScan | None = None
        self._drawn: tuple[Tensor, ...] = ()
        self._handed = -1
        self._kl: dict[bool, tuple[weakref.ref[SitePath], tuple[Tensor, ...]]] = {}

    def inputs(self, start: int, stop: int) -> Tensor:
        if self.run.u is None:
            raise RuntimeError("a guide's path needs x")
        return self.run.u[start:stop]

    def local(self, t: int) -> Latent:
        with torch.set_grad_enabled(self.stamp.gradients):
            return self.checked(self.net.posterior(self.past(t), self.b[t]))

    def draw(self, t: int, batch_shape: torch.Size) -> Tensor:
        if t == 0 and not self.z and self._handed < 0:
            self._scan_ahead(batch_shape)
        drawn = None if self._ahead is None or t != len(self.z) or t <= self._handed else self._drawn[t]
        if drawn is not None and drawn.shape[:-1] == batch_shape:
            self._handed = t
            return drawn
        return super().draw(t, batch_shape)

    def _scan_ahead(self, batch_shape: torch.Size) -> None:
        num_steps = self.run.num_steps
        noise = self.states[0].hidden.new_empty(num_steps, *batch_shape, self.net.latent_dim)
        for noise_t in noise.unbind(0):
            noise_t.normal_()  # one call per step, as in the sequential program under the same seed
        start = State(*(field.expand(*batch_shape, -1) for field in self.states[0]))
        self._ahead = self.net.scan_posterior(start, self.inputs(0, num_steps), self.b, noise)
        self._drawn = self._ahead.z.unbind(0)
        self._stacked, self._pairs = self._ahead.states, (self._ahead.before, self._ahead.after)

    def record(self, z_t: Tensor) -> Tensor:
        """Record z_t (..., latent). Where it is not the path's own sample, the rest runs step by step."""
        t = len(self.z)
        if self._ahead is not None and z_t is not self._drawn[t]:
            self.states = unstack(self._ahead.states)[: t + 1]
            # A handler replaced the value: continue step by step.
            self._ahead = self._stacked = self._pairs = None
        if t == 0:
            PATH_OF_FIRST_LATENT[z_t] = weakref.ref(self)
        return super().record(z_t)

    def latents(self) -> Tensor:
        return super().latents() if self._ahead is None else self._ahead.z

    def _all_steps(self) -> Latent:
        ahead = self._ahead
        if ahead is not None and not ahead.flows:  # in place: every training step comes here
            return Normal(ahead.loc, ahead.scale).to_event(1)
        if ahead is not None:
            return ahead.posterior()
        return self.checked(self.net.posterior(self.before(), align(self.b, len(self.batch_shape))))

    def log_prob(self) -> Tensor:
        """Log-densities of all z_t of a finished run, in nats; (time, ...). Of a flow's own samples, by their noise."""
        group = self.group()
        if self._ahead is None or self._ahead.log_q is None:
            return group.log_prob(self.latents())
        return self._ahead.log_q if torch.is_grad_enabled() else self._ahead.log_q.detach()

    def kl(self, prior: LatentPath) -> Tensor:
        """KL of all z_t from their distributions in the finished run of the model with these latents; (time, ...) nats.

        Analytic between normals. Where either is a flow, log q - log p at the sample, whose expectation is the KL.
        """
        q, p = self.group(), prior.group()
        if isinstance(q, AutoregressiveFlow) or isinstance(p, AutoregressiveFlow):
            return self.log_prob() - prior.log_prob()
        return kl_divergence(q, p)

    def step_kl(self, prior: SitePath, t: int) -> Tensor:
        """KL(q(z_t) || p(z_t)) of two finished runs, computed for all steps at once; (...) nats.

        Raises:
            NotImplementedError: a flow, whose KL has no closed form. Pyro's objectives then take log q - log p.
        """
        gradients = torch.is_grad_enabled()
        owner, slices = self._kl.get(gradients, (None, ()))
        if owner is None or owner() is not prior:
            slices = kl_divergence(self.group(), prior.group()).unbind(0)
            self._kl[gradients] = (weakref.ref(prior), slices)
        return slices[t]
