"""What a front tells of itself, as charts and checkpoints of a run; it decides nothing and draws no random number."""

from __future__ import annotations

import time
from collections.abc import Callable

from policykd.evaluation import Kept, compare_on
from policykd.news import Look, Tick
from policykd.run.folder import Run

__all__ = ["closeness", "record"]

_POINTS = 500
"""Points of a chart over the whole budget, at most."""

_ROWS = 512
"""Newest rows of the memory on which student and teacher are compared."""


def closeness(tick: Tick) -> Kept:
    """Agreement, KL and value error of the student that acts, on the rows that were collected last."""
    return compare_on(tick.memory.newest(_ROWS).obs, tick.learner.averaged, tick.collector.teacher)


def record(run: Run) -> tuple[Callable[[Tick], None], Callable[[Look], None]]:
    """``(on_tick, on_look)`` for ``distill``: charts of the training, a checkpoint at every look.

    >>> on_tick, on_look = record(run)                                                         # doctest: +SKIP
    >>> run.finish(distill(teacher, student, env, on_tick=on_tick, on_look=on_look))           # doctest: +SKIP
    """
    began, due = time.perf_counter(), 0

    def on_tick(tick: Tick) -> None:
        nonlocal due
        update, steps = tick.update, tick.update.progress.env_steps
        if steps < due:
            return
        due = steps + tick.total_steps // _POINTS
        kept = closeness(tick)
        values = {
            "rollout/ep_rew_mean": tick.collector.recent_return,
            "rollout/ep_len_mean": tick.collector.recent_length,
            "time/fps": steps / (time.perf_counter() - began),
            "train/loss": float(update.loss),
            "train/learning_rate": update.lr,
            "train/n_updates": update.step,
            "distill/agreement": kept.agreement,
            "distill/kl": kept.kl,
            "distill/value_error": kept.value_error,
            **{f"distill/loss/{name}": float(term) for name, term in update.terms.items()},
            **{f"distill/weight/{name}": weight for name, weight in update.weights.items()},
        }
        run.scalars(steps, values)

    def on_look(look: Look) -> None:
        score = look.score
        run.scalars(
            look.env_steps,
            {
                "eval/mean_reward": score.mean,
                "eval/mean_ep_length": score.mean_length,
                "eval/retention": look.retention.value,
            },
        )
        for series, other, kept in (("teacher", look.teacher, 1.0), ("random", look.random, 0.0)):
            lines = {
                "eval/mean_reward": other.mean,
                "eval/mean_ep_length": other.mean_length,
                "eval/retention": kept,
                "rollout/ep_rew_mean": other.mean,
            }
            run.reference(look.env_steps, lines, series)
        run.checkpoint(look.learner, look.env_steps)

    return on_tick, on_look
