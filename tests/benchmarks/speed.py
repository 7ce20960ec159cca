"""CPU seconds of training until a student reaches 95 % of its teacher, and what the same student keeps afterwards.

    POLICYKD_TEACHERS=... python tests/benchmarks/speed.py [--seeds 10] [--only TEXT ...] [--save FILE]

"Reached" is a selection score of 0.95 confirmed at once on 100 fresh episodes (`--until-retention 0.95`). Imports,
loading and evaluation are outside; environment steps, labels, gradient steps are inside, on one thread. The student is
then measured on 400 episodes that chose nothing. The last case trains eight students together until all have reached;
its retention is that of the worst of them.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from together import begin

import policykd as kd
from policykd import students
from policykd.evaluation import extend, extend_all, retention, student_t_interval
from policykd.home import first_steps, recipe_for
from policykd.rollouts import Panel

_CASES = (
    ("ppo/CartPole-v1_1", "cartpole-ppo", "64,64"),
    ("ppo/LunarLander-v2_1", "lunarlander-ppo", "64,64"),
    ("ppo/LunarLander-v2_1", "lunarlander-ppo", "16,16"),
    ("ppo/LunarLander-v2_1", "lunarlander-ppo", "8"),
    ("a2c/BipedalWalker-v3_1", None, "64,64"),
    ("ppo/LunarLander-v2_1", "lunarlander-ppo", "eight 64,64"),
)
"""Agents in rl_zoo3's layout, and those of the shelf that stand in for them where the folder is not there."""

_TARGET, _BUDGETS = 0.95, (1_000, 2_000, 5_000, 10_000)
_BATCH = 64
"""Rows in a step of the eight: a step of eight students costs by rows, where one student's costs by its calls."""


_FRESH = 1_900_000_000
"""First seed of the 400 episodes, beyond every seed that a run uses."""


@lru_cache(maxsize=1)
def fresh(teacher: kd.Policy) -> Callable[[list[kd.Policy]], float]:
    """The lowest retention of some students on 400 fresh episodes, the same for every student."""
    recipe = recipe_for(teacher, None)
    theirs, random = (extend(None, policy, recipe, 400, seed=_FRESH) for policy in (teacher, None))

    def kept(found: list[kd.Policy]) -> float:
        scores = extend_all({}, Panel(found), recipe, dict.fromkeys(range(len(found)), 400), seed=_FRESH)
        return min(retention(score, theirs, random).value or 0.0 for score in scores.values())

    return kept


def alone(teacher: kd.Policy, hidden: str, seed: int) -> tuple[float, float, int, list[kd.Policy]]:
    """CPU seconds of collecting and of learning, environment steps, and the student."""
    r = kd.distill(teacher, hidden=hidden, seed=seed, until_retention=_TARGET, episodes=1, max_episodes=1)
    late = float("inf") if r.stopped_by != "target" else 1.0
    assert r.policy is not None
    return r.cpu_seconds["collect"] * late, r.cpu_seconds["learn"], r.env_steps, [r.policy]


def eight(teacher: kd.Policy, seed: int, batch: int = _BATCH) -> tuple[float, float, int, list[kd.Policy]]:
    """The same of eight students together until the last of them has reached, each as it was when it had.

    Who has reached learns and acts no more; the others share all environments from then on.
    """
    lesson = begin(teacher, ["64,64"], range(100 * seed, 100 * seed + 8), 32, 10_000 * seed)
    lesson = replace(lesson, config=replace(lesson.config, batch_size=batch))
    recipe, steps = recipe_for(teacher, None), first_steps(lesson.config, teacher.spec)
    seeds = [base + 10_000 * seed for base in (1_000_000_000, 1_500_000_000)]
    theirs = [extend(None, teacher, recipe, n, seed=s) for s, n in zip(seeds, (50, 100), strict=True)]
    random = extend(None, None, recipe, 100, seed=seeds[0])
    reached: list[kd.Policy] = []
    look, last = 256.0, lesson.taken

    def able(cohort: students.Cohort, members: list[int], part: int) -> list[int]:
        """Those who are at the target on the selecting (part 0) or the confirming episodes."""
        wanted = dict.fromkeys(members, theirs[part].episodes)
        scores = extend_all({}, Panel([cohort]), recipe, wanted, seed=seeds[part])
        kept = {m: retention(score, theirs[part], random).value or 0.0 for m, score in scores.items()}
        return [m for m in members if kept[m] >= _TARGET]

    for cycle in range(4):
        end, made = (2 ** (cycle + 1) - 1) * steps, 0
        while last < end:
            for update in lesson.updates(2**cycle * steps, cycle, (2**cycle - 1) * steps, last, made):
                last = update.progress.env_steps
                made += 1
                if last < look:
                    continue
                look *= 2**0.25
                cohort = lesson.learner.averaged
                assert isinstance(cohort, students.Cohort)
                found = able(cohort, able(cohort, list(range(cohort.members)), 0), 1)
                reached += [cohort.member(m) for m in found]
                if len(reached) == 8:
                    lesson.collector.envs.close()
                    return lesson.clock.cpu["collect"], lesson.clock.cpu["learn"], last, reached
                if found:
                    stay = [m for m in range(cohort.members) if m not in found]
                    lesson = replace(lesson, learner=lesson.learner.kept(stay))
                    break
            else:
                last = end
    return float("inf"), lesson.clock.cpu["learn"], last, reached


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=Path, default=Path(os.environ.get("POLICYKD_TEACHERS", "agents")))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--batch", type=int, default=_BATCH, help="of the eight")
    parser.add_argument("--save", type=Path, help="rows as they come; what it holds is not run again")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| agent, student | CPU s to 0.95: median, worst | collect + learn | env steps: median, worst | ", end="")
    print("seeds there by " + ", ".join(f"{n:,}" for n in _BUDGETS) + " | retention on 400 episodes: mean, worst |")
    print("|---" * 6 + "|", flush=True)
    for zoo, shelf, hidden in _CASES:
        paths = [args.agents / name for name in (zoo, shelf) if name is not None and (args.agents / name).exists()]
        if not paths or (args.only and not any(part in f"{zoo} {hidden}" for part in args.only)):
            continue
        teacher = kd.load_teacher(paths[0])
        rows = [row(f"{zoo} {hidden} {seed}", teacher, hidden, seed, args) for seed in range(args.seeds)]
        kept = np.array([it["kept"] for it in rows])
        collect, learn, steps = (np.array([it[name] for it in rows]) for name in ("collect", "learn", "steps"))
        total = collect + learn
        by = ", ".join(str(int(np.sum((steps <= n) & np.isfinite(total)))) for n in _BUDGETS)
        print(
            f"| {zoo} {hidden} | {np.median(total):.2f}, {total.max():.2f} "
            f"| {np.median(collect):.2f} + {np.median(learn):.2f} | {np.median(steps):,.0f}, {steps.max():,} "
            f"| {by} | {student_t_interval(kept.tolist()) if len(kept) > 1 else kept[0]}, {kept.min():.3f} |",
            flush=True,
        )


def row(cell: str, teacher: kd.Policy, hidden: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One run and its 400 episodes, or the one that the file has."""
    if args.save is not None and args.save.exists():
        for line in args.save.read_text().splitlines():
            if (found := json.loads(line))["cell"] == cell:
                return found
    collect, learn, steps, found = (
        eight(teacher, seed, args.batch) if hidden.startswith("eight") else alone(teacher, hidden, seed)
    )
    made = {"cell": cell, "collect": collect, "learn": learn, "steps": steps, "kept": fresh(teacher)(found)}
    if args.save is not None:
        with args.save.open("a") as out:
            out.write(json.dumps(made) + "\n")
    return made


if __name__ == "__main__":
    main()
