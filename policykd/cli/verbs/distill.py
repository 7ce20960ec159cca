"""``policykd distill``: from names to objects, one call of ``distill()``, a run folder, a table."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from policykd import losses, students
from policykd.cli.arguments.distill import Arguments
from policykd.cli.flags import settings
from policykd.cli.names import loss_of
from policykd.cli.places import agent, home, prepare, run_folder
from policykd.cli.screen import Screen, number, span
from policykd.distill import distill
from policykd.news import Look, Tick
from policykd.prediction import Policy
from policykd.recipe import Recipe
from policykd.run import Run, check_vacant, record
from policykd.students import Student

__all__ = ["run"]


def run(args: Arguments, screen: Screen) -> dict[str, Any]:
    """Teach, measure, write; returns the fields of report.json and the run's folder."""
    prepare(args.threads, args.gym_packages)
    teacher = agent(args.teacher, args.normalizer)
    recipe = home(teacher, args.env)
    student = _student(args, teacher)
    loss = _loss(args)
    folder = run_folder(args.out, recipe.env_id, "x".join(map(str, student.shape.hidden)) or "linear")
    if args.dry_run:
        check_vacant(folder)
        return _dry_run(args, screen, teacher, recipe, student, str(folder))

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

            before = time.perf_counter() - screen.began
            try:
                report = distill(teacher, student, recipe, config=args.how, loss=loss, on_tick=on_tick, on_look=on_look)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(_saved(run, newest)) from None
        # Imports and loading are part of what a person waits for.
        seconds = dict(report.seconds)
        seconds |= {"load": seconds.get("load", 0.0) + before, "total": seconds["total"] + before}
        fields = run.finish(replace(report, seconds=seconds), student)
    _show(fields, screen, args.quiet)
    screen.hint(f"report    {folder}/report.json")
    screen.hint(f"charts    tensorboard --logdir {folder}")
    screen.hint(f"keep it   policykd promote {folder} NAME")
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
    if newest is None or not isinstance(newest.learner.averaged, Student):
        return "nothing was learnt yet"
    steps = newest.update.progress.env_steps
    run.save_student(newest.learner.averaged)
    run.checkpoint(newest.learner, steps)
    return f"after {steps:,} steps; the student so far: policykd evaluate {run.folder}"


def _dry_run(
    args: Arguments, screen: Screen, teacher: Policy, recipe: Recipe, student: Student, folder: str
) -> dict[str, Any]:
    share = student.acting_parameters / teacher.acting_parameters
    facts = {
        "teacher": {
            "source": teacher.origin.path,
            "algo": teacher.origin.algo,
            "family": teacher.spec.family,
            "params": teacher.acting_parameters,
            "observation_space": str(teacher.spec.observation_space),
            "action_space": str(teacher.spec.action_space),
            "gamma": teacher.origin.gamma,
            "normalised": teacher.normaliser is not None,
        },
        "env_id": recipe.env_id,
        "wrappers": [w.name for w in recipe.wrappers],
        "student": {
            "hidden": list(student.shape.hidden),
            "params": student.acting_parameters,
            "share": share,
        },
        "out": folder,
        "config": settings(args),
    }
    rows = [(k, str(v)) for k, v in facts["teacher"].items()] + [("env_id", recipe.env_id)]  # type: ignore[attr-defined]
    screen.table("teacher", ("", ""), rows)
    widths = ",".join(map(str, student.shape.hidden)) or "linear"
    size = f"{student.acting_parameters:,} ({share:.2%} of the teacher's)"
    screen.table("student", ("", ""), [("hidden", widths), ("params", size), ("out", folder)])
    screen.table("configuration", ("", ""), [(k, str(v)) for k, v in settings(args).items()])
    screen.hint("dry run: nothing was written")
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
    spent = fields["seconds"]
    parts = " + ".join(
        f"{name} {spent[name]:.1f}" for name in ("load", "collect", "learn", "evaluate") if name in spent
    )
    end = f"{fields['env_steps']:,} environment steps, {fields['updates']:,} updates, stopped by {fields['stopped_by']}"
    screen.hint(f"{spent['total']:.1f} s ({parts}); {end}")
