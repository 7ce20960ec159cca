"""Taps: what single layers say joins what a network says, and no hook outlives the call."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from toys import CARTPOLE, Balancer

from policykd import Learner, students
from policykd.distributions import Categorical
from policykd.errors import PolicykdError, UnknownNameError, UsageError
from policykd.losses import feature_mse, forward_kl
from policykd.policy import Taught
from policykd.prediction import Batch, Prediction, Spec
from policykd.taps import Tapped, listen


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Sequential(nn.Linear(3, 2), nn.ReLU()))


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


class Net(Taught):
    """A Taught that is no policy: conv maps and logits, with modules that misbehave."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.idle = nn.Conv2d(1, 2, 3), nn.Linear(2, 3), nn.Linear(1, 1)
        self.memory, self.odd = nn.LSTM(2, 2, batch_first=True), Odd()
        self.broken = False

    def read(self, batch: Batch) -> Prediction:
        assert isinstance(batch.obs, Tensor)
        maps = self.conv(batch.obs)
        pooled = maps.mean((-2, -1))
        self.memory(maps.flatten(2).transpose(1, 2))
        self.odd(pooled)
        if self.broken:
            raise RuntimeError("in the middle")
        return Prediction(Categorical(self.head(pooled)), features={"pooled": pooled})


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return {"x": x}


IMAGES = Batch(randn(5, 1, 6, 6), Prediction(Categorical(torch.zeros(5, 3))))


# --- listen ----------------------------------------------------------------------------------------------------------


def test_it_hears_what_layers_return_with_their_gradient() -> None:
    net, x = plain(), randn(6, 4)
    with listen(net, {"hidden": "1", "last": "2.0"}) as heard:
        assert heard == {}
        net(x)
    hidden = torch.tanh(net[0](x))
    torch.testing.assert_close(heard["hidden"], hidden)
    torch.testing.assert_close(heard["last"], net[2][0](hidden))
    assert list(heard) == ["hidden", "last"] and heard["last"].requires_grad and hooks(net) == 0


@pytest.mark.parametrize("names", ["2", ["2"], ("2",), {"2": "2"}])
def test_names_in_any_form(names: Any) -> None:
    net, x = plain(), randn(6, 4)
    with listen(net, names) as heard:
        said = net(x)
    assert heard["2"] is said


def test_no_names_hear_nothing() -> None:
    net = plain()
    with listen(net, ()) as heard:
        assert hooks(net) == 0
        net(randn(1, 4))
    assert heard == {}


def test_hooks_go_whatever_happens() -> None:
    net = plain()
    with pytest.raises(ZeroDivisionError), listen(net, ["0", "2"]):
        assert hooks(net) > 0
        raise ZeroDivisionError
    assert hooks(net) == 0
    with pytest.raises(UnknownNameError), listen(net, ["0", "no"]):
        pass
    assert hooks(net) == 0


def test_the_last_of_several_calls_counts_and_shared_modules_have_all_their_names() -> None:
    layer = nn.Linear(4, 4)
    net = nn.Sequential(layer, nn.Tanh(), layer)
    with listen(net, ["0", "2"]) as heard:
        said = net(randn(2, 4))
    assert heard["0"] is said and heard["2"] is said


def test_a_wrong_name_gets_the_right_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"one of 0, 1, 2, 2.0, 2.1.*did you mean 2.0.*\[name.module\]"):
        listen(plain(), ["2.00"]).__enter__()
    with pytest.raises(UnknownNameError, match=r"'' is not in Sequential"):
        listen(plain(), [""]).__enter__()
    with pytest.raises(UnknownNameError, match=r"no submodules"):
        listen(nn.Tanh(), ["0"]).__enter__()
    many = nn.Sequential(*[nn.Tanh() for _ in range(300)])
    with pytest.raises(UnknownNameError, match=r"one of 0, 1, .*, 19, \.\.\. \(300 in all\)") as error:
        listen(many, ["conv"]).__enter__()
    assert "200" not in str(error.value)


# --- Tapped ----------------------------------------------------------------------------------------------------------


def test_a_policy_student() -> None:
    student = students.mlp(CARTPOLE, (8, 6))
    tapped, batch = Tapped(student, {"first": "torso.1", "logits": "action_head"}), Batch(randn(7, 4), said(7))
    alone, heard = student.read(batch), tapped.read(batch)
    torch.testing.assert_close(heard.dist.logits, alone.dist.logits)  # type: ignore[union-attr]
    assert set(heard.features) == {"torso", "first", "logits"}
    torch.testing.assert_close(heard.features["logits"], alone.dist.logits)  # type: ignore[union-attr]
    torch.testing.assert_close(heard.features["first"], student.torso[:2](student.encode(batch.obs)))
    torch.testing.assert_close(heard.features["torso"], alone.features["torso"])
    assert hooks(tapped) == 0


def said(n: int) -> Prediction:
    return Prediction(Categorical(torch.zeros(n, 2)))


@pytest.mark.parametrize("name", ["torso", "torso.0", "torso.3", "action_head"])
def test_a_student_hears_its_listeners_everywhere(name: str) -> None:
    tapped = Tapped(students.mlp(CARTPOLE, (8, 6)), [name])
    assert tapped.read(Batch(randn(7, 4), said(7))).features[name].shape[0] == 7


def test_a_convolutional_student() -> None:
    spec = Spec(spaces.Box(0, 255, (1, 12, 12), "uint8"), spaces.Discrete(2), "categorical")
    student = students.cnn(spec, (4,), channels=(3, 5))
    tapped = Tapped(student, {"map": "encoders.0.conv.2"})
    images = torch.zeros(7, 1, 12, 12, dtype=torch.uint8)
    assert tapped.read(Batch(images, said(7))).features["map"].shape == (7, 5, 3, 3)


def test_it_is_its_inner_weights() -> None:
    student = students.mlp(CARTPOLE, (8,))
    tapped = Tapped(student, ["torso.1"])
    assert [id(p) for p in tapped.parameters()] == [id(p) for p in student.parameters()]
    assert set(tapped.state_dict()) == {f"inner.{k}" for k in student.state_dict()}
    twin = copy.deepcopy(tapped)
    assert twin.inner is not student and twin.names == tapped.names
    batch = Batch(randn(3, 4), said(3))
    torch.testing.assert_close(twin.read(batch).features["torso.1"], tapped.read(batch).features["torso.1"])


def test_a_teacher_labels_with_features_and_keeps_its_own() -> None:
    teacher, obs = students.mlp(CARTPOLE, (8, 6), seed=1), randn(7, 4)
    word = Tapped(teacher, {"early": "torso.1"}).label(obs)
    assert set(word.features) == {"torso", "early"}
    assert not any(t.requires_grad for t in (*word.features.values(), word.dist.logits))  # type: ignore[union-attr]
    assert hooks(teacher) == 0


def test_a_call_is_that_of_the_inner_one() -> None:
    tapped = Tapped(students.mlp(CARTPOLE, (8,)), ["torso.1"])
    assert set(tapped(randn(2, 4)).features) == {"torso", "torso.1"}
    assert set(tapped(randn(2, 4), values=False).features) == {"torso.1"}


def test_any_other_taught() -> None:
    tapped = Tapped(Net(), {"map": "conv", "memory": "memory"})
    features = tapped.read(IMAGES).features
    assert {k: tuple(v.shape) for k, v in features.items()} == {
        "pooled": (5, 2),
        "map": (5, 2, 4, 4),
        "memory": (5, 16, 2),  # the first tensor of (output, (h, c))
    }


@pytest.mark.parametrize(
    ("names", "code"), [({"x": "odd"}, "taps.output"), (["idle"], "taps.silent"), ({"pooled": "conv"}, "taps.feature")]
)
def test_taps_that_cannot_be(names: Any, code: str) -> None:
    net = Net()
    with pytest.raises(UsageError, match=rf"\[{code}\]"):
        Tapped(net, names).read(IMAGES)
    assert hooks(net) == 0


def test_a_read_that_breaks_leaves_no_hook() -> None:
    net = Net()
    tapped = Tapped(net, ["conv"])
    net.broken = True
    with pytest.raises(RuntimeError, match="in the middle"):
        tapped.read(IMAGES)
    assert hooks(net) == 0


def test_errors_at_once() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean torso.1 .*\[name.module\]"):
        Tapped(students.mlp(CARTPOLE, (8,)), ["torso1"])
    with pytest.raises(UsageError, match=r"\[taps.many\]"):
        Tapped(students.Cohort([students.mlp(CARTPOLE, (8,)) for _ in range(2)]), ["encoders"])
    with pytest.raises(UsageError, match=r"Net without label.*\[taps.label\]"):
        Tapped(Net(), ["conv"]).label(IMAGES.obs)
    assert issubclass(UnknownNameError, PolicykdError)


def test_a_learner_teaches_a_tapped_student_by_its_features() -> None:
    teacher, obs = students.mlp(CARTPOLE, (8,), seed=3), randn(64, 4)
    target = Tapped(teacher, ["torso.1"]).label(obs)
    student = Tapped(students.mlp(CARTPOLE, (8,)), ["torso.1"])
    learner = Learner(student, partial(feature_mse, feature="torso.1"), lr=0.03)
    updates = [learner.step(Batch(obs, target)) for _ in range(100)]
    assert float(updates[-1].loss) < 0.2 * float(updates[0].loss)
    assert isinstance(learner.averaged, Tapped) and learner.averaged.inner is not learner.student.inner


def test_taps_change_nothing_that_is_learnt() -> None:
    batch = Batch(randn(32, 4), Balancer().label(randn(32, 4)))
    bare, tapped = students.mlp(CARTPOLE, (8,)), Tapped(students.mlp(CARTPOLE, (8,)), ["torso.1"])
    alone, other = Learner(bare, forward_kl), Learner(tapped, forward_kl)
    for _ in range(5):
        alone.step(batch)
        other.step(batch)
    for p, q in zip(bare.parameters(), tapped.parameters(), strict=True):
        torch.testing.assert_close(p, q)
