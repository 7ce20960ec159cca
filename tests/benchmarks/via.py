"""Does a chain help? Small students of a DQN taught directly, by way of assistants, and born again, over seeds.

    POLICYKD_TEACHERS=... python tests/benchmarks/via.py [--seeds 5] [--save FILE] [--limit 1] [--only "8 "]

Teacher assistants: Mirzadeh et al. 2019 (1902.03393); born again: Furlanello et al. 2018 (1805.04770). A run is one
cycle of ``policykd distill`` with ``--steps`` environment steps, for all stages together (``total``, the fair one) or
for each of them (``a stage``: the chain may spend more), everything else at its defaults, 100 reported episodes that
selected nothing. A cell is the mean over training seeds with a Student-t interval; ``gain`` is the retention over the
direct student's of the same seed and size. ``--save`` keeps rows as they come and takes them up again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from reinforced import FIRST_SEED, Row, figures, rows

import policykd as kd
from policykd.evaluation import student_t_interval

AGENT = "dqn/LunarLander-v2_1"
STUDENTS = ("8", "21,21")
"""108 and 739 parameters of the teacher's 70,000: 0.15 % and 1 %."""
CHAINS: dict[str, list[str]] = {
    "direct": [],
    "64,64": ["64,64"],
    "256,256 -> 64,64": ["256,256", "64,64"],
    "born again": ["same"],
}
BUDGETS = ("total", "a stage")
CELLS = [(s, c, b) for s in STUDENTS for c in CHAINS for b in BUDGETS if CHAINS[c] or b == "total"]


def run(path: Path, hidden: str, chain: str, budget: str, steps: int, seed: int) -> Row:
    """One run."""
    via = CHAINS[chain]
    each = steps // (len(via) + 1) if budget == "total" else steps
    how: dict[str, Any] = {"steps": each, "cycles": 1, "max_episodes": 100, "workers": 1, "seed": seed}
    report = kd.distill(kd.load_teacher(path), hidden=hidden, via=via, **how).to_dict()
    assistants = [{k: it[k] for k in ("hidden", "params", "retention", "env_steps")} for it in report["via"]]
    return {**figures(report), "params": report["student"]["params"], "via": assistants}


def mean(values: list[float]) -> str:
    """With a Student-t interval where there are several."""
    return str(student_t_interval(values)) if len(values) > 1 else f"{values[0]:.3f}"


def table(found: dict[tuple[str, str, str], dict[int, Row]]) -> None:
    """A Markdown table, a row a cell."""
    print("\n| student | via | steps | environment steps | retention [95 % t] | gain [95 % t] | each | via's | CPU s |")
    print("|---" * 9 + "|")
    for (hidden, chain, budget), mine in found.items():
        if not mine:
            continue
        kept = {seed: row["retention"] for seed, row in mine.items()}
        direct = {seed: row["retention"] for seed, row in found.get((hidden, "direct", "total"), {}).items()}
        gains = [kept[seed] - direct[seed] for seed in kept if seed in direct and chain != "direct"]
        stages = zip(*([it["retention"] for it in row["via"]] for row in mine.values()), strict=True)
        cells = (
            f"{hidden} ({next(iter(mine.values()))['params']:,})",
            chain,
            budget if CHAINS[chain] else "",
            f"{sum(row['env_steps'] for row in mine.values()) / len(mine):,.0f}",
            mean(list(kept.values())),
            mean(gains) if gains else "",
            ", ".join(f"{k:.3f}" for k in kept.values()),
            ", ".join(f"{sum(kept) / len(kept):.3f}" for kept in stages),
            f"{max(row['cpu'] for row in mine.values()):.0f}",
        )
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Every student, chain, budget and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=Path, default=Path(os.environ.get("POLICYKD_TEACHERS", "agents")))
    parser.add_argument("--agent", default=AGENT)
    parser.add_argument("--only", default="", help="part of a cell's name: 'STUDENT via CHAIN, BUDGET'")
    parser.add_argument("--steps", type=int, default=108_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    names = {(s, c, b): f"{s} via {c}, {b}" for s, c, b in CELLS if args.only in f"{s} via {c}, {b}"}

    def cell(key: tuple[str, str, str], seed: int) -> str:
        return f"{args.agent} {names[key]} {args.steps} {seed}"

    wanted = [
        (cell(key, seed), lambda key=key, seed=seed: run(args.agents / args.agent, *key, args.steps, seed))
        for seed in seeds
        for key in names
    ]
    found = {row["cell"]: row for row in rows(wanted, args.save, args.limit)}
    table({key: {seed: found[c] for seed in seeds if (c := cell(key, seed)) in found} for key in names})


if __name__ == "__main__":
    main()
