"""The smallest student that can be trusted, agent by agent: the whole command at its defaults.

    POLICYKD_TEACHERS=... python tests/benchmarks/frontier.py

One row an agent: the chosen student, the best of the smaller ones, environment steps, and wall seconds by phase.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_AGENTS = (
    "ppo/CartPole-v1_1",
    "ppo/LunarLander-v2_1",
    "dqn/Acrobot-v1_1",
    "ddpg/Pendulum-v1_1",
    "a2c/BipedalWalker-v3_1",
    "trpo/Hopper-v3_1",
)
_SHELF = ("cartpole-ppo", "lunarlander-ppo", "acrobot-a2c", "pendulum-sac")


def kept(candidate: dict[str, Any]) -> str:
    """Size, parameters, retention with its interval, and episodes."""
    ci = candidate["retention_ci"]
    bounds = f" [{ci[0]:.3f}, {ci[1]:.3f}]" if ci else ""
    return (
        f"{candidate['name']} ({candidate['params']:,}): {candidate['retention']:.3f}{bounds}, {candidate['episodes']}"
    )


def row(name: str, r: dict[str, Any]) -> str:
    """A line of the table."""
    every = r["candidates"]
    at = next((i for i, c in enumerate(every) if c["name"] == r["chosen"]), None)
    best = "none" if at is None else kept(every[at])
    below = "-" if not at else kept(max(every[:at], key=lambda c: c["retention"]))
    share = "-" if at is None else f"{every[at]['params'] / r['teacher']['params']:.2%}"
    s = r["seconds"]
    phases = " + ".join(f"{s.get(p, 0):.0f}" for p in ("collect", "learn", "evaluate"))
    return f"| {name} | {best} | {share} | {below} | {r['env_steps']:,} | {s['total']:.0f} ({phases}) |"


def main() -> None:
    """Run them one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=Path, default=Path(os.environ.get("POLICYKD_TEACHERS", "agents")))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--keep", type=Path, help="folder for the runs")
    parser.add_argument(
        "--flags", nargs="*", default=[], help="more flags of `policykd frontier`, without their dashes"
    )
    args = parser.parse_args()
    names = [n for n in (*_AGENTS, *_SHELF) if (args.agents / n).exists()]
    names = [n for n in names if not args.only or any(part in n for part in args.only)]
    print("| agent | smallest [95 %], episodes | share | best of the smaller | env steps | wall s (phases) |")
    print("|---" * 6 + "|", flush=True)
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            out = (args.keep or Path(scratch)) / name.replace("/", "-")
            command = [
                sys.executable,
                "-m",
                "policykd",
                "frontier",
                str(args.agents / name),
                "--json",
                "--out",
                str(out),
            ]
            done = subprocess.run([*command, *args.flags], capture_output=True, text=True)
            found = json.loads(done.stdout)
            print(row(name, found) if done.returncode == 0 else f"| {name} | {found['error']['message']} |", flush=True)


if __name__ == "__main__":
    main()
