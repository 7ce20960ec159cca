"""CPU seconds of training (collect + learn, one thread) to 95 % of the teacher's return, and what the end keeps.

    python tests/benchmarks/speed.py [--agents DIR] [--seeds 5] [--only TEXT ...] [--no-final]

"Reached" is a selection score of 0.95 confirmed at once on 100 fresh episodes (`--until-retention 0.95`). Imports,
loading and evaluation are outside; environment steps, labels, gradient steps are inside. The same student is then
trained anew to the default end and measured on 400 fresh episodes.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path

import torch

import policykd as kd

_CASES = (
    ("ppo/CartPole-v1_1", "cartpole-ppo", "64,64"),
    ("ppo/LunarLander-v2_1", "lunarlander-ppo", "64,64"),
    ("ppo/LunarLander-v2_1", "lunarlander-ppo", "8"),
    ("a2c/BipedalWalker-v3_1", None, "64,64"),
)
"""Agents in rl_zoo3's layout, and those of the shelf that stand in for them where the folder is not there."""


def spent(report: object) -> float:
    """CPU seconds of collecting and learning."""
    return sum(report.cpu_seconds.get(phase, 0.0) for phase in ("collect", "learn"))  # type: ignore[attr-defined]


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=Path, default=Path(os.environ.get("POLICYKD_TEACHERS", "agents")))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--no-final", action="store_true", help="leave out the runs to the default end")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| agent, student | CPU s to 0.95: median (all) | env steps | default end: CPU s | retention on 400 episodes |"
    )
    print("|---" * 5 + "|", flush=True)
    for zoo, shelf, hidden in _CASES:
        paths = [args.agents / name for name in (zoo, shelf) if name is not None and (args.agents / name).exists()]
        if not paths or (args.only and not any(part in f"{zoo} {hidden}" for part in args.only)):
            continue
        teacher = kd.load_teacher(paths[0])
        reached, steps, ends, kept = [], [], [], []
        for seed in range(args.seeds):
            fast = kd.distill(teacher, hidden=hidden, seed=seed, until_retention=0.95, max_episodes=100)
            reached.append(spent(fast) if fast.stopped_by == "target" else float("inf"))
            steps.append(fast.env_steps)
            if not args.no_final:
                full = kd.distill(teacher, hidden=hidden, seed=seed, episodes=400)
                ends.append(spent(full))
                kept.append(str(full.retention))
        every = ", ".join(f"{s:.2f}" for s in reached)
        end = f"{statistics.median(ends):.1f}" if ends else "-"
        print(
            f"| {zoo} {hidden} | {statistics.median(reached):.2f} ({every}) | {statistics.median(steps):,.0f} "
            f"| {end} | {'; '.join(kept) or '-'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
