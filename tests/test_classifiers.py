"""Classifiers of images and vectors: shapes, counts by hand, raw inputs, and one loss for all students."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import CARTPOLE, Balancer

from policykd import Learner, students
from policykd.classifiers import Classifier, Shape, build, parse
from policykd.distributions import Categorical
from policykd.errors import UnknownNameError, UsageError
from policykd.losses import forward_kl, weighted
from policykd.prediction import Batch, Prediction


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def logits(said: Prediction) -> Tensor:
    assert isinstance(said.dist, Categorical)
    return said.dist.logits


# --- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("linear", Shape("mlp")),
        ("mlp:linear", Shape("mlp")),
        ("mlp:64,64", Shape("mlp", hidden=(64, 64))),
        (" cnn: 16, 32 ", Shape("cnn", (16, 32))),
        ("cnn:16,32x64,8", Shape("cnn", (16, 32), (64, 8))),
        ("bag:32", Shape("bag", (32,))),
        ("bag2:32,16", Shape("bag2", (32,), (16,))),
        ("transformer:64x1", Shape("transformer", (64,), layers=1, heads=4)),
        ("transformer:64x2x2", Shape("transformer", (64,), layers=2, heads=2)),
        ("transformer:6x1", Shape("transformer", (6,), layers=1, heads=1)),
        ("minilm", Shape("minilm")),
    ],
)
def test_shapes_that_people_type(text: str, shape: Shape) -> None:
    assert parse(text) == shape
    assert parse(str(shape)) == shape
    assert parse(shape) is shape
    assert shape.texts == (shape.kind not in ("mlp", "cnn"))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "cnn",
            "cnn:",
            "cnn:16,",
            "cnn:0",
            "cnn:-1",
            "cnn:99999",
            "mlp:1.5",
            "resnet:18",
            "bag:32x16",
            "minilm:6",
        ),
        *("transformer:64", "transformer:64x0", "transformer:10x1x4", "transformer:64x1x0", "transformer:64x99999"),
        *("mlp:" + "9" * 5000, "mlp:" + ",".join(["8"] * 65), "mlp:٣"),
    ],
)
def test_other_shapes_are_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match=r"cnn:16,32.*bag:32.*\[classifier.shape\]"):
        parse(text)


def test_a_cnn_needs_images() -> None:
    with pytest.raises(UsageError, match=r"mlp:64,64.*\[classifier.shape\]"):
        build("cnn:16", inputs=drawn(8, 64), classes=3)


# --- what is built ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "inputs", "params"),
    [
        ("linear", (784,), 784 * 10 + 10),
        ("mlp:64,64", (28, 28), (784 * 64 + 64) + (64 * 64 + 64) + (64 * 10 + 10)),
        # 28 -> 14 -> 7
        ("cnn:16,32", (28, 28), (9 * 16 + 16) + (9 * 16 * 32 + 32) + (32 * 49 * 10 + 10)),
        ("cnn:16,32", (3, 8, 8), (27 * 16 + 16) + (9 * 16 * 32 + 32) + (32 * 4 * 10 + 10)),
        ("cnn:16,32", (8, 8, 3), (27 * 16 + 16) + (9 * 16 * 32 + 32) + (32 * 4 * 10 + 10)),
        ("cnn:4x5", (7, 5), (9 * 4 + 4) + (4 * 4 * 3 * 5 + 5) + (5 * 10 + 10)),
    ],
)
def test_parameters_by_hand(shape: str, inputs: tuple[int, ...], params: int) -> None:
    made = build(shape, inputs=pixels(4, *inputs), classes=10)
    assert made.acting_parameters == params
    statistics = {1: inputs[0], 2: 1, 3: 3}[len(inputs)]
    assert made.size_bytes == 4 * (params + 2 * statistics)
    assert logits(made(pixels(5, *inputs))).shape == (5, 10)
    assert logits(made(pixels(2, 3, *inputs))).shape == (2, 3, 10)  # whatever leading dimensions there are


def test_a_fresh_one_is_close_to_uniform_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    a, b, c = (build("cnn:8", inputs=pixels(16, 9, 9), classes=4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    x = pixels(16, 9, 9, seed=3)
    assert torch.equal(logits(a(x)), logits(b(x))) and not torch.equal(logits(a(x)), logits(c(x)))
    assert float((a.label(x).dist.probs - 0.25).abs().max()) < 0.05  # type: ignore[union-attr]


def test_the_network_is_what_torch_computes() -> None:
    x = pixels(3, 7, 7)
    made = build("cnn:4x5", inputs=x, classes=2)
    w = made.module.state_dict()
    z = (x.float() / 255 - w["scale.mean"]) / w["scale.std"]
    z = F.relu(F.conv2d(z[:, None], w["convolutions.0.weight"], w["convolutions.0.bias"], stride=2, padding=1))
    z = F.relu(F.linear(z.flatten(1), w["hidden.0.weight"], w["hidden.0.bias"]))
    torch.testing.assert_close(logits(made(x)), F.linear(z, w["head.weight"], w["head.bias"]))


def test_channels_may_come_last() -> None:
    x = pixels(6, 8, 8, 3)
    last, first = build("cnn:4", inputs=x, classes=2), build("cnn:4", inputs=x.movedim(-1, 1), classes=2)
    torch.testing.assert_close(logits(last(x)), logits(first(x.movedim(-1, 1))))


@pytest.mark.parametrize(("shape", "axes"), [((5,), (0,)), ((8, 8), (0, 1, 2)), ((3, 8, 8), (0, 2, 3))])
def test_raw_inputs_are_scaled_inside(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    for x in (pixels(50, *shape), drawn(50, *shape) * 7 + 3):
        made = build("linear", inputs=x, classes=2)
        scaled = np.asarray(x, np.float64) / (255 if x.dtype == torch.uint8 else 1)
        want = (scaled - scaled.mean(axes, keepdims=True)) / scaled.std(axes, keepdims=True)
        np.testing.assert_allclose(made.module.scale(x).numpy(), want, atol=1e-5)  # type: ignore[operator]
    # Bytes and the same numbers in [0, 1] are the same input.
    x = pixels(50, *shape)
    made = build("linear", inputs=x, classes=2)
    torch.testing.assert_close(logits(made(x)), logits(made(x.float() / 255)))


def test_a_column_that_never_moved_stays_quiet() -> None:
    x = drawn(20, 2)
    x[:, 1] = 5.0
    scale = build("linear", inputs=x, classes=2).module.scale
    assert scale.std.tolist()[1] == 1.0 and scale.mean.tolist()[1] == 5.0  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("x", [torch.empty(0, 3), torch.tensor([[1.0, torch.nan]])])
def test_training_inputs_that_have_no_spread_are_refused(x: Tensor) -> None:
    with pytest.raises(UsageError, match=r"\[classifier.inputs\]"):
        build("linear", inputs=x, classes=2)


# --- any module ------------------------------------------------------------------------------------------------------


class Said(nn.Module):
    """A linear layer whose logits come wrapped."""

    def __init__(self, wrap: Callable[[Tensor], Any] = lambda z: z, k: int = 3) -> None:
        super().__init__()
        self.inner, self.wrap = nn.Linear(2, k), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.inner(x))


@pytest.mark.parametrize("wrap", [lambda z: z, lambda z: {"logits": z}, lambda z: SimpleNamespace(logits=z)])
def test_logits_come_in_any_wrapping(wrap: Callable[[Tensor], Any]) -> None:
    made, x = Classifier(Said(wrap), 3), drawn(4, 2)
    assert torch.equal(logits(made(x)), made.module.inner(x))  # type: ignore[operator]
    batch = Batch(x, made.label(x))
    assert torch.equal(logits(made.read(batch)), logits(batch.target))
    assert logits(made.read(batch)).requires_grad and not logits(batch.target).requires_grad


@pytest.mark.parametrize(
    ("wrap", "k", "code"),
    [
        (lambda z: (z,), 3, "logits"),
        (lambda z: {"scores": z}, 3, "logits"),
        (lambda z: z, 4, "classes"),
        (lambda z: z.sum(), 3, "classes"),
    ],
)
def test_other_outputs_are_refused(wrap: Callable[[Tensor], Any], k: int, code: str) -> None:
    with pytest.raises(UsageError, match=rf"\[classifier.{code}\]"):
        Classifier(Said(wrap, k), 3)(drawn(4, 2))


def test_classes_and_their_names() -> None:
    assert Classifier(Said(), 3).classes == ("0", "1", "2")
    assert Classifier(Said(), ["a", "b", "c"]).classes == ("a", "b", "c")
    wrong: list[Any] = [1, 0, -1, (), ("a",), ("a", "a"), "abc", (0, 1)]
    for classes in wrong:
        with pytest.raises(UsageError, match=r"\[classifier.classes\]"):
            Classifier(Said(), classes)


@pytest.mark.parametrize("inputs", ["one text", ["two", "texts"], None, [1, 2], np.zeros((2, 2))])
def test_inputs_that_are_no_tensors_are_refused(inputs: Any) -> None:
    with pytest.raises(UsageError, match=r"\[classifier.inputs\]"):
        Classifier(Said(), 3)(inputs)


def test_inputs_of_another_shape_are_refused() -> None:
    made = build("cnn:4", inputs=pixels(4, 8, 8), classes=2)
    for x in (pixels(8, 8), pixels(4, 8, 9), pixels(4, 64)):
        with pytest.raises(UsageError, match=r"\(n, 8, 8\).*\[classifier.inputs\]"):
            made(x)


def test_labelling_leaves_modes_as_they_were() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Linear(2, 3))
    net[0].eval()
    made, x = Classifier(net, 3), drawn(8, 2)
    before = torch.get_rng_state()
    assert torch.equal(logits(made.label(x)), logits(made.label(x)))
    assert torch.equal(before, torch.get_rng_state())  # nothing was dropped
    assert (made.training, net[0].training, net[1].training) == (True, False, True)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_teacher_without_a_word_is_refused_with_the_count(bad: float) -> None:
    x = drawn(5, 2)
    x[[1, 3]] = bad
    with pytest.raises(UsageError, match=r"2 of 5 rows.*\[classifier.nan\]"):
        Classifier(Said(), 3).label(x)


def test_a_class_that_cannot_be_is_no_nan() -> None:
    def barred(z: Tensor) -> Tensor:
        return z.index_fill(-1, torch.tensor([0]), -torch.inf)

    assert (Classifier(Said(barred), 3).label(drawn(5, 2)).dist.probs[:, 0] == 0).all()  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"5 of 5 rows.*\[classifier.nan\]"):
        Classifier(Said(lambda z: z * -torch.inf), 3).label(drawn(5, 2).abs())


@pytest.mark.parametrize("size", [1, 3, 7, 512])
def test_labels_in_mini_batches_are_the_same(size: int) -> None:
    made = Classifier(Said(), 3, taps={"word": "inner"})
    said, x = made.label_all(drawn(7, 2), batch_size=size), drawn(7, 2)
    torch.testing.assert_close(logits(said), logits(made.label(x)))
    torch.testing.assert_close(said.features["word"], logits(said))
    for wrong, code in ((lambda: made.label_all(x, 0), "batch"), (lambda: made.label_all(x[:0]), "inputs")):
        with pytest.raises(UsageError, match=rf"\[classifier.{code}\]"):
            wrong()


def test_taps_become_features() -> None:
    x = pixels(6, 8, 8)
    made = build("cnn:4,5x7", inputs=x, classes=2, taps={"maps": "convolutions.1", "last": "hidden"})
    said = made(x)
    assert {k: tuple(v.shape) for k, v in said.features.items()} == {"maps": (6, 4, 4, 4), "last": (6, 7)}
    torch.testing.assert_close(logits(said), made.module.head(said.features["last"]))  # type: ignore[operator]
    assert set(build("linear", inputs=x, classes=2, taps=["hidden"])(x).features) == {"hidden"}
    assert set(build("linear", inputs=x, classes=2, taps="hidden")(x).features) == {"hidden"}
    with pytest.raises(UnknownNameError, match=r"\[name.module\]"):
        build("linear", inputs=x, classes=2, taps=["torso"])
    with pytest.raises(UsageError, match=r"\[taps.silent\]"):
        build("linear", inputs=x, classes=2, taps=["convolutions"])(x)


# --- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [forward_kl, weighted(kd=(1.0, forward_kl))], ids=["function", "weighted"])
def test_one_loss_object_trains_a_policy_and_a_classifier(loss: Any) -> None:
    def fall(student: Any, batch: Batch) -> float:
        learner = Learner(student, loss, lr=1e-2)
        losses = [float(learner.step(batch).loss) for _ in range(60)]
        return losses[-1] / losses[0]

    obs = drawn(64, 4)
    policy = students.mlp(CARTPOLE, hidden=(8,))
    assert fall(policy, Batch(obs, Balancer().label(obs))) < 0.5

    x = pixels(64, 8, 8)
    teacher = build("mlp:32", inputs=x, classes=3, seed=1)
    with torch.no_grad():
        teacher.module.head.weight.mul_(200)  # type: ignore[union-attr, operator]
    student = build("cnn:4", inputs=x, classes=3)
    assert fall(student, Batch(x, teacher.label(x))) < 0.5


def test_rows_that_do_not_count_do_no_harm() -> None:
    x = drawn(8, 2)
    x[3] = torch.nan
    made = build("mlp:4", inputs=drawn(8, 2), classes=3)
    target = Prediction(Categorical(drawn(8, 3)))
    learner = Learner(made, forward_kl)
    for mask in (~x.isnan().any(-1), torch.zeros(8, dtype=torch.bool)):
        learner.step(Batch(x, target, mask=mask))
    assert all(bool(p.isfinite().all()) for p in made.parameters())
