"""The Policy that teachers and students both are, and several of them in one; it never learns by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from policykd.distributions import masked
from policykd.errors import UnknownNameError, UsageError
from policykd.prediction import Batch, Obs, Origin, Prediction, Spec, map_obs, obs_tensor

__all__ = ["ActingLayers", "Blocks", "Many", "Policy", "Tasks", "Taught", "evaluating", "task_of"]

Blocks: TypeAlias = list[tuple[int, list[nn.Parameter]]]
"""Parameters in blocks, with how many members the first dimension of each tensor of a block counts."""


@dataclass(frozen=True, eq=False)
class ActingLayers:
    """The acting network of a policy as plain layers: what a student can start from (``students.from_teacher``).

    The observation, normalised and flattened (Dict: its keys side by side in the space's order; an image: through
    ``convolutions`` with ReLU after each), goes through ``linears`` with ``activation`` between them. The last gives
    logits, Q-values, mean or action, before tanh where the family squashes.
    """

    linears: tuple[nn.Linear, ...]
    activation: type[nn.Module] = nn.Tanh
    convolutions: tuple[nn.Conv2d, ...] = ()
    log_std: Tensor | nn.Linear | None = None
    """Of a diag_gaussian (``[d]``), or the head of a tanh_gaussian; None where it is something else."""
    clip_mean: float | None = None
    """Bound of a tanh_gaussian's mean before tanh (gSDE), None for none."""


class Taught(nn.Module, ABC):
    """What a Learner can teach: something with weights that has a word on every row of a batch."""

    @abstractmethod
    def read(self, batch: Batch) -> Prediction:
        """What it says about the rows of ``batch``, with a gradient to its weights."""


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """``module`` in evaluation mode; afterwards each part of it is in the mode that it was in."""
    # Module by module: whoever froze some of them in evaluation mode finds them as they were.
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def task_of(batch: Batch, tasks: Sequence[str]) -> int:
    """The number of the task whose rows a batch holds; masked rows have no say in it.

    Raises:
        UsageError: ``batch.task`` for a batch of several tasks, or one that names none.
    """
    number = batch.extra.get("task")
    if number is None:
        raise UsageError("batch.task", 'a batch without extra["task"]', "the task's number", "student.tag(name, batch)")
    counted = number
    if batch.mask is not None:
        counted = number[batch.mask.bool().reshape(len(number), -1).any(-1)]
    # A row that is masked out may have been blanked, its number too.
    low, high = (int(t) for t in (counted if len(counted) else number).aminmax())
    if low != high or not 0 <= low < len(tasks):
        raise UsageError(
            "batch.task",
            f"a batch of the tasks {low} to {high}",
            f"one task a batch, 0 to {len(tasks) - 1}",
            "give Learner.step a list of batches, one a task",
        )
    return low


class Tasks(Taught, ABC):
    """One student of several tasks: a view for each, which shares layers with the others; a batch holds one task.

    Attributes:
        names: the tasks' names, in the order of their numbers.
        views: who answers for each task.
    """

    names: tuple[str, ...]
    views: nn.ModuleList

    @abstractmethod
    def task(self, name: str) -> Taught:
        """The view of a task: what is learnt there is learnt here, and the other way round."""

    def number(self, name: str) -> int:
        """A task's number.

        Raises:
            UnknownNameError: ``name.task``.
        """
        if name not in self.names:
            raise UnknownNameError.of("task", name, self.names)
        return self.names.index(name)

    def tag(self, name: str, batch: Batch) -> Batch:
        """``batch`` with the task's number in ``extra["task"]``, ``[n]``: what ``read`` needs to know."""
        return batch.with_extra(task=torch.full((len(batch),), self.number(name)))

    def read(self, batch: Batch) -> Prediction:
        """What it says about a batch of one task, whose number every row of ``extra["task"]`` holds.

        Raises:
            UsageError: ``batch.task`` for a batch of several tasks, or one that names none.
        """
        said: Prediction = self.views[task_of(batch, self.names)](batch.obs)
        return said


class Policy(Taught):
    """Anything that looks at raw observations and says how to act: teachers and students alike.

    Attributes:
        spec: spaces and distribution family.
        origin: where it comes from.
        normaliser: Normaliser of raw observations, a KeyedNormaliser, or None.
    """

    def __init__(self, spec: Spec, origin: Origin | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.origin = origin or Origin()
        self.normaliser: nn.Module | None = None
        self._generator = torch.Generator().manual_seed(0)

    @abstractmethod
    def forward(self, obs: Obs, state: Any = None, start: Tensor | None = None, *, values: bool = True) -> Prediction:
        """Prediction for raw observations ``[*b, ...]``.

        Args:
            state, start: recurrent state and which rows begin an episode; None for policies without memory.
            values: False leaves ``value``, ``q`` and ``features`` out where they cost extra (acting needs none).
        """

    def read(self, batch: Batch) -> Prediction:
        """What it says about the observations of ``batch``."""
        said: Prediction = self(batch.obs)
        return said

    @property
    @abstractmethod
    def acting_parameters(self) -> int:
        """Numbers in the network that acts: no critic, value head, standard deviation or normaliser."""

    @property
    def acting_layers(self) -> ActingLayers | None:
        """The acting network as plain layers, or None where it is not made of such."""
        return None

    def label(self, obs: Obs) -> Prediction:
        """The frozen prediction that a student is taught with: no gradient, evaluation mode."""
        with torch.no_grad():
            return self(obs)

    def seed(self, seed: int) -> None:
        """Seed the draws of ``predict(deterministic=False)``; a policy starts with seed 0, apart from all others."""
        self._generator.manual_seed(seed)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Any]:
        """Actions for the environment, with the signature of SB3's ``model.predict``.

        Args:
            observation: one raw observation, or a batch of them along a first axis.
            state, episode_start: recurrent state and episode starts; unused by policies without memory.
            deterministic: the distribution's mode instead of a draw.
            action_masks: allowed actions (True), for discrete actions.

        Returns:
            Actions in environment units (batched like ``observation``), and the next state.
        """
        batched = self.spec.is_batched(observation)
        obs: Any = {k: np.asarray(v) for k, v in observation.items()} if isinstance(observation, dict) else None
        obs = obs_tensor(obs) if obs is not None else obs_tensor(np.asarray(observation))
        if not batched:
            obs = map_obs(obs, lambda t: t.unsqueeze(0))
        start = None if episode_start is None else torch.as_tensor(np.atleast_1d(episode_start))
        with torch.no_grad():
            said = self(obs, state, start, values=False)
            dist = said.dist
            if action_masks is not None:
                dist = masked(dist, torch.as_tensor(np.asarray(action_masks)).reshape(len(dist.mode()), -1))
            action = dist.mode() if deterministic else dist.sample(self._generator)
        actions = self.spec.to_env(action)
        return (actions if batched else actions[0]), said.state


class Many(Policy, ABC):
    """Several policies of one spec in one: asked as a whole, its predictions have a first dimension of members."""

    @property
    @abstractmethod
    def members(self) -> int:
        """How many there are."""

    @abstractmethod
    def answer(self, obs: Obs, who: Tensor) -> Prediction:
        """What member ``who[i]`` says about row i: ``[n, ...]`` and ``[n]`` (long) to leading dimensions ``[n]``.

        Values, Q and features are left out.
        """

    @abstractmethod
    def blocks(self) -> Blocks:
        """The trained parameters; the blocks' members are all members, in their order."""

    @abstractmethod
    def kept(self, members: Sequence[int]) -> Many:
        """Some of the members, in ascending order, with numbers of their own."""
