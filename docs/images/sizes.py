"""The picture in the README: how small a student of each teacher can be, and what it keeps.

    python docs/images/sizes.py measure     distils agents/ at several widths (minutes), writes sizes.json
    python docs/images/sizes.py             draws sizes.png from sizes.json; needs policykd[plots]

Every point is the command that a user types, at its defaults, one seed; intervals are those of report.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_TEACHERS = {"lunarlander-ppo": "#0b6e99", "acrobot-a2c": "#c2571a", "pendulum-sac": "#4b7f34"}
_WIDTHS = ("linear", "2", "4", "8", "16", "8,8", "16,16", "32,32")
_FIELDS = ("params", "retention", "retention_ci", "episodes", "env_steps")


def measure() -> list[dict[str, Any]]:
    """One point a teacher and width."""
    points = []
    for teacher in _TEACHERS:
        for hidden in _WIDTHS:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "policykd", "distill", f"agents/{teacher}", "--hidden", hidden]
                command += ["--json", "--out", f"{folder}/run"]
                report = json.loads(subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE).stdout)
            facts = {**report, **{k: report["student"][k] for k in ("params", "episodes")}}
            points.append({"teacher": teacher, "hidden": hidden, **{k: facts[k] for k in _FIELDS}})
            points[-1]["teacher_params"] = report["teacher"]["params"]
            print(points[-1], flush=True)
    return points


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Retention against parameters, one line a teacher."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.0, 3.9), dpi=160, layout="constrained")
    axes.axhline(1, color="0.6", linewidth=1)
    axes.annotate("the teacher", (1, 1), (-4, 4), "axes fraction", "offset points", color="0.4", ha="right")
    for teacher, color in _TEACHERS.items():
        mine = sorted((p for p in points if p["teacher"] == teacher), key=lambda p: p["params"])
        x, y = [p["params"] for p in mine], [p["retention"] for p in mine]
        low, high = zip(*(p["retention_ci"] for p in mine), strict=True)
        bars = [[b - a for a, b in zip(low, y, strict=True)], [b - a for a, b in zip(y, high, strict=True)]]
        axes.errorbar(x, y, bars, color=color, marker="o", markersize=5, capsize=3, linewidth=1.6, label=teacher)
    axes.set_xscale("log")
    axes.set_xlabel("parameters of the student that act (log scale)")
    axes.set_ylabel("retention, 95 % interval")
    axes.set_ylim(min(0.0, *(p["retention_ci"][0] for p in points)), None)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    sizes = {p["teacher"]: p["teacher_params"] for p in points}
    names = [f"{teacher} ({sizes[teacher]:,} parameters)" for teacher in _TEACHERS]
    axes.legend(names, loc="lower right", frameon=False, title="students of", alignment="left")
    figure.savefig(path)


if __name__ == "__main__":
    data = _HERE / "sizes.json"
    if sys.argv[1:] == ["measure"]:
        data.write_text("[\n" + ",\n".join(json.dumps(point) for point in measure()) + "\n]\n")
    draw(json.loads(data.read_text()), _HERE / "sizes.png")
