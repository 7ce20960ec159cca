"""Twelve students together against one alone: the same environment steps in all, the same updates of each student.

    POLICYKD_TEACHERS=... python tests/benchmarks/together.py

CPU seconds on one thread, evaluation outside; the two are run in turns, and the ratios are of one turn each.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
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


def spent(teacher: kd.Policy, shapes: Sequence[str], seeds: int, steps: int, num_envs: int) -> tuple[float, float, int]:
    """CPU seconds of collecting and of learning, and updates, for students of these shapes taught together."""
    clock, config = Clock(), FrontierConfig()
    recipe = recipe_for(teacher, None)
    with clock.phase("collect"):
        envs = make(recipe, num_envs)
        collector = Collector(envs, teacher, seed=0, values=False)
        memory = Ring(config.memory, seed=0, extra=False)
        first = collector.collect(WARM_UP // num_envs)
        memory.add(first.batch)
    with clock.phase("learn"):
        made = [students.suited(teacher, shape, seed=k) for shape in shapes for k in range(seeds)]
        for student in made:
            students.adopt_scales(student, teacher, first.batch)
        objective = default_objective(teacher.spec, first.batch.target, with_value=False, value_weight=0.0)
        taught = made[0] if len(made) == 1 else students.Cohort(made)
        learner = kd.Learner(taught, objective, lr=cosine(config.learning_rate), average=config.average)
    actor = None if len(made) == 1 else (lambda: Panel([learner.averaged]))
    for _ in interact(
        learner,
        collector,
        memory,
        config,
        steps=steps,
        beta=mixture(config),
        actor=actor,
        taken=first.steps,
        clock=clock,
    ):
        pass
    envs.close()
    return clock.cpu["collect"], clock.cpu["learn"], learner.updates


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
