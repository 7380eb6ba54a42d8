"""Training of any model, guide and objective under Lightning, by the gradients that SVI would take."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from pyro.infer import TraceTailAdaptive_ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..checks import require_count
from ..objectives import Objective, PyroProgram, owner_of
from . import parameters
from .nonfinite import NonFinite
from .optimisers import Factory, build, skips_by_itself
from .position import continued

READ_BACK = 20
"""Steps on a GPU from one look at its counts, which waits for it, to the next."""

WEIGHTS = ("kl_weight", "aux_weight", "backward_weight")
"""Of the objective, logged with its parts."""


def adam(parameters: Any) -> torch.optim.Optimizer:
    """The released code's Adam: learning rate 1e-3, eps 1e-5."""
    return torch.optim.Adam(parameters, lr=1e-3, eps=1e-5)


class Training(lightning.LightningModule):
    """SVI's step as a LightningModule: gradients by the objective, clipped, then one step of the optimiser.

    A batch is the arguments of model and guide, a tuple such as ``(x, lengths)``, or a dictionary of keywords. The loss
    is the objective's, summed over the batches of all processes, and over ``accumulate`` batches one after the other.

    Logged at each step, per sequence in nats: ``train/loss``, and for :class:`~zf_pyro.ZForcingELBO` the unweighted
    ``train/elbo``, ``train/log_likelihood``, ``train/kl``, ``train/auxiliary``, ``train/backward`` and their weights;
    ``train/grad_norm`` before clipping, ``train/skipped`` (steps so far that were not finite), ``train/lr``,
    ``train/steps_per_second``. After a validation ``validation/elbo``: the bound for ZForcingELBO, else minus the loss.

    Args:
        model: Pyro's model.
        guide: its guide.
        objective: anything that SVI takes as its loss.
        optimiser: one of Pyro's, or a function that makes one of torch's from parameters.
        clip_norm: bound of the norm of the gradient of ``scale`` times the loss; None for no bound.
        scale: factor of the loss. 1 is SVI's sum over the batch; the released code's mean is 1 / sequences of a step.
        accumulate: batches whose gradients are summed before a step.
        plateau: validations without a better ``validation/elbo`` after which the learning rate is halved; None for
            never.
        max_nonfinite: steps in a row with a loss or gradient that is not finite after which training stops.
        validation: objective of validation, by default the same; for one whose ``loss`` is not implemented.
        example: a batch, for a model or guide that makes parameters only when it runs (``pyro.param``, autoguides).

    Raises:
        ValueError: a number out of range.
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
        for name, count in {"accumulate": accumulate, "max_nonfinite": max_nonfinite, "plateau": plateau or 1}.items():
            require_count(name, count)
        self.clip_norm = float("inf") if clip_norm is None else clip_norm
        for name, value in {"scale": scale, "clip_norm": self.clip_norm}.items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value!r}")
        self.programs, self.objective, self.optimiser = (model, guide), objective, optimiser
        self.validation_objective = validation or objective
        self.scale, self.accumulate, self.plateau = scale, accumulate, plateau
        self.nonfinite = NonFinite(max_nonfinite)
        met = {} if example is None else parameters.known_parameters(model, guide, example)
        owners = {id(net): net for net in map(owner_of, self.programs) if net is not None}
        self.nets = nn.ModuleList(owners.values())
        self.loose = parameters.loose(self.nets, met)
        self.stop_wanted = self.stopping = self._met_all = False
        self._window: Tensor | None = None
        self._validated = torch.zeros(2, dtype=torch.float64)
        self._since = (time.perf_counter(), 0)

    # One step --------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """The gradients of one batch, and after ``accumulate`` of them the optimiser's step."""
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
        """Add the gradients of the loss on one batch, unscaled.

        Returns:
            Scalars that are summed over the batches of a step: the loss and the parts of the objective in nats, the
            number of sequences, and whether somebody wants training to stop.
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
            torch._foreach_mul_(gradients, self.scale)
        norm = torch.nn.utils.get_total_norm(gradients)
        torch.nn.utils.clip_grads_with_norm_(
            [p for group in inner.param_groups for p in group["params"]], self.clip_norm, norm
        )
        finite = norm.isfinite()
        if not isinstance(self.objective, TraceTailAdaptive_ELBO):  # whose loss is always infinite
            finite = finite & totals["loss"].isfinite()
        bad = (~finite).float()
        self.nonfinite.note(bad)
        if skips_by_itself(inner):
            inner.found_inf = bad  # type: ignore[attr-defined]  # how GradScaler tells it
            optimiser.step()
        elif not bad.item():
            optimiser.step()
        if gradients:
            torch._foreach_zero_(gradients)  # not None: SVI steps on with zeros, and so must we
        self._log_step(totals, weights, norm, step)
        if self.device.type == "cpu" or step % READ_BACK == 0:
            self.nonfinite.stop(Path(self.trainer.default_root_dir), step, batch)
            self.stopping = totals["stop"].item() > 0

    def _over_processes(self, values: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(values, reduce_op="sum") if self.trainer.world_size > 1 else values

    def _sum_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Sum each gradient over all processes, in one exchange for each dtype.

        Every process must have met the same parameters, which it has if all run the same program.
        """
        if self.trainer.world_size == 1:
            return
        for dtype in {gradient.dtype for gradient in gradients}:
            same = [gradient for gradient in gradients if gradient.dtype == dtype]
            flat = self._over_processes(torch.cat([gradient.flatten() for gradient in same]))
            parts = flat.split([gradient.numel() for gradient in same])
            torch._foreach_copy_(same, [part.view_as(g) for part, g in zip(parts, same, strict=True)])

    def _require_all_met(self, batch: Any) -> None:
        """Refuse parameters that the optimiser does not know."""
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
        """Begin the sums."""
        self._validated = torch.zeros(2, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The bound on a batch, at one draw of the latents for each sequence."""
        objective = self.validation_objective
        loss = _as_tuple(parameters.call(objective.loss, batch, *self.programs))[0]
        terms = objective.terms if isinstance(objective, Objective) else None
        bound = -torch.as_tensor(loss) if terms is None else terms.elbo.sum()
        self._validated += torch.tensor([float(bound), num_sequences(batch)], dtype=torch.float64, device=self.device)

    def on_validation_epoch_end(self) -> None:
        """Exact sums over all processes; halve the learning rate on a plateau."""
        bound, sequences = self._over_processes(self._validated).tolist()
        self.log("validation/elbo", bound / sequences, prog_bar=True)  # the same on every process
        if self.trainer.state.fn == "fit":
            done = self.trainer.fit_loop.epoch_loop.batch_progress.current.completed
            self.log("step", float(done // self.accumulate))
        schedule = self.lr_schedulers()
        if isinstance(schedule, ReduceLROnPlateau) and self.trainer.training | self.trainer.validating:
            schedule.step(bound / sequences)

    # What Lightning asks for -----------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """The optimiser over all parameters, and the schedule of its learning rate."""
        if self.loose and self.trainer.world_size > 1:
            raise ValueError(
                f"parameters made by pyro.param, such as {next(iter(self.loose))!r}, train in one process only: "
                "make them PyroParam of a PyroModule"
            )
        named: dict[str, Tensor] = {
            f"{net.name if isinstance(getattr(net, 'name', None), str) else i}.{name}": parameter
            for i, net in enumerate(self.nets)
            for name, parameter in net.named_parameters()
            if parameter.requires_grad
        }
        named |= self.loose
        optimiser = build(self.optimiser, named, fused=self.device.type == "cuda")
        if self.plateau is None:
            return optimiser
        schedule = ReduceLROnPlateau(optimiser, mode="max", factor=0.5, patience=self.plateau - 1)
        return [optimiser], [{"scheduler": schedule}]

    def on_validation_model_zero_grad(self) -> None:
        """Leave the gradients, which are zero: Adam goes on to move a parameter of gradient zero, but not of none."""

    def on_train_start(self) -> None:
        """Where a gradient was zero, not None, when the state was saved, it is again."""
        for parameter in self.trainer.optimizers[0].state:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know of."""
        checkpoint["objective"] = self.objective.state_dict() if hasattr(self.objective, "state_dict") else {}
        checkpoint["loose"] = {name: value.detach() for name, value in self.loose.items()}
        checkpoint["nonfinite"] = self.nonfinite.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
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
    """Sequences of a batch, the first size of its first tensor; 1 where it has none."""
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else [batch]
    return next((len(value) for value in values if isinstance(value, Tensor) and value.dim()), 1)


def _as_tuple(losses: Any) -> tuple[Any, ...]:
    return losses if isinstance(losses, tuple) else (losses,)
