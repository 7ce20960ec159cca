"""Texts: a pre-trained MiniLM as the teacher, a bag of words at least twenty times smaller as the student, over seeds.

    POLICYKD_DATA=... python tests/benchmarks/texts.py [--data bbc-news vader-movie] [--seeds 5] [--save FILE]

The teacher is fine-tuned here on all training labels, once a data set (minutes on a core), and kept in ``--place``.
Student bag:32 at the shipped defaults; "labels alone" is the same student with as many steps. tf-idf with logistic
regression (scikit-learn, its defaults) is what one gets without any of this. A cell is the mean over seeds with its
Student-t interval; differences are paired by seed. VADER's movie set also has what each rater said: "raters" learns
from their shares instead of the label.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from classifiers import Row, Rows, figures

from policykd.classifiers import Classifier, build, load, save
from policykd.classify import distill_classifier, train_classifier
from policykd.classify.probing import probe
from policykd.datasets import Labelled, find
from policykd.evaluation import student_t_interval
from policykd.losses import soft_label_ce
from policykd.supervised import score

STUDENT = "bag:32"
HOW: dict[str, dict[str, Any]] = {
    "distilled (the defaults)": {},
    "distilled, the rows alone": {"view": "none"},
    "distilled, the rows alone, temperature 4": {"view": "none", "temperature": 4.0},
    "distilled, five reworded copies of each text, temperature 2": {"view": "words", "copies": 5, "temperature": 2.0},
}


def lexical(data: Labelled) -> float:
    """Test accuracy of tf-idf and logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(sublinear_tf=True)
    rule = LogisticRegression(max_iter=1000).fit(words.fit_transform(data.train.inputs), data.train.labels.numpy())
    return float(rule.score(words.transform(data.test.inputs), data.test.labels.numpy()))


def teacher_of(data: Labelled, folder: Path) -> Classifier:
    """MiniLM fine-tuned, or the one that was before."""
    if not folder.exists():
        clock = time.process_time()
        length = 128 if data.name == "bbc-news" else 64
        fresh = build("minilm", inputs=data.train.inputs, classes=data.classes, seed=1_000, length=length)
        probe(fresh, data, seed=1_000)
        made = train_classifier(fresh, data, epochs=3, batch_size=32, learning_rate=5e-5, seed=1_000)
        looks = ", ".join(f"{look.found.accuracy.value:.4f}" for look in made.looks)
        print(f"{data.name}: validation by epoch {looks}; {time.process_time() - clock:.0f} CPU s", flush=True)
        save(made.student, folder)
    return load(folder)


def steps(data: Labelled) -> dict[str, int]:
    """As many steps as the front takes by default."""
    batches = -(-len(data.train.labels) // 128)
    return {"batches": batches, "epochs": max(20, -(-2_000 // batches))}


def alone(data: Labelled, seed: int, teacher: Classifier, *, raters: bool = False) -> Row:
    """The student on labels, or on what raters said."""
    clock = time.process_time()
    student = build(STUDENT, inputs=data.train.inputs, classes=data.classes, seed=seed)
    loss = {"loss": soft_label_ce} if raters else {}
    made = train_classifier(student, data, learning_rate=1e-2, seed=seed, **steps(data), **loss)  # type: ignore[arg-type]
    return figures(made.student, data, teacher, clock)


def distilled(data: Labelled, seed: int, teacher: Classifier, cache: Path, **how: Any) -> Row:
    """The student taught by the teacher."""
    clock = time.process_time()
    made = distill_classifier(data, teacher=teacher, student=STUDENT, alone=teacher, seed=seed, cache=str(cache), **how)
    return figures(made.policies["student"], data, teacher, clock)


def main() -> None:
    """A table a data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=["bbc-news", "vader-movie"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ways", nargs="*", default=list(HOW))
    parser.add_argument("--save", type=Path)
    parser.add_argument("--place", type=Path, default=Path("runs/classifiers"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(args.save)
    for name in args.data:
        data = find(name)
        name = data.name
        teacher = teacher_of(data, args.place / name / "teacher")
        own = score(teacher.label_all(data.test.inputs), data.test.labels)
        print(f"\n{name}: {data.describe()['rows']}; teacher minilm {teacher.acting_parameters:,}: {own.accuracy}; ")
        print(f"tf-idf and logistic regression {lexical(data):.4f}\n", flush=True)
        makers = {
            "labels alone": alone,
            **({"raters alone": partial(alone, raters=True)} if data.train.soft is not None else {}),
            **{
                k: partial(distilled, cache=args.place / name / "cache", **how)
                for k, how in HOW.items()
                if k in args.ways
            },
        }
        found = {
            kind: [rows.of(f"{name} {kind} {s}", partial(make, data, s, teacher)) for s in range(args.seeds)]  # type: ignore[arg-type]
            for kind, make in makers.items()
        }
        print(
            "| student | parameters | accuracy [95 % t] | of the teacher's | less labels alone, points | each | CPU s |"
        )
        print("|---" * 7 + "|")
        for kind, each in found.items():
            kept = [r["accuracy"] / (own.accuracy.value or 1.0) for r in each]
            gaps = [100 * (r["accuracy"] - b["accuracy"]) for r, b in zip(each, found["labels alone"], strict=True)]
            share = teacher.acting_parameters / each[0]["params"]
            gap = "" if kind == "labels alone" else student_t_interval(gaps)
            accuracy = student_t_interval([r["accuracy"] for r in each])
            print(
                f"| {kind} | {each[0]['params']:,} (1/{share:.0f}) | {accuracy} |"
                f" {student_t_interval(kept)} | {gap} | {', '.join(f'{g:+.2f}' for g in gaps)} |"
                f" {max(r['cpu'] for r in each):.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
