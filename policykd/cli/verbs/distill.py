"""``policykd distill``: from names to objects, one call of ``distill()``, a run folder, a table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from policykd import students
from policykd.cli.arguments.distill import Arguments
from policykd.cli.flags import settings
from policykd.cli.places import home, prepare, run_folder, taught_by
from policykd.cli.screen import Screen, number, span
from policykd.cli.teaching import objective, plan, show_plan, spent, waited, where
from policykd.config import REWARDED, parse_via
from policykd.distill import distill
from policykd.distill.chain import assistants
from policykd.news import Look, Tick
from policykd.policy import Policy
from policykd.recipe import Recipe
from policykd.reinforced import acting, check_density, check_gate
from policykd.report import Stage
from policykd.run import Run, check_vacant
from policykd.run.record import record_via
from policykd.run.via import save_assistant
from policykd.students import Student

__all__ = ["run"]


def run(args: Arguments, screen: Screen) -> dict[str, Any]:
    """Teach, measure, write; returns the fields of report.json and the run's folder."""
    prepare(args.threads, args.gym_packages)
    teacher = taught_by(args)
    if args.how.method in REWARDED:
        check_density(teacher.spec)
        check_gate(args.reward, teacher)
    recipe = home(teacher, args.env)
    student = _student(args, teacher)
    between = assistants(parse_via(args.via, args.how, args.reward), teacher, student, seed=args.how.seed)
    loss = objective(args.loss, args.how.value_weight if args.value else 0.0)
    folder = run_folder(args.out, recipe.env_id, _size(student).replace(",", "x"))
    if args.dry_run:
        check_vacant(folder)
        return _dry_run(args, screen, teacher, recipe, [*between, student], folder)

    with Run.create(folder, config=settings(args), command=screen.command) as run:
        chart_tick, chart_look, chart_stage = record_via(run)
        newest: Tick | None = None
        now: Stage | None = None

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

            def on_stage(stage: Stage) -> None:
                nonlocal newest, now
                now = stage
                chart_stage(stage)
                if stage.report is None:
                    newest = None
                elif stage.number < stage.of:
                    screen.hint(f"via {stage.number} of {stage.of - 1}: {_size(stage.student)}: {stage.report}")

            began = time.perf_counter()
            try:
                report = distill(
                    teacher,
                    student,
                    recipe,
                    config=args.how,
                    reward=args.reward,
                    loss=loss,
                    via=args.via,
                    on_tick=on_tick,
                    on_look=on_look,
                    on_stage=on_stage,
                )
            except KeyboardInterrupt:
                raise KeyboardInterrupt(_saved(run, newest, now)) from None
        fields = run.finish(waited(report, screen, began), student)
    _show(fields, screen, args.quiet)
    where(folder, screen)
    return {**fields, "run": str(folder)}


def _student(args: Arguments, teacher: Policy) -> Student:
    hidden: str | tuple[int, ...] = args.hidden
    if args.max_params is not None:
        hidden = students.widest(teacher.spec, students.parse_budget(args.max_params, teacher.acting_parameters))
    return students.suited(teacher, hidden, value=args.value, seed=args.how.seed)


def _saved(run: Run, newest: Tick | None, stage: Stage | None) -> str:
    """Keep what was learnt when a person has had enough; what to say about it."""
    student = None if newest is None else acting(newest.learner.averaged)
    if newest is None or not isinstance(student, Student):
        return "nothing was learnt yet" if stage is None or stage.number == 1 else f"the assistants: {run.folder}/via"
    steps = newest.update.progress.env_steps
    if stage is not None and (place := save_assistant(replace(stage, student=student), run.folder)) is not None:
        return f"after {steps:,} steps; the assistant so far: policykd evaluate {place}"
    run.save_student(student)
    run.checkpoint(newest.learner, steps)
    return f"after {steps:,} steps; the student so far: policykd evaluate {run.folder}"


def _dry_run(
    args: Arguments, screen: Screen, teacher: Policy, recipe: Recipe, pupils: Sequence[Student], folder: Path
) -> dict[str, Any]:
    *between, about = [
        {
            "hidden": list(pupil.shape.hidden),
            "params": pupil.acting_parameters,
            "share": pupil.acting_parameters / teacher.acting_parameters,
        }
        for pupil in pupils
    ]
    facts = plan(args, teacher, recipe, folder, student=about, via=between)
    sizes = [f"{it['params']:,} ({it['share']:.2%} of the teacher's)" for it in (*between, about)]
    rows: list[tuple[str, ...]] = [
        (f"via {i + 1}", f"{_size(pupil)}: {size}")
        for i, (pupil, size) in enumerate(zip(pupils[:-1], sizes[:-1], strict=True))
    ]
    rows += [("hidden", _size(pupils[-1])), ("params", sizes[-1]), ("out", str(folder))]
    show_plan(facts, screen, ("student", ("", ""), rows))
    return facts


def _size(student: Policy) -> str:
    return (",".join(map(str, student.shape.hidden)) or "linear") if isinstance(student, Student) else "student"


def _kept(it: Mapping[str, Any]) -> str:
    return span(it["retention"], it["retention_ci"], 3) or f"n/a: {it.get('retention_reason')}"


def _show(fields: dict[str, Any], screen: Screen, quiet: bool) -> None:
    kept, rows = _kept(fields), []
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
    if fields["via"]:
        said = [f"{','.join(map(str, it['hidden'])) or 'linear'} ({_kept(it)})" for it in fields["via"]]
        screen.line(f"via {' -> '.join(said)}")
    spent(fields, screen)
