"""``policykd distill``: from names to objects, one call of ``distill()``, a run folder, a table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from policykd import losses, students
from policykd.cli.arguments.distill import Arguments
from policykd.cli.flags import settings
from policykd.cli.names import loss_of
from policykd.cli.places import home, prepare, run_folder, taught_by
from policykd.cli.screen import Screen, number, span
from policykd.cli.teaching import plan, show_plan, spent, waited, where
from policykd.config import REWARDED
from policykd.distill import distill
from policykd.news import Look, Tick
from policykd.policy import Policy
from policykd.recipe import Recipe
from policykd.reinforced import acting, check_density
from policykd.run import Run, check_vacant, record
from policykd.students import Student

__all__ = ["run"]


def run(args: Arguments, screen: Screen) -> dict[str, Any]:
    """Teach, measure, write; returns the fields of report.json and the run's folder."""
    prepare(args.threads, args.gym_packages)
    teacher = taught_by(args)
    if args.how.method in REWARDED:
        check_density(teacher.spec)
    recipe = home(teacher, args.env)
    student = _student(args, teacher)
    loss = _loss(args)
    folder = run_folder(args.out, recipe.env_id, "x".join(map(str, student.shape.hidden)) or "linear")
    if args.dry_run:
        check_vacant(folder)
        return _dry_run(args, screen, teacher, recipe, student, folder)

    with Run.create(folder, config=settings(args), command=screen.command) as run:
        chart_tick, chart_look = record(run)
        newest: Tick | None = None

        with screen.progress("distil") as report_progress:

            def on_tick(tick: Tick) -> None:
                nonlocal newest
                newest = tick
                chart_tick(tick)
                figures = {
                    "loss": float(tick.update.loss),
                    "return": tick.collector.recent_return,
                    "agreement": run.latest.get("distill/agreement"),
                }
                report_progress(tick.update.progress.env_steps, tick.total_steps, figures)

            def on_look(look: Look) -> None:
                chart_look(look)
                screen.hint(f"  {look.env_steps:,} steps: return {look.score.mean:,.1f}, retention {look.retention}")

            began = time.perf_counter()
            try:
                report = distill(
                    teacher,
                    student,
                    recipe,
                    config=args.how,
                    reward=args.reward,
                    loss=loss,
                    on_tick=on_tick,
                    on_look=on_look,
                )
            except KeyboardInterrupt:
                raise KeyboardInterrupt(_saved(run, newest)) from None
        fields = run.finish(waited(report, screen, began), student)
    _show(fields, screen, args.quiet)
    where(folder, screen)
    return {**fields, "run": str(folder)}


def _student(args: Arguments, teacher: Policy) -> Student:
    hidden: str | tuple[int, ...] = args.hidden
    if args.max_params is not None:
        hidden = students.widest(teacher.spec, students.parse_budget(args.max_params, teacher.acting_parameters))
    return students.suited(teacher, hidden, value=args.value, seed=args.how.seed)


def _loss(args: Arguments) -> Any:
    if args.loss is None:
        return None
    found = losses.as_objective(loss_of(args.loss))
    if args.value and args.how.value_weight > 0 and set(found.parts) == {"policy"}:
        return losses.weighted(policy=found.parts["policy"], value=(args.how.value_weight, losses.value_mse))
    return found


def _saved(run: Run, newest: Tick | None) -> str:
    """Keep what was learnt when a person has had enough; what to say about it."""
    student = None if newest is None else acting(newest.learner.averaged)
    if newest is None or not isinstance(student, Student):
        return "nothing was learnt yet"
    steps = newest.update.progress.env_steps
    run.save_student(student)
    run.checkpoint(newest.learner, steps)
    return f"after {steps:,} steps; the student so far: policykd evaluate {run.folder}"


def _dry_run(
    args: Arguments, screen: Screen, teacher: Policy, recipe: Recipe, student: Student, folder: Path
) -> dict[str, Any]:
    share = student.acting_parameters / teacher.acting_parameters
    about = {"hidden": list(student.shape.hidden), "params": student.acting_parameters, "share": share}
    facts = plan(args, teacher, recipe, folder, student=about)
    widths = ",".join(map(str, student.shape.hidden)) or "linear"
    size = f"{student.acting_parameters:,} ({share:.2%} of the teacher's)"
    rows: list[tuple[str, ...]] = [("hidden", widths), ("params", size), ("out", str(folder))]
    show_plan(facts, screen, ("student", ("", ""), rows))
    return facts


def _show(fields: dict[str, Any], screen: Screen, quiet: bool) -> None:
    kept = span(fields["retention"], fields["retention_ci"], 3) or f"n/a: {fields.get('retention_reason')}"
    rows = []
    for name in ("teacher", "student", "random"):
        it = fields[name]
        params, size = it.get("params"), it.get("bytes")
        rows.append(
            (
                name,
                span(it["return_mean"], it.get("return_ci")),
                f"{it['episodes']}",
                "" if params is None else f"{params:,}",
                "" if size is None else f"{size:,}",
                kept if name == "student" else "",
                number(fields["agreement"], 3) if name == "student" else "",
            )
        )
    columns = ("policy", "return [95 %]", "episodes", "parameters", "bytes", "retention [95 %]", "agreement")
    screen.table(f"{fields['env_id']}: {fields['teacher'].get('algo', 'teacher')} distilled", columns, rows)
    spent(fields, screen)
