"""Inverse autoregressive flows of a diagonal normal.

Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling, "Improving Variational Inference with Inverse Autoregressive
Flow", NIPS 2016, https://arxiv.org/abs/1606.04934; Pyro's example ``dmm.py`` has them on the guide of its DMM.
"""

import math
import warnings
from collections.abc import Iterable
from typing import Any, ClassVar, NoReturn, cast

import torch
from pyro.distributions import Normal, TorchDistribution, constraints
from pyro.nn import AutoRegressiveNN
from torch import Tensor, nn

from .dependencies import hooks_of

LOWEST, HIGHEST = -5.0, 3.0
"""Bounds of a layer's log-scale: those of Pyro's ``AffineAutoregressive``."""
HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class FlowLayer(nn.Module):
    """One layer of a flow: y_i = m_i + exp(s_i) e_i, where m_i and s_i depend on the elements of e before i alone.

    m and s come from Pyro's :class:`pyro.nn.AutoRegressiveNN` (MADE) with one hidden layer; s is clamped to [-5, 3]. A
    new layer is the identity. The map is that of Pyro's ``AffineAutoregressive``. That class itself is not used: it
    keeps tensors of the latest graph, so that a trained model could not be copied, and its inverse is of float32 alone.

    Of one element alone, m and s are constants.

    Args:
        latent_dim: size of e and y.
        flow_dim: size of the hidden layer; at least ``latent_dim``.
        reverse: take the elements from the last to the first. Layers alternate, as in the paper.

    Raises:
        ValueError: ``flow_dim`` is below ``latent_dim``.
    """

    def __init__(self, latent_dim: int, flow_dim: int, reverse: bool = False) -> None:
        super().__init__()
        if flow_dim < latent_dim:
            raise ValueError(f"flow_dim must be at least latent_dim, {latent_dim}, got {flow_dim}")
        self.order = tuple(range(latent_dim))[:: -1 if reverse else 1]
        device = torch.empty(0).device
        # Pyro's class reads numbers off its tensors, so it is built on the CPU. Of a model that is loaded, on the meta
        # device, it takes no random numbers.
        fork = torch.random.fork_rng(devices=[], enabled=device.type == "meta")
        with torch.device("cpu"), fork, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # its advice for one element
            order = cast(torch.LongTensor, torch.tensor(self.order))
            network = AutoRegressiveNN(latent_dim, [flow_dim], permutation=order, nonlinearity=nn.ReLU())
        del network.permutation  # a buffer of integers, which saved weights are not
        network.permutation = order
        for parameter in network.layers[-1].parameters():
            nn.init.zeros_(parameter)
        self.network = network.to(device)

    @property
    def weight(self) -> Tensor:
        """A weight, for dtype and device; (flow, latent)."""
        return next(self.network.parameters())

    def parameters_of(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """m and s of e (..., latent), each (..., latent)."""
        shift, log_scale = self.network(e)
        return shift, log_scale.clamp(LOWEST, HIGHEST)

    def forward(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """y, (..., latent), and the log-determinant of dy/de, (...), of e (..., latent)."""
        shift, log_scale = self.parameters_of(e)
        return shift + log_scale.exp() * e, log_scale.sum(-1)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """e, (..., latent), and the log-determinant of dy/de, (...), of y (..., latent): a pass for each element."""
        given, found = y.unbind(-1), [torch.zeros_like(y[..., 0])] * len(self.order)
        for i in self.order:
            shift, log_scale = self.parameters_of(torch.stack(found, dim=-1))
            found[i] = (given[i] - shift[..., i]) * (-log_scale[..., i]).exp()
        return torch.stack(found, dim=-1), log_scale.sum(-1)


class AutoregressiveFlow(TorchDistribution):
    """A diagonal normal, transformed by layers of an inverse autoregressive flow; the event is one latent.

    A sample takes one pass through each layer, and so does its log-density, as :meth:`from_noise` gives both. The
    log-density of another value takes ``latent_dim`` passes, by inversion. Moments, the entropy and the KL have no
    closed form. All is computed in the dtype of the layers, also under ``torch.autocast``.

    Args:
        loc: means of the normal; (..., latent).
        scale: its standard deviations; (..., latent).
        flows: the layers, in the order in which they are applied to a sample of the normal.

    Raises:
        TypeError: ``flows`` holds other than :class:`FlowLayer` as it was built, or nothing.
        ValueError: a layer is of another size, or (under Pyro's validation) loc or scale is out of range.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, loc: Tensor, scale: Tensor, flows: Iterable[FlowLayer], validate_args: bool | None = None
    ) -> None:
        self.flows = tuple(flows)
        changes = [change for change in map(_change_of, self.flows) if change is not None]
        if changes or not self.flows:
            raise TypeError(
                f"flows must hold one or more layers zf_pyro.networks.FlowLayer as they were built, since both "
                f"directions of a layer must agree, got {', '.join(changes) or 'none'}: change weights or network.f "
                "alone, and return dist.Normal(loc, scale).to_event(1) where there is no flow"
            )
        dtype = self.flows[0].weight.dtype
        self.base = Normal(loc.to(dtype), scale.to(dtype), validate_args=validate_args)
        shape = self.base.batch_shape
        sizes = sorted({len(layer.order) for layer in self.flows})
        if tuple(sizes) != shape[-1:]:
            expected = f"the size of loc and scale, of shape {tuple(shape)}"
            raise ValueError(f"flows must be of {expected}, got layers of {sizes}")
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "AutoregressiveFlow":
        """The same distribution with a larger batch shape."""
        base = self.base.expand((*batch_shape, *self.event_shape))
        return AutoregressiveFlow(base.loc, base.scale, self.flows, validate_args=False)

    def from_noise(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The sample of standard normal ``noise`` (..., latent), (..., latent), and its log-density in nats, (...)."""
        with torch.autocast(noise.device.type, enabled=False):
            noise = noise.to(self.base.loc.dtype)
            value = torch.addcmul(self.base.loc, self.base.scale, noise)
            log_prob = noise_log_prob(self.base.scale, noise)
            for layer in self.flows:
                value, log_det = layer.forward(value)
                log_prob = log_prob - log_det
            return value, log_prob

    def to_noise(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The noise of a sample ``value`` (..., latent), (..., latent), and its log-density in nats, (...)."""
        with torch.autocast(value.device.type, enabled=False):
            value, log_dets = value.to(self.base.loc.dtype), []
            for layer in reversed(self.flows):
                value, log_det = layer.inverse(value)
                log_dets.append(log_det)
            noise = (value - self.base.loc) / self.base.scale
            return noise, noise_log_prob(self.base.scale, noise) - sum(log_dets)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A sample with gradients; (*sample_shape, *batch_shape, latent)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.from_noise(self.base.loc.new_empty(shape).normal_())[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of ``value`` (..., latent) in nats, by inversion; (...)."""
        if self._validate_args:
            self._validate_sample(value)
        return self.to_noise(value)[1]

    @property
    def mean(self) -> Tensor:
        _no_closed_form("mean")

    @property
    def variance(self) -> Tensor:
        _no_closed_form("variance")

    @property
    def mode(self) -> Tensor:
        _no_closed_form("mode")

    def entropy(self) -> Tensor:
        """Not available.

        Raises:
            NotImplementedError: always.
        """
        _no_closed_form("entropy")


def _change_of(layer: object) -> str | None:
    """What a layer is in place of a :class:`FlowLayer` as it was built; None if it is one."""
    if not isinstance(layer, FlowLayer) or type(layer) is not FlowLayer:
        return type(layer).__name__
    state = vars(layer)
    if hooks_of(state):
        return "one with hooks"
    if type(layer.network) is not AutoRegressiveNN:
        return f"one whose network is a {type(layer.network).__name__}"
    own = sorted({"forward", "inverse", "parameters_of"} & state.keys())
    return f"one whose {own[0]} was set on the instance" if own else None


def _no_closed_form(what: str) -> NoReturn:
    raise NotImplementedError(
        f"an autoregressive flow has no {what} in closed form: estimate it from samples, rsample((count,)), and their "
        "log_prob, or build the model with num_flows=0"
    )


def noise_log_prob(scale: Tensor, noise: Tensor) -> Tensor:
    """Log-density of loc + scale * noise, from scale and standard normal noise, both (..., latent); (...) nats."""
    return -(scale.log() + 0.5 * noise.square() + HALF_LOG_TWO_PI).sum(-1)
