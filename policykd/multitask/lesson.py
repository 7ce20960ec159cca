"""One task of several: who teaches it where, what is known of it, and how far the student is; it makes no update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor

from policykd.clock import Clock
from policykd.datasets import Ring
from policykd.errors import EnvError, UsageError
from policykd.losses import Objective, PairLoss, Term, Weighted, as_objective
from policykd.policy import Policy
from policykd.prediction import Batch, Prediction, Progress, map_obs
from policykd.recipe import Recipe
from policykd.rollouts import Collector
from policykd.selection import Selection

__all__ = ["Lesson", "Loss", "Own"]

Loss = Weighted | Objective | PairLoss


class Own(Clock):
    """The seconds of one task; ``whole``, the clock of all, counts them too."""

    def __init__(self, whole: Clock) -> None:
        super().__init__()
        self.whole = whole

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside the block as ``name``, on both."""
        with self.whole.phase(name), super().phase(name):
            yield


@dataclass(eq=False)
class Lesson:
    """One task: who teaches it where, what is known, and how far the student is."""

    name: str
    teacher: Policy
    recipe: Recipe
    collector: Collector
    memory: Ring
    exam: Selection
    clock: Own
    steps: int
    """Of the first cycle."""
    taken: int = 0
    short: bool = True
    kept: float | None = None
    """Retention at the last look."""
    known: Progress = field(default_factory=Progress)
    """Retention and agreement in this task, for a loss whose weights go by them."""

    def following(self, loss: Loss) -> Weighted:
        """The loss, told how far the student is in this task rather than in none."""
        return as_objective(partial(_told, loss=as_objective(loss), known=lambda: self.known))

    def collect(self, until: int, student: Policy | None, beta: float) -> None:
        """Take environment steps until there are ``until`` in all, and remember what was seen."""
        with self.clock.phase("collect"):
            while self.taken < until:
                missing = -(-(until - self.taken) // self.collector.envs.num_envs)
                rollout = self.collector.collect(missing, student, beta)
                self._refuse_nan(rollout.batch)
                self.memory.add(rollout.batch)
                self.taken += rollout.steps

    def refuse(self, terms: Mapping[str, Tensor]) -> None:
        """Raise UsageError ``multitask.loss`` where a term of this task is no number: its gradient is in all layers.

        Args:
            terms: of an Update, ``task/term``.
        """
        mine = {name: t for name, t in terms.items() if f"{name}/".startswith(f"{self.name}/")}
        bad = [name for name, t in mine.items() if not bool(t.isfinite().all())]
        if bad:
            raise UsageError(
                "multitask.loss",
                f"the loss {' and '.join(bad)}, which has become {float(mine[bad[0]].mean())}",
                "a finite number",
                "look at that task's loss, or lower --learning-rate",
            )

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


def _told(
    student: Prediction, batch: Batch, progress: Progress, *, loss: Weighted, known: Callable[[], Progress]
) -> dict[str, Tensor | Term]:
    own = known()
    return dict(loss.terms(student, batch, replace(progress, retention=own.retention, agreement=own.agreement)))
