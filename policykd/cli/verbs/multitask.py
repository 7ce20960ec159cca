"""``policykd multitask``: one call of ``multitask()``, a run folder, a table of tasks and their geometric mean."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from policykd.cli.arguments.multitask import Arguments
from policykd.cli.flags import settings
from policykd.cli.places import agent, home, prepare, run_folder
from policykd.cli.screen import Screen, number, span
from policykd.cli.teaching import objective, spent
from policykd.multitask import by_environment, multitask
from policykd.news import Look, Tick
from policykd.policy import Policy
from policykd.run import Run, check_vacant
from policykd.run.lessons import record_tasks
from policykd.students import MultiTask

__all__ = ["run"]

_COLUMNS = ("task", "policy", "return [95 %]", "episodes", "parameters", "retention [95 %]", "agreement")


def run(args: Arguments, screen: Screen) -> dict[str, Any]:
    """Teach, measure, write; returns the fields of report.json and the run's folder."""
    prepare(args.threads, args.gym_packages)
    teachers = by_environment([agent(path, args.normalizer) for path in args.teachers])
    student = MultiTask.suited(
        teachers, args.hidden, heads=args.heads, inputs=args.inputs, value=args.value, seed=args.how.seed
    )
    loss = objective(args.loss, args.how.value_weight if args.value else 0.0)
    folder = run_folder(args.out, "multitask", "x".join(map(str, student.hidden)))
    if args.dry_run:
        check_vacant(folder)
        return _dry_run(args, screen, teachers, student, folder)

    with Run.create(folder, config=settings(args), command=screen.command) as run:
        chart_tick, chart_look = record_tasks(run, teachers)
        newest: Tick | None = None

        with screen.progress("multitask") as report_progress:

            def on_tick(name: str, tick: Tick) -> None:
                nonlocal newest
                newest = tick
                chart_tick(name, tick)
                if name == student.names[-1]:
                    losses = {term.partition("/")[0]: float(loss) for term, loss in tick.update.terms.items()}
                    report_progress(tick.update.progress.env_steps, tick.total_steps, losses)

            def on_look(name: str, look: Look) -> None:
                chart_look(name, look)
                screen.hint(
                    f"  {look.env_steps:,} steps, {name}: return {look.score.mean:,.1f}, retention {look.retention}"
                )

            began = time.perf_counter()
            try:
                report = multitask(teachers, student, config=args.how, loss=loss, on_tick=on_tick, on_look=on_look)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(_saved(run, newest)) from None
        before = began - screen.began
        seconds = dict(report.seconds)
        seconds |= {"load": seconds.get("load", 0.0) + before, "total": seconds["total"] + before}
        fields = run.finish(replace(report, seconds=seconds))
    _show(fields, screen)
    screen.line(f"geometric mean of retention: {_kept(fields)} in {fields['student']['params']:,} parameters")
    spent(fields, screen)
    screen.hint(f"report    {folder}/report.json")
    screen.hint(f"charts    tensorboard --logdir {folder}")
    first = next(iter(fields["tasks"].values()))
    screen.hint(f"one task  policykd evaluate {first['path']}")
    return {**fields, "run": str(folder)}


def _saved(run: Run, newest: Tick | None) -> str:
    """Keep what was learnt when a person has had enough; what to say about it."""
    if newest is None:
        return "nothing was learnt yet"
    whole: Any = newest.learner.averaged
    place = run.save_student(whole)
    return f"after {newest.update.progress.env_steps:,} steps; the student so far, unmeasured: {place}"


def _dry_run(
    args: Arguments, screen: Screen, teachers: Mapping[str, Policy], student: MultiTask, folder: Path
) -> dict[str, Any]:
    tasks: dict[str, dict[str, Any]] = {
        name: {
            "source": teacher.origin.path,
            "algo": teacher.origin.algo,
            "env_id": home(teacher, None).env_id,
            "family": teacher.spec.family,
            "teacher_params": teacher.acting_parameters,
            "alone_params": student.alone(name).acting_parameters,
        }
        for name, teacher in teachers.items()
    }
    alone = sum(it["alone_params"] for it in tasks.values())
    about = {"hidden": list(student.hidden), "params": student.acting_parameters, "apart": alone}
    columns = ("task", "teacher", "family", "teacher's parameters", "a student's alone")
    rows = [
        (name, str(it["algo"]), str(it["family"]), f"{it['teacher_params']:,}", f"{it['alone_params']:,}")
        for name, it in tasks.items()
    ]
    screen.table("tasks", columns, rows)
    screen.line(f"one student of all: {student.acting_parameters:,} parameters; one of each: {alone:,}")
    screen.table("configuration", ("", ""), [(k, str(v)) for k, v in settings(args).items()])
    screen.hint("dry run: nothing was written")
    return {"tasks": tasks, "student": about, "out": str(folder), "config": settings(args)}


def _show(fields: dict[str, Any], screen: Screen) -> None:
    rows = []
    for name, task in fields["tasks"].items():
        for who in ("teacher", "student", "random"):
            it, student = task[who], who == "student"
            rows.append(
                (
                    name if who == "teacher" else "",
                    who,
                    span(it["return_mean"], it.get("return_ci")),
                    f"{it['episodes']}",
                    "" if student or it.get("params") is None else f"{it['params']:,}",
                    _kept(task) if student else "",
                    number(task["agreement"], 3) if student else "",
                )
            )
    screen.table("one student of several tasks", _COLUMNS, rows)


def _kept(fields: Mapping[str, Any]) -> str:
    return span(fields["retention"], fields["retention_ci"], 3) or f"n/a: {fields.get('retention_reason')}"
