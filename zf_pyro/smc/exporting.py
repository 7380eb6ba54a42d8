"""One step of a model as a program that runs without this package: ``torch.export``, and ONNX.

A step is a pure function: state, frame and random numbers in, the next state out. A server keeps the state of each
sequence, and calls the program for each frame. Only a sampled frame takes random numbers of the program's own.
"""

import copy
import math
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ..checks import require_choice, require_count
from ..generation import drawn
from ..models import StochasticRNN, require_model
from ..networks import State, joined, latent_of, sampled
from .filter import FilterSettings
from .online_step import Particles, advanced, resampled, weighed
from .resampling import effective_sample_size

KINDS = ("filter", "generation")
FORMATS = ("torch", "onnx")
NEEDED = ("onnx", "onnxscript")
"""Packages that PyTorch's ONNX exporter imports."""


class FilterStep(nn.Module):
    """One step of a bootstrap filter: that of :class:`.OnlineFilter` with the prior as proposal.

    Args:
        net: the model.
        settings: the filter's settings.
    """

    def __init__(self, net: StochasticRNN, settings: FilterSettings) -> None:
        super().__init__()
        self.net, self.settings = net, settings

    def start(self, batch_size: int) -> dict[str, Tensor]:
        """All inputs of the first step but x_t, with new random numbers and covariates 0; see :meth:`forward`.

        A later step takes ``next_hidden`` of the one before as ``hidden``, and so on; x_t as ``u``; and new ``noise``
        and ``uniforms``.
        """
        shape = batch_size, self.settings.num_particles
        state, u = _start(self.net, shape)
        like = self.net.emission_layer.weight
        return {
            "hidden": state.hidden,
            "cell": state.cell,
            "u": u[:, 0],
            "log_weights": like.new_full(shape, -math.log(shape[1])),
            "frames": torch.zeros(batch_size, dtype=torch.int64, device=like.device),
            "noise": torch.randn(*shape, self.net.latent_dim, dtype=like.dtype, device=like.device),
            "uniforms": torch.rand(shape, dtype=like.dtype, device=like.device),
            **_covariates(self.net, batch_size),
        }

    def forward(
        self,
        hidden: Tensor,
        cell: Tensor,
        u: Tensor,
        log_weights: Tensor,
        frames: Tensor,
        x_t: Tensor,
        noise: Tensor,
        uniforms: Tensor,
        covariates_t: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Take in one frame of each sequence.

        Args:
            hidden: of h_{t-1}; (batch, particles, hidden).
            cell: of h_{t-1}; (batch, particles, hidden), or (batch, particles, 0) in models without.
            u: x_{t-1}; (batch, *frame).
            log_weights: normalised; (batch, particles).
            frames: frames taken in so far, (batch,) int64.
            x_t: (batch, *frame).
            noise: standard normal; (batch, particles, latent).
            uniforms: in [0, 1); (batch, particles).
            covariates_t: c_t, (batch, K), of a model with covariates; not an input otherwise.

        Returns:
            By name ``next_hidden``, ``next_cell``, ``next_log_weights`` and ``next_frames``, of the shapes of the
            inputs; ``log_likelihood``, the estimate of log p(x_t | x_1..x_{t-1}), and ``ess``, both (batch,); and
            ``z_mean``, E[z_t | x_1..x_t], (batch, latent).
        """
        flags = torch.ones(u.shape[0], 1, self.net.flag_dim, dtype=torch.bool, device=u.device)
        before = Particles(State(hidden, cell), u.unsqueeze(1), log_weights, flags)
        particles = resampled(before, frames, uniforms, self.settings)
        z, state, ratio = advanced(self.net, particles, covariates_t, None, None, noise)
        log_likelihood = self.net.emission(state).log_prob(x_t.unsqueeze(1))
        new, increment = weighed(particles.log_weights, log_likelihood, ratio)
        return {
            "next_hidden": state.hidden,
            "next_cell": state.cell,
            "next_log_weights": new,
            "next_frames": frames + 1,
            "log_likelihood": increment,
            "ess": effective_sample_size(new, dim=-1),
            "z_mean": (new.exp().unsqueeze(-1) * z).sum(1),
        }


class GenerationStep(nn.Module):
    """One step of ancestral sampling.

    Args:
        net: the model.
    """

    def __init__(self, net: StochasticRNN) -> None:
        super().__init__()
        self.net = net

    def start(self, batch_size: int) -> dict[str, Tensor]:
        """All inputs of the first step, with new random numbers and covariates 0; see :meth:`forward`."""
        state, u = _start(self.net, (batch_size,))
        like = self.net.emission_layer.weight
        noise = torch.randn(batch_size, self.net.latent_dim, dtype=like.dtype, device=like.device)
        known = _covariates(self.net, batch_size)
        return {"hidden": state.hidden, "cell": state.cell, "u": u, "noise": noise, **known}

    def forward(
        self, hidden: Tensor, cell: Tensor, u: Tensor, noise: Tensor, covariates_t: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Sample the next frame of each sequence.

        Args:
            hidden: of h_{t-1}; (batch, hidden).
            cell: of h_{t-1}; (batch, hidden), or (batch, 0) in models without.
            u: x_{t-1}; (batch, *frame).
            noise: standard normal; (batch, latent).
            covariates_t: c_t, (batch, K), of a model with covariates; not an input otherwise.

        Returns:
            By name ``next_hidden`` and ``next_cell`` of h_t; ``z``, (batch, latent); and ``x``, (batch, *frame), a
            sample of p(x_t | h_t) by random numbers of the runtime's own.
        """
        u_t = joined(self.net, u, covariates_t)
        past = self.net.past(State(hidden, cell), u_t)
        z, _ = sampled(latent_of(self.net.prior(past), "prior", self.net.latent_dim, past.hidden.shape[:-1]), noise)
        state = self.net.transition(past, u_t, z)
        return {"next_hidden": state.hidden, "next_cell": state.cell, "z": z, "x": drawn(self.net.emission(state))}


def export_step(
    net: StochasticRNN,
    kind: str = "filter",
    *,
    num_particles: int = 64,
    resampling: str = "systematic",
    threshold: float = 0.5,
    batch_size: int | None = None,
    format: str = "torch",
) -> Any:
    """Export one step of a model, with its weights and in evaluation mode, as a program that needs no zf_pyro.

    Args:
        net: the model.
        kind: ``"filter"``, a step of a bootstrap filter (:class:`.FilterStep`); or ``"generation"``, a step of
            ancestral sampling (:class:`.GenerationStep`). Inputs and results are named there.
        num_particles: K, of a filter.
        resampling: of a filter, as of :class:`zf_pyro.inference.ParticleFilter`.
        threshold: of a filter, as there.
        batch_size: number of sequences of every call; any number if None.
        format: ``"torch"``, or ``"onnx"`` for runtimes without PyTorch.

    Returns:
        A :class:`torch.export.ExportedProgram`, to be called as ``program.module()(**inputs)`` and written by
        ``torch.export.save(program, file)``. In the format ``"onnx"`` a :class:`torch.onnx.ONNXProgram`, written by
        ``program.save(file)``.

    Raises:
        ImportError: onnx or onnxscript is not installed (``pip install "zf-pyro[export]"``).
        TypeError: ``net`` is no model; or an operation of the model or its emission has no form in the format, such as
            the sampling of a Dirichlet. The message names it.
        ValueError: an unknown kind or format, or a setting out of range.
    """
    require_model(net)
    require_choice("kind", kind, KINDS)
    require_choice("format", format, FORMATS)
    missing = [name for name in NEEDED if format == "onnx" and find_spec(name) is None]
    if missing:
        raise ImportError(f"format='onnx' needs {' and '.join(missing)}: pip install zf-pyro[export]")
    settings = FilterSettings(num_particles, "prior", resampling, threshold)
    net = copy.deepcopy(net).eval()  # so that later training of the model changes no program
    step = FilterStep(net, settings) if kind == "filter" else GenerationStep(net)
    size = 2 if batch_size is None else require_count("batch_size", batch_size)  # 1 would be taken as fixed
    inputs = step.start(size)
    if kind == "filter":
        example = net.emission_family.example_frame.to(inputs["u"])
        inputs["x_t"] = example.expand_as(inputs["u"]).clone()
    batch = torch.export.Dim("batch")
    free = {name: {0: batch} for name in inputs} if batch_size is None else None
    try:
        with torch.no_grad(), pyro.validation_enabled(False), warnings.catch_warnings():
            # PyTorch's LSTM lists its own weights once more, which the exporter takes for forgotten ones.
            warnings.filterwarnings("ignore", "The tensor attributes? .*_flat_weights", UserWarning)
            program = torch.export.export(step, (), inputs, dynamic_shapes=free, strict=False)
            if format == "torch":
                return program
            names = list(step(**inputs))
            return torch.onnx.export(program, kwargs=inputs, dynamo=True, output_names=names, verbose=False)
    except RuntimeError as error:
        reason = _reason(error)
        raise TypeError(
            f"net must be of operations that {format} can export as a {kind} step, got {type(net).__name__} with "
            f"{net.emission_family}: {reason}"
        ) from error


def _start(net: StochasticRNN, shape: Sequence[int]) -> tuple[State, Tensor]:
    """h_0 and the start frame, (*shape, hidden) and (*shape, *frame)."""
    family, like = net.emission_family, net.emission_layer.weight
    dtype = torch.long if family.integer else like.dtype
    first = family.start(torch.zeros(*shape, *family.event_shape, dtype=dtype, device=like.device))
    return State(*(field.detach().clone() for field in net.initial_state(shape))), first


def _covariates(net: StochasticRNN, batch_size: int) -> dict[str, Tensor]:
    """Covariates of zeros, (batch, K), by name; nothing for a model without."""
    zeros = net.emission_layer.weight.new_zeros(batch_size, net.covariate_dim)
    return {"covariates_t": zeros} if net.covariate_dim else {}


def _reason(error: BaseException) -> str:
    """The first line of the error at the root."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}" if str(error).strip() else repr(error)
