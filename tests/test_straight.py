"""Layers without automatic differentiation under any loss: the same bits as with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from toys import every_family

from policykd import losses, students
from policykd.learner import Learner
from policykd.losses.defaults import default_objective
from policykd.prediction import Batch, Obs, Prediction, Spec
from policykd.straight import Straight
from policykd.students import Cohort, Student

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ARM = spaces.Box(-1.0, 2.0, (2,), np.float32)
SPECS = every_family(BOX, ARM)


def student(family: str, hidden: Any = (8, 5), seed: int = 0, **how: Any) -> Student:
    made = students.mlp(SPECS[family], hidden, seed=seed, **how)
    students.fit_normaliser(made, 3.0 * torch.randn(100, 3, generator=torch.Generator().manual_seed(5)))
    return made


def batches(family: str, count: int = 4, rows: int = 20, masked: bool = False) -> list[Batch]:
    teacher = student(family, (7,), 99, value=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        teacher.action_head.weight.mul_(30.0)
    found = []
    for _ in range(count):
        obs = 3.0 * torch.randn(rows, 3, generator=generator)
        mask = torch.rand(rows, generator=generator) < 0.7 if masked else None
        found.append(Batch(obs, teacher.label(obs), torch.rand(rows, generator=generator), mask))
    return found


def mine(s: Prediction, t: Prediction) -> Tensor:
    """A user's: it asks twice for one output, and for the layer below."""
    log_q = s.dist.log_probs  # type: ignore[union-attr]
    wrong = (t.dist.log_probs.exp() * -log_q).sum(-1) + 0.1 * log_q.square().mean(-1)  # type: ignore[union-attr]
    return wrong + 0.01 * s.features["torso"].square().sum(-1)


def both(family: str) -> Any:
    return default_objective(SPECS[family], batches(family, 1)[0].target, with_value=True, value_weight=0.5)


def learnt(
    make: Callable[[], Any], loss: Any, rows: list[Batch], *, straight: bool, **how: Any
) -> tuple[list[Any], int]:
    """Everything that steps leave behind, and how often the layers were passed straight."""
    learner, count = Learner(make(), copy.deepcopy(loss), **how), 0
    read = Straight.read

    def counted(self: Straight, obs: Obs) -> Prediction | None:
        nonlocal count
        said = read(self, obs) if straight else None
        count += said is not None
        return said

    found: list[Any] = []
    learner._shortcut = None
    with mock.patch.object(Straight, "read", counted):
        for one in rows:
            update = learner.step(one)
            found += [update.loss, update.grad_norm, *update.terms.values()]
    found += [p.detach().clone() for p in (*learner.student.parameters(), *learner.averaged.parameters())]
    return found, count


def cohort(family: str) -> Cohort:
    return Cohort([student(family, h, i) for i, h in enumerate([(8, 5), (8, 5), (), (6,)])])


CASES: dict[str, tuple[Callable[[], Any], Any, list[Batch]]] = {
    **{
        f"{family}, its default": (
            partial(student, family),
            default_objective(spec, batches(family, 1)[0].target, with_value=False, value_weight=0.0),
            batches(family),
        )
        for family, spec in SPECS.items()
    },
    **{
        f"{family}, with values": (partial(student, family, value=True), both(family), batches(family))
        for family in SPECS
    },
    "a user's loss": (partial(student, "categorical"), mine, batches("categorical")),
    "a user's loss, masked": (partial(student, "categorical"), mine, batches("categorical", masked=True)),
    "a user's loss, linear": (partial(student, "categorical", "linear"), mine, batches("categorical")),
    "a user's loss, tanh": (partial(student, "categorical", activation="tanh"), mine, batches("categorical")),
    "two terms": (
        partial(student, "categorical"),
        losses.weighted(a=(0.7, losses.reverse_kl), b=(lambda p: 0.3, losses.forward_kl)),
        batches("categorical"),
    ),
    **{
        f"several, {family}": (
            partial(cohort, family),
            default_objective(SPECS[family], batches(family, 1)[0].target, with_value=False, value_weight=0.0),
            batches(family),
        )
        for family in SPECS
    },
    "several, another loss": (partial(cohort, "categorical"), losses.reverse_kl, batches("categorical", masked=True)),
}


@pytest.mark.parametrize("name", CASES)
def test_same_bits_as_automatic_differentiation(name: str) -> None:
    make, loss, rows = CASES[name]
    plain, none = learnt(make, loss, rows, straight=False)
    short, taken = learnt(make, loss, rows, straight=True)
    assert (none, taken) == (0, len(rows))
    for a, b in zip(plain, short, strict=True):
        assert torch.equal(a, b)
    first = dict(make().named_parameters())
    last = dict(zip(first, short[-len(first) :], strict=True))
    still = {name for name, p in first.items() if torch.equal(p, last[name])}
    assert all(part.endswith("log_std") for part in still)  # the teacher's spread is the one that a student begins with


def test_a_loss_that_asks_for_the_layer_alone_leaves_the_head() -> None:
    it = student("categorical")
    learner = Learner(it, lambda s, t: s.features["torso"].square().sum(-1))
    before = copy.deepcopy(it.state_dict())
    for one in batches("categorical"):
        learner.step(one)
    after = it.state_dict()
    moved = {name for name, t in after.items() if not torch.equal(t, before[name])}
    assert moved == {"torso.0.weight", "torso.0.bias", "torso.2.weight", "torso.2.bias"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: students.mlp(Spec(spaces.Box(-1, 1, (2, 3), np.float32), spaces.Discrete(4), "categorical"), (4,)),
        lambda: students.mlp(Spec(spaces.Dict(a=BOX), spaces.Discrete(4), "categorical"), (4,)),
        partial(student, "categorical", activation="gelu"),
    ],
    ids=["a matrix", "a dict", "gelu"],
)
def test_what_is_not_plain_is_not_known(make: Callable[[], Student]) -> None:
    assert Straight.of(make()) is None


def test_who_listens_is_heard_and_what_was_replaced_is_seen() -> None:
    it = student("categorical")
    layers = Straight.of(it)
    assert layers is not None
    obs = batches("categorical", 1)[0].obs
    assert isinstance(obs, Tensor)
    assert layers.takes(obs) and not layers.takes(obs[0]) and not layers.takes(obs[:, :2]) and not layers.takes(obs[:0])
    handle = it.torso[1].register_forward_hook(lambda *_: None)
    assert not layers.takes(obs)
    handle.remove()
    it.torso[0].bias.requires_grad_(False)
    assert not layers.takes(obs)
    it.torso[0].bias.requires_grad_(True)
    assert layers.takes(obs)
    it.torso[2] = nn.Linear(8, 5)
    assert not layers.takes(obs)


def test_a_loss_that_asks_for_the_weights_too_is_heard() -> None:
    """Decay, and consistency on other rows: gradients that reach the weights past the layers above."""

    def made(straight: bool) -> list[Tensor]:
        it = student("categorical")

        def loss(s: Prediction, t: Prediction) -> Tensor:
            decay = sum(p.square().sum() for p in it.parameters())
            elsewhere = it(torch.ones(4, 3)).dist.logits.square().mean()  # type: ignore[union-attr]
            return losses.forward_kl(s, t) + 0.1 * decay + elsewhere

        learner = Learner(it, loss, average=None, max_grad_norm=None)
        if not straight:
            learner._layers = None
        for one in batches("categorical"):
            learner.step(one)
        return [p.detach().clone() for p in it.parameters()]

    for a, b in zip(made(straight=True), made(straight=False), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", ["identity", "norm", "longer"])
def test_a_torso_that_is_changed_is_what_learns(change: str, when: str) -> None:
    def altered(it: Student) -> None:
        torch.manual_seed(0)
        if change == "identity":
            it.torso[1] = nn.Identity()
        elif change == "norm":
            it.torso.append(nn.LayerNorm(5))
        else:
            it.torso.append(nn.Linear(5, 5))
            it.torso.append(nn.SiLU())

    it = student("categorical")
    if when == "before":
        altered(it)
    learner = Learner(it, losses.reverse_kl)
    if when == "after":
        altered(it)
    [one] = batches("categorical", 1)
    with torch.no_grad():
        obs = it.normaliser(one.obs).float()  # type: ignore[misc,operator]
        by_hand = Prediction(law_of(it.action_head(it.torso(obs))))
        wanted = (one.weight * losses.reverse_kl(by_hand, one.target)).mean()
    torch.testing.assert_close(learner.step(one).loss, wanted)


def law_of(logits: Tensor) -> Any:
    return students.network.distribution_of(SPECS["categorical"], logits, None)
