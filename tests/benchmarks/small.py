"""Small students at the shipped defaults: a share of the parameters of each large teacher, over training seeds.

    POLICYKD_TEACHERS=... python tests/benchmarks/small.py [--shares 4% 1%] [--seeds 5] [--jobs 2] [--save FILE]

Teachers with 60,000 acting parameters or more; 100 reported episodes a run: the interval is over runs. A cell is
the mean over seeds with a Student-t interval on their retentions; then the geometric mean over teachers. A curve is
the mean retention on selecting episodes after each cycle.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from retention import agents, distil

import policykd as kd
from policykd.evaluation import student_t_interval

_LARGE = 60_000


def curve(reports: list[dict[str, Any]]) -> str:
    """Mean selecting retention by look: a seed that has stopped keeps its last."""
    looks = [[(h["env_steps"], h["retention"]) for h in r["history"]] for r in reports]
    longest = max(looks, key=len)
    means = [np.mean([(run[i] if i < len(run) else run[-1])[1] for run in looks]) for i in range(len(longest))]
    return ", ".join(f"{steps / 1000:.0f}k: {mean:.3f}" for (steps, _), mean in zip(longest, means, strict=True))


def main() -> None:
    """Every teacher, share and seed, several at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=Path, default=Path(os.environ.get("POLICYKD_TEACHERS", "agents")))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--shares", nargs="*", default=["4%", "1%"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    paths = [p for p in agents(args.agents) if not args.only or any(part in str(p) for part in args.only)]
    paths = [p for p in paths if kd.load_teacher(p).acting_parameters >= _LARGE]
    done: dict[str, dict[str, Any]] = {}
    if args.save is not None and args.save.exists():
        done = {r["cell"]: r for r in map(json.loads, args.save.read_text().splitlines())}

    def cell(path: Path, share: str, seed: int) -> dict[str, Any]:
        name = f"{path.relative_to(args.agents)} {share} {seed}"
        if name not in done:
            flags = ["--seed", str(seed), "--workers", "1", "--max-episodes", "100"]
            done[name] = {"cell": name, **distil(path, ["--max-params", share], flags)}
            if args.save is not None:
                with args.save.open("a") as out:
                    out.write(json.dumps(done[name]) + "\n")
        return done[name]

    wanted = [(p, share, seed) for share in args.shares for seed in range(args.seeds) for p in paths]
    with ThreadPoolExecutor(args.jobs) as pool:
        found = list(pool.map(lambda w: cell(*w), wanted))
    for share in args.shares:
        print(f"\n| agent, {share} | params | retention over seeds [95 % t] | each | train s (CPU), longest | curve |")
        print("|---" * 6 + "|")
        means = []
        for path in paths:
            mine = [r for w, r in zip(wanted, found, strict=True) if w[:2] == (path, share)]
            bad = [r["error"] for r in mine if "error" in r]
            if bad:
                print(f"| {path.relative_to(args.agents)} | {bad[0]} |||||")
                continue
            kept = [r["retention"] for r in mine]
            means.append(float(np.mean(kept)))
            spent = max(r["cpu_seconds"]["collect"] + r["cpu_seconds"]["learn"] for r in mine)
            each = ", ".join(f"{k:.3f}" for k in kept)
            size = f"{mine[0]['student']['params']:,}"
            name = path.relative_to(args.agents)
            print(f"| {name} | {size} | {student_t_interval(kept)} | {each} | {spent:.0f} | {curve(mine)} |")
        if means:
            print(f"\ngeometric mean at {share}: {math.exp(np.mean(np.log(np.maximum(means, 1e-9)))):.3f}")


if __name__ == "__main__":
    main()
