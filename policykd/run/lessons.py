"""What ``multitask`` tells of itself, as charts and checkpoints of a run: a series a task, beside its student."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from policykd.evaluation import Interval, compare_on
from policykd.news import Look, Tick
from policykd.report import geometric_mean
from policykd.run.folder import Run
from policykd.run.tasks import places

__all__ = ["record_tasks"]

_POINTS = 500
"""Points of a chart over the whole budget, at most."""

_ROWS = 512
"""Newest rows of a memory on which student and teacher are compared."""


def record_tasks(run: Run, names: Iterable[str]) -> tuple[Callable[[str, Tick], None], Callable[[str, Look], None]]:
    """``(on_tick, on_look)`` for ``multitask``: a series a task; what all have in common in ``student``.

    Every look at all tasks ends with the geometric mean of their retentions and a checkpoint.

    >>> on_tick, on_look = record_tasks(run, teachers)                                          # doctest: +SKIP
    >>> run.finish(multitask(teachers, on_tick=on_tick, on_look=on_look))                       # doctest: +SKIP
    """
    series = places(names)
    began = time.perf_counter()
    due = dict.fromkeys(series, 0)
    looked: dict[str, Interval] = {}

    def on_tick(name: str, tick: Tick) -> None:
        update, steps = tick.update, tick.update.progress.env_steps
        if steps < due[name]:
            return
        due[name] = steps + tick.total_steps // _POINTS
        whole: Any = tick.learner.averaged
        kept = compare_on(tick.memory.newest(_ROWS).obs, whole.task(name), tick.collector.teacher)
        own = {t.removeprefix(f"{name}/"): float(v) for t, v in update.terms.items() if t.startswith(f"{name}/")}
        values = {
            "rollout/ep_rew_mean": tick.collector.recent_return,
            "rollout/ep_len_mean": tick.collector.recent_length,
            "distill/agreement": kept.agreement,
            "distill/kl": kept.kl,
            "distill/value_error": kept.value_error,
            **{f"distill/loss/{term}": value for term, value in own.items()},
        }
        run.scalars(steps, values, series[name])
        if name == next(iter(series)):
            common = {
                "train/loss": float(update.loss),
                "train/learning_rate": update.lr,
                "train/n_updates": update.step,
                "time/fps": steps / (time.perf_counter() - began),
            }
            run.scalars(steps, common)

    def on_look(name: str, look: Look) -> None:
        score = look.score
        values = {
            "eval/mean_reward": score.mean,
            "eval/mean_ep_length": score.mean_length,
            "eval/retention": look.retention.value,
        }
        run.scalars(look.env_steps, values, series[name])
        for who, other, kept in (("teacher", look.teacher, 1.0), ("random", look.random, 0.0)):
            lines = {
                "eval/mean_reward": other.mean,
                "eval/mean_ep_length": other.mean_length,
                "eval/retention": kept,
                "rollout/ep_rew_mean": other.mean,
            }
            run.reference(look.env_steps, lines, f"{series[name]}/{who}")
        looked[name] = look.retention
        if name == list(series)[-1] and len(looked) == len(series):
            run.scalars(look.env_steps, {"eval/retention": geometric_mean(looked).value})
            run.checkpoint(look.learner, look.env_steps)
            looked.clear()

    return on_tick, on_look
