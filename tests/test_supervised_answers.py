"""A teacher's answers on disk: asked for once, taken up where labelling stopped, never another's."""

from __future__ import annotations

import enum
import functools
import json
import threading
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from toys import Balancer, Scorer

from policykd import losses
from policykd.classifiers import Classifier, Vocabulary, build
from policykd.clock import Clock
from policykd.errors import CheckpointError, DistributionError, RunError, UsageError
from policykd.learner import Learner
from policykd.prediction import Prediction
from policykd.supervised import Rows, WithAnswers, answers, epochs, hash_inputs, hash_weights, read_answers
from policykd.taps import Tapped
from policykd.teachers import Ensemble


@pytest.fixture
def x() -> Tensor:
    return torch.randn(9000, 5, generator=torch.Generator().manual_seed(0))


def test_the_second_time_nobody_is_asked(tmp_path: Path, x: Tensor) -> None:
    teacher = Scorer(5, 3, seed=1)
    first = answers(teacher, x, cache=tmp_path, features=["inputs"])
    assert teacher.asked == 9000 and first.hit_rate == 0 and first.folder is not None
    clock = Clock()
    second = answers(teacher, x, cache=tmp_path, features=["inputs"], clock=clock)
    assert teacher.asked == 9000 and second.hit_rate == 1
    assert second.other_teachers == second.other_data == 0
    fresh = Scorer(5, 3, seed=1).label(x)
    for found in (first, second):
        assert torch.allclose(found.target.dist.logits, fresh.dist.logits, atol=1e-6)  # type: ignore[union-attr]
        assert torch.equal(found.target.features["inputs"], x)
    assert torch.equal(first.target.dist.logits, second.target.dist.logits)  # type: ignore[union-attr]


def test_another_teacher_or_other_data_are_noticed(tmp_path: Path, x: Tensor) -> None:
    teacher, other = Scorer(5, 3, seed=1), Scorer(5, 3, seed=2)
    found = answers(teacher, x, cache=tmp_path)
    assert found.folder is not None
    changed = answers(other, x, cache=tmp_path)
    assert changed.hits == 0 and other.asked == 9000
    assert (changed.other_teachers, changed.other_data) == (1, 0)
    moved = x.clone()
    moved[8999, 0] += 1e-3
    elsewhere = answers(teacher, moved, cache=tmp_path)
    assert (elsewhere.hits, elsewhere.other_teachers, elsewhere.other_data) == (0, 0, 1)
    assert answers(teacher, x, cache=tmp_path).hits == 9000
    with torch.no_grad():
        teacher.layer.bias[0] += 1e-3  # fine-tuned a little
    again = answers(teacher, x, cache=tmp_path)
    assert (again.hits, again.other_teachers, again.other_data) == (0, 2, 0)
    with pytest.raises(CheckpointError, match=r"labels\.teacher"):
        read_answers(found.folder, other)
    assert torch.equal(read_answers(changed.folder, other).dist.mode(), other.label(x).dist.mode())  # type: ignore[arg-type]


def test_labelling_goes_on_where_it_stopped(tmp_path: Path, x: Tensor) -> None:
    class Tired(Scorer):  # type: ignore[misc]
        def label(self, inputs: Tensor) -> Prediction:
            if self.asked > 5000:
                raise KeyboardInterrupt
            return super().label(inputs)

    tired = Tired(5, 3, seed=1)
    with pytest.raises(KeyboardInterrupt):
        answers(tired, x, cache=tmp_path)
    fresh = Scorer(5, 3, seed=1)
    found = answers(fresh, x, cache=tmp_path, teacher_hash=hash_weights(tired))
    assert found.hits == 4096 and fresh.asked == 9000 - 4096
    assert torch.allclose(found.target.dist.logits, fresh.label(x).dist.logits, atol=1e-6)  # type: ignore[union-attr]


def test_damage_is_found_before_anything_is_learnt(tmp_path: Path, x: Tensor) -> None:
    teacher = Scorer(5, 3)
    folder = answers(teacher, x, cache=tmp_path).folder
    assert folder is not None
    shard = folder / "shard-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"labels\.damaged"):
        answers(teacher, x, cache=tmp_path)
    manifest = folder / "manifest.json"
    for wrong in ("", "[]", json.dumps({"schema": 9, "kind": "labels"}), "[" * 100_000):
        manifest.write_text(wrong)
        with pytest.raises(CheckpointError, match=r"labels\.manifest"):
            answers(teacher, x, cache=tmp_path)
    evil = {"schema": 1, "kind": "labels", "shards": [{"file": "../x.safetensors", "rows": 1, "sha256": ""}]}
    manifest.write_text(json.dumps(evil))
    with pytest.raises(CheckpointError, match=r"labels\.manifest"):
        answers(teacher, x, cache=tmp_path)


def test_hashes_tell_contents_apart() -> None:
    x = torch.arange(6)
    assert hash_inputs(x.reshape(2, 3)) != hash_inputs(x.reshape(3, 2))
    assert hash_inputs(("ab", "c")) != hash_inputs(("a", "bc"))
    assert hash_inputs({"a": x, "b": x}) == hash_inputs({"b": x, "a": x}) != hash_inputs({"a": x})
    assert hash_weights(Scorer(2, 2)) == hash_weights(Scorer(2, 2)) != hash_weights(Scorer(2, 2, seed=1))
    assert hash_inputs(("\ud800",)) != hash_inputs(("?",))  # half a character, as json.loads may give
    turned = x.reshape(2, 3).T
    assert hash_inputs(turned) == hash_inputs(turned.contiguous())


def _net(between: nn.Module) -> Classifier:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), between, nn.Linear(4, 3))
    for p in net.parameters():
        nn.init.normal_(p, generator=generator)
    return Classifier(net, 3)


class _Shifted(nn.Module):
    """What it adds is no part of its state."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.register_buffer("by", torch.full((3,), by), persistent=False)


class _Called(nn.Module):
    def __init__(self, f: Any) -> None:
        super().__init__()
        self.f = f

    def extra_repr(self) -> str:
        return repr(self.f)


def test_equal_weights_in_another_network_are_another_teacher(tmp_path: Path, x: Tensor) -> None:
    relu, gelu = _net(nn.ReLU()), _net(nn.GELU())
    assert answers(relu, x[:9], cache=tmp_path).hits == 0
    found = answers(gelu, x[:9], cache=tmp_path)
    assert found.hits == 0 and found.other_teachers == 1
    assert torch.equal(found.target.dist.logits, gelu.label(x[:9]).dist.logits)  # type: ignore[union-attr]
    assert hash_weights(relu) == hash_weights(_net(nn.ReLU())) != hash_weights(_net(nn.LeakyReLU()))
    assert hash_weights(_Shifted(1.0)) == hash_weights(_Shifted(1.0)) != hash_weights(_Shifted(2.0))
    assert hash_weights(_Called(lambda: 1)) == hash_weights(_Called(lambda: 1))  # wherever it lies in memory


def test_what_is_tapped_is_part_of_who_answers(tmp_path: Path) -> None:
    x = torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    teacher = build("cnn:4,8x4", inputs=x, classes=3)
    one, other = (Tapped(teacher, {"f": f"module.{name}"}) for name in ("hidden", "convolutions"))
    assert hash_weights(one) != hash_weights(other) == hash_weights(Tapped(teacher, {"f": "module.convolutions"}))
    shapes = [answers(who, x, cache=tmp_path, features=["f"]).target.features["f"].shape for who in (one, other)]
    assert shapes == [one.label(x).features["f"].shape, other.label(x).features["f"].shape]
    assert shapes[0] != shapes[1]


def _first(said: Any, weights: Any = None) -> Prediction:
    return said[0]  # type: ignore[no-any-return]


def _by(name: str) -> Any:
    return lambda said: getattr(losses.combine, name)(said)


WAYS = {
    "mean": losses.combine.mean,
    "product": losses.combine.product,
    "one's own": _first,
    "other shares": partial(losses.combine.mean, weights=[0.9, 0.1]),
    "shares of tensors": partial(losses.combine.mean, weights=torch.tensor([0.9, 0.2])),
    "a closure": _by("mean"),
    "another": _by("product"),
    "written here": lambda said: losses.combine.mean(said),
    "and here": lambda said: losses.combine.product(said),
}


def test_how_teachers_are_combined_is_part_of_who_answers() -> None:
    teachers = [Balancer(gain) for gain in (1.0, 5.0)]
    found = {name: hash_weights(Ensemble(teachers, how)) for name, how in WAYS.items()}
    assert len(set(found.values())) == len(WAYS)
    again = partial(losses.combine.mean, weights=torch.tensor([0.9, 0.2]))
    assert hash_weights(Ensemble(teachers, again)) == found["shares of tensors"]
    assert hash_weights(Ensemble(teachers, _by("mean"))) == found["a closure"]


class _Power:
    """A rule that is an object."""

    def __init__(self, by: Any) -> None:
        self.by = by

    def __call__(self, said: Any) -> Prediction:
        return said[0]  # type: ignore[no-any-return]

    def rule(self, said: Any) -> Prediction:
        return said[0]  # type: ignore[no-any-return]


class _Slots:
    __slots__ = ("by",)

    def __init__(self, by: float) -> None:
        self.by = by


class _Mode(enum.Enum):
    LOW, HIGH = 1, 2


def _around(value: Any) -> Any:
    return lambda said: (value, said[0])[1]


def _large(last: float) -> np.ndarray:
    found = np.zeros(5000)
    found[2500] = last
    return found


def _mutual(by: float) -> Any:
    def even(n: int) -> float:
        return by if n == 0 else odd(n - 1)

    def odd(n: int) -> float:
        return even(n - 1)

    return even


def _empty(by: float) -> Any:
    def how(said: Any) -> Any:
        return later, by

    if by < 0:
        later = 1
    return how


def _nested(by: float) -> Any:
    # Both on one line: what tells them apart is the code inside.
    return (lambda said: (lambda z: z + 1)(said)) if by else (lambda said: (lambda z: z - 1)(said))


def _within(by: float) -> Any:
    found = _Power(by)
    found.self = found  # type: ignore[attr-defined]
    return found.rule


CONTENT: dict[str, tuple[Any, Any, Any]] = {
    "an object": (_Power, 1.0, 2.0),
    "an object of a set": (_Power, {"a", "b", "c"}, {"a", "b", "d"}),
    "a method": (lambda by: _Power(by).rule, 1.0, 2.0),
    "a method of a tensor": (lambda by: torch.tensor([by]).mul, 1.0, 2.0),
    "a large array": (lambda by: partial(_first, weights=_large(by)), 1.0, 2.0),
    "an array's type": (lambda t: _around(np.zeros(2, t)), "f4", "i4"),
    "an array's shape": (lambda shape: _around(np.zeros(shape)), (2, 3), (3, 2)),
    "an array of objects": (lambda by: _around(np.array([by, None])), 1.0, 2.0),
    "a number or a word": (_around, 1, "1"),
    "a list or a tuple": (_around, [1], (1,)),
    "a type": (_around, int, float),
    "a choice": (_around, _Mode.LOW, _Mode.HIGH),
    "slots": (lambda by: _around(_Slots(by)), 1.0, 2.0),
    "a counter": (lambda by: _around(deque([by])), 1.0, 2.0),
    "keys of two types": (lambda by: partial(_first, weights={1: by, "1": 0.0, None: 1}), 1.0, 2.0),
    "a key's type": (lambda key: _around({key: 0.0}), 1, "1"),
    "functions that call each other": (_mutual, 1.0, 2.0),
    "a cell that is empty": (_empty, 1.0, 2.0),
    "a cell that is not": (_empty, -1.0, 1.0),
    "functions of functions": (_nested, 0.0, 1.0),
    "an object that holds itself": (_within, 1.0, 2.0),
    "a function behind a cache": (lambda by: functools.cache(_around(by)), 1.0, 2.0),
    "torch's and numpy's": (_around, torch.exp, np.exp),
    "numpy's own": (_around, np.exp, np.log),
    "methods of no object": (_around, torch.Tensor.exp, torch.Tensor.log),
}


@pytest.mark.parametrize("name", CONTENT)
def test_a_rule_is_what_it_holds(name: str) -> None:
    teachers = [Balancer(gain) for gain in (1.0, 5.0)]
    make, one, other = CONTENT[name]
    found = hash_weights(Ensemble(teachers, make(one)))
    assert found == hash_weights(Ensemble(teachers, make(one))) != hash_weights(Ensemble(teachers, make(other)))


def test_a_rule_may_know_its_team() -> None:
    team = Ensemble([Balancer(1.0), Balancer(5.0)], _first)
    team.how = lambda said: (team, said[0])[1]
    assert hash_weights(team) == hash_weights(team)


def _endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize("held", [threading.Lock(), (i for i in range(3)), _endless()])
def test_a_rule_that_cannot_be_told_from_another_is_refused(held: Any, tmp_path: Path) -> None:
    team = Ensemble([Balancer(1.0), Balancer(5.0)], _around(held))
    obs = torch.zeros(3, 4)
    with pytest.raises(UsageError, match=r"teacher_hash=.*\[labels\.hash\]"):
        answers(team, obs, cache=tmp_path)
    assert answers(team, obs, cache=tmp_path, teacher_hash="two balancers, the first").hits == 0
    assert answers(team, obs, cache=tmp_path, teacher_hash="two balancers, the first").hits == 3


def test_equal_weights_with_another_vocabulary_are_another_teacher(tmp_path: Path) -> None:
    texts = ("good fine film", "bad poor film", "good bad film") * 2
    usual = Vocabulary.fit(texts, least=1)
    turned, short = Vocabulary(usual.words[::-1], usual.length), Vocabulary(usual.words, 1)
    teachers = [build("bag:4", inputs=texts, classes=2, encoder=v, seed=3) for v in (usual, turned, short)]
    for teacher in teachers:
        found = answers(teacher, texts, cache=tmp_path)
        assert found.hits == 0
        assert torch.equal(found.target.dist.logits, teacher.label(texts).dist.logits)  # type: ignore[union-attr]
    heads = [build(f"transformer:8x1x{h}", inputs=texts, classes=2, seed=3) for h in (2, 4)]
    assert hash_weights(Tapped(heads[0], {"s": "module.norm"})) != hash_weights(Tapped(heads[1], {"s": "module.norm"}))


def test_features_of_texts_are_as_long_as_the_longest_of_all() -> None:
    texts = tuple("good film " * (1 + i // 256) for i in range(600))
    teacher = build("transformer:8x1", inputs=texts, classes=2, taps={"states": "norm"})
    with pytest.raises(DistributionError, match=r"prepare\(texts\).*labels\.shape"):
        answers(teacher, texts, features=["states"])
    found = answers(teacher, teacher.prepare(texts), features=["states"])  # type: ignore[arg-type]
    assert found.target.features["states"].shape == (600, 6, 8)


def test_a_manifest_that_leaves_rows_out_or_names_a_shard_twice(tmp_path: Path, x: Tensor) -> None:
    teacher = Scorer(5, 3)
    folder = answers(teacher, x, cache=tmp_path).folder
    assert folder is not None
    manifest = folder / "manifest.json"
    said = json.loads(manifest.read_text())
    first, second, third = said["shards"]
    for wrong in ([third], [{**third, "file": first["file"]}], [first, first], [first, second, third, third]):
        manifest.write_text(json.dumps({**said, "shards": wrong}))
        with pytest.raises(CheckpointError, match=r"remove .*labels\.manifest"):
            answers(teacher, x, cache=tmp_path)


def test_answers_named_by_hand_are_read_by_that_name(tmp_path: Path, x: Tensor) -> None:
    found = answers(Scorer(5, 3), x[:9], cache=tmp_path, teacher_hash="mine")
    assert found.folder is not None
    again = read_answers(found.folder, Scorer(5, 3), teacher_hash="mine")
    assert torch.equal(again.dist.mode(), found.target.dist.mode())
    with pytest.raises(CheckpointError, match=r"labels\.teacher"):
        read_answers(found.folder, Scorer(5, 3))


def test_bad_input(tmp_path: Path, x: Tensor) -> None:
    class Plain:
        def label(self, inputs: Tensor) -> Prediction:
            return Scorer(5, 3).label(inputs)

    with pytest.raises(UsageError, match=r"labels\.hash"):
        answers(Plain(), x, cache=tmp_path)
    assert answers(Plain(), x).hits == 0
    assert answers(Plain(), x, cache=tmp_path, teacher_hash="mine").hits == 0
    with pytest.raises(UsageError, match=r"supervised\.empty"):
        answers(Scorer(5, 3), x[:0])
    with pytest.raises(DistributionError, match=r"labels\.features"):
        answers(Scorer(5, 3), x[:5], features=["torso"])
    broken = Scorer(5, 3)
    with torch.no_grad():
        broken.layer.weight[0, 0] = float("inf")
    with pytest.raises(DistributionError, match=r"supervised\.nan"):
        answers(broken, torch.zeros(4, 5), cache=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"labels\.write"):
        answers(Scorer(5, 3), x[:5], cache=tmp_path / "file")


def test_answers_ride_along_in_a_torch_loader(x: Tensor) -> None:
    teacher, y = Scorer(5, 3, seed=1, gain=1.0), torch.zeros(500).long()
    said = answers(teacher, x[:500]).target
    data = WithAnswers(TensorDataset(x[:500], y), said)
    one, other = (Learner(Scorer(5, 3), losses.forward_kl) for _ in range(2))
    list(epochs(one, DataLoader(data, batch_size=100), 2))
    list(epochs(other, Rows(x[:500], y, target=said, batch_size=100, shuffle=False), 2))
    assert torch.equal(one.student.layer.weight, other.student.layer.weight)
    with pytest.raises(UsageError, match=r"supervised\.batch"):
        WithAnswers(TensorDataset(x[:5], y[:5]), said)
