"""Image classifiers a tenth of their teacher's size: by labels alone, by the teacher, by each loss, over seeds.

    python tests/benchmarks/classifiers.py [--data fashion-mnist] [--seeds 5] [--part losses noise cache] [--save FILE]

Teacher cnn:32,64x128, trained here on all training labels, one for all seeds; students cnn:8,16, 12 epochs of as many
steps each; best epoch on the validation rows, accuracy on the test rows. A seed is a student's: first weights, orders,
which tenth of the labels it has. A cell is the mean over seeds in points, with the Student-t interval of the paired
difference to labels alone. ``--save`` keeps rows as they come and takes them up again.

Parts: ``losses`` (all labels; a tenth of them with the teacher's answers on all images, or on that tenth), ``noise``
(two labels of five wrong, for teacher and students alike), ``cache`` (CPU seconds of the teacher, first and second).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import policykd as kd
from policykd import losses
from policykd.class_config import CLASS_LOSSES, ClassifyConfig
from policykd.classifiers import Classifier, build, load, save
from policykd.classify import distill_classifier, train_classifier
from policykd.datasets import Labelled, find
from policykd.evaluation import student_t_interval
from policykd.losses import DynamicAverage, agreeing, hard_and_soft, label_nll, small_loss, weighted
from policykd.losses.weights import linear
from policykd.prediction import Prediction
from policykd.supervised import answers, score

Row = dict[str, Any]
TEACHER, STUDENT = "cnn:32,64x128", "cnn:8,16"
EPOCHS, OF_TEACHER = 12, 20
SCENES: dict[str, tuple[dict[str, Any], Sequence[str]]] = {
    "all labels": ({}, ("kd",)),
    "a tenth of the labels, the teacher's answers on all images": ({"labels": 0.1}, CLASS_LOSSES),
    "a tenth of the labels, the teacher's answers on the same": ({"labels": 0.1, "inputs": "labelled"}, ("kd",)),
}
"""What students see, and the losses that are tried there."""
NOISE = 0.4


def noisy(dwa: DynamicAverage | None = None) -> dict[str, Any]:
    """Losses for labels of which two of five are wrong; the teacher has learnt from them too."""
    smooth = partial(losses.soft_kl, temperature=4.0)
    found: dict[str, Any] = {
        "plain: half label, half teacher": hard_and_soft(alpha=0.5),
        "filter: the label where the teacher gives it 0.1": hard_and_soft(alpha=0.5, hard=agreeing(label_nll)),
        "filter: the small-loss 60 %": hard_and_soft(alpha=0.5, hard=small_loss(label_nll, keep=0.6)),
        "smoothing: label smoothed by 0.4": hard_and_soft(alpha=0.5, hard=partial(label_nll, eps=NOISE)),
        "weights: from label to teacher (linear)": hard_and_soft(alpha=linear(0.5, 1.0)),
        "weights: dynamic average": None,
    }
    dwa = DynamicAverage(("hard", "soft"))
    found["weights: dynamic average"] = weighted(
        hard=(lambda p: 0.5 * dwa.weight("hard")(p), label_nll), soft=(lambda p: 0.5 * dwa.weight("soft")(p), smooth)
    )
    return found


class Rows:
    """Rows by name, made once, kept in a file."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.done: dict[str, Row] = {}
        if path is not None and path.exists():
            self.done = {row["cell"]: row for row in map(json.loads, path.read_text().splitlines())}

    def of(self, cell: str, make: Callable[[], Row]) -> Row:
        """The row of that name."""
        if cell not in self.done:
            self.done[cell] = {"cell": cell, **make()}
            if self.path is not None:
                with self.path.open("a") as out:
                    out.write(json.dumps(self.done[cell]) + "\n")
        return self.done[cell]


_SAID: dict[int, tuple[Classifier, Prediction]] = {}


def figures(who: Classifier, data: Labelled, teacher: Classifier, clock: float) -> Row:
    """What a row keeps of a classifier."""
    spent = time.process_time() - clock
    if id(teacher) not in _SAID:
        _SAID[id(teacher)] = teacher, teacher.label_all(data.test.inputs)
    found = score(who.label_all(data.test.inputs), data.test.labels, _SAID[id(teacher)][1])
    return {
        "accuracy": found.accuracy.value,
        "ece": found.ece,
        "agreement": found.agreement,
        "params": who.acting_parameters,
        "cpu": round(spent, 1),
    }


def teacher_of(data: Labelled, folder: Path, seed: int = 1_000) -> Classifier:
    """A trained teacher, or the one that was trained before."""
    if not folder.exists():
        fresh = build(TEACHER, inputs=data.train.inputs, classes=data.classes, seed=seed)
        save(train_classifier(fresh, data, epochs=OF_TEACHER, learning_rate=1e-3, seed=seed).student, folder)
    return load(folder)


def alone(data: Labelled, few: Labelled, seed: int, teacher: Classifier) -> Row:
    """A student that learns from labels only, with as many steps as the others."""
    clock = time.process_time()
    batches = -(-len(data.train.labels) // 128)
    student = build(STUDENT, inputs=data.train.inputs, classes=data.classes, seed=seed)
    made = train_classifier(student, few, epochs=EPOCHS, seed=seed, batches=batches)
    return figures(made.student, data, teacher, clock)


def distilled(data: Labelled, teacher: Classifier, seed: int, cache: Path, **how: Any) -> Row:
    """One distilled student; whom it is compared with is trained elsewhere."""
    clock = time.process_time()
    made = distill_classifier(
        data, teacher=teacher, student=STUDENT, alone=teacher, epochs=EPOCHS, seed=seed, cache=str(cache), **how
    )
    return figures(made.policies["student"], data, teacher, clock)


def show(rows: dict[str, list[Row]], base: list[Row]) -> None:
    """A Markdown table: accuracy, and difference to labels alone, paired by seed."""
    print("| student | accuracy [95 % t] | less labels alone, points [95 % t] | each | calibration error | CPU s |")
    print("|---" * 6 + "|")
    for name, found in {"labels alone": base, **rows}.items():
        if not found:
            continue
        kept = student_t_interval([r["accuracy"] for r in found]) if len(found) > 1 else found[0]["accuracy"]
        gaps = [100 * (r["accuracy"] - b["accuracy"]) for r, b in zip(found, base, strict=False)]
        gap = "" if found is base else f"{student_t_interval(gaps)}" if len(gaps) > 1 else f"{gaps[0]:+.2f}"
        each = "" if found is base else ", ".join(f"{g:+.2f}" for g in gaps)
        ece = sum(r["ece"] for r in found) / len(found)
        print(f"| {name} | {kept} | {gap} | {each} | {ece:.3f} | {max(r['cpu'] for r in found):.0f} |", flush=True)


def losses_part(data: Labelled, rows: Rows, seeds: range, place: Path, only: list[str]) -> None:
    """Every loss in every scene."""
    teacher = teacher_of(data, place / "teacher")
    own = score(teacher.label_all(data.test.inputs), data.test.labels)
    print(f"\nteacher {TEACHER}: {own.accuracy}, {teacher.acting_parameters:,} parameters\n")
    todo = [(scene, seed) for seed in seeds for scene in SCENES]
    for scene, seed in todo:
        how, tried = SCENES[scene]
        few = data if "labels" not in how else data.share(how["labels"], seed=seed)
        if how.get("inputs") != "labelled":  # the student alone is the same where only the teacher's rows differ
            rows.of(f"{scene} alone {seed}", partial(alone, data, few, seed, teacher))
        for loss in only or tried:
            if loss in tried:
                make = partial(distilled, data, teacher, seed, place / "cache", config=ClassifyConfig(loss=loss), **how)
                rows.of(f"{scene} {loss} {seed}", make)
    for scene, (how, _) in SCENES.items():
        first = list(SCENES)[1] if how.get("inputs") == "labelled" else scene
        base = [rows.done[c] for s in seeds if (c := f"{first} alone {s}") in rows.done]
        found = {
            loss: [rows.done[c] for s in seeds if (c := f"{scene} {loss} {s}") in rows.done] for loss in CLASS_LOSSES
        }
        print(f"\n{scene}\n")
        show(found, base)


def noise_part(data: Labelled, rows: Rows, seeds: range, place: Path) -> None:
    """Two labels of five are wrong, the teacher's too."""
    wrong = data.with_noise(NOISE, seed=0)
    teacher = teacher_of(wrong, place / "noisy-teacher")
    own = score(teacher.label_all(data.test.inputs), data.test.labels)
    print(f"\nteacher, taught the wrong labels too: {own.accuracy}\n")
    for seed in seeds:
        rows.of(f"noise alone {seed}", partial(alone, wrong, wrong, seed, teacher))
        for name, loss in noisy().items():
            rows.of(f"noise {name} {seed}", partial(distilled, wrong, teacher, seed, place / "cache", loss=loss))
    base = [rows.done[f"noise alone {s}"] for s in seeds]
    show({name: [rows.done[f"noise {name} {s}"] for s in seeds] for name in noisy()}, base)


def cache_part(data: Labelled, place: Path) -> None:
    """The teacher's CPU seconds with and without what is on disk, and what a change does."""
    teacher = teacher_of(data, place / "teacher")
    other = build(TEACHER, inputs=data.train.inputs, classes=data.classes, seed=1)
    moved = data.train.inputs.clone()  # type: ignore[union-attr]
    moved[0, 0, 0, 0] += 1
    print("\n| run | rows | from the cache | CPU s of the teacher | of the whole call |")
    print("|---" * 5 + "|")
    with tempfile.TemporaryDirectory() as folder:
        first = 0.0
        for name, who, inputs in (
            ("first", teacher, data.train.inputs),
            ("second", teacher, data.train.inputs),
            ("another teacher", other, data.train.inputs),
            ("one pixel changed", teacher, moved),
            ("third", teacher, data.train.inputs),
        ):
            clock = time.process_time()
            found = answers(who, inputs, cache=folder)
            whole = time.process_time() - clock
            first = first or found.seconds
            print(
                f"| {name} | {len(inputs):,} | {found.hit_rate:.0%} | {found.seconds:.3f} ({found.seconds / first:.2%})"
                f" | {whole:.2f} |",
                flush=True,
            )


def main() -> None:
    """The parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--part", nargs="*", default=["losses", "noise", "cache"])
    parser.add_argument("--losses", nargs="*", default=[])
    parser.add_argument("--save", type=Path)
    parser.add_argument("--place", type=Path, default=Path("runs/classifiers"), help="for teachers and their answers")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data, rows, seeds = find(args.data), Rows(args.save), range(args.seeds)
    place = args.place / data.name
    print(f"{data.name}: {kd.__version__}, {data.describe()['rows']}")
    if "losses" in args.part:
        losses_part(data, rows, seeds, place, args.losses)
    if "noise" in args.part:
        noise_part(data, rows, seeds, place)
    if "cache" in args.part:
        cache_part(data, place)


if __name__ == "__main__":
    main()
