"""One trunk, several heads, each with a teacher of its own; labels that are missing teach nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import Scorer

from policykd import losses
from policykd.classifiers.heads import Heads
from policykd.errors import PolicykdError
from policykd.learner import Learner
from policykd.losses import DynamicAverage, by_task, weighted
from policykd.supervised import MISSING, Rows, several


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
    assert code({**both, "side": iter(both["side"])}) == "supervised.empty"
    assert code({**both, "side": Rows(x, quadrant)}) == "label.range"
    with pytest.raises(PolicykdError, match=r"name\.task"):
        student.task("sidde")
    with pytest.raises(PolicykdError, match=r"multitask\.tasks"):
        Heads(trunk(), {}, 16)
