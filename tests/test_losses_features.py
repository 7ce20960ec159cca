"""Losses on named activations: vectors, tokens, maps and attention, against torch and numbers by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import CARTPOLE

from policykd import Learner, losses, students
from policykd.distributions import Categorical
from policykd.errors import PolicykdError, UsageError
from policykd.losses import (
    Hint,
    attention_relation,
    attention_transfer,
    cosine_distance,
    feature_mse,
    forward_kl,
    value_relation,
    weighted,
)
from policykd.losses.features import unit
from policykd.policy import Taught
from policykd.prediction import Batch, Prediction
from policykd.taps import Tapped

B = [(), (3,), (2, 3)]
OWN = {"vector": (6,), "tokens": (4, 6), "map": (6, 4, 5)}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + len(shape)))


def say(feature: Tensor, axes: int, **more: Tensor) -> Prediction:
    """A prediction whose feature ``x`` has ``axes`` axes of its own."""
    lead = feature.shape[: feature.dim() - axes]
    return Prediction(Categorical(torch.zeros(*lead, 2)), features={"x": feature, **more})


def laws(*shape: int, seed: int = 0) -> Tensor:
    return randn(*shape, seed=seed).softmax(-1)


mse, cosine = partial(feature_mse, feature="x"), partial(cosine_distance, feature="x")
transfer = partial(attention_transfer, feature="x")
attention, values = partial(attention_relation, feature="x"), partial(value_relation, feature="x")


def hint(student: int, teacher: int, **more: Any) -> Hint:
    return Hint("x", student, teacher, **more)


# Loss, the shapes that it takes (student's and teacher's own axes), and what makes a feature.
Make = Callable[..., Tensor]
TAKES: list[tuple[str, Callable[..., Tensor], tuple[int, ...], tuple[int, ...], Make]] = [
    *[(f"mse of {kind}", mse, own, own, randn) for kind, own in OWN.items()],
    *[(f"cosine of {kind}", cosine, own, own, randn) for kind, own in OWN.items()],
    ("mse of larger map", mse, (6, 4, 5), (6, 2, 7), randn),
    ("cosine of larger map", cosine, (6, 4, 5), (6, 2, 7), randn),
    ("hint of vector", hint(6, 3), (6,), (3,), randn),
    ("hint of tokens", hint(6, 3), (4, 6), (4, 3), randn),
    ("hint of map", hint(6, 3), (6, 4, 5), (3, 4, 5), randn),
    ("hint of larger map", hint(6, 3), (6, 4, 5), (3, 2, 7), randn),
    ("attention transfer", transfer, (6, 4, 5), (3, 4, 5), randn),
    ("attention transfer, larger map", transfer, (6, 4, 5), (3, 2, 7), randn),
    ("attention transfer, power 1", partial(transfer, power=1.0), (6, 4, 5), (3, 4, 5), randn),
    ("attention", attention, (2, 4, 4), (2, 4, 4), laws),
    ("mean attention", partial(attention, heads="mean"), (2, 4, 4), (3, 4, 4), laws),
    ("values", values, (2, 4, 6), (2, 4, 3), randn),
    ("values split anew", partial(values, heads=3), (2, 4, 6), (1, 4, 9), randn),
]
IDS = [name for name, *_ in TAKES]


@pytest.mark.parametrize("b", B)
@pytest.mark.parametrize(("name", "loss", "own_s", "own_t", "make"), TAKES, ids=IDS)
def test_one_finite_number_a_row_and_gradients_to_the_student_alone(
    name: str, loss: Any, own_s: tuple[int, ...], own_t: tuple[int, ...], make: Make, b: tuple[int, ...]
) -> None:
    x = make(*b, *own_s).requires_grad_()
    y = make(*b, *own_t, seed=9).requires_grad_()
    rows = loss(say(x, len(own_s)), say(y, len(own_t)))
    assert rows.shape == b and bool((rows > 0).all())
    rows.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and bool((x.grad != 0).any()) and y.grad is None


@pytest.mark.parametrize(("name", "loss", "own_s", "own_t", "make"), TAKES, ids=IDS)
def test_rows_do_not_look_at_each_other_and_students_share_a_teacher(
    name: str, loss: Any, own_s: tuple[int, ...], own_t: tuple[int, ...], make: Make
) -> None:
    x, y = make(2, 3, *own_s), make(3, *own_t, seed=9)
    both = loss(say(x, len(own_s)), say(y, len(own_t)))
    for i in range(2):
        for j in range(3):
            alone = loss(say(x[i, j], len(own_s)), say(y[j], len(own_t)))
            torch.testing.assert_close(both[i, j], alone)


@pytest.mark.parametrize(("name", "loss", "own_s", "own_t", "make"), TAKES, ids=IDS)
def test_zeros_have_finite_gradients(
    name: str, loss: Any, own_s: tuple[int, ...], own_t: tuple[int, ...], make: Make
) -> None:
    for x, y in ((torch.zeros(2, *own_s), make(2, *own_t)), (make(2, *own_s), torch.zeros(2, *own_t))):
        x = x.requires_grad_()
        rows = loss(say(x, len(own_s)), say(y, len(own_t)))
        rows.sum().backward()
        assert rows.isfinite().all() and x.grad.isfinite().all()


@pytest.mark.parametrize(("name", "loss", "own_s", "own_t", "make"), TAKES, ids=IDS)
def test_nan_is_never_hidden(name: str, loss: Any, own_s: tuple[int, ...], own_t: tuple[int, ...], make: Make) -> None:
    x = make(2, *own_s)
    x[1] = math.nan
    rows = loss(say(x, len(own_s)), say(make(2, *own_t), len(own_t)))
    assert rows.isnan().tolist() == [False, True]


@pytest.mark.parametrize(("name", "loss", "own_s", "own_t", "make"), [t for t in TAKES if t[2] == t[3]])
def test_nothing_to_learn_from_an_equal(name: str, loss: Any, own_s: Any, own_t: Any, make: Make) -> None:
    x = make(3, *own_s)
    torch.testing.assert_close(loss(say(x, len(own_s)), say(x, len(own_s))), torch.zeros(3), atol=2e-6, rtol=0)


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OWN)
def test_mse_and_cosine_are_those_of_torch(kind: str) -> None:
    own = OWN[kind]
    x, y = randn(3, *own), randn(3, *own, seed=9)
    s, t = say(x, len(own)), say(y, len(own))
    torch.testing.assert_close(mse(s, t), F.mse_loss(x, y, reduction="none").flatten(1).mean(1))
    torch.testing.assert_close(cosine(s, t), 1 - F.cosine_similarity(x.flatten(1), y.flatten(1)))


def test_cosine_by_hand() -> None:
    x = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    found = cosine(say(x, 1), say(torch.tensor([[5.0, 0.0]] * 5), 1))
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 2.0, 1 - 0.5**0.5, 1.0]))
    zero = torch.zeros(1, 2, requires_grad=True)
    cosine(say(zero, 1), say(torch.ones(1, 2), 1)).sum().backward()
    assert zero.grad is not None and zero.grad.tolist() == [[0.0, 0.0]]
    assert unit(torch.tensor([3.0, 4.0])).tolist() == pytest.approx([0.6, 0.8])


def test_one_number_a_row_is_a_feature_too() -> None:
    s, t = say(torch.tensor([1.0, 2.0]), 0), say(torch.tensor([1.0, 5.0]), 0)
    assert mse(s, t).tolist() == [0.0, 9.0]


def test_features_of_two_names() -> None:
    s, t = say(torch.ones(1, 2), 1), say(torch.zeros(1, 2), 1, y=torch.full((1, 2), 3.0))
    assert float(feature_mse(s, t, feature=("x", "y"))) == 4.0


def test_the_larger_map_is_averaged_down() -> None:
    large, small = torch.arange(16.0).reshape(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)
    want = F.avg_pool2d(large, 2).square().mean()
    torch.testing.assert_close(mse(say(large, 3), say(small, 3))[0], want)
    torch.testing.assert_close(mse(say(small, 3), say(large, 3))[0], want)


def test_hint_by_hand() -> None:
    loss = hint(2, 2).requires_grad_(False)
    with torch.no_grad():
        loss.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        loss.bias.copy_(torch.tensor([0.5, 0.0]))
    # W (1, 1) + b = (3.5, -1); against (1.5, 1): 1/2 (4 + 4) / 2.
    s, t = torch.ones(1, 2), torch.tensor([[1.5, 1.0]])
    assert float(loss(say(s, 1), say(t, 1))) == pytest.approx(2.0)
    # Tokens and maps are many such vectors.
    tokens = loss(say(s.expand(1, 3, 2), 2), say(t.expand(1, 3, 2), 2))
    maps = loss(say(s[..., None, None].expand(1, 2, 3, 4), 3), say(t[..., None, None].expand(1, 2, 3, 4), 3))
    assert float(tokens) == pytest.approx(2.0) and float(maps) == pytest.approx(2.0)


def test_on_maps_the_hint_is_a_convolution() -> None:
    loss, x, y = hint(6, 3, seed=4), randn(2, 6, 4, 4), randn(2, 3, 2, 2)
    mapped = F.conv2d(F.avg_pool2d(x, 2), loss.weight[..., None, None], loss.bias)
    torch.testing.assert_close(loss(say(x, 3), say(y, 3)), 0.5 * (mapped - y).square().flatten(1).mean(1))


def test_a_hint_starts_from_its_seed_and_finds_its_widths() -> None:
    state = torch.get_rng_state()
    a, b, other = hint(6, 3), hint(6, 3), hint(6, 3, seed=1)
    assert torch.equal(a.weight, b.weight) and not torch.equal(a.weight, other.weight)
    assert torch.equal(torch.get_rng_state(), state)
    fitting = Hint.fitting("x", say(randn(2, 6, 4, 4), 3), say(randn(2, 3, 4, 4), 3))
    assert torch.equal(fitting.weight, a.weight)
    assert Hint.fitting("x", say(randn(2, 4, 6), 2), say(randn(2, 4, 3), 2)).weight.shape == (3, 6)


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_attention_transfer_is_the_paper_s(power: float) -> None:
    x, y = randn(3, 5, 4, 4), randn(3, 7, 4, 4)

    def q(a: Tensor) -> Tensor:
        return F.normalize(a.abs().pow(power).mean(1).flatten(1))

    found = partial(transfer, power=power)(say(x, 3), say(y, 3))
    torch.testing.assert_close(found, (q(x) - q(y)).square().mean(1))


def test_attention_transfer_by_hand_and_whatever_its_unit() -> None:
    # Channels (3, 0) and (4, 0): squares 9 and 16 over two, at one place of two: Q = (1, 0); the teacher's is (0, 1).
    s, t = torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]]]), torch.tensor([[[[0.0, 2.0]]]])
    assert float(transfer(say(s, 3), say(t, 3))) == pytest.approx(1.0)
    want = transfer(say(randn(2, 3, 4, 4), 3), say(randn(2, 5, 4, 4), 3))
    for scale in (1e-30, 1e30):
        torch.testing.assert_close(transfer(say(scale * randn(2, 3, 4, 4), 3), say(randn(2, 5, 4, 4), 3)), want)
    large = partial(transfer, power=300.0)(say(randn(2, 3, 4, 4), 3), say(randn(2, 5, 4, 4), 3))
    assert large.isfinite().all()


def test_attention_by_hand_and_by_torch() -> None:
    x, y = laws(3, 2, 4, 4), laws(3, 2, 4, 4, seed=9)
    want = F.kl_div(x.log(), y, reduction="none").sum(-1).mean((1, 2))
    torch.testing.assert_close(attention(say(x, 3), say(y, 3)), want)
    mean = F.kl_div(x.mean(1).log(), y.mean(1), reduction="none").sum(-1).mean(1)
    torch.testing.assert_close(partial(attention, heads="mean")(say(x, 3), say(y, 3)), mean)
    # All on one key against half and half: log 2.
    s, t = torch.full((1, 1, 2, 2), 0.5), torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    assert float(attention(say(s, 3), say(t, 3))) == pytest.approx(math.log(2))


def test_attention_where_the_student_never_looks_is_large_but_finite() -> None:
    s, t = torch.tensor([[[[1.0, 0.0]]]], requires_grad=True), torch.tensor([[[[0.5, 0.5]]]])
    rows = attention(say(s, 3), say(t, 3))
    rows.sum().backward()
    assert 40 < float(rows.detach()) < 50 and s.grad is not None and s.grad.isfinite().all()


def test_values_by_hand() -> None:
    x, y = randn(3, 2, 4, 6), randn(3, 2, 4, 3)
    p = torch.einsum("bhid,bhjd->bhij", y, y).div(3**0.5).softmax(-1)
    q = torch.einsum("bhid,bhjd->bhij", x, x).div(6**0.5).softmax(-1)
    want = (p * (p / q).log()).sum(-1).mean((1, 2))
    torch.testing.assert_close(values(say(x, 3), say(y, 3)), want)


def test_values_split_anew_are_the_same_numbers_side_by_side() -> None:
    wide = randn(3, 4, 12)  # [b, t, heads x d]
    in_two = wide.reshape(3, 4, 2, 6).transpose(1, 2)
    in_three = wide.reshape(3, 4, 3, 4).transpose(1, 2)
    other = randn(3, 3, 4, 5)
    torch.testing.assert_close(
        partial(values, heads=3)(say(in_two, 3), say(other, 3)), values(say(in_three, 3), say(other, 3))
    )


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("loss", [attention, values])
def test_padding_does_not_count(loss: Any, side: str) -> None:
    # Three real tokens of five; the second row is all real, the third all padding.
    real = torch.tensor([[1, 1, 1, 0, 0], [1] * 5, [0] * 5])
    if loss is attention:
        key = torch.where(real.any(-1, keepdim=True), real, 1)[:, None, None, :].bool()
        x, y = (randn(3, 2, 5, 5, seed=i).masked_fill(~key, -math.inf).softmax(-1) for i in (0, 9))
        short = (x[:1, :, :3, :3], y[:1, :, :3, :3])
    else:
        x, y = randn(3, 2, 5, 4), randn(3, 2, 5, 4, seed=9)
        short = (x[:1, :, :3], y[:1, :, :3])
    x = x.requires_grad_()
    more = {"real": real}
    s, t = say(x, 3, **(more if side == "student" else {})), say(y, 3, **(more if side == "teacher" else {}))
    rows = partial(loss, mask="real")(s, t)
    torch.testing.assert_close(rows[0], loss(say(short[0], 3), say(short[1], 3))[0])
    torch.testing.assert_close(rows[1], loss(s, t)[1])
    assert float(rows[2].detach()) == 0.0
    rows.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and not x.grad[2].any()


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [mse, cosine, transfer, attention, values, hint(2, 2)])
def test_a_feature_that_is_not_there(loss: Any) -> None:
    there, bare = say(randn(1, 2, 2, 2), 3), Prediction(Categorical(torch.zeros(1, 2)), features={"torso": randn(1, 4)})
    with pytest.raises(
        UsageError, match=r"the student gives no feature 'x'.*\(torso\).*Tapped\(student.*\[loss.feature\]"
    ):
        loss(bare, there)
    with pytest.raises(UsageError, match=r"the teacher gives no feature 'x'.*\[loss.feature\]"):
        loss(there, bare)
    with pytest.raises(UsageError, match=r"none at all.*\[loss.feature\]"):
        loss(there, Prediction(Categorical(torch.zeros(1, 2))))


SHAPES = [
    ("widths", mse, randn(2, 3), randn(2, 4), 1),
    ("widths of cosine", cosine, randn(2, 3), randn(2, 4), 1),
    ("tokens", mse, randn(2, 3, 4), randn(2, 5, 4), 2),
    ("channels", mse, randn(2, 3, 4, 4), randn(2, 5, 4, 4), 3),
    ("vector for a map", transfer, randn(2, 3), randn(2, 3), 1),
    ("tokens for a map", transfer, randn(2, 3, 4), randn(2, 3, 4), 2),
    ("student's width", hint(3, 4), randn(2, 5), randn(2, 4), 1),
    ("teacher's width", hint(3, 4), randn(2, 3), randn(2, 5), 1),
    ("tokens of a hint", hint(3, 4), randn(2, 5, 3), randn(2, 6, 4), 2),
    ("too many axes", hint(3, 3), randn(2, 3, 2, 2, 3), randn(2, 3, 2, 2, 3), 4),
    ("heads", attention, laws(2, 3, 4, 4), laws(2, 2, 4, 4), 3),
    ("texts", attention, laws(2, 3, 4, 4), laws(2, 3, 5, 5), 3),
    ("tokens for attention", attention, laws(2, 4, 4), laws(2, 4, 4), 2),
    ("heads of values", values, randn(2, 3, 4, 6), randn(2, 2, 4, 6), 3),
    ("tokens for values", values, randn(2, 4, 4), randn(2, 4, 4), 2),
]


@pytest.mark.parametrize(("name", "loss", "x", "y", "axes"), SHAPES, ids=[s[0] for s in SHAPES])
def test_shapes_that_do_not_fit(name: str, loss: Any, x: Tensor, y: Tensor, axes: int) -> None:
    with pytest.raises(UsageError, match=r"\[loss.feature-shape\]"):
        loss(say(x, axes), say(y, axes))


def test_rows_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match=r"one row for each of \(3,\) \[loss.feature-shape\]"):
        mse(Prediction(Categorical(torch.zeros(3, 2)), features={"x": randn(2, 4)}), say(randn(3, 4), 1))
    with pytest.raises(UsageError, match=r"same number of axes.*\[loss.feature-shape\]"):
        mse(say(randn(3, 4), 1), say(randn(3, 2, 2), 2))
    with pytest.raises(UsageError, match=r"the same rows \[loss.feature-shape\]"):
        mse(say(randn(3, 4), 1), say(randn(2, 4), 1))
    with pytest.raises(UsageError, match=r"a number for each token \[loss.feature-shape\]"):
        partial(attention, mask="m")(say(laws(2, 1, 4, 4), 3, m=torch.ones(2, 3)), say(laws(2, 1, 4, 4), 3))
    with pytest.raises(UsageError, match=r"the teacher gives no feature 'm'"):
        partial(attention, mask="m")(say(laws(2, 1, 4, 4), 3), say(laws(2, 1, 4, 4), 3))


def test_knobs_that_cannot_be_meant() -> None:
    s = say(randn(2, 3, 4, 4), 3)
    for power in (0.0, 0.5, math.inf, math.nan):
        with pytest.raises(UsageError, match=r"\[loss.power\]"):
            partial(transfer, power=power)(s, s)
    with pytest.raises(UsageError, match=r"\[loss.width\]"):
        hint(0, 3)
    for heads in (0, 5):
        with pytest.raises(UsageError, match=r"\[loss.heads\]"):
            partial(values, heads=heads)(s, s)
    with pytest.raises(PolicykdError, match=r"\[loss.heads\]"):
        partial(attention, heads="all")(s, s)  # type: ignore[arg-type]


# --- in a Learner ----------------------------------------------------------------------------------------------------


def test_actor_mimic_regresses_features_of_a_policy() -> None:
    teacher, obs = students.mlp(CARTPOLE, (16, 12), seed=5), randn(128, 4)
    target = Tapped(teacher, ["torso.3"]).label(obs)
    student = Tapped(students.mlp(CARTPOLE, (8,)), ["torso.1"])
    loss = Hint(("torso.1", "torso.3"), 8, 12)
    before = loss.weight.detach().clone()
    learner = Learner(student, weighted(policy=(1.0, forward_kl), hint=(1.0, loss)), lr=0.02)
    updates = [learner.step(Batch(obs, target)) for _ in range(150)]
    assert float(updates[-1].terms["hint"]) < 0.4 * float(updates[0].terms["hint"])
    assert not torch.equal(loss.weight, before)
    [saved] = learner.state_dict()["losses"]
    torch.testing.assert_close(saved["weight"], loss.weight.detach())
    other = Learner(
        Tapped(students.mlp(CARTPOLE, (8,)), ["torso.1"]),
        weighted(policy=(1.0, forward_kl), hint=(1.0, Hint(("torso.1", "torso.3"), 8, 12, seed=8))),
        lr=0.02,
    )
    other.load_state_dict(learner.state_dict())
    torch.testing.assert_close(other.step(Batch(obs, target)).loss, learner.step(Batch(obs, target)).loss)


class Seer(Taught):
    """Images to logits by a convolution, which is heard by a tap."""

    def __init__(self, channels: int, stride: int, seed: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, channels, 3, stride, 1), nn.Linear(channels, 3)
        generator = torch.Generator().manual_seed(seed)
        for p in self.parameters():
            nn.init.uniform_(p, -0.5, 0.5, generator=generator)

    def read(self, batch: Batch) -> Prediction:
        assert isinstance(batch.obs, Tensor)
        return Prediction(Categorical(self.head(self.conv(batch.obs).relu().mean((-2, -1)))))


@pytest.mark.parametrize("loss", [partial(attention_transfer, feature="conv"), Hint("conv", 2, 5)])
def test_maps_of_two_sizes_in_a_learner_whose_batch_is_masked(loss: Any) -> None:
    images, mask = randn(16, 1, 8, 8), torch.arange(16) < 12
    images[12:] = math.nan
    teacher = Tapped(Seer(5, 1, seed=1), ["conv"])
    blank = Batch(images, Prediction(Categorical(torch.zeros(16, 3))))
    with torch.no_grad():
        target = teacher.read(blank)
    learner = Learner(Tapped(Seer(2, 2, seed=2), ["conv"]), loss, lr=0.01)
    updates = [learner.step(Batch(images, target, mask=mask)) for _ in range(40)]
    assert 0 < float(updates[-1].loss) < float(updates[0].loss)


def test_they_are_public() -> None:
    assert {
        "Hint",
        "attention_relation",
        "attention_transfer",
        "cosine_distance",
        "feature_mse",
        "value_relation",
    } <= set(losses.__all__)
