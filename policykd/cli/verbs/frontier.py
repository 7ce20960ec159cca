"""``policykd frontier``: one call of ``frontier()``, a run folder, a table of sizes and a sentence that answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from policykd.cli.arguments.frontier import Arguments
from policykd.cli.flags import settings
from policykd.cli.places import home, prepare, run_folder, taught_by
from policykd.cli.screen import Screen, number, span
from policykd.cli.teaching import plan, show_plan, spent, waited, where
from policykd.errors import MissingExtraError
from policykd.frontier import frontier
from policykd.frontier.ladder import Rung, ladder
from policykd.news import FrontierLook, FrontierTick
from policykd.policy import Policy
from policykd.recipe import Recipe
from policykd.run import Run, check_vacant, record_frontier
from policykd.students import Tree

__all__ = ["run"]

_COLUMNS = (
    "size",
    "parameters",
    "share",
    "bytes",
    "return",
    "retention [95 %]",
    "episodes",
    "µs",
    "cycles",
    "each seed",
)
_SPARE = ("each seed", "cycles", "bytes", "return")


def run(args: Arguments, screen: Screen) -> dict[str, Any]:
    """Teach, measure, write; returns the fields of report.json and the run's folder."""
    prepare(args.threads, args.gym_packages)
    teacher = taught_by(args)
    recipe = home(teacher, args.env)
    rungs = ladder(teacher, args.how.sizes)
    if any(rung.leaves is not None for rung in rungs) and find_spec("sklearn") is None:
        raise MissingExtraError.of("scikit-learn", "trees")
    folder = run_folder(args.out, recipe.env_id, "frontier")
    if args.dry_run:
        check_vacant(folder)
        return _dry_run(args, screen, teacher, recipe, rungs, folder)

    with Run.create(folder, config=settings(args), command=screen.command) as run:
        chart_tick, chart_look = record_frontier(run)
        newest: FrontierTick | None = None

        with screen.progress("frontier") as report_progress:

            def on_tick(tick: FrontierTick) -> None:
                nonlocal newest
                newest = tick
                chart_tick(tick)
                figures = {"loss": float(tick.update.loss.mean()), "return": tick.collector.recent_return}
                report_progress(tick.update.progress.env_steps, tick.total_steps, figures)

            def on_look(look: FrontierLook) -> None:
                chart_look(look)
                screen.hint(f"  {look.env_steps:,} steps, best retention of each size: {_looked(look)}")

            began = time.perf_counter()
            try:
                report = frontier(teacher, recipe, config=args.how, on_tick=on_tick, on_look=on_look)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(_saved(run, newest)) from None
        fields = run.finish(replace(report, best=waited(report.best, screen, began)))
    _show(fields, screen)
    if report.chosen is not None and isinstance(report.policy, Tree):
        screen.line(f"\n{report.policy.rules()}")
    screen.line(f"\n{_answer(fields, args)}")
    spent(fields, screen)
    if (folder / "frontier.png").is_file():
        screen.hint(f"picture   {folder}/frontier.png")
    else:
        screen.hint("picture   none without matplotlib: pip install 'policykd[plots]'")
    where(folder, screen, "" if report.chosen is not None else f" --size {_best(fields)['name']}")
    return {**fields, "run": str(folder)}


def _looked(look: FrontierLook) -> str:
    best: dict[str, float] = {}
    for size, _, _, kept in look.measured:
        best[size] = max(best.get(size, float("-inf")), float("-inf") if kept.value is None else kept.value)
    return " · ".join(f"{size} {kept:.2f}" for size, kept in best.items())


def _saved(run: Run, newest: FrontierTick | None) -> str:
    """Keep what was learnt when a person has had enough; what to say about it."""
    if newest is None:
        return "nothing was learnt yet"
    place = run.save_unmeasured(newest.students())
    return f"after {newest.update.progress.env_steps:,} steps; the students so far, unmeasured: {place}"


def _dry_run(
    args: Arguments, screen: Screen, teacher: Policy, recipe: Recipe, rungs: Sequence[Rung], folder: Path
) -> dict[str, Any]:
    whole = teacher.acting_parameters
    sizes = [{"name": r.name, "params": r.params, "share": r.params / whole} for r in rungs]
    facts = plan(args, teacher, recipe, folder, sizes=sizes)
    seeds = [1 if r.leaves is not None else args.how.seeds for r in rungs]
    rows: list[tuple[str, ...]] = [
        (r.name, f"{r.params:,}{' at most' * (r.leaves is not None)}", f"{r.params / whole:.2%}", f"{n}")
        for r, n in zip(rungs, seeds, strict=True)
    ]
    show_plan(facts, screen, ("sizes", ("size", "parameters", "of the teacher's", "students"), rows))
    screen.hint(f"{sum(seeds)} students of {len(rungs)} sizes; the run would be written into {folder}")
    return facts


def _show(fields: dict[str, Any], screen: Screen) -> None:
    teacher, random = fields["teacher"], fields["random"]
    whole, chosen = teacher.get("params"), fields["chosen"]
    rows = []
    for it in fields["candidates"]:
        rows.append(
            (
                f"{it['name']} *" if it["name"] == chosen else it["name"],
                f"{it['params']:,}",
                _share(it, whole),
                f"{it['bytes']:,}",
                number(it["return_mean"]),
                _kept(it),
                f"{it['episodes']}",
                number(it["latency_us"], 0),
                f"{it['cycles']}",
                " ".join("n/a" if s["retention"] is None else f"{s['retention']:.2f}" for s in it["seeds"]),
            )
        )
    size = "" if whole is None else f"{whole:,}"
    mean, episodes = number(teacher["return_mean"]), f"{teacher['episodes']}"
    rows.append(("teacher", size, _share(teacher, whole), "", mean, "1", episodes, "", "", ""))
    rows.append(("random", "", "", "", number(random["return_mean"]), "0", f"{random['episodes']}", "", "", ""))
    mark = f" (*: the smallest at {fields['target']:g})" if chosen is not None else ""
    screen.table(f"{fields['env_id']}: students of {teacher.get('algo', 'a teacher')}{mark}", _COLUMNS, rows, _SPARE)


def _share(it: dict[str, Any], whole: int | None) -> str:
    """Of the teacher's parameters, in per cent."""
    share = it["params"] / whole if whole else None
    return "" if share is None else f"{share:.2%}" if share < 0.01 else f"{share:.1%}"


def _kept(it: dict[str, Any]) -> str:
    return span(it["retention"], it["retention_ci"], 3) or "n/a"


def _best(fields: dict[str, Any]) -> dict[str, Any]:
    """The size with the highest lower bound."""
    found: dict[str, Any] = max(fields["candidates"], key=lambda c: (c["retention_ci"] or [float("-inf")])[0])
    return found


def _answer(fields: dict[str, Any], args: Arguments) -> str:
    """Which is the smallest that can be trusted; or which is the best, and what to try."""
    target, chosen = fields["target"], fields["chosen"]
    if chosen is not None:
        it = next(c for c in fields["candidates"] if c["name"] == chosen)
        whole = fields["teacher"].get("params")
        share = f", {_share(it, whole)} of the teacher's" if whole else ""
        return f"smallest at {target:g}: {chosen} ({it['params']:,} parameters{share}): {it['path']}"
    if fields["retention"] is None:
        return f"no answer: {fields.get('retention_reason')}"
    best, largest = _best(fields), fields["candidates"][-1]["name"]
    return (
        f"none reaches {target:g} with its lower bound; the best is {best['name']}, retention {_kept(best)}: "
        f"{best['path']}; try sizes beyond {largest} (--sizes), or --cycles {args.how.cycles + 1}"
    )
