"""What cannot be learnt from: answers of another kind, and knobs that cannot be meant."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from online_toys import Odd, distiller, right, said, seen
from torch import Tensor
from toys import CARTPOLE, Balancer

from policykd import losses, students
from policykd.distributions import Categorical, DiagGaussian, MultiCategorical
from policykd.errors import UsageError
from policykd.losses import weights
from policykd.online import Answer, OnlineConfig, OnlineDistiller, Status
from policykd.online.labels import Kind, Unread
from policykd.prediction import Prediction, Progress, Spec


def lived(teacher: Any, rows: int = 16, **how: Any) -> OnlineDistiller:
    online = distiller(teacher, **how)
    for i in range(rows):
        online.observe(seen(i))
        online.update()
    return online


# Answers


@pytest.mark.parametrize(
    "rest",
    [
        dict(value=torch.tensor([0.0, -torch.inf, torch.inf, math.nan])),
        dict(features={"torso": torch.tensor([[0.0], [-torch.inf], [torch.inf], [math.nan]])}),
        dict(q=torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf], [torch.inf, 0.0], [math.nan, 0.0]])),
    ],
    ids=["value", "features", "q"],
)
def test_values_and_features_are_finite_and_q_has_an_action(rest: dict[str, Any]) -> None:
    online = lived(Odd(lambda ids, obs: [Answer(ids, said(**rest))]), 4)
    assert (online.status.answered, online.status.invalid, online.status.open) == (1, 3, 3)


@pytest.mark.parametrize(
    "rest",
    [
        dict(value=torch.zeros(4, 1)),
        dict(value=torch.zeros(3)),
        dict(q=torch.zeros(4, 3)),
        dict(q=torch.zeros(4)),
        dict(features={"torso": torch.zeros(3, 5)}),
        dict(features={"torso": [0.0] * 4}),
        dict(features=torch.zeros(4, 5)),
        dict(value=np.zeros(4, np.float32)),
        dict(value=torch.zeros(4, dtype=torch.int64)),
    ],
)
def test_columns_of_another_shape_are_no_answer(rest: dict[str, Any]) -> None:
    online = lived(Odd(lambda ids, obs: [Answer(ids, said(**rest)), right(ids, obs)]))
    assert online.status.invalid == online.status.answered == 16
    assert online.status.updates == 4, "what is right is learnt from"


MALFORMED: dict[str, tuple[Callable[[np.ndarray], Any], int]] = {
    "numbers with a fraction": (lambda ids: Answer(ids + 0.5, said()), 4),
    "numbers in words": (lambda ids: Answer([str(i) for i in ids], said()), 4),
    "numbers that are too large": (lambda ids: Answer([10**30] * 4, said()), 4),
    "numbers in a ragged list": (lambda ids: Answer([[1], [2, 3]], said()), 1),
    "no numbers": (lambda ids: Answer(None, said()), 1),
    "no version": (lambda ids: Answer(ids, said(), None), 4),  # type: ignore[arg-type]
    "a version with a fraction": (lambda ids: Answer(ids, said(), 1.9), 4),  # type: ignore[arg-type]
    "a version in digits": (lambda ids: Answer(ids, said(), "1"), 4),  # type: ignore[arg-type]
    "a version in words": (lambda ids: Answer(ids, said(), "new"), 4),  # type: ignore[arg-type]
    "a version that is infinite": (lambda ids: Answer(ids, said(), math.inf), 4),  # type: ignore[arg-type]
    "a version out of bounds": (lambda ids: Answer(ids, said(), 1 << 70), 4),
    "nothing said": (lambda ids: Answer(ids, None), 4),  # type: ignore[arg-type]
    "a dict": (lambda ids: Answer(ids, {"logits": [[0.0, 1.0]] * 4}), 4),  # type: ignore[arg-type]
    "logits": (lambda ids: Answer(ids, torch.zeros(4, 2)), 4),  # type: ignore[arg-type]
    "no law": (lambda ids: Answer(ids, Prediction(None)), 4),  # type: ignore[arg-type]
    "numpy logits": (lambda ids: Answer(ids, Prediction(Categorical(np.zeros((4, 2))))), 4),  # type: ignore[arg-type]
    "whole logits": (lambda ids: Answer(ids, Prediction(Categorical(torch.zeros(4, 2).long()))), 4),
    "logits in time": (lambda ids: Answer(ids, Prediction(Categorical(torch.zeros(4, 1, 2)))), 4),
    "no answer": (lambda ids: None, 1),
    "two of three": (lambda ids: (ids,), 1),
    "four of three": (lambda ids: (ids, said(), 0, 0), 1),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_cannot_be_read_is_counted_and_life_goes_on(name: str) -> None:
    make, rows = MALFORMED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        online = lived(Odd(lambda ids, obs: [make(ids), right(ids, obs)]))
    status = online.status
    assert (status.invalid, status.answered, status.updates) == (4 * rows, 16, 4)
    assert status.failures == status.outages == 0


def test_choices_of_another_cut_and_a_spread_of_another_width_are_no_answer() -> None:
    box = spaces.Box(-1, 1, (4,), np.float32)
    dice = Kind(Spec(box, spaces.MultiDiscrete([2, 3]), "multi_categorical"))
    dice.check(Prediction(MultiCategorical(torch.zeros(1, 5), (2, 3))), 1)
    with pytest.raises(Unread, match=r"\(3, 2\)"):
        dice.check(Prediction(MultiCategorical(torch.zeros(1, 5), (3, 2))), 1)
    normal = Kind(Spec(box, spaces.Box(-1, 1, (2,), np.float32), "diag_gaussian"))
    normal.check(Prediction(DiagGaussian(torch.zeros(3, 2), torch.zeros(3, 1))), 3)
    for spread in (torch.zeros(2), torch.zeros(3, 3), torch.zeros(1, 2)):
        with pytest.raises(Unread, match="log_std"):
            normal.check(Prediction(DiagGaussian(torch.zeros(3, 2), spread)), 3)


def test_labels_in_doubles_stand_beside_floats_in_any_memory() -> None:
    def make(ids: np.ndarray, obs: Tensor) -> list[Any]:
        law, more = right(ids, obs).said.dist, {"a": torch.zeros(4, 1), "b": torch.ones(4, 1)}
        if ids[0] == 0:
            return [Answer(ids, Prediction(law, features=more))]
        features = {name: more[name].double() for name in ("b", "a")}
        return [Answer(ids, Prediction(Categorical(law.logits.double()), features=features))]

    for memory in ("fifo", "reservoir"):
        online = lived(Odd(make), memory=memory)
        rows = online._lessons.memory.sample(50)
        assert online.status.answered == 16 and rows.target.dist.logits.dtype == torch.float32  # type: ignore[union-attr]
        assert not rows.target.features["a"].any() and rows.target.features["b"].all()


# Knobs


@pytest.mark.parametrize(
    ("knob", "code"),
    [
        *((dict(learning_rate=rate), "online.knobs") for rate in (0.0, -1e-3, math.nan, math.inf)),
        *((dict(average=decay), "online.knobs") for decay in (-0.1, 1.0, math.nan)),
        *((dict(value_weight=weight), "online.knobs") for weight in (-0.5, math.nan, math.inf)),
        (dict(silence=0), "online.knobs"),
        (dict(rest_every=0), "config.zero"),
    ],
)
def test_knobs_that_cannot_be_meant(knob: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError, match=rf"{next(iter(knob))}=.*\[{code}\]"):
        OnlineConfig(**knob)


def test_the_ends_of_the_knobs() -> None:
    config = OnlineConfig(average=0.0, value_weight=0.0, silence=1, rest_every=1, learning_rate=1e-12)
    assert lived(Balancer(3.0), config=config, ask_rows=4, warm_up=8, rows_per_update=4).status.updates == 4


def test_what_the_student_keeps_reaches_the_weights() -> None:

    told: list[tuple[float | None, int]] = []

    def weight(progress: Progress) -> float:
        told.append((progress.retention, progress.env_steps))
        return weights.by_performance()(progress)

    def kept(status: Status) -> float | None:
        return None if status.observed < 12 else status.observed / 100

    online = OnlineDistiller(
        students.mlp(CARTPOLE, (8,), seed=3),
        Balancer(3.0),
        losses.weighted(policy=(weight, losses.forward_kl)),
        retention=kept,
        ask_rows=4,
        warm_up=8,
        rows_per_update=4,
    )
    found = {}
    for i in range(16):
        online.observe(seen(i))
        update = online.update()
        if update is not None:
            found[update.progress.env_steps] = update.weights["policy"]
    assert (None, 8) in told and (0.12, 12) in told
    assert found == {8: 1.0, 12: pytest.approx(0.88), 16: pytest.approx(0.84)}
