"""The base of all stochastic recurrent networks: registration, the two Pyro programs, and methods built on them.

A model is one page of step functions (:mod:`zf_pyro.models.zforcing`), of which :class:`StochasticRNN` makes programs.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self, cast

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor

from .. import generation, saving
from ..emissions import Emission
from ..networks import State, runs_eagerly
from ..paths import (
    LatentPath,
    PosteriorPath,
    PriorPath,
    check_backward_states,
    check_context,
    check_covariates,
    check_frames,
    check_latents,
    check_state,
    prepare_inputs,
    refuse_swapped,
    sequences,
)
from ..recurrence import LoopMemory
from .equations import Equations


class StochasticRNN(Equations):
    """A recurrent network with a latent z_t at every step, as a pair of Pyro programs.

    Subclasses have the step functions; this class has :meth:`model` and :meth:`guide`. Sites: latents ``z_{t}``, frames
    ``x_{t}``, t from 0, in the plate ``sequences`` at dim -1, or in a plate at dim -1 around the program, which may
    subsample. Shapes: x (batch, time, *frame), z (batch, time, latent).

    Covariates c_t are known at every step, future ones included. They join x_{t-1} where it is embedded for the model
    (:meth:`inputs`), and x_t where it is embedded for the guide (:meth:`backward_states`).

    Frames may have gaps (``observed=``), of whole frames or, if the emission is a product over its elements, of single
    elements. What was not seen is not scored, and changes nothing. There are two treatments:

    - ``missing="fill"``: networks read the start frame in its place, and flags that say so. Such a model is trained on
      data with gaps, by any objective. Its density is that of what was seen, given where the gaps are.
    - ``missing="draw"``: a model of whole frames. :class:`zf_pyro.inference.ParticleFilter` marginalises the gaps: each
      particle draws what was not seen from p(x_t | h_t) and goes on with it. :meth:`model` and :meth:`guide` refuse
      gaps, since a guide of z alone has no posterior of x.

    Args:
        emission: the family of p(x_t | h_t), such as ``emissions.Gaussian(200)``.
        settings: the other arguments of the subclass's constructor, with which :meth:`load` builds it again.
        name: name of the network in Pyro's parameter store; unique within the process if None.

    Attributes:
        emission_layer: the linear layer from h_t to the emission's parameters.
        normalisation: statistics of the data preparation, such as ``mean`` and ``scale``; saved with the weights.

    Raises:
        TypeError: ``emission`` is no emission, or the subclass lacks a step function.
    """

    normalisation: Mapping[str, Tensor] | None = None

    def __init__(self, emission: Emission, settings: Mapping[str, Any], name: str | None = None) -> None:
        super().__init__(name, type(self).__name__.lower())
        if not isinstance(emission, Emission):
            raise TypeError(f"emission must be one of zf_pyro.emissions, such as Gaussian(200), got {emission!r}")
        # Not by the metaclass of ABC, which classes made from this one by Pyro could not have.
        functions = {name: getattr(type(self), name) for name in dir(StochasticRNN) if not name.startswith("__")}
        missing = [name for name, value in functions.items() if getattr(value, "__isabstractmethod__", False)]
        if missing:
            raise TypeError(f"{type(self).__name__} must define {', '.join(missing)}")
        self.emission_family = emission
        self.settings = dict(settings)
        self.covariate_dim, self.missing = self.settings.get("covariate_dim", 0), self.settings.get("missing", "draw")
        self.flag_dim = emission.flag_dim if self.missing == "fill" else 0
        self.extra_dim = self.covariate_dim + self.flag_dim
        self.changes: set[str] = set()
        self.loop_memory = LoopMemory()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a copy or of a pickle, with memory of its own for the loops."""
        super().__setstate__(state)
        self.loop_memory = LoopMemory()

    @property
    def unrefined(self) -> "StochasticRNN":
        """The network without corrections of its posterior: itself, but for :class:`.RefinedNetwork`."""
        return self

    def release_memory(self) -> None:
        """Give back the memory that the time loops keep for their next run, as after one that was unusually large.

        A loop keeps as much as its largest run needed, until several much smaller ones have followed. Memory of
        tensors still in use is given back when they are freed.
        """
        self.loop_memory.release()

    @runs_eagerly
    def states(
        self,
        x: Tensor,
        z: Tensor,
        context: Tensor | None = None,
        initial_state: State | None = None,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> State:
        """h_1..h_T for given frames and latents.

        The last one, ``State(*(field[-1] for field in states))``, is the ``initial_state`` of the frames that follow;
        their ``context`` is the last frame.

        Args:
            x: (batch, time, frame) floats or (batch, time) integers.
            z: latents (..., batch, time, latent).
            context: the frame before the first, (batch, *frame); see :meth:`inputs`.
            initial_state: h_0, each field (..., batch, hidden); zeros if None.
            covariates: c_1..c_T, (batch, time, K), as for :meth:`model`.
            observed: True where x was seen, (batch, time) or (batch, time, *frame), as for :meth:`model`.

        Returns:
            A State of (time, ..., batch, hidden) tensors.

        Raises:
            TypeError, ValueError: an argument of the wrong type, shape, dtype or device.
        """
        like = self.emission_layer.weight
        check_frames(x, self.emission_family, like)
        check_latents(z, x.shape[0], x.shape[1], self.latent_dim, like)
        covariates = check_covariates(covariates, x.shape[0], x.shape[1], self)
        if context is not None:
            check_context(context, x.shape[0], self.emission_family, like, values=observed is None)
        if initial_state is not None:
            check_state(initial_state, x.shape[0], self.initial_state((1,)))
        start = self.initial_state((x.shape[0],)) if initial_state is None else initial_state
        more = () if covariates is None and observed is None else (covariates, observed)
        u = self.inputs(x, context, *more)
        states = self.scan_states(start, u.transpose(0, 1), z.movedim(-2, 0))
        return State(states.hidden[1:], states.cell[1:])

    # The Pyro programs ----------------------------------------------------------------------------------------------

    @runs_eagerly
    def model(
        self,
        x: Tensor | None = None,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        initial_state: State | None = None,
        *,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
        num_steps: int | None = None,
        batch_shape: Sequence[int] | int | None = None,
    ) -> Tensor:
        """The generative program: for each step z_t ~ p(z_t | h_{t-1}), x_t ~ p(x_t | h_t).

        Args:
            x: observed frames, (batch, time, frame) floats or (batch, time) integers; None to generate them.
            lengths: real frames of each sequence, (batch,) integers; all if None. Frames beyond are masked.
            context: a frame before the first, given and never scored; (batch, frame) or (batch,). Through Pyro's own
                handlers and objectives pass it by position: their first parameter has the same name.
            initial_state: h_0, carried over from the frames before; zeros if None.
            covariates: c_1..c_T, (batch, time, K), for a model of ``covariate_dim`` K: what is known at every step.
            observed: True where x was seen, (batch, time) or (batch, time, *frame), for a model of ``missing="fill"``;
                None if all was. What was not seen is not scored, and may be NaN. One more step may stand in front, for
                a context.
            num_steps: T, where x is None.
            batch_shape: sequences to generate, where x is None; the last dimension is the plate's.

        Returns:
            The frames, (..., batch, time, *frame): x itself where all of it was observed.

        Raises:
            TypeError, ValueError: an argument of the wrong type, shape, dtype, device or (under validation) value.
        """
        self.register()
        run = prepare_inputs(
            self, x, lengths, context, initial_state, num_steps, batch_shape, covariates=covariates, observed=observed
        )
        path = PriorPath(self, run)
        with sequences(run.batch_size, path.batch_shape):
            for t in range(run.num_steps):
                with _mask(path, t):
                    path.record(pyro.sample(f"z_{t}", path.latent(t)))
                    path.record_frame(pyro.sample(f"x_{t}", path.frame(t), obs=path.observed(t)))
        return path.result(x)

    @runs_eagerly
    def guide(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        initial_state: State | None = None,
        *,
        covariates: Tensor | None = None,
        observed: Tensor | None = None,
        b: Tensor | None = None,
    ) -> Tensor:
        """The inference program: for each step z_t ~ q(z_t | h_{t-1}, b_t).

        Args:
            x: as for :meth:`model`, but always given; so are lengths, context and initial_state.
            lengths: real frames of each sequence, (batch,) integers.
            context: a frame before the first; (batch, frame) or (batch,).
            initial_state: h_0; each field (..., batch, hidden).
            covariates: c_1..c_T, (batch, time, K), as for :meth:`model`.
            observed: True where x was seen, (batch, time) or (batch, time, *frame), as for :meth:`model`.
            b: the :meth:`backward_states` of x, (time, batch, backward); computed if None.

        Returns:
            The latents, (..., batch, time, latent).

        Raises:
            TypeError: the program runs as the model of Pyro's SVI, with :meth:`model` as its guide.
            TypeError, ValueError: as for :meth:`model`.
        """
        refuse_swapped()
        self.register()
        run = prepare_inputs(self, x, lengths, context, initial_state, covariates=covariates, observed=observed)
        if b is None:
            b = self.scan_backward(cast(Tensor, run.read), run.mask, lengths)
        else:
            check_backward_states(b, run.num_steps, run.batch_size, self.backward_dim, self.emission_layer.weight)
        path = PosteriorPath(self, run, b)
        with sequences(run.batch_size, path.batch_shape):
            for t in range(run.num_steps):
                with _mask(path, t):
                    path.record(pyro.sample(f"z_{t}", path.latent(t)))
        return path.latents().movedim(0, -2)

    # Generation and files: functions of a network as its methods --------------------------------------------------

    generate = runs_eagerly(generation.generate)
    reconstruct = runs_eagerly(generation.reconstruct)
    interpolate = runs_eagerly(generation.interpolate)
    save = saving.save_net

    @classmethod
    def load(cls, folder: Path | str, *, name: str | None = None) -> Self:
        """The network that ``save`` wrote into ``folder``; see :func:`zf_pyro.saving.load_net`."""
        return saving.load_net(cls, folder, name=name)


def _mask(path: LatentPath, t: int) -> AbstractContextManager[Any]:
    """A mask over the sequences that have ended before step t."""
    return nullcontext() if path.masks is None else poutine.mask(mask=cast(torch.BoolTensor, path.masks[t]))
