"""``policykd distill-classifier``: one call of ``distill_classifier()``, a run folder, a table of three classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from policykd.classifiers import Classifier, build, load
from policykd.classify import distill_classifier, planned
from policykd.cli.arguments.distill_classifier import Arguments
from policykd.cli.flags import settings
from policykd.cli.places import run_folder
from policykd.cli.screen import Screen, number
from policykd.datasets import Labelled, find
from policykd.prediction import Update
from policykd.run import Run, check_vacant
from policykd.run.classes import record_classes
from policykd.supervised import EpochLook

__all__ = ["run"]

_SUITED = {True: ("minilm", "bag:32"), False: ("cnn:32,64x128", "cnn:8,16")}
"""Teacher and student, of texts and of images."""


def run(args: Arguments, screen: Screen) -> dict[str, Any]:
    """Teach, measure, write; returns the fields of report.json and the run's folder."""
    torch.set_num_threads(args.threads)
    data = find(args.data)
    teacher, shape = (given or usual for given, usual in zip((args.teacher, args.student), _usual(data), strict=True))
    student = build(shape, inputs=data.train.inputs, classes=data.classes, seed=args.how.seed)
    planned(data, student, args.how)  # what does not fit the data is refused before there is a folder
    assistants = _assistants(args.via, data, student)
    folder = run_folder(args.out, data.name, shape.replace(",", "x").replace(":", "-"))
    if args.dry_run:
        check_vacant(folder)
        return _dry_run(args, screen, data, teacher, student, assistants, folder)
    asked = {**settings(args), "teacher": teacher, "student": shape}
    with Run.create(folder, config=asked, command=screen.command, taught="classifier") as run:
        chart_update, chart_look = record_classes(run)
        with screen.progress("distil") as report_progress:

            def on_update(who: str, update: Update) -> None:
                chart_update(who, update)
                if update.step % 20 == 0:
                    done = round(1000 * update.progress.fraction)
                    report_progress(done, 1000, {f"{who} loss": float(update.loss)})

            def on_look(who: str, look: EpochLook) -> None:
                chart_look(who, look)
                mark = " (best)" if look.best else ""
                screen.hint(f"  {who}, epoch {look.epoch}: {look.found.accuracy.value:.4f} of validation rows{mark}")

            ready: list[str] = []

            def on_done(who: str, classifier: Classifier) -> None:
                if run.save_classifier(who, classifier) is not None:
                    ready.append(str(folder / who))

            try:
                report = distill_classifier(
                    data,
                    teacher=teacher,
                    student=student,
                    via=args.via,
                    config=args.how,
                    on_done=on_done,
                    on_update=on_update,
                    on_look=on_look,
                )
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"trained by now: {', '.join(ready) or 'nothing'}") from None
        fields = report.to_dict()
        run.finish_classes(fields, report.policies)
    _show(fields, screen)
    screen.hint(f"report    {folder}/report.json")
    screen.hint(f"charts    tensorboard --logdir {folder}")
    return {**fields, "run": str(folder)}


def _usual(data: Labelled) -> tuple[str, str]:
    inputs = data.train.inputs
    if isinstance(inputs, torch.Tensor) and inputs.dim() < 3:
        return "mlp:128,128", "mlp:16"
    return _SUITED[isinstance(inputs, tuple)]


def _assistants(via: Sequence[str], data: Labelled, student: Classifier) -> list[Classifier]:
    """What stands between teacher and student, untaught: a shape that cannot be is refused here."""
    return [student if s == "same" else build(s, inputs=data.train.inputs, classes=data.classes) for s in via]


def _dry_run(
    args: Arguments,
    screen: Screen,
    data: Labelled,
    teacher: str,
    student: Classifier,
    assistants: Sequence[Classifier],
    folder: Path,
) -> dict[str, Any]:
    if Path(teacher).is_dir():
        theirs = load(teacher)
    else:
        theirs = build(teacher, inputs=data.train.inputs, classes=data.classes)
    about = data.describe()
    chosen = {**settings(args), "teacher": teacher, "student": str(student.shape)}
    chosen |= {k: v for k, v in asdict(planned(data, student, args.how)).items() if k in chosen and k != "cache"}
    facts = {
        "data": about,
        "teacher": {"source": teacher, "params": theirs.acting_parameters},
        "student": {
            "shape": str(student.shape),
            "params": student.acting_parameters,
            "share": student.acting_parameters / theirs.acting_parameters,
        },
        "via": [{"shape": str(it.shape), "params": it.acting_parameters} for it in assistants],
    }
    screen.table("data", ("", ""), [(k, str(v)) for k, v in about.items()])
    share = student.acting_parameters / theirs.acting_parameters
    screen.line(f"teacher {teacher}: {theirs.acting_parameters:,} parameters")
    for i, it in enumerate(assistants, 1):
        screen.line(f"assistant {i}, {it.shape}: {it.acting_parameters:,}")
    screen.line(f"student {student.shape}: {student.acting_parameters:,} ({share:.2%} of the teacher's)")
    screen.table("configuration", ("", ""), [(k, str(v)) for k, v in chosen.items()])
    screen.hint("dry run: nothing was written")
    return {**facts, "out": str(folder), "config": chosen}


def _show(fields: dict[str, Any], screen: Screen) -> None:
    rows = []
    all_of_them = [
        ("teacher", fields["teacher"]),
        *((f"assistant {i}", it) for i, it in enumerate(fields["via"], 1)),
        ("student, labels alone", fields["alone"]),
        ("student, distilled", fields["student"]),
    ]
    for said, it in all_of_them:
        low, high = it["accuracy_ci"]
        rows.append(
            (
                said,
                str(it.get("shape") or ""),
                f"{it['params']:,}",
                f"{it['bytes']:,}",
                f"{it['accuracy']:.4f} [{low:.4f}, {high:.4f}]",
                f"{it['ece']:.4f}",
                number(it.get("agreement"), 4),
                number(it.get("kd_loss"), 4),
            )
        )
    figures = ("accuracy [95 %]", "calibration error", "agreement", "KD loss")
    columns = ("classifier", "shape", "parameters", "bytes", *figures)
    title = f"{fields['data']['name']}: {fields['student']['rows']:,} test rows"
    screen.table(title, columns, rows, spare=("bytes", "shape", "agreement"))
    low, high = fields["gain_ci"]
    screen.line(f"gain over labels alone {100 * fields['gain']:+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}]")
    if fields["kept"] is not None:
        low, high = fields["kept_ci"]
        screen.line(f"kept of the teacher's accuracy {fields['kept']:.4f} [{low:.4f}, {high:.4f}]")
    whose = ["teacher", *(f"assistant {i}" for i in range(1, len(fields["via"]) + 1))]
    for who, asked in zip(whose, [*(it["answers"] for it in fields["via"]), fields["answers"]], strict=True):
        _show_answers(who, asked, screen)
    screen.line(" · ".join(f"{name} {value:.1f} s" for name, value in fields["seconds"].items()))


def _show_answers(who: str, asked: dict[str, Any], screen: Screen) -> None:
    how = "asked about each batch" if asked["on_the_fly"] else f"{asked['hit_rate']:.0%} from the cache"
    screen.line(f"{who}'s answers {asked['rows']:,} rows, {how}, {asked['seconds']:.2f} s of CPU")
    # An assistant finds answers of the teacher before it, of this very run.
    if who == "teacher" and not asked["on_the_fly"] and asked["hit_rate"] == 0:
        if asked["other_teachers"]:
            screen.line("  asked anew: the cache has answers to these rows, but another teacher's")
        elif asked["other_data"]:
            screen.line("  asked anew: the cache has this teacher's answers, but to other rows")
