"""A teacher with noise in its weights: imitation and reward at once, with a value gate and without; imitation alone.

    POLICYKD_TEACHERS=... python tests/benchmarks/corrupted.py [--draws 5] [--sigma 0.05] [--save FILE] [--limit 1]

N(0, sigma^2) is added to the acting weights of the teacher, as in proximal policy distillation (2407.15134, section 4);
``--all`` adds it to the critic too, whose word the value gate goes by. A draw is one such teacher and one training
seed; student 64,64, 300,000 environment steps where there is reward, 100 reported episodes, on which the teacher as it
was plays too.
"""

from __future__ import annotations

import argparse
import copy
import os
from pathlib import Path
from typing import Any

import torch
from reinforced import METHODS, Row, figures, rows

import policykd as kd
from policykd.evaluation import evaluate, student_t_interval
from policykd.policy import Policy
from policykd.selection import REPORT, SEEDS

HOW: dict[str, dict[str, Any]] = {
    "imitation": METHODS["imitation"],
    "ppd": METHODS["ppd"],
    "ppd + value gate": {**METHODS["ppd"], "value_gate": True},
}


@torch.no_grad()
def corrupted(teacher: Policy, sigma: float, seed: int, everything: bool = False) -> Policy:
    """A copy of ``teacher`` with N(0, sigma^2) added to its acting weights, or to all its parameters."""
    noisy = copy.deepcopy(teacher)
    generator = torch.Generator().manual_seed(seed)
    layers = noisy.acting_layers
    if layers is None or everything:
        weights = list(noisy.parameters())
    else:
        weights = [p for layer in (*layers.convolutions, *layers.linears) for p in (layer.weight, layer.bias)]
    for p in weights:
        p.add_(sigma * torch.randn(p.shape, generator=generator))
    return noisy


def run(clean: Policy, how: dict[str, Any], sigma: float, draw: int, everything: bool) -> Row:
    """One run, and what the clean teacher earns on the same episodes."""
    teacher = corrupted(clean, sigma, draw, everything)
    report = kd.distill(teacher, hidden=(64, 64), seed=draw, max_episodes=100, workers=1, **how)
    env = report.env_id
    score = evaluate(clean, env, 100, seed=REPORT + SEEDS * draw, workers=1)
    return {**figures(report.to_dict()), "clean": score.mean}


def main() -> None:
    """Every method and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=Path, default=Path(os.environ.get("POLICYKD_TEACHERS", "agents")))
    parser.add_argument("--agent", default="ppo/LunarLander-v2_1")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--sigma", type=float, default=0.05)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    clean = kd.load_teacher(args.agents / args.agent)
    which = "all weights" if args.all else "acting weights"
    wanted = [
        (
            f"{args.agent} {args.sigma} {which} {name} {draw}",
            lambda how=how, draw=draw: run(clean, how, args.sigma, draw, args.all),
        )
        for draw in range(args.draws)
        for name, how in HOW.items()
    ]
    found = {row["cell"]: row for row in rows(wanted, args.save, args.limit)}
    print(f"\n{args.agent}, sigma {args.sigma} on {which}\n")
    print(
        "| method | student | corrupted teacher | clean teacher | student less corrupted [95 % t over draws] | each |"
    )
    print("|---" * 6 + "|")
    for name in HOW:
        mine = [
            row for draw in range(args.draws) if (row := found.get(f"{args.agent} {args.sigma} {which} {name} {draw}"))
        ]
        if len(mine) > 1:
            columns = [student_t_interval([row[key] for row in mine]) for key in ("student", "teacher", "clean")]
            gaps = [row["student"] - row["teacher"] for row in mine]
            each = ", ".join(f"{row['student']:.0f} ({row['teacher']:.0f})" for row in mine)
            print(f"| {name} | {' | '.join(map(str, columns))} | {student_t_interval(gaps)} | {each} |")


if __name__ == "__main__":
    main()
