"""What ``multitask`` tells of itself, as charts and checkpoints of a run: a series a task, beside its student."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from policykd.evaluation import Interval, compare_on
from policykd.news import Look, Tick
from policykd.report import geometric_mean
from policykd.run.folder import Run
from policykd.run.record import COMPARED, Due, progress, references
from policykd.run.tasks import places

__all__ = ["record_tasks"]


def record_tasks(run: Run, names: Iterable[str]) -> tuple[Callable[[str, Tick], None], Callable[[str, Look], None]]:
    """``(on_tick, on_look)`` for ``multitask``: a series a task; what all have in common in ``student``.

    Every look at all tasks ends with the geometric mean of their retentions and a checkpoint.

    >>> on_tick, on_look = record_tasks(run, teachers)                                          # doctest: +SKIP
    >>> run.finish(multitask(teachers, on_tick=on_tick, on_look=on_look))                       # doctest: +SKIP
    """
    series = places(names)
    began = time.perf_counter()
    due = {name: Due() for name in series}
    looked: dict[str, Interval] = {}

    def on_tick(name: str, tick: Tick) -> None:
        update, steps = tick.update, tick.update.progress.env_steps
        if not due[name].now(tick):
            return
        whole: Any = tick.learner.averaged
        kept = compare_on(tick.memory.newest(COMPARED).obs, whole.task(name), tick.collector.teacher)
        own = {t.removeprefix(f"{name}/"): float(v) for t, v in update.terms.items() if t.startswith(f"{name}/")}
        counts = {t.removeprefix(f"{name}/"): float(w) for t, w in update.weights.items() if t.startswith(f"{name}/")}
        told = progress(tick, began)
        values = {
            **{tag: told.pop(tag) for tag in ("rollout/ep_rew_mean", "rollout/ep_len_mean")},
            "distill/agreement": kept.agreement,
            "distill/kl": kept.kl,
            "distill/value_error": kept.value_error,
            **{f"distill/loss/{term}": value for term, value in own.items()},
            **{f"distill/weight/{term}": value for term, value in counts.items()},
        }
        run.scalars(steps, values, series[name])
        if name == next(iter(series)):
            run.scalars(steps, {**told, "train/loss": float(update.loss)})

    def on_look(name: str, look: Look) -> None:
        score = look.score
        values = {
            "eval/mean_reward": score.mean,
            "eval/mean_ep_length": score.mean_length,
            "eval/retention": look.retention.value,
        }
        run.scalars(look.env_steps, values, series[name])
        references(run, look, series[name])
        looked[name] = look.retention
        if name == list(series)[-1] and len(looked) == len(series):
            run.scalars(look.env_steps, {"eval/retention": geometric_mean(looked).value})
            run.checkpoint(look.learner, look.env_steps)
            looked.clear()

    return on_tick, on_look
