"""Twelve students together against one alone: the same environment steps in all, the same updates of each student.

    POLICYKD_TEACHERS=... python tests/benchmarks/together.py

CPU seconds on one thread, evaluation outside; the two are run in turns, after a short run that is not counted, and the
ratios are of one turn each.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import policykd as kd
from policykd import students
from policykd.clock import Clock
from policykd.config import FrontierConfig
from policykd.datasets import Ring
from policykd.home import WARM_UP, recipe_for
from policykd.losses.defaults import default_objective
from policykd.rollouts import Collector, Panel, make
from policykd.supervised import cosine, interact, mixture

_AGENTS = ("ppo/LunarLander-v2_1", "lunarlander-ppo")


@dataclass(frozen=True, eq=False)
class Lesson:
    """Students about to be taught: what ``interact`` needs."""

    learner: kd.Learner
    collector: Collector
    memory: Ring
    clock: Clock
    config: FrontierConfig
    taken: int

    def updates(
        self, steps: int, cycle: int = 0, done: int = 0, taken: int | None = None, made: int = 0
    ) -> Iterator[kd.Update]:
        """One cycle; several students take turns acting."""
        many = isinstance(self.learner.student, students.Cohort)
        return interact(
            self.learner,
            self.collector,
            self.memory,
            self.config,
            steps=steps,
            beta=mixture(self.config, cycle),
            actor=(lambda: Panel([self.learner.averaged])) if many else None,
            done=done,
            taken=self.taken if taken is None else taken,
            made=made,
            clock=self.clock,
        )


def begin(teacher: kd.Policy, shapes: Sequence[str], seeds: Sequence[int], num_envs: int, seed: int = 0) -> Lesson:
    """A student of each shape and seed, the warm-up collected."""
    clock, config = Clock(), FrontierConfig()
    with clock.phase("collect"):
        collector = Collector(make(recipe_for(teacher, None), num_envs), teacher, seed=seed, values=False)
        memory = Ring(config.memory, seed=seed, extra=False)
        first = collector.collect(WARM_UP // num_envs)
        memory.add(first.batch)
    with clock.phase("learn"):
        made = [students.suited(teacher, shape, seed=k) for shape in shapes for k in seeds]
        for student in made:
            students.adopt_scales(student, teacher, first.batch)
        objective = default_objective(teacher.spec, first.batch.target, with_value=False, value_weight=0.0)
        taught = made[0] if len(made) == 1 else students.Cohort(made)
        learner = kd.Learner(taught, objective, lr=cosine(config.learning_rate), average=config.average)
    return Lesson(learner, collector, memory, clock, config, first.steps)


def spent(teacher: kd.Policy, shapes: Sequence[str], seeds: int, steps: int, num_envs: int) -> tuple[float, float, int]:
    """CPU seconds of collecting and of learning, and updates, for students of these shapes taught together."""
    lesson = begin(teacher, shapes, range(seeds), num_envs)
    for _ in lesson.updates(steps):
        pass
    lesson.collector.envs.close()
    return lesson.clock.cpu["collect"], lesson.clock.cpu["learn"], lesson.learner.updates


def main() -> None:
    """Print both ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=Path, default=Path(os.environ.get("POLICYKD_TEACHERS", "agents")))
    parser.add_argument("--shapes", nargs="*", default=["8", "16,16", "32,32", "64,64"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=18_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    teacher = kd.load_teacher(next(args.agents / n for n in _AGENTS if (args.agents / n).exists()))
    spent(teacher, ["64,64"], 1, 1_000, 16)
    rows = []
    print("| turn | one: collect + learn s | together: collect + learn s | ratio | learn alone | updates each |")
    print("|---" * 6 + "|")
    for turn in range(args.repeats):
        one = spent(teacher, ["64,64"], 1, args.steps, 16)
        many = spent(teacher, args.shapes, args.seeds, args.steps, 32)
        ratio, learn = sum(many[:2]) / sum(one[:2]), many[1] / one[1]
        rows.append((ratio, learn))
        print(
            f"| {turn} | {one[0]:.2f} + {one[1]:.2f} | {many[0]:.2f} + {many[1]:.2f} | {ratio:.2f} | {learn:.2f} "
            f"| {one[2]}, {many[2]} |",
            flush=True,
        )
    middle, low, high = (np.round(f(rows, axis=0), 2) for f in (np.median, np.min, np.max))
    print(f"\ncollect + learn {middle[0]} [{low[0]}, {high[0]}]; learn alone {middle[1]} [{low[1]}, {high[1]}]")


if __name__ == "__main__":
    main()
