"""Students that pass an imperfect teacher: imitation and reward at once, beside either of them alone.

    POLICYKD_TEACHERS=... python tests/benchmarks/reinforced.py [--seeds 5] [--save FILE] [--limit 1] [--only a2c/Lunar]

Each row is a run of ``policykd distill`` at its defaults, student 64,64, 100 reported episodes that selected nothing,
300,000 environment steps (imitation alone stops when it is as good as its teacher; BipedalWalker, whose episodes are
long, is looked at twice). Reward alone is PPO in the same code: no imitation, no values of the teacher, a weight of 0.
A cell is the mean over training seeds with a Student-t interval. Seeds 10 to 14: the defaults were chosen on seeds 0
and 1 of the same agents. ``--save`` keeps rows as they come and takes them up again; ``--limit`` makes that many new.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import policykd as kd
from policykd.evaluation import student_t_interval

STEPS, FIRST_SEED = 300_000, 10
PPO: dict[str, Any] = {"imitate": 0, "critic_first": 0, "teacher_weight": 0.0, "value_weight": 0.0}
METHODS: dict[str, dict[str, Any]] = {
    "ppd": {"method": "ppd", "steps": STEPS},
    "kickstart": {"method": "kickstart", "steps": STEPS},
    "reward alone": {**PPO, "method": "ppd", "steps": STEPS},
    "imitation": {"method": "dagger"},
}
CELLS = [(f"{algo}/LunarLander-v2_1", name, how) for algo in ("a2c", "dqn") for name, how in METHODS.items()]
CELLS.append(("a2c/BipedalWalker-v3_1", "ppd", {"method": "ppd", "steps": STEPS, "looks": 2}))

Row = dict[str, Any]


def rows(
    wanted: list[tuple[str, Callable[[], Row]]], save: Path | None = None, limit: int | None = None
) -> Iterator[Row]:
    """The rows that are there, and those that are made now, at most ``limit`` of them."""
    done: dict[str, Row] = {}
    if save is not None and save.exists():
        done = {row["cell"]: row for row in map(json.loads, save.read_text().splitlines())}
    for name, make in wanted:
        if name not in done and limit != 0:
            done[name] = {"cell": name, **make()}
            limit = None if limit is None else limit - 1
            if save is not None:
                with save.open("a") as out:
                    out.write(json.dumps(done[name]) + "\n")
        if name in done:
            yield done[name]


def figures(report: dict[str, Any]) -> Row:
    """What a row keeps of a report."""
    learnt = sum(report["cpu_seconds"].get(phase, 0.0) for phase in ("load", "collect", "learn"))
    kept = ("retention", "retention_ci", "agreement", "env_steps", "evaluations", "stopped_by", "seed")
    return {
        **{name: report[name] for name in kept},
        **{name: report[name]["return_mean"] for name in ("student", "teacher", "random")},
        "episodes": report["student"]["episodes"],
        "cpu": round(learnt, 1),
        "curve": [[look["env_steps"], look["return_mean"]] for look in report["history"]],
    }


def run(path: Path, how: dict[str, Any], seed: int) -> Row:
    """One run."""
    teacher = kd.load_teacher(path)
    report = kd.distill(teacher, hidden=(64, 64), seed=seed, max_episodes=100, workers=1, **how)
    return figures(report.to_dict())


def table(agent: str, cells: dict[str, list[Row]]) -> None:
    """One agent's Markdown table."""
    print(f"\n{agent}\n")
    print(
        "| method | student less teacher [95 % t over seeds] | each | student | teacher | retention | steps | CPU s |"
    )
    print("|---" * 8 + "|")
    for name, found in cells.items():
        if not found:
            continue
        gaps = [row["student"] - row["teacher"] for row in found]
        mean = {key: sum(row[key] or 0.0 for row in found) / len(found) for key in ("student", "teacher", "env_steps")}
        kept = student_t_interval([row["retention"] for row in found]) if len(found) > 1 else found[0]["retention"]
        gap = student_t_interval(gaps) if len(found) > 1 else gaps[0]
        each = ", ".join(f"{g:+.0f}" for g in gaps)
        spent = max(row["cpu"] for row in found)
        print(
            f"| {name} | {gap} | {each} | {mean['student']:.1f} | {mean['teacher']:.1f} | {kept} |"
            f" {mean['env_steps']:,.0f} | {spent:.0f} |"
        )


def main() -> None:
    """Every agent, method and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=Path, default=Path(os.environ.get("POLICYKD_TEACHERS", "agents")))
    parser.add_argument("--only", default="")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    cells = [c for c in CELLS if args.only in c[0] and c[1] in args.methods]
    wanted = [
        (f"{agent} {name} {seed}", lambda agent=agent, how=how, seed=seed: run(args.agents / agent, how, seed))
        for seed in seeds
        for agent, name, how in cells
    ]
    found = {row["cell"]: row for row in rows(wanted, args.save, args.limit)}
    for agent in dict.fromkeys(agent for agent, _, _ in cells):
        mine = {
            name: [found[cell] for seed in seeds if (cell := f"{agent} {name} {seed}") in found]
            for a, name, _ in cells
            if a == agent
        }
        table(agent, mine)


if __name__ == "__main__":
    main()
