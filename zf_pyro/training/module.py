"""LightningModule that trains any model and guide under any objective, with the gradients of SVI."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from pyro.infer import TraceTailAdaptive_ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..checks import require_count, require_number
from ..networks import multiply_in_place
from ..objectives import Objective, PyroProgram, check_programs, networks_of
from . import parameters
from .nonfinite import NonFinite
from .optimisers import Factory, build, require_trainable, skips_by_itself
from .position import continued

READ_BACK = 20
"""Steps between two reads of the counts of non-finite steps from a GPU, since each read waits for it."""

WEIGHTS = ("kl_weight", "aux_weight", "backward_weight")
"""Weights of the objective, logged with its terms."""


def adam(parameters: Any) -> torch.optim.Optimizer:
    """The released code's Adam: learning rate 1e-3, eps 1e-5.

    Args:
        parameters: an iterable of parameters, or of groups of them, as for :class:`torch.optim.Adam`.
    """
    return torch.optim.Adam(parameters, lr=1e-3, eps=1e-5)


class Training(lightning.LightningModule):
    """SVI's step as a LightningModule: gradients of the objective, clipping, then one step of the optimiser.

    A batch holds the arguments of model and guide: a tuple, as ``(x, lengths)``, or a dictionary of keywords. For the
    programs of a network it has a form of :func:`zf_pyro.data.arguments_of`, which refuses labels. The loss is the
    objective's, summed over the batches of all processes and over ``accumulate`` successive batches.

    Logged at each step, in nats per sequence: ``train/loss``, and for :class:`~zf_pyro.ZForcingELBO` its unweighted
    terms ``train/elbo``, ``train/log_likelihood``, ``train/kl``, ``train/auxiliary``, ``train/backward``. Also their
    weights, ``train/grad_norm`` before clipping, ``train/skipped`` (non-finite steps so far), ``train/lr``,
    ``train/steps_per_second``. After a validation ``validation/elbo``: the bound for ZForcingELBO, else minus the loss.

    Args:
        model: a Pyro model.
        guide: its guide.
        objective: any loss of SVI.
        optimiser: an optimiser of Pyro, or a function from parameters to an optimiser of torch.
        clip_norm: bound on the norm of the gradient of ``scale`` times the loss; None for no bound.
        scale: factor of the loss. 1 is SVI's sum over the batch; the released code's mean is 1 / sequences per step.
        accumulate: batches whose gradients are summed before a step.
        plateau: validations without a better ``validation/elbo`` after which the learning rate is halved; None for
            never.
        max_nonfinite: successive steps with a non-finite loss or gradient after which training stops.
        validation: objective of validation, by default the same. Needed if the ``loss`` of ``objective`` is missing.
        example: a batch, for a model or guide that creates parameters only when it runs (``pyro.param``, autoguides).

    Raises:
        ValueError: a setting out of range.
        TypeError: the class of an objective, or programs that are not a model and its guide.
    """

    def __init__(
        self,
        model: PyroProgram,
        guide: PyroProgram,
        objective: Any,
        optimiser: PyroOptim | Factory = adam,
        *,
        clip_norm: float | None = 100.0,
        scale: float = 1.0,
        accumulate: int = 1,
        plateau: int | None = None,
        max_nonfinite: int = 10,
        validation: Any = None,
        example: Any = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.accumulate = require_count("accumulate", accumulate)
        self.nonfinite = NonFinite(require_count("max_nonfinite", max_nonfinite))
        self.plateau = None if plateau is None else require_count("plateau", plateau)
        bound = "positive, or None for no bound"
        self.clip_norm = (
            math.inf if clip_norm is None else require_number("clip_norm", clip_norm, bound, 0.0, ends="(]")
        )
        self.scale = require_number("scale", scale, "positive", 0.0, ends="(]")
        require_trainable(model, guide, objective, validation, optimiser)
        check_programs(model, guide)
        self.programs, self.objective, self.optimiser = (model, guide), objective, optimiser
        self.validation_objective = objective if validation is None else validation
        known = {} if example is None else parameters.known_parameters(model, guide, example)
        self.nets = networks_of(model, guide, objective)
        self.loose = parameters.loose(self.nets, known)
        self.stop_wanted = self.stopping = self._met_all = False
        self._window: Tensor | None = None
        self._validated = torch.zeros(2, dtype=torch.float64)
        self._since = (time.perf_counter(), 0)

    # One step --------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Add the gradients of a batch; after ``accumulate`` batches take the optimiser's step."""
        last = (batch_idx + 1) % self.accumulate == 0
        step = getattr(self.objective, "step", None)
        weights = {name: getattr(self.objective, name) for name in WEIGHTS if hasattr(self.objective, name)}
        parts = self.gradients(batch)
        if step is not None:
            self.objective.step = step + last  # the batches of one step have the same weights
        values = torch.stack([part.double() for part in parts.values()])
        self._window = values if self._window is None else self._window + values
        if last:
            totals, self._window = self._over_processes(self._window), None
            self._update(dict(zip(parts, totals, strict=True)), weights, batch, (batch_idx + 1) // self.accumulate)

    def gradients(self, batch: Any) -> dict[str, Tensor]:
        """Add the unscaled gradients of the loss on one batch.

        Returns:
            Scalars to be summed over the batches of a step: loss and terms of the objective in nats, the number of
            sequences, and whether a stop of training was requested.
        """
        if not self._met_all:
            self._require_all_met(batch)
        objective, programs = self.objective, self.programs
        found = parameters.call(getattr(objective, "backward", objective.loss_and_grads), batch, *programs)
        losses = [torch.as_tensor(loss, device=self.device).detach() for loss in _as_tuple(found)]
        parts = {"loss" if i == 0 else f"loss_{i + 1}": loss for i, loss in enumerate(losses)}
        terms = objective.terms if isinstance(objective, Objective) else None
        parts |= {name: term.sum() for name, term in terms._asdict().items()} if terms is not None else {}
        counts = {"sequences": num_sequences(batch), "stop": self.stop_wanted}
        return parts | {name: losses[0].new_full((), float(count)) for name, count in counts.items()}

    def _update(self, totals: dict[str, Tensor], weights: dict[str, float], batch: Any, step: int) -> None:
        optimiser = self.optimizers()
        assert not isinstance(optimiser, list)
        inner = optimiser.optimizer
        gradients = [p.grad for group in inner.param_groups for p in group["params"] if p.grad is not None]
        self._sum_gradients(gradients)
        if self.scale != 1.0:
            multiply_in_place(gradients, self.scale)
        norm = torch.nn.utils.get_total_norm(gradients)
        torch.nn.utils.clip_grads_with_norm_(
            [p for group in inner.param_groups for p in group["params"]], self.clip_norm, norm
        )
        finite = norm.isfinite()
        if not isinstance(self.objective, TraceTailAdaptive_ELBO):  # its loss is always infinite
            finite = finite & totals["loss"].isfinite()
        bad = (~finite).float()
        self.nonfinite.note(bad)
        if skips_by_itself(inner):
            inner.found_inf = bad  # type: ignore[attr-defined]  # as GradScaler sets it
            optimiser.step()
        elif not bad.item():
            optimiser.step()
        inner.zero_grad(set_to_none=False)  # as SVI, whose optimisers step with zero gradients too
        self._log_step(totals, weights, norm, step)
        if self.device.type == "cpu" or step % READ_BACK == 0:
            self.nonfinite.stop(Path(self.trainer.default_root_dir), step, batch)
            self.stopping = totals["stop"].item() > 0

    def _over_processes(self, values: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(values, reduce_op="sum") if self.trainer.world_size > 1 else values

    def _sum_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Sum each gradient over all processes, in one exchange per dtype.

        Every process needs gradients of the same parameters, which holds if all run the same program.
        """
        if self.trainer.world_size == 1:
            return
        for dtype in {gradient.dtype for gradient in gradients}:
            same = [gradient for gradient in gradients if gradient.dtype == dtype]
            flat = self._over_processes(torch.cat([gradient.flatten() for gradient in same]))
            parts = flat.split([gradient.numel() for gradient in same])
            for gradient, part in zip(same, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def _require_all_met(self, batch: Any) -> None:
        """Refuse parameters that the optimiser does not have."""
        known = {*map(id, self.nets.parameters()), *map(id, self.loose.values())}
        met = parameters.known_parameters(*self.programs, batch)
        unknown = [name for name, value in met.items() if id(value) not in known and value.is_leaf]
        if unknown:
            raise ValueError(
                f"the programs make parameters that were not there before they ran, such as {unknown[0]!r}: "
                "give Training an example= batch, so that it can find them"
            )
        self._met_all = True

    # Logs and validation ---------------------------------------------------------------------------------------------

    def _log_step(self, totals: dict[str, Tensor], weights: dict[str, float], norm: Tensor, step: int) -> None:
        sequences = totals["sequences"]
        values: dict[str, Any] = {f"train/{name}": weight for name, weight in weights.items()}
        values |= {f"train/{name}": t / sequences for name, t in totals.items() if name not in ("sequences", "stop")}
        if "kl" in totals:
            values["train/elbo"] = values["train/log_likelihood"] - values["train/kl"]
        (start, before), now = self._since, time.perf_counter()
        if before:
            values["train/steps_per_second"] = (step - before) / (now - start)
        self._since = now, step
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        shown = {"train/loss", "train/elbo", "train/kl", "train/steps_per_second"}
        values |= {"train/grad_norm": norm, "train/skipped": self.nonfinite.total, "train/lr": lr, "step": float(step)}
        for name, value in values.items():
            self.log(name, value, prog_bar=name in shown, rank_zero_only=True)

    def on_validation_epoch_start(self) -> None:
        """Reset the sums."""
        self._validated = torch.zeros(2, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add the bound on a batch, from one sample of the latents per sequence."""
        objective = self.validation_objective
        loss = _as_tuple(parameters.call(objective.loss, batch, *self.programs))[0]
        terms = objective.terms if isinstance(objective, Objective) else None
        bound = -torch.as_tensor(loss) if terms is None else terms.elbo.sum()
        self._validated += torch.tensor([float(bound), num_sequences(batch)], dtype=torch.float64, device=self.device)

    def on_validation_epoch_end(self) -> None:
        """Log the exact mean over all processes; halve the learning rate on a plateau."""
        bound, sequences = self._over_processes(self._validated).tolist()
        self.log("validation/elbo", bound / sequences, prog_bar=True)  # the same on every process
        if self.trainer.state.fn == "fit":
            done = self.trainer.fit_loop.epoch_loop.batch_progress.current.completed
            self.log("step", float(done // self.accumulate))
        schedule = self.lr_schedulers()
        if isinstance(schedule, ReduceLROnPlateau) and self.trainer.training | self.trainer.validating:
            schedule.step(bound / sequences)

    # Hooks of Lightning ----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Build the optimiser over all parameters, and the schedule of its learning rate."""
        if self.loose and self.trainer.world_size > 1:
            raise ValueError(
                f"parameters made by pyro.param, such as {next(iter(self.loose))!r}, train in one process only: "
                "make them PyroParam of a PyroModule"
            )
        optimiser = build(self.optimiser, self.trained(), fused=self.device.type == "cuda")
        if self.plateau is None:
            return optimiser
        schedule = ReduceLROnPlateau(optimiser, mode="max", factor=0.5, patience=self.plateau - 1)
        return [optimiser], [{"scheduler": schedule}]

    def trained(self) -> dict[str, Tensor]:
        """The parameters that the optimiser has, by name, each of any shape."""
        named: dict[str, Tensor] = {
            f"{net.name if isinstance(getattr(net, 'name', None), str) else i}.{name}": parameter
            for i, net in enumerate(self.nets)
            for name, parameter in net.named_parameters()
            if parameter.requires_grad
        }
        return named | self.loose

    def on_validation_model_zero_grad(self) -> None:
        """Keep the zero gradients: with momentum Adam still moves such parameters, but not those without a gradient."""

    def on_train_start(self) -> None:
        """Set the gradients to zero, not None, as they were when the checkpoint was saved."""
        for parameter in self.trainer.optimizers[0].state:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save objective, ``pyro.param`` parameters and counts, which Lightning does not save."""
        checkpoint["objective"] = self.objective.state_dict() if hasattr(self.objective, "state_dict") else {}
        checkpoint["loose"] = {name: value.detach() for name, value in self.loose.items()}
        checkpoint["nonfinite"] = self.nonfinite.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the state of :meth:`on_save_checkpoint`."""
        if hasattr(self.objective, "load_state_dict"):
            self.objective.load_state_dict(checkpoint["objective"])
        if checkpoint["loose"].keys() != self.loose.keys():
            raise ValueError(f"the checkpoint has {[*checkpoint['loose']]} of pyro.param, training has {[*self.loose]}")
        with torch.no_grad():
            for name, value in self.loose.items():
                value.copy_(checkpoint["loose"][name])
        self.nonfinite.load_state_dict(checkpoint["nonfinite"])
        continued(checkpoint)


def num_sequences(batch: Any) -> int:
    """Number of sequences in a batch: the first size of its first tensor; 1 without tensors."""
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else [batch]
    return next((len(value) for value in values if isinstance(value, Tensor) and value.dim()), 1)


def _as_tuple(losses: Any) -> tuple[Any, ...]:
    return losses if isinstance(losses, tuple) else (losses,)
