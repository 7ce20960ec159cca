"""One trunk, several heads, each with a teacher of its own; labels that are missing teach nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from toys import Scorer

from policykd import losses
from policykd.classifiers import Heads, Vocabulary
from policykd.errors import PolicykdError
from policykd.learner import Learner
from policykd.losses import DynamicAverage, Uncertainty, by_task, weighted
from policykd.supervised import MISSING, Rows, several
from policykd.taps import Tapped


def trunk(width: int = 4, out: int = 16) -> nn.Module:
    layer = nn.utils.skip_init(nn.Linear, width, out)
    nn.init.orthogonal_(layer.weight, generator=torch.Generator().manual_seed(0))
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer, nn.Tanh())


def rows(n: int = 400) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    return x, (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long(), (x[:, 2] > 0).long()


def right(student: Heads, name: str, x: Tensor, y: Tensor) -> float:
    return float((student.task(name).label(x).dist.mode() == y).float().mean())


def test_a_trunk_learns_two_tasks_one_from_labels_and_one_from_its_teacher() -> None:
    x, quadrant, side = rows()
    student = Heads(trunk(), {"quadrant": 4, "side": ("left", "right")}, 16)
    assert student.acting_parameters == 4 * 16 + 16 + 16 * 4 + 4 + 16 * 2 + 2
    teacher = Scorer(4, 2)
    with torch.no_grad():
        teacher.layer.weight.copy_(torch.tensor([[0.0, 0, -5, 0], [0, 0, 5, 0]]))
    objective = by_task({
        "quadrant": losses.label_nll,
        "side": weighted(label=(0.5, losses.label_nll), policy=(0.5, losses.forward_kl)),
    })  # fmt: skip
    learner = Learner(student, objective, lr=0.03)
    loaders = {
        "quadrant": Rows(x, quadrant, batch_size=64),
        "side": Rows(x[:200], torch.full((200,), MISSING), batch_size=64),
    }
    found = list(several(learner, loaders, 40, teachers={"side": teacher}))
    assert len(found) == 40 * 7 and found[-1].progress.env_steps > found[0].progress.env_steps
    assert right(student, "quadrant", x, quadrant) > 0.95
    assert right(student, "side", x, side) > 0.95
    layers = ("trunk.0.weight", "trunk.0.bias", "head.weight", "head.bias")
    assert set(student.state_dict()) == {f"views.{i}.module.{layer}" for i in range(2) for layer in layers}
    heard = Tapped(student.task("side"), {"shared": "module.trunk"}).label(x).features["shared"]
    assert torch.equal(heard, student.task("quadrant").module.trunk(x))  # type: ignore[operator]
    assert float(found[-1].terms["side/label"]) == 0


def test_dynamic_weights_weigh_the_tasks() -> None:
    x, quadrant, side = rows()
    student = Heads(trunk(), {"quadrant": 4, "side": 2}, 16)
    dwa = DynamicAverage(("quadrant", "side"), window=10)
    objective = by_task({
        name: weighted(label=(dwa.weight(name), losses.label_nll)) for name in student.names
    })  # fmt: skip
    learner = Learner(student, objective, lr=0.03)
    found = list(several(learner, {"quadrant": Rows(x, quadrant), "side": Rows(x, side)}, 30))
    last = found[-1].weights
    total = float(last["quadrant/label"]) + float(last["side/label"])
    assert total == pytest.approx(2.0) and float(last["quadrant/label"]) != 1.0
    assert right(student, "side", x, side) > 0.9


@pytest.mark.parametrize("raw", [False, True])
def test_heads_read_texts(raw: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    mood, place = torch.randint(2, (2, 120), generator=draw)
    texts = tuple(
        f"a {('bad', 'good')[m]} film from {('here', 'there')[p]}"
        for m, p in zip(mood.tolist(), place.tolist(), strict=True)
    )
    vocabulary = Vocabulary.fit(texts)

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.EmbeddingBag(len(vocabulary), 8, padding_idx=0)
            nn.init.normal_(self.mean.weight, generator=torch.Generator().manual_seed(1))

        def forward(self, tokens: Tensor) -> Tensor:
            return self.mean(tokens)

    student = Heads(Words(), {"mood": ("bad", "good"), "place": ("here", "there")}, 8, encoder=vocabulary)
    assert student.task("mood").label(texts[:3]).dist.logits.shape == (3, 2)  # type: ignore[union-attr]
    learner = Learner(student, by_task(dict.fromkeys(student.names, losses.label_nll)), lr=0.05)
    loaders = {"mood": Rows(texts, mood, batch_size=30), "place": Rows(texts, place, batch_size=30)}
    list(several(learner, loaders, 25, prepare=None if raw else student.task("mood").prepare))
    for name, truth in (("mood", mood), ("place", place)):
        said = student.task(name).label_all(texts).dist.mode()
        assert float((said == truth).float().mean()) > 0.98


def test_each_task_has_an_uncertainty_of_its_own() -> None:
    x, quadrant, _ = rows()
    chance = torch.randint(2, (len(x),), generator=torch.Generator().manual_seed(2))  # which nobody can learn
    both = {"quadrant": Rows(x, quadrant), "side": Rows(x, chance)}
    for wrong in (
        by_task({"quadrant": losses.label_nll, "side": losses.label_nll}),
        weighted(all=(1.0, by_task({"quadrant": losses.label_nll, "side": losses.label_nll}))),
    ):
        with pytest.raises(PolicykdError, match=r"tasks quadrant, side.*by_task\(.*\[weight\.tasks\]"):
            Uncertainty(wrong)
    student = Heads(trunk(), {"quadrant": 4, "side": 2}, 16)
    each = {name: Uncertainty(losses.label_nll, floor=0.0) for name in student.names}
    learner = Learner(student, by_task(each), lr=0.02)
    found = list(several(learner, both, 40))
    assert {"quadrant", "quadrant/log_sigma", "side", "side/log_sigma"} == set(found[-1].terms)
    first, last = found[0].weights, found[-1].weights
    assert float(first["quadrant"]) == pytest.approx(float(first["side"]))
    # Each weight follows its own 1 / (2 x loss).
    assert float(last["side"]) == pytest.approx(1 / (2 * math.log(2)), abs=0.1)
    assert float(last["quadrant"]) > 2.0


def test_a_labelled_row_may_lie_anywhere_in_a_pass() -> None:
    x, quadrant, _ = rows(256)
    single = torch.full((256,), MISSING)
    single[7] = 1
    few = torch.full((64,), MISSING)
    for seed in range(10):
        student = Heads(trunk(), {"quadrant": 4, "side": 2}, 16)
        learner = Learner(student, by_task({"quadrant": losses.label_nll, "side": losses.label_nll}))
        # Orders differ from pass to pass: first batch, second, second, first has two silent ones in a row.
        both = {"quadrant": Rows(x, quadrant, seed=seed), "side": Rows(x, single, seed=seed)}
        assert len(list(several(learner, both, 6))) == 12
        # A shorter loader goes round; each of its passes is looked at, the one that is cut off is not.
        short = {"quadrant": both["quadrant"], "side": [(x[:64], few), (x[:64], single[:64]), (x[:64], few)]}
        assert len(list(several(learner, short, 2))) == 6 and len(list(several(learner, short, 1))) == 3


def test_a_pass_that_nobody_labelled_is_noticed_as_it_ends() -> None:
    x, quadrant, _ = rows(256)
    none = torch.full((64,), MISSING)
    student = Heads(trunk(), {"quadrant": 4, "side": 2}, 16)
    learner = Learner(student, by_task({"quadrant": losses.label_nll, "side": losses.label_nll}))

    class Fading:
        """A loader whose labels are gone from its second pass on."""

        passes = 0

        def __len__(self) -> int:
            return 2

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            self.passes += 1
            yield x[:64], quadrant[:64] % 2 if self.passes == 1 else none
            yield x[:64], none

    made = []
    with pytest.raises(PolicykdError, match=r"rows of side .*\[supervised\.unlabelled\]"):
        for update in several(learner, {"quadrant": Rows(x, quadrant, batch_size=32), "side": Fading()}, 1):
            made.append(update)
    assert len(made) == 3  # of 8: the fourth step would have ended the second pass


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Rows without a length."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(self.x, self.y, strict=True))


def test_bad_input() -> None:
    x, quadrant, side = rows(40)
    student = Heads(trunk(), {"quadrant": 4, "side": 2}, 16)
    learner = Learner(student, by_task({"quadrant": losses.label_nll, "side": losses.label_nll}))

    def code(loaders: dict[str, Any], **how: Any) -> str:
        with pytest.raises(PolicykdError) as caught:
            list(several(learner, loaders, 1, **how))
        return caught.value.code

    both = {"quadrant": Rows(x, quadrant), "side": Rows(x, side)}
    assert code({"quadrant": both["quadrant"]}) == "multitask.tasks"
    assert code(both, teachers={"sied": Scorer(4, 2)}) == "multitask.tasks"
    assert code(both, teachers={"side": Scorer(4, 3)}) == "supervised.classes"
    assert code({**both, "side": []}) == "supervised.empty"
    assert code({**both, "side": iter(both["side"])}) == "supervised.length"
    assert code({**both, "side": DataLoader(Stream(x, side), batch_size=10)}) == "supervised.length"
    assert code({**both, "side": [(x, side, torch.full((40, 2), float("nan")))]}) == "supervised.nan"
    nobody = Rows(x, torch.full_like(side, MISSING), batch_size=10)
    with pytest.raises(PolicykdError, match=r"rows of side .*pass teacher=.*\[supervised\.unlabelled\]"):
        list(several(learner, {**both, "side": nobody}, 1))
    assert len(list(several(learner, {**both, "side": nobody}, 1, teachers={"side": Scorer(4, 2)}))) == 4
    taught = Learner(student, by_task({"quadrant": losses.label_nll, "side": losses.forward_kl}))
    with pytest.raises(PolicykdError, match=r"\[supervised\.unlabelled\]"):
        list(several(taught, both, 1))
    assert code({**both, "side": Rows(x, quadrant)}) == "label.range"
    with pytest.raises(PolicykdError, match=r"name\.task"):
        student.task("sidde")
    with pytest.raises(PolicykdError, match=r"multitask\.tasks"):
        Heads(trunk(), {}, 16)
