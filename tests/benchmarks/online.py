"""The loop of three lines against a plain gym.make loop: one environment, one student, what it keeps as it goes.

    POLICYKD_TEACHERS=... python tests/benchmarks/online.py --save runs/online.jsonl [--only default:0 default:1 ...]
    POLICYKD_TEACHERS=... python tests/benchmarks/online.py --save runs/online.jsonl --table

A run is VARIANT:SEED; finished ones are kept as JSON lines, and a second call goes on where the first one stopped. The
student acts from the first step on, the teacher only labels. At the marks the published student, the teacher and the
random policy play the same 100 episodes, which nothing was learnt from; nothing chose a seed or a moment.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

import policykd as kd
from policykd.evaluation import retention, student_t_interval

AGENT, ENV = "ppo/LunarLander-v2_1", "LunarLander-v3"
MARKS = (2_500, 5_000, 10_000, 20_000, 30_000)
EPISODES, FRESH = 100, 1_000_000
"""Episodes at a mark, and their first seed: no environment of a run is reset with such a seed."""
VARIANTS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "default": ((64, 64), {}),
    "16,16": ((16, 16), {}),
    "linear": ((), {}),
    "reservoir": ((64, 64), {"memory": "reservoir", "capacity": 10_000}),
    "fifo of 10,000": ((64, 64), {"capacity": 10_000}),
    "learning rate 1e-3": ((64, 64), {"learning_rate": 1e-3}),
    "learning rate 1e-2": ((64, 64), {"learning_rate": 1e-2}),
    "no average": ((64, 64), {"average": 0.0}),
    "average 0.999": ((64, 64), {"average": 0.999}),
    "batch of 64": ((64, 64), {"batch_size": 64}),
    "budget 2 ms": ((64, 64), {"budget_ms": 2.0}),
}


def run(teacher: kd.Policy, variant: str, seed: int) -> tuple[dict[int, kd.Policy], dict[str, Any]]:
    """The published student at each mark, and what the run cost."""
    hidden, how = VARIANTS[variant]
    student = kd.students.mlp(teacher.spec, hidden or "linear", seed=seed)
    found: dict[int, kd.Policy] = {}
    begun, inside = time.thread_time(), 0.0
    online = kd.OnlineDistiller(student, teacher, seed=seed, **how)
    env = gym.make(ENV)
    obs, _ = env.reset(seed=seed)
    for step in range(1, MARKS[-1] + 1):
        at = time.thread_time()
        action = online.act(obs)
        inside += time.thread_time() - at
        after, reward, terminated, truncated, _ = env.step(action)
        at = time.thread_time()
        online.observe(obs, reward=float(reward), done=terminated or truncated)
        online.update()
        inside += time.thread_time() - at
        obs = env.reset()[0] if terminated or truncated else after
        if step in MARKS:
            found[step] = online.published.policy
    status = online.status
    spent = time.thread_time() - begun
    return found, {"cpu": spent, "inside": inside, "updates": status.updates, "published": status.published}


def measured(teacher: kd.Policy, found: dict[int, kd.Policy]) -> dict[int, float]:
    """Retention of each on the same fresh episodes."""
    play = [kd.evaluate(policy, ENV, EPISODES, seed=FRESH, workers=1) for policy in (teacher, None)]
    kept = {m: retention(kd.evaluate(p, ENV, EPISODES, seed=FRESH, workers=1), *play) for m, p in found.items()}
    return {mark: float(interval.value) for mark, interval in kept.items() if interval.value is not None}


def table(rows: list[dict[str, Any]]) -> None:
    """Retention at the marks, over seeds."""
    print("| run | seeds | " + " | ".join(f"{m:,}" for m in MARKS) + " | at least 0.95 at the end | updates | CPU s |")
    print("|---" * (len(MARKS) + 5) + "|")
    for variant in VARIANTS:
        mine = [r for r in rows if r["variant"] == variant]
        if not mine:
            continue
        cells = []
        for mark in MARKS:
            values = [r["retention"][str(mark)] for r in mine]
            text = f"{sum(values) / len(values):.3f}"
            if len(values) > 1:
                interval = student_t_interval(values)
                text += f" [{interval.low:.3f}, {interval.high:.3f}], worst {min(values):.3f}"
            cells.append(text)
        good = sum(r["retention"][str(MARKS[-1])] >= 0.95 for r in mine)
        cpu = [(r["cpu"], r["inside"]) for r in mine]
        mean, inside = (sum(x) / len(mine) for x in zip(*cpu, strict=True))
        print(
            f"| {variant} | {len(mine)} | {' | '.join(cells)} | {good} of {len(mine)} "
            f"| {mine[0]['updates']:,} | {mean:.0f}, of these {inside:.0f} in policykd |"
        )


def main() -> None:
    """Do what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=Path, default=Path(os.environ.get("POLICYKD_TEACHERS", "agents")))
    parser.add_argument("--only", nargs="*", default=[f"default:{seed}" for seed in range(8)])
    parser.add_argument("--save", type=Path, required=True)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in args.save.read_text().splitlines()] if args.save.exists() else []
    if not args.table:
        teacher = kd.load_teacher(args.agents / AGENT)
        for name in args.only:
            variant, seed = name.rsplit(":", 1)
            if any((r["variant"], r["seed"]) == (variant, int(seed)) for r in rows):
                continue
            found, cost = run(teacher, variant, int(seed))
            row = {"variant": variant, "seed": int(seed), "retention": measured(teacher, found), **cost}
            with args.save.open("a") as out:
                out.write(json.dumps(row) + "\n")
            rows.append(json.loads(json.dumps(row)))
    table(rows)


if __name__ == "__main__":
    main()
