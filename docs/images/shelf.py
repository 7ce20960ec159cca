"""Draws the picture in the README from the cards of agents/: how small each student is, and what it kept.

It writes shelf.png beside itself, and needs policykd[plots].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from policykd.run.shelf import cards

_HERE = Path(__file__).parent
_TEACHER, _STUDENT = "#8a8f98", "#0b6e99"


def draw(students: list[dict[str, Any]], path: Path) -> None:
    """Left: parameters of teacher and student; right: retention with its interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    students = sorted(students, key=lambda card: card["params"], reverse=True)
    rows = range(len(students))
    pyplot.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    height = 0.9 + 0.42 * len(students)
    figure, (size, kept) = pyplot.subplots(
        1, 2, sharey=True, figsize=(9.2, height), dpi=150, layout="constrained", width_ratios=(1.45, 1)
    )
    small, large = ([card["params"] for card in side] for side in (students, [c["teacher"] for c in students]))
    size.hlines(rows, small, large, color="0.8", linewidth=2, zorder=1)
    size.scatter(large, rows, s=60, color=_TEACHER, label="teacher", zorder=2)
    size.scatter(small, rows, s=60, color=_STUDENT, label="student", zorder=2)
    for y, mine, theirs in zip(rows, small, large, strict=True):
        size.annotate(f"{mine:,}", (mine, y), (-7, 0), textcoords="offset points", ha="right", va="center")
        size.annotate(f"{theirs:,}", (theirs, y), (7, 0), textcoords="offset points", ha="left", va="center")
    size.set_xscale("log")
    size.set_xlim(min(small) / 3, max(large) * 4)
    size.set_ylim(-0.5, len(students) - 0.5)
    size.set_xlabel("parameters that act (log scale)")
    size.set_yticks(list(rows), [f"{c['env_id']}, {c['teacher']['algo'].upper()}" for c in students])
    size.tick_params(axis="y", length=0)
    size.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)

    y = [card["retention"] for card in students]
    low, high = zip(*(card["retention_ci"] for card in students), strict=True)
    bars = [[a - b for a, b in zip(y, low, strict=True)], [a - b for a, b in zip(high, y, strict=True)]]
    kept.axvline(1, color="0.7", linewidth=1, zorder=0)
    kept.errorbar(y, rows, xerr=bars, fmt="o", color=_STUDENT, markersize=7, capsize=3, linewidth=1.6)
    kept.set_xlim(min(0.94, *low) - 0.01, max(1.03, *high) + 0.01)
    kept.set_xlabel("retention, 95 % interval")
    kept.tick_params(axis="y", length=0)
    kept.grid(axis="x", alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    shelf = cards(_HERE.parents[1] / "agents").values()
    draw([card for card in shelf if card["kind"] == "student"], _HERE / "shelf.png")
