"""What students keep at the shipped defaults: `policykd distill AGENT --json` on every agent found, as one table.

    python tests/benchmarks/retention.py [--agents DIR] [--only TEXT ...] [--student "--hidden 64,64"] [--save FILE]

Every agent is distilled by the command that a user types, in a process of its own, without a flag for any one of them.
With --save, finished agents are kept as JSON lines, and a second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).resolve().parents[2]
_COLUMNS = "| agent | params | retention [95 %] | episodes | agreement | env steps | updates | train s (CPU) | stop |"


def agents(folder: Path) -> list[Path]:
    """Folders below ``folder`` that hold a zip (rl_zoo3's layout) or a teacher's card."""
    zoo = {p.parent for p in folder.glob("*/*/*.zip")}
    shelf = {p.parent for p in folder.glob("*/card.json") if (p.parent / "model.zip").exists()}
    return sorted(zoo | shelf)


def distil(agent: Path, student: list[str], extra: list[str]) -> dict[str, object]:
    """The report of one run, or the error line."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "policykd", "distill", str(agent), *student, "--json", *extra]
        command += ["--out", str(Path(folder) / "run")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=_HERE)
    if done.returncode:
        return {"error": (done.stderr or done.stdout).strip().splitlines()[-1]}
    return json.loads(done.stdout)


def row(name: str, r: dict) -> str:
    """One agent's line of the table."""
    if "error" in r:
        return f"| {name} | {r['error']} ||||||||"
    low, high = r["retention_ci"] or (math.nan, math.nan)
    student, teacher = r["student"], r["teacher"]
    share = 100 * student["params"] / teacher["params"]
    seconds = r["cpu_seconds"]["collect"] + r["cpu_seconds"]["learn"]
    return (
        f"| {name} | {student['params']:,} ({share:.1f} %) | {r['retention']:.3f} [{low:.3f}, {high:.3f}] "
        f"| {student['episodes']} | {r['agreement']:.3f} | {r['env_steps']:,} | {r['updates']:,} "
        f"| {seconds:.1f} | {r['stopped_by']} |"
    )


def main() -> None:
    """Distil every agent, print the table and what it adds up to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("POLICYKD_TEACHERS", "agents")
    parser.add_argument("--agents", type=Path, default=Path(default))
    parser.add_argument("--only", nargs="*", default=[], help="parts of the agents' paths")
    parser.add_argument("--student", default="--hidden 64,64")
    parser.add_argument("--save", type=Path)
    args, extra = parser.parse_known_args()
    kept: dict[str, dict] = {}
    if args.save is not None and args.save.exists():
        kept = {r["agent"]: r for r in map(json.loads, args.save.read_text().splitlines())}
    print(_COLUMNS, "|---" * 9 + "|", sep="\n", flush=True)
    found = []
    for agent in agents(args.agents):
        name = str(agent.relative_to(args.agents))
        if args.only and not any(part in name for part in args.only):
            continue
        report = kept.get(name)
        if report is None:
            report = {"agent": name, **distil(agent, args.student.split(), extra)}
            if args.save is not None:
                with args.save.open("a") as out:
                    out.write(json.dumps(report) + "\n")
        print(row(name, report), flush=True)
        if report.get("retention") is not None:
            found.append(report)
    if not found:
        return
    mean = math.exp(sum(math.log(max(r["retention"], 1e-3)) for r in found) / len(found))
    resolved = [r for r in found if r["retention_ci"]]
    good = sum(r["retention_ci"][1] >= 0.99 and (r["retention_ci"][1] - r["retention_ci"][0]) <= 0.1 for r in resolved)
    print(f"\n{len(found)} agents; geometric mean {mean:.3f}; upper bound >= 0.99 at a half-width <= 0.05: {good}")


if __name__ == "__main__":
    main()
