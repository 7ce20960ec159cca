"""One student of several tasks at the shipped defaults, over training seeds: what it keeps of each teacher, how small.

    POLICYKD_TEACHERS=... python tests/benchmarks/multitask.py [--seeds 5] [--save FILE] [--new N]
        [--form 3 16,16 shared own] [--form 3 16,16 shared padded]

PPO's CartPole, DQN's Acrobot, QR-DQN's MountainCar; then PPO's LunarLander beside them. "Apart" is what students of
16,16 would have, one a task. A cell is the mean over seeds with its Student-t interval; the geometric mean is over the
tasks of a run, then it is a number a seed as any other. Each run reports 100 to 400 episodes a task. ``--form`` (tasks,
widths, heads, inputs) runs and prints those shapes alone, the first one's seeds before the next one's.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import policykd as kd
from policykd.evaluation import student_t_interval
from policykd.multitask import multitask

_TASKS = {
    "CartPole": "ppo/CartPole-v1_1",
    "Acrobot": "dqn/Acrobot-v1_1",
    "MountainCar": "qrdqn/MountainCar-v0_1",
    "LunarLander": "ppo/LunarLander-v2_1",
}
_SIZES = [(3, "16,16"), (4, "16,16"), (3, "8,8"), (4, "8,8"), (3, "6,6"), (3, "4,4")]
"""Tasks and widths, heads and inputs each task's own."""
_FORMS = [(3, "6,6")]
"""These in all forms; the smallest form of 6,6 has as many parameters as 4,4 with heads and inputs of its own."""
_KINDS = [("own", "own"), ("own", "padded"), ("shared", "own"), ("shared", "padded")]
"""Heads and inputs."""

Cell = tuple[int, str, str, str, int]


def run(cell: Cell, agents: Path) -> dict[str, Any]:
    """Teach and measure one student."""
    tasks, hidden, heads, inputs, seed = cell
    teachers = {name: agents / path for name, path in list(_TASKS.items())[:tasks]}
    report = multitask(
        teachers,
        hidden=hidden,  # type: ignore[arg-type]
        heads=heads,  # type: ignore[arg-type]
        inputs=inputs,  # type: ignore[arg-type]
        seed=seed,
        workers=1,
    )
    apart = sum(kd.students.mlp(kd.load_teacher(p).spec, "16,16").acting_parameters for p in teachers.values())
    kept = {name: [t.retention.value, t.retention.low, t.retention.high] for name, t in report.tasks.items()}
    mean = report.retention
    return {
        "cell": list(cell),
        "params": report.params,
        "apart": apart,
        "kept": kept,
        "mean": [mean.value, mean.low, mean.high],
        "env_steps": report.env_steps,
        "updates": report.updates,
        "stopped_by": report.stopped_by,
        "cpu": dict(report.cpu_seconds),
    }


def row(tasks: int, hidden: str, heads: str, inputs: str, found: Sequence[dict[str, Any]]) -> str:
    """A line of the table."""
    means = [r["mean"][0] for r in found]
    each = [str(student_t_interval([r["kept"][name][0] for r in found])) for name in list(_TASKS)[:tasks]]
    spent = max(r["cpu"]["collect"] + r["cpu"]["learn"] for r in found)
    low = min(r["mean"][1] or 0.0 for r in found)
    cells = (
        f"{tasks}",
        hidden,
        heads,
        inputs,
        f"{found[0]['params']:,}",
        f"{found[0]['params'] / found[0]['apart']:.0%}",
        str(student_t_interval(means)),
        " ".join(f"{m:.3f}" for m in means),
        f"{low:.3f}",
        *each,
        *[""] * (len(_TASKS) - tasks),
        f"{max(r['env_steps'] for r in found) / 1000:.0f}k",
        f"{spent:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def table(
    title: str, shapes: Sequence[tuple[int, str, str, str]], done: dict[Cell, dict[str, Any]], seeds: int
) -> None:
    """Print those shapes of which every seed was run."""
    print(f"\n**{title}**\n")
    head = "tasks | hidden | heads | inputs | params | of apart | geometric mean [95 % t] | each seed"
    head += f" | lowest low end in a run | {' | '.join(_TASKS)} | env steps, most | train s (CPU), most"
    print(f"| {head} |\n{'|---' * (head.count('|') + 1)}|")
    for shape in shapes:
        found = [done[*shape, seed] for seed in range(seeds) if (*shape, seed) in done]
        if len(found) == seeds:
            print(row(*shape, found))


def main() -> None:
    """Every shape and seed, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=Path, default=Path(os.environ.get("POLICYKD_TEACHERS", "agents")))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--save", type=Path, help="rows that are there are not run again")
    parser.add_argument("--new", type=int, help="rows to run at most; then the tables of what there is")
    parser.add_argument("--form", nargs=4, action="append", metavar=("TASKS", "HIDDEN", "HEADS", "INPUTS"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    done: dict[Cell, dict[str, Any]] = {}
    if args.save is not None and args.save.exists():
        done = {tuple(r["cell"]): r for r in map(json.loads, args.save.read_text().splitlines())}
    sizes = [(tasks, hidden, "own", "own") for tasks, hidden in _SIZES]
    forms = [(tasks, hidden, *kind) for tasks, hidden in _FORMS for kind in _KINDS]
    wanted = [(*shape, seed) for seed in range(args.seeds) for shape in dict.fromkeys([*sizes, *forms])]
    wanted.sort(key=lambda cell: cell[:4] not in sizes[:2])  # what is asked for first, then how small it may be
    if args.form is not None:
        sizes, forms = [], [(int(tasks), hidden, heads, inputs) for tasks, hidden, heads, inputs in args.form]
        wanted = [(*shape, seed) for shape in forms for seed in range(args.seeds)]
    missing = [cell for cell in wanted if cell not in done]
    for cell in missing[: args.new]:
        done[cell] = run(cell, args.agents)
        if args.save is not None:
            with args.save.open("a") as out:
                out.write(json.dumps(done[cell]) + "\n")
    if sizes:
        table("Sizes", sizes, done, args.seeds)
    table("Forms", forms, done, args.seeds)
    if len(missing) > (args.new or len(missing)):
        print(f"\n{len(missing) - args.new} rows to go")


if __name__ == "__main__":
    main()
