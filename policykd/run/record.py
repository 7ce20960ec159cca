"""What a front tells of itself, as charts and checkpoints of a run; it decides nothing and draws no random number."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor

from policykd.evaluation import Kept, compare_on
from policykd.news import FrontierLook, FrontierTick, Look, Tick
from policykd.reinforced import acting
from policykd.report import Stage
from policykd.run.folder import Run
from policykd.run.sizes import place, sizes_in
from policykd.run.via import place_of, save_assistant
from policykd.students import Cohort

__all__ = ["COMPARED", "Due", "closeness", "progress", "record", "record_frontier", "record_via", "references"]

_POINTS = 500
"""Points of a chart over the whole budget, at most."""

COMPARED = 512
"""Newest rows of the memory on which student and teacher are compared."""


def closeness(tick: Tick) -> Kept:
    """Agreement, KL and value error of the student that acts, on the rows that were collected last."""
    # A critic that learns from reward is no estimate of the teacher's value: only who acts is compared.
    return compare_on(tick.memory.newest(COMPARED).obs, acting(tick.learner.averaged), tick.collector.teacher)


class Due:
    """Lets through as many ticks as a chart has points."""

    def __init__(self) -> None:
        self._at = 0

    def now(self, tick: Tick | FrontierTick) -> bool:
        """Whether this one is let through."""
        steps = tick.update.progress.env_steps
        if steps < self._at:
            return False
        self._at = steps + tick.total_steps // _POINTS
        return True


def progress(tick: Tick | FrontierTick, began: float) -> dict[str, float | None]:
    """What every kind of training tells alike."""
    return {
        "rollout/ep_rew_mean": tick.collector.recent_return,
        "rollout/ep_len_mean": tick.collector.recent_length,
        "time/fps": tick.update.progress.env_steps / (time.perf_counter() - began),
        "train/learning_rate": tick.update.lr,
        "train/n_updates": tick.update.step,
    }


def references(run: Run, look: Look | FrontierLook, below: str = "") -> None:
    """What a look's student is compared with: the series ``teacher`` and ``random``, of a task ``below`` its folder."""
    for series, other, kept in (("teacher", look.teacher, 1.0), ("random", look.random, 0.0)):
        lines = {
            "eval/mean_reward": other.mean,
            "eval/mean_ep_length": other.mean_length,
            "eval/retention": kept,
            "rollout/ep_rew_mean": other.mean,
        }
        run.reference(look.env_steps, lines, f"{below}/{series}" if below else series)


def record(run: Run) -> tuple[Callable[[Tick], None], Callable[[Look], None]]:
    """``(on_tick, on_look)`` for ``distill``: charts of the training, a checkpoint at every look.

    >>> on_tick, on_look = record(run)                                                         # doctest: +SKIP
    >>> run.finish(distill(teacher, student, env, on_tick=on_tick, on_look=on_look))           # doctest: +SKIP
    """
    return record_via(run)[:2]


def record_via(run: Run) -> tuple[Callable[[Tick], None], Callable[[Look], None], Callable[[Stage], None]]:
    """``(on_tick, on_look, on_stage)`` for ``distill`` with assistants: as ``record``, a series for each of them.

    An assistant is saved once it is measured; checkpoints are of the student alone.

    >>> on_tick, on_look, on_stage = record_via(run)                                           # doctest: +SKIP
    >>> distill(teacher, via=["64,64"], on_tick=on_tick, on_look=on_look, on_stage=on_stage)   # doctest: +SKIP
    """
    began, due, series = time.perf_counter(), Due(), "student"

    def on_stage(stage: Stage) -> None:
        nonlocal series
        series = place_of(stage)
        if stage.report is not None:
            save_assistant(stage, run.folder)

    def on_tick(tick: Tick) -> None:
        update, steps = tick.update, tick.update.progress.env_steps
        if not due.now(tick):
            return
        kept = closeness(tick)
        values = {
            **progress(tick, began),
            "train/loss": float(update.loss),
            "distill/agreement": kept.agreement,
            "distill/kl": kept.kl,
            "distill/value_error": kept.value_error,
            **{f"distill/loss/{name}": float(term) for name, term in update.terms.items()},
            **{f"distill/weight/{name}": float(weight) for name, weight in update.weights.items()},
        }
        run.scalars(steps, values, series)

    def on_look(look: Look) -> None:
        score = look.score
        values = {
            "eval/mean_reward": score.mean,
            "eval/mean_ep_length": score.mean_length,
            "eval/retention": look.retention.value,
        }
        run.scalars(look.env_steps, values, series)
        references(run, look)
        if series == "student":
            run.checkpoint(look.learner, look.env_steps)

    return on_tick, on_look, on_stage


def record_frontier(run: Run) -> tuple[Callable[[FrontierTick], None], Callable[[FrontierLook], None]]:
    """``(on_tick, on_look)`` for ``frontier``: a series a size, beside its students; what all share in ``frontier``.

    >>> on_tick, on_look = record_frontier(run)                                                # doctest: +SKIP
    >>> run.finish(frontier(teacher, on_tick=on_tick, on_look=on_look))                        # doctest: +SKIP
    """
    began, due = time.perf_counter(), Due()

    def on_tick(tick: FrontierTick) -> None:
        if not due.now(tick):
            return
        steps = tick.update.progress.env_steps
        run.scalars(steps, progress(tick, began), "frontier")
        if tick.learner is not None and isinstance(tick.learner.student, Cohort):
            for size, loss in _loss_by_size(tick.learner.student, tick.update.loss).items():
                run.scalars(steps, {"train/loss": loss}, place(size))

    def on_look(look: FrontierLook) -> None:
        for size in dict.fromkeys(size for size, *_ in look.measured):
            mine = sorted(
                ((score, kept) for name, _, score, kept in look.measured if name == size),
                key=lambda x: x[0].mean if x[1].value is None else x[1].value,
            )
            score, kept = mine[-1]
            values = {
                "eval/mean_reward": score.mean,
                "eval/mean_ep_length": score.mean_length,
                "eval/retention": kept.value,
                "eval/retention_worst_seed": mine[0][1].value,
            }
            run.scalars(look.env_steps, values, place(size))
        references(run, look)

    return on_tick, on_look


def _loss_by_size(cohort: Cohort, loss: Tensor) -> dict[str, float]:
    """Mean of the members' losses, ``[members]``, over the seeds of each size."""
    found, first = {}, 0
    for size, members in sizes_in(cohort):
        found[size] = float(loss[first : first + members].mean())
        first += members
    return found
