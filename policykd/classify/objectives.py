"""What a loss's name stands for when classifiers are distilled, and which layers it listens to; names end here."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from policykd import losses
from policykd.class_config import ClassifyConfig
from policykd.classifiers import Classifier, Shape
from policykd.errors import PolicykdError, UsageError
from policykd.losses import (
    Objective,
    PairLoss,
    Weighted,
    as_objective,
    hard_and_soft,
    label_nll,
    soft_label_ce,
    weighted,
)
from policykd.policy import Taught, evaluating
from policykd.prediction import Batch, Prediction, Progress
from policykd.supervised.examples import Examples
from policykd.taps import Tapped

__all__ = ["FEATURES", "check_loss", "objective", "rated", "tapped"]

FEATURES = ("attention", "relations", "hints")
"""Losses that compare activations too."""

_ATTENTION, _DISTANCE, _HINT = 100.0, 1.0, 1.0
"""Weights beside the kd term."""


def _layers(shape: Shape | None, loss: str) -> dict[str, str]:
    """Feature by name, and the submodule of a Classifier that says it; {} where none is known."""
    kind = None if shape is None else shape.kind
    found: dict[str, str] = {}
    if shape is not None and kind in ("mlp", "cnn", "bag", "bag2"):
        found["embedding"] = "module.hidden"
    if shape is not None and kind == "cnn":
        found["map"] = f"module.convolutions.{2 * len(shape.widths) - 1}"
    wanted = {"attention": "map", "relations": "embedding", "hints": "embedding"}[loss]
    return {wanted: found[wanted]} if wanted in found else {}


def tapped(teacher: Classifier, student: Classifier, loss: str) -> tuple[Taught, Taught]:
    """Teacher and student with the features that the loss compares.

    Raises:
        UsageError: ``classify.features`` where one of them has no such layer that is known by name.
    """
    if loss not in FEATURES:
        return teacher, student
    layers = {who: _layers(it.shape, loss) for who, it in (("teacher", teacher), ("student", student))}
    for who, found in layers.items():
        if not found:
            needs = "a cnn on both sides" if loss == "attention" else "an mlp, a cnn or a bag on both sides"
            raise UsageError(
                "classify.features", f"the loss {loss} with this {who}", needs, "--loss kd, or taps of your own"
            )
    return Tapped(teacher, layers["teacher"]), Tapped(student, layers["student"])


def rated(student: Prediction, batch: Batch) -> dict[str, Tensor]:
    """``soft_label_ce`` of the rows that several people rated, ``label_nll`` of the others."""
    rows, soft = label_nll(student, batch), batch.extra.get("soft")
    if soft is None:
        return rows
    return {"": torch.where(soft.sum(-1) > 0, soft_label_ce(student, batch)[""], rows[""])}


def check_loss(
    loss: Weighted | Objective | PairLoss, teacher: Classifier, chain: Mapping[str, Classifier], rows: Examples
) -> None:
    """Let a user's loss judge each pair of teacher and student once, on a few rows; nothing is learnt.

    Args:
        rows: as the view shows them.

    Raises:
        UsageError: ``classify.via`` where it cannot judge an assistant; whatever else the loss refuses.
    """
    judge = as_objective(copy.deepcopy(loss))
    for who, learns in chain.items():
        batch = replace(rows, target=teacher.label(rows.inputs)).batch(learns.prepare(rows.inputs))
        try:
            with evaluating(learns):
                judge.terms(learns.read(batch), batch, Progress())
        except PolicykdError as why:
            if len(chain) == 1:
                raise
            raise UsageError(
                "classify.via",
                f"a loss that cannot judge {who} ({why.found})",
                f"{why.expected}, on assistants too, which are built of shapes and have no taps",
                "leave via out, or name a loss: attention, relations, hints",
            ) from why
        teacher = learns


def objective(config: ClassifyConfig, widths: tuple[int, int] = (0, 0)) -> Weighted:
    """(1 - alpha) x the label's term + alpha x the teacher's word of this name, features beside it.

    Args:
        config: settled.
        widths: of the student's and the teacher's ``embedding``, for hints.
    """
    t = config.temperature
    assert t is not None, "ClassifyConfig.settled has not been asked"
    soft: PairLoss | Objective | None = None
    match config.loss:
        case "standardised":
            soft = partial(losses.standardised_logits, temperature=t)
        case "decoupled":
            soft = partial(losses.decoupled, temperature=t)
        case "dist":
            soft = partial(losses.dist_relations, temperature=t)
    hard = rated if config.raters else label_nll
    mixed = hard_and_soft(alpha=config.alpha, temperature=t, loss=soft, hard=hard)
    match config.loss:
        case "attention":
            return weighted(kd=(1.0, mixed), attention=(_ATTENTION, partial(losses.attention_transfer, feature="map")))
        case "relations":
            distance = partial(losses.relational_distance, feature="embedding")
            # Of the two relations of RKD: angles cost the cube of the batch, thirty times the rest of a step.
            return weighted(kd=(1.0, mixed), distance=(_DISTANCE, distance))
        case "hints":
            return weighted(kd=(1.0, mixed), hint=(_HINT, losses.Hint("embedding", *widths, seed=config.seed)))
    return mixed
