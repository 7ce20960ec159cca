"""Is a frontier honest? Forty runs, and the chosen student of each played again for ten times the episodes.

    POLICYKD_TEACHERS=... python tests/benchmarks/honest.py

Prints how many of the fresh estimates lie in the stated interval, and how many at or above its lower bound.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

import policykd as kd
from policykd.evaluation import evaluate, retention
from policykd.home import recipe_for

_AGENTS = (
    ("ppo/CartPole-v1_1", "cartpole-ppo"),
    ("dqn/Acrobot-v1_1", "acrobot-a2c"),
    ("ddpg/Pendulum-v1_1", "pendulum-sac"),
)
_FRESH = 1_900_000_000  # beyond every seed that a run uses


def main() -> None:
    """One line a run, then the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=Path, default=Path(os.environ.get("POLICYKD_TEACHERS", "agents")))
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), help="K N: every N-th run from run K")
    args = parser.parse_args()
    torch.set_num_threads(1)
    paths = [next(args.agents / n for n in pair if (args.agents / n).exists()) for pair in _AGENTS]
    inside = above = chosen = 0
    print("| agent, seed | chosen | stated | fresh | episodes | inside | at or above the lower bound |")
    print("|---" * 7 + "|", flush=True)
    for run in range(args.part[0], args.runs, args.part[1]):
        teacher = kd.load_teacher(paths[run % len(paths)])
        recipe = recipe_for(teacher, None)
        found = kd.frontier(teacher, seed=run, workers=1)
        name = f"{recipe.env_id}, {run}"
        if found.chosen is None:
            print(f"| {name} | none | {found.best.retention} | - | - | - | - |", flush=True)
            continue
        stated, policy = found.best.retention, found.policy
        episodes = 10 * found.best.student.episodes
        seed = _FRESH + 50_000 * run
        # Random actions vary little against the gap, and on Acrobot every one of their episodes is 500 steps long.
        wanted = ((policy, episodes), (teacher, episodes), (None, 400))
        fresh = retention(*(evaluate(p, recipe, n, seed=seed, workers=1) for p, n in wanted)).value
        assert fresh is not None and stated.low is not None and stated.high is not None
        chosen += 1
        inside += stated.low <= fresh <= stated.high
        above += fresh >= stated.low
        said = f"{stated} | {fresh:.4f} | {episodes}"
        print(
            f"| {name} | {found.chosen} | {said} | {stated.low <= fresh <= stated.high} | {fresh >= stated.low} |",
            flush=True,
        )
    print(f"\n{chosen} runs chose a student; inside {inside}, at or above the lower bound {above}.")


if __name__ == "__main__":
    main()
