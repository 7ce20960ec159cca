"""Augmentations: what they do to a row, that they draw from their generator only, and their ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from policykd.distributions import Categorical
from policykd.errors import UsageError
from policykd.prediction import Prediction
from policykd.supervised import MISSING, Examples, View, views


def images(n: int = 16) -> Tensor:
    return torch.randint(0, 256, (n, 1, 6, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def seen(view: View, x: Tensor, y: Tensor | None = None, seed: int = 0) -> Examples:
    label = torch.zeros(len(x)).long() if y is None else y
    said = Prediction(Categorical(torch.zeros(len(x), 2)))
    return view(Examples(x, label, target=said), torch.Generator().manual_seed(seed))


ALL = [views.shift(2), views.flip(), views.noise(3.0), views.mixup(), views.chain(views.shift(1), views.noise(2.0))]


@pytest.mark.parametrize("view", ALL)
def test_a_view_draws_from_its_generator_only_and_drops_the_answer(view: View) -> None:
    before = torch.random.get_rng_state()
    one, same, other = seen(view, images()), seen(view, images()), seen(view, images(), seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert isinstance(one.inputs, Tensor) and isinstance(same.inputs, Tensor) and isinstance(other.inputs, Tensor)
    assert torch.equal(one.inputs, same.inputs) and not torch.equal(one.inputs, other.inputs)
    assert one.target is None and one.inputs.dtype == torch.uint8 and one.inputs.shape == images().shape


def test_a_shift_moves_a_picture_and_repeats_its_border() -> None:
    x = images()
    moved = seen(views.shift(2), x).inputs
    padded = torch.nn.functional.pad(x.float(), (2, 2, 2, 2), mode="replicate").byte()
    for i in range(len(x)):
        found = [
            (r, c) for r in range(5) for c in range(5) if torch.equal(padded[i, :, r : r + 6, c : c + 7], moved[i])
        ]
        assert found
    assert torch.equal(seen(views.shift(0), x).inputs, x)


def test_flips() -> None:
    x = images(400)
    turned = (seen(views.flip(0.25), x).inputs == x.flip(-1)).flatten(1).all(1)
    assert 60 < int(turned.sum()) < 140
    assert torch.equal(seen(views.flip(1.0), x).inputs, x.flip(-1))
    assert torch.equal(seen(views.flip(0.0), x).inputs, x)


def test_noise_has_the_size_it_was_given() -> None:
    x = torch.zeros(4000, 2)
    moved = seen(views.noise(torch.tensor([0.5, 2.0])), x).inputs
    assert moved.std(0).tolist() == pytest.approx([0.5, 2.0], rel=0.05)
    assert torch.equal(seen(views.noise(0.0), x).inputs, x)


def test_mixup_mixes_pairs_and_knows_the_labels_it_keeps() -> None:
    x, y = torch.eye(6), torch.tensor([0, 0, 1, 1, 2, MISSING])
    found = seen(views.mixup(1.0, classes=3), x, y, seed=3)
    assert isinstance(found.inputs, Tensor) and found.soft is not None
    assert found.inputs.sum(1).tolist() == pytest.approx([1.0] * 6)
    m = float(found.inputs.diagonal()[found.inputs.diagonal() < 1].max())
    for i, row in enumerate(found.inputs):
        j = int(torch.where(torch.arange(6) == i, -1.0, row).argmax()) if row[i] < 1 else i
        same = bool(y[i] == y[j])
        assert int(found.label[i]) == (int(y[i]) if same else MISSING)
        if MISSING in (int(y[i]), int(y[j])):
            assert found.soft[i].tolist() == [0.0, 0.0, 0.0]
        elif not same:
            assert float(found.soft[i, int(y[i])]) == pytest.approx(m if row[i] == m else float(row[i]))
            assert float(found.soft[i].sum()) == pytest.approx(1.0)
    assert torch.equal(seen(views.mixup(0.0), x, y).inputs, x)


def test_words_are_left_out_and_taken_from_other_texts() -> None:
    texts = ("a b c d e f g h", "1 2 3 4 5 6 7 8", "", "x")
    seen_by = Examples(texts, torch.tensor([0, 1, 0, 1]))

    def reworded(drop: float, swap: float, seed: int = 0) -> tuple[str, ...]:
        found = views.words(drop, swap)(seen_by, torch.Generator().manual_seed(seed))
        assert found.target is None and found.label.tolist() == [MISSING] * 4 and isinstance(found.inputs, tuple)
        return found.inputs

    assert reworded(0.0, 0.0) == texts
    assert reworded(1.0, 0.0) == ("a", "1", "", "x")
    shorter = [reworded(0.5, 0.0, seed)[0].split() for seed in range(50)]
    assert 3.0 < sum(map(len, shorter)) / 50 < 5.0
    assert all(sorted(words) == words and set(words) <= set(texts[0].split()) for words in shorter)
    mixed = [word for seed in range(50) for word in reworded(0.0, 0.5, seed)[0].split()]
    assert 0.15 < sum(word in texts[1] for word in mixed) / len(mixed) < 0.35  # half of the pool is the other's
    assert reworded(0.3, 0.3, 1) == reworded(0.3, 0.3, 1) != reworded(0.3, 0.3, 2)


def test_spans_are_runs_of_words_without_a_label() -> None:
    texts = ("a b c d e f g h", "1 2", "")
    rows = Examples(texts, torch.tensor([0, 1, 0]), soft=torch.rand(3, 2))
    lengths, starts = set(), set()
    for seed in range(200):
        found = views.spans(2, 4)(rows, torch.Generator().manual_seed(seed))
        assert found.soft is None and found.label.tolist() == [MISSING] * 3 and isinstance(found.inputs, tuple)
        assert found.inputs[0] in texts[0] and found.inputs[1:] == texts[1:]
        lengths.add(len(found.inputs[0].split()))
        starts.add(found.inputs[0][0])
    assert lengths == {2, 3, 4} and starts == set("abcdefg")
    again = [views.spans()(rows, torch.Generator().manual_seed(1)).inputs for _ in range(2)]
    assert again[0] == again[1]


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: views.spans(0, 4), "view.range"),
        (lambda: views.spans(5, 4), "view.range"),
        (lambda: seen(views.spans(), torch.zeros(2, 3)), "view.texts"),
        (lambda: views.shift(-1), "view.range"),
        (lambda: views.flip(1.5), "view.range"),
        (lambda: views.noise(-0.1), "view.range"),
        (lambda: views.mixup(-1.0), "view.range"),
        (lambda: views.words(1.1), "view.range"),
        (lambda: seen(views.words(), torch.zeros(2, 3)), "view.texts"),
        (lambda: seen(views.shift(1), torch.zeros(2, 3)), "view.images"),
        (lambda: seen(views.noise(1.0), torch.zeros(2, 3).long()), "view.images"),
        (lambda: seen(views.mixup(), torch.zeros(2, 3).long()), "view.mixup"),
        (lambda: views.mixup()(Examples(("a",), torch.zeros(1).long()), torch.Generator()), "view.mixup"),
        (lambda: views.noise(1.0)(Examples(("a",), torch.zeros(1).long()), torch.Generator()), "view.images"),
    ],
)
def test_what_cannot_be_meant(call: Any, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.code == code
