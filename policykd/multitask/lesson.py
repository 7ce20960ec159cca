"""One task of several: who teaches it where, what is known of it, and how far the student is; it makes no update."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from policykd.datasets import Ring
from policykd.errors import EnvError
from policykd.policy import Policy
from policykd.prediction import Batch, map_obs
from policykd.recipe import Recipe
from policykd.rollouts import Collector
from policykd.selection import Selection

__all__ = ["Lesson"]


@dataclass(eq=False)
class Lesson:
    """One task: who teaches it where, what is known, and how far the student is."""

    name: str
    teacher: Policy
    recipe: Recipe
    collector: Collector
    memory: Ring
    exam: Selection
    steps: int
    """Of the first cycle."""
    taken: int = 0
    short: bool = True
    kept: float | None = None
    """Retention at the last look."""

    def collect(self, until: int, student: Policy | None, beta: float) -> None:
        """Take environment steps until there are ``until`` in all, and remember what was seen."""
        while self.taken < until:
            missing = -(-(until - self.taken) // self.collector.envs.num_envs)
            rollout = self.collector.collect(missing, student, beta)
            self._refuse_nan(rollout.batch)
            self.memory.add(rollout.batch)
            self.taken += rollout.steps

    def _refuse_nan(self, batch: Batch) -> None:
        """One task's NaN would be in the layers of all."""
        found = []

        def see(t: Tensor) -> Tensor:
            found.append(bool(t.isnan().any()))
            return t

        map_obs(batch.obs, see)
        where = len(found)
        batch.target.map(see)
        if any(found):
            what = "observations" if any(found[:where]) else "labels"
            raise EnvError(
                "multitask.nan",
                f"{what} of {self.name} that are NaN",
                "numbers",
                "look at its environment and teacher",
            )
