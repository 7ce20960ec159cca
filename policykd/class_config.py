"""What a person can choose when a classifier is distilled: a frozen record with a sentence a field; no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from policykd.errors import UnknownNameError, UsageError

__all__ = ["CLASS_LOSSES", "VIEWS", "ClassLoss", "ClassifyConfig", "ViewName"]

ClassLoss = Literal["kd", "standardised", "decoupled", "dist", "attention", "relations", "hints"]
CLASS_LOSSES: tuple[ClassLoss, ...] = ("kd", "standardised", "decoupled", "dist", "attention", "relations", "hints")
"""What stands for the teacher's word: its softened law, a variant of that, or the law and its features."""

ViewName = Literal["none", "shift", "flip", "mixup", "noise", "words", "spans"]
VIEWS: tuple[ViewName, ...] = ("none", "shift", "flip", "mixup", "noise", "words", "spans")


@dataclass(frozen=True)
class ClassifyConfig:
    """How a classifier is distilled; the same student learns from labels alone beside it, for as many updates."""

    loss: ClassLoss = "kd"
    """The teacher's word: kd, standardised, decoupled (DKD), dist; attention, relations, hints add features to kd."""
    alpha: float = 0.9
    """Share of the teacher's word in the loss; the rest is the true label's."""
    temperature: float | None = None
    """Softens both laws; the kd terms are multiplied by its square. None: 4, of texts 1."""
    epochs: int | None = None
    """Passes over the training rows; None: 20, or as many as make 2,000 steps where rows are few."""
    batch_size: int = 128
    """Rows in one gradient step."""
    learning_rate: float | None = None
    """The students' (Adam's), falling along a cosine to a fiftieth; None: 0.003, of bags of words 0.01."""
    teacher_learning_rate: float | None = None
    """The teacher's, where it is trained here; None: 0.001, of bags 0.01, of a pre-trained one 0.00005."""
    teacher_epochs: int | None = None
    """The teacher's passes; None: as many as the students', of a pre-trained one 3."""
    average: float = 0.99
    """Decay of the moving average of the weights that is measured and saved; 0 keeps none."""
    labels: float = 1.0
    """Share of the training rows whose label the students get; validation keeps all of its, the teacher has all."""
    raters: bool = False
    """Where people rated a row, the students' true label is the law of what they said, not the most frequent word."""
    inputs: Literal["all", "labelled"] = "all"
    """What the distilled student sees: all rows, labelled by the teacher, or only those with a label."""
    view: ViewName | None = None
    """An augmentation that teacher and students see alike; the teacher is asked about each. None: of texts, spans.
    Noise is of numbers: normal, a tenth of each column's standard deviation."""
    copies: int | None = None
    """Views of each row that the teacher answers once, beside the rows themselves; 0: of each batch, anew. None: 0, of
    spans 1."""
    patience: int | None = None
    """Stop after so many epochs without a better one on the validation rows; None goes on to the end."""
    cache: str | None = None
    """A folder that keeps the teacher's answers for the next run."""
    seed: int = 0
    """Seeds first weights, which labels are kept, orders and views; the cut of the data does not depend on it."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant: ``config.zero``, ``.range``, ``.copies``, ``.raters``; ``name.loss``, ``.view``,
        ``.inputs``.
        """
        for name in ("epochs", "batch_size", "teacher_epochs", "patience"):
            value = vars(self)[name]
            if value is not None and value < 1:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError("config.zero", f"{flag} {value}", "at least 1", f"leave {flag} out for the default")
        if self.copies is not None and (self.copies < 0 or (self.copies and self.view == "none")):
            raise UsageError("config.copies", f"--copies {self.copies} of the view {self.view}", "1 or more of a view")
        if self.raters and (self.view == "mixup" or self.labels < 1):
            found = "--view mixup, which mixes labels" if self.view == "mixup" else f"--labels {self.labels}"
            fix = "leave one of them out (what raters said would tell the labels that are to be hidden)"
            raise UsageError("config.raters", f"--raters with {found}", "raters of all training rows", fix)
        if self.loss not in CLASS_LOSSES:
            raise UnknownNameError.of("loss", self.loss, CLASS_LOSSES)
        if self.view is not None and self.view not in VIEWS:
            raise UnknownNameError.of("view", self.view, VIEWS)
        if self.inputs not in ("all", "labelled"):
            raise UnknownNameError.of("inputs", self.inputs, ("all", "labelled"))
        above = "a finite number above 0"
        ranges = {
            "alpha": (0 <= self.alpha <= 1, "0 to 1"),
            "temperature": (self.temperature is None or 0 < self.temperature < math.inf, above),
            "learning_rate": (self.learning_rate is None or 0 < self.learning_rate < math.inf, above),
            "teacher_learning_rate": (
                self.teacher_learning_rate is None or 0 < self.teacher_learning_rate < math.inf,
                above,
            ),
            "average": (0 <= self.average < 1, "0 to less than 1"),
            "labels": (0 < self.labels <= 1, "more than 0, 1 at most"),
        }
        for name, (fits, expected) in ranges.items():
            if not fits:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError("config.range", f"{flag} {vars(self)[name]}", expected, f"leave {flag} out")

    def settled(self, *, texts: bool) -> ClassifyConfig:
        """With temperature, view and copies chosen for texts, or for anything else.

        A teacher is all but certain of the texts that it was fine-tuned on, so that its answers are little more than
        their labels; what runs of a few words mean to it is news to a student. docs/benchmarks.md, section 15.

        Raises:
            UsageError: ``config.copies`` for copies of no view.
        """
        view = self.view or ("spans" if texts else "none")
        copies = self.copies if self.copies is not None else 1 if view == "spans" else 0
        temperature = self.temperature or (1.0 if texts else 4.0)
        return replace(self, view=view, copies=copies, temperature=temperature)
