"""Classifiers on disk: what is saved comes back, what is damaged is refused, and fingerprints tell them apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from policykd import Learner, classifiers
from policykd.classifiers import Classifier, build, fingerprint
from policykd.distributions import Categorical
from policykd.errors import CheckpointError, PolicykdError, RunError, UsageError
from policykd.losses import forward_kl
from policykd.prediction import Batch, Prediction


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def logits(said: Prediction) -> Tensor:
    assert isinstance(said.dist, Categorical)
    return said.dist.logits


@pytest.mark.parametrize("shape", ["linear", "mlp:5", "cnn:4,5x7"])
def test_what_is_saved_comes_back(shape: str, tmp_path: Path) -> None:
    x = pixels(6, 8, 8)
    made = build(shape, inputs=x, classes=["a", "b"], taps={"last": "hidden"})
    learner = Learner(made, forward_kl)  # its weights are views of one long vector
    learner.step(Batch(x, Prediction(Categorical(drawn(6, 2)))))
    before = torch.get_rng_state()
    path = classifiers.save(made, tmp_path / "new")
    found = classifiers.load(tmp_path / "new")
    assert torch.equal(before, torch.get_rng_state())
    assert path == tmp_path / "new" / "classifier.safetensors" and path.with_suffix(".json").is_file()
    assert torch.equal(logits(found(x)), logits(made(x)))
    assert (found.classes, found.shape, found.taps, found.origin) == (made.classes, made.shape, made.taps, made.origin)
    assert fingerprint(found) == fingerprint(made) == fingerprint(learner.student)
    assert fingerprint(learner.averaged) != fingerprint(made)
    Learner(found, forward_kl).step(Batch(x, Prediction(Categorical(drawn(6, 2)))))  # and can go on learning
    classifiers.save(found, tmp_path, "other")
    assert torch.equal(logits(classifiers.load(tmp_path / "other.safetensors")(x)), logits(found(x)))


def test_fingerprints_tell_apart_what_labels_depend_on() -> None:
    x = pixels(6, 8, 8)
    knobs: list[dict[str, Any]] = [{}, {"seed": 1}, {"classes": ["a", "b"]}, {"taps": ["hidden"]}, {"shape": "mlp:8"}]
    prints = [fingerprint(build(**{"shape": "linear", "inputs": x, "classes": 2, **knob})) for knob in knobs]
    assert len(set(prints)) == len(prints) and all(len(one) == 64 for one in prints)
    assert prints[0] == fingerprint(build("linear", inputs=x, classes=2))
    own = Classifier(nn.Linear(2, 3), 3)
    assert fingerprint(own) == fingerprint(own) != fingerprint(Classifier(nn.Linear(2, 3), 3))
    layers = nn.Linear(2, 3)
    relu, tanh = (fingerprint(Classifier(nn.Sequential(layers, f), 3)) for f in (nn.ReLU(), nn.Tanh()))
    assert relu != tanh


def test_a_module_of_the_users_own_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Linear.*save_file.*\[classifier.file\]"):
        classifiers.save(Classifier(nn.Linear(2, 3), 3), tmp_path)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"\[classifier.write\]"):
        classifiers.save(build("linear", inputs=drawn(4, 2), classes=2), tmp_path / "file")


Damage = Callable[[dict[str, Any], dict[str, Tensor]], Any]


def _damaged(folder: Path, damage: Damage) -> PolicykdError:
    """What ``load`` says about a classifier whose card and weights were changed, with a sha256 that fits again."""
    made = build("cnn:4", inputs=pixels(4, 8, 8), classes=2)
    path = classifiers.save(made, folder)
    card, tensors = json.loads(path.with_suffix(".json").read_text()), load_file(path)
    damage(card, tensors)
    save_file(tensors, path)
    card["weights"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=r"\[classifier.file\]") as caught:
        classifiers.load(folder)
    return caught.value


@pytest.mark.parametrize(
    "damage",
    [
        lambda card, _: card.update(shape="cnn:8"),
        lambda card, _: card.update(shape="pickle"),
        lambda card, _: card.update(shape="bag:4"),
        lambda card, _: card.update(shape="mlp:" + ",".join(["1"] * 60)),
        lambda card, _: card.update(shape=None),
        lambda card, _: card.update(classes=["a", "b", "c"]),
        lambda card, _: card.update(classes="ab"),
        lambda card, _: card.update(inputs=[64]),
        lambda card, _: card.update(inputs=[2**40, 2**40]),
        lambda card, _: card.update(inputs=None),
        lambda card, _: card.update(taps={"x": "nowhere"}),
        lambda card, _: card.update(taps=[]),
        lambda card, _: card.update(kind="student"),
        lambda card, _: card.update(schema=2),
        lambda card, _: card.pop("vocabulary"),
        lambda card, _: card.update(origin=3),
        lambda _, tensors: tensors.pop("head.bias"),
        lambda _, tensors: tensors.update(more=torch.zeros(2)),
        lambda _, tensors: tensors.update({"head.bias": torch.zeros(2, dtype=torch.float64)}),
        lambda _, tensors: tensors.update({"head.bias": torch.tensor([0.0, torch.nan])}),
    ],
)
def test_damaged_pairs_are_refused(damage: Damage, tmp_path: Path) -> None:
    assert len(str(_damaged(tmp_path, damage))) < 1200


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = classifiers.save(build("linear", inputs=drawn(4, 2), classes=2), tmp_path)
    about, whole = path.with_suffix(".json"), path.read_bytes()
    card = about.read_text()

    def refused() -> None:
        with pytest.raises(CheckpointError, match=r"\[classifier.file\]"):
            classifiers.load(tmp_path)

    path.write_bytes(whole[:-1])
    refused()  # another sha256
    path.write_bytes(b"\x80\x04pickle")
    about.write_text(card.replace(hashlib.sha256(whole).hexdigest(), hashlib.sha256(path.read_bytes()).hexdigest()))
    refused()
    path.write_bytes(whole)
    about.write_text("{")
    refused()
    about.write_text("[" * 100_000)
    refused()
    about.unlink()
    refused()
    with pytest.raises(CheckpointError, match=r"\[classifier.file\]"):
        classifiers.load(tmp_path / "nowhere")
