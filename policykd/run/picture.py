"""A frontier as one picture, from its report.json; the one file that imports matplotlib, and it opens no window."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from policykd.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

# Okabe and Ito's colours, which people of all kinds of colour vision tell apart; markers say the same once more.
_NETWORK, _TREE, _CHOSEN, _INK, _PALE = "#0072B2", "#D55E00", "#009E73", "#333333", "#999999"
_DPI = 150
_COMPASS = ((0, 1), (1, 0), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


def draw(report: Mapping[str, Any]) -> bytes:
    """A PNG of two panels: retention against acting parameters, and against the time of one decision.

    Args:
        report: the fields of a frontier's report.json.

    Raises:
        MissingExtraError: ``extra.missing`` without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError.of("matplotlib", "plots") from None
    figure = Figure(figsize=(10, 4.4), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    shown = [it for it in report["candidates"] if it["retention"] is not None]
    _frame(left, report, shown)
    _frame(right, report, shown)
    left.set_xscale("log")
    _axis(left, [it["params"] for it in shown] + [report["teacher"].get("params") or 1], "acting parameters")
    timed = [it for it in shown if it["latency_us"]]
    right.set_xlabel("µs a decision (predict on one observation)")
    spans = [it["latency_us"] for it in timed] or [1.0]
    right.set_xlim(0.9 * min(spans), 1.1 * max(spans))
    left.set_ylabel("retention of the teacher's return")
    if params := report["teacher"].get("params"):
        left.axvline(params, color=_PALE, linewidth=1, linestyle=":")
    _points(left, report, shown, "params")
    _points(right, report, timed, "latency_us")
    said = f"smallest at {report['target']:g}: {report['chosen']}" if report["chosen"] else "none reaches the target"
    figure.suptitle(f"{report['env_id']}, {report['teacher'].get('algo') or 'teacher'}: {said}", fontsize=12)
    _legend(figure, left, report)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # names are placed by pixels: nothing may move any more
    for axes, rows, key in ((left, shown, "params"), (right, timed, "latency_us")):
        _name(axes, report, rows, key)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _bottom(shown: Sequence[Mapping[str, Any]], target: float) -> float:
    """Where the axis of retention begins: never below 0, and nearer where nobody above 0 has a bound below."""
    lows = [it["retention_ci"][0] if it["retention_ci"] else it["retention"] for it in shown if it["retention"] > 0]
    return max(0.0, math.floor(20 * (min([*lows, target]) - 0.02)) / 20)


def _top(shown: Sequence[Mapping[str, Any]]) -> float:
    highs = [it["retention_ci"][1] if it["retention_ci"] else it["retention"] for it in shown]
    return max([1.0, *highs])


def _frame(axes: Axes, report: Mapping[str, Any], shown: Sequence[Mapping[str, Any]]) -> None:
    low, high = _bottom(shown, report["target"]), _top(shown)
    axes.set_ylim(low - 0.04 * (high - low), high + 0.14 * (high - low))
    axes.axhline(1.0, color=_PALE, linewidth=1)
    axes.axhline(report["target"], color=_INK, linewidth=1, linestyle="--")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _axis(axes: Axes, numbers: Sequence[int], label: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_xlim(min(numbers) / 1.6, max(numbers) * 1.9)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)


def _look(it: Mapping[str, Any], report: Mapping[str, Any]) -> tuple[str, str]:
    tree = it["name"].startswith("tree:")
    return ("s" if tree else "o"), (_CHOSEN if it["name"] == report["chosen"] else _TREE if tree else _NETWORK)


def _points(axes: Axes, report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], key: str) -> None:
    floor = axes.get_ylim()[0]
    for it in rows:
        marker, colour = _look(it, report)
        x, y = it[key], it["retention"]
        if y < floor:  # worse than random actions: an arrow at the edge says so, and its name says how much
            axes.plot([x], [floor], marker="v", markersize=9, color=colour, clip_on=False)
            continue
        if it["retention_ci"]:
            low, high = it["retention_ci"]
            axes.plot([x, x], [max(low, floor), high], color=colour, linewidth=1.4, solid_capstyle="butt")
        if it["name"] == report["chosen"]:
            axes.plot([x], [y], marker="o", markersize=15, markerfacecolor="none", color=colour, markeredgewidth=1.6)
        axes.plot([x], [y], marker=marker, markersize=7, color=colour)


def _legend(figure: Figure, axes: Axes, report: Mapping[str, Any]) -> None:
    from matplotlib.lines import Line2D

    def dot(marker: str, colour: str, label: str) -> Line2D:
        return Line2D([], [], marker=marker, color=colour, linestyle="none", markersize=7, label=label)

    names = [it["name"] for it in report["candidates"]]
    trees = [name for name in names if name.startswith("tree:")]
    entries = [dot("o", _NETWORK, "network")] if len(trees) < len(names) else []
    entries += [dot("s", _TREE, "tree")] if trees else []
    if report["chosen"]:
        marker = "s" if report["chosen"] in trees else "o"
        entries.append(dot(marker, _CHOSEN, "smallest at the target"))
    entries.append(Line2D([], [], color=_INK, linestyle="--", linewidth=1, label=f"target {report['target']:g}"))
    entries.append(Line2D([], [], color=_PALE, linewidth=1, label="teacher's return"))
    if report["teacher"].get("params"):
        size = f"teacher's size ({report['teacher']['params']:,})"
        entries.append(Line2D([], [], color=_PALE, linestyle=":", linewidth=1, label=size))
    entries.append(Line2D([], [], color=_INK, marker="|", linestyle="none", markersize=11, label="95 % interval"))
    figure.legend(handles=entries, loc="outside lower center", ncols=len(entries), frameon=False, fontsize=8.5)


Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""

_SPOTS = [(r * x, r * y) for r in (7, 9, 13, 20, 28, 38) for x, y in _COMPASS]


def _name(axes: Axes, report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], key: str) -> None:
    """Write each size near its point, where it covers no other name and no point; a thin line leads far ones back."""
    from matplotlib.patheffects import withStroke

    floor, box = axes.get_ylim()[0], axes.get_window_extent()
    frame = (box.x0, box.y0, box.x1, box.y1)
    taken = [box for it in rows for box in _drawn(axes, it, key, floor, it["name"] == report["chosen"])]
    for line in (1.0, report["target"]):
        _, y = axes.transData.transform((1.0, line))
        taken.append((frame[0], y - 1.5, frame[2], y + 1.5))
    if key == "params" and (params := report["teacher"].get("params")):
        x, _ = axes.transData.transform((params, 1.0))
        taken.append((x - 1.5, frame[1], x + 1.5, frame[3]))
    for it in sorted(rows, key=lambda it: it[key]):
        label = it["name"] + (f" ({it['retention']:.2f})" if it["retention"] < floor else "")
        style: dict[str, Any] = {
            "fontsize": 9,
            "color": _INK,
            "fontweight": "bold" if it["name"] == report["chosen"] else "normal",
            "path_effects": [withStroke(linewidth=2.5, foreground="white")],
            "zorder": 5,
        }
        at = (it[key], max(it["retention"], floor))
        point, size = axes.transData.transform(at), _size(axes, label, style)
        boxes = [_beside(point.tolist(), size, spot) for spot in _SPOTS]
        best = min(range(len(_SPOTS)), key=lambda i: _cost(boxes[i], taken, frame) + 2 * math.hypot(*_SPOTS[i]))
        taken.append(boxes[best])
        dx, dy = _SPOTS[best]
        line = {"arrowstyle": "-", "color": _PALE, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4}
        axes.annotate(
            label,
            at,
            (dx, dy),
            textcoords="offset points",
            ha=("right", "center", "left")[_sign(dx) + 1],
            va=("top", "center", "bottom")[_sign(dy) + 1],
            arrowprops=line if math.hypot(dx, dy) > 10 else None,
            **style,
        )


def _sign(x: float) -> int:
    return (x > 0) - (x < 0)


def _size(axes: Axes, label: str, style: Mapping[str, Any]) -> tuple[float, float]:
    """Width and height of a label in pixels."""
    text = axes.text(0, 0, label, transform=None, **style)
    box = text.get_window_extent()
    text.remove()
    return box.width, box.height


def _beside(point: Sequence[float], size: tuple[float, float], spot: tuple[float, float]) -> Box:
    """Where a label of this size stands, ``spot`` points away from a point."""
    (x, y), (w, h) = (p + s * _DPI / 72 for p, s in zip(point, spot, strict=True)), size
    left, low = x + (_sign(spot[0]) - 1) * w / 2, y + (_sign(spot[1]) - 1) * h / 2
    return left, low, left + w, low + h


def _cost(box: Box, taken: Sequence[Box], frame: Box) -> float:
    outside = sum(max(0.0, d) for d in (frame[0] - box[0], box[2] - frame[2], frame[1] - box[1], box[3] - frame[3]))
    return sum(_overlap(box, other) for other in taken) + 50 * outside


def _drawn(axes: Axes, it: Mapping[str, Any], key: str, floor: float, ringed: bool) -> list[Box]:
    """What a point and its interval cover."""
    heights = (it["retention"], *(it["retention_ci"] or ()))
    (x, y), *ends = (axes.transData.transform((it[key], max(h, floor))) for h in heights)
    low, high = min([y, *(e[1] for e in ends)]), max([y, *(e[1] for e in ends)])
    r = 18 if ringed else 10
    return [(x - 2, low, x + 2, high), (x - r, y - r, x + r, y + r)]


def _overlap(a: Box, b: Box) -> float:
    """Shared area of two boxes."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
