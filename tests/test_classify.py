"""Teacher, the student alone and the student distilled, from one call: what each gets to see, and what is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policykd import losses
from policykd.class_config import CLASS_LOSSES, ClassifyConfig
from policykd.classifiers import Classifier, build, save
from policykd.classify import ClassReport, distill_classifier, train_classifier
from policykd.classify.objectives import rated
from policykd.classify.probing import probe
from policykd.classify.seeing import view_of
from policykd.datasets import Labelled, Split
from policykd.distributions import Categorical
from policykd.errors import PolicykdError
from policykd.learner import Learner
from policykd.prediction import Batch, Prediction, Progress
from policykd.supervised import MISSING, Examples, score, views


def bars(n: int, seed: int) -> Split:
    """Images of 8x8 noise with a bright row in the upper, or lower, half, or a bright column."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 120, (n, 1, 8, 8), dtype=torch.uint8, generator=generator)
    y = torch.randint(3, (n,), generator=generator)
    place = torch.randint(4, (n,), generator=generator)
    for i in range(n):
        if y[i] < 2:
            x[i, 0, int(place[i]) + 4 * int(y[i])] = 140
        else:
            x[i, 0, :, 2 * int(place[i])] = 140
    return Split(x, y)


DATA = Labelled("bars", "made here", ("up", "down", "column"), bars(400, 0), bars(100, 1), bars(200, 2))
QUICK: dict[str, Any] = {"epochs": 6, "batch_size": 64}


@pytest.fixture(scope="module")
def teacher() -> Classifier:
    made = build("cnn:8,16", inputs=DATA.train.inputs, classes=DATA.classes, seed=5)
    return train_classifier(made, DATA, epochs=25, batch_size=64, learning_rate=0.01, seed=5).student


@pytest.fixture(scope="module")
def report(teacher: Classifier) -> ClassReport:
    return distill_classifier(DATA, teacher=teacher, student="cnn:4,8", epochs=25, batch_size=64, learning_rate=0.01)


def test_the_three_are_measured_on_the_same_test_rows(report: ClassReport, teacher: Classifier) -> None:
    for name in ("teacher", "alone", "student"):
        who = report.policies[name]
        accuracy = float((who.label_all(DATA.test.inputs).dist.mode() == DATA.test.labels).float().mean())
        measured = getattr(report, name)
        assert measured.score.accuracy.value == pytest.approx(accuracy) and measured.score.rows == 200
        assert measured.params == who.acting_parameters
    assert report.policies["teacher"] is teacher
    assert report.teacher.score.accuracy.value is not None and report.teacher.score.accuracy.value > 0.9
    assert report.student.score.accuracy.value is not None and report.student.score.accuracy.value > 0.8
    right = [
        (report.policies[name].label_all(DATA.test.inputs).dist.mode() == DATA.test.labels).double()
        for name in ("student", "alone")
    ]
    assert report.gain.value == pytest.approx(float((right[0] - right[1]).mean()))
    assert report.gain.low is not None and report.gain.high is not None
    assert report.gain.low <= report.gain.value <= report.gain.high
    assert report.kept.value == pytest.approx(report.student.score.accuracy.value / report.teacher.score.accuracy.value)


def test_both_students_take_as_many_steps(report: ClassReport) -> None:
    assert report.alone.updates == report.student.updates == 25 * 7
    looks = [look["who"] for look in report.history]
    assert looks == ["alone"] * 25 + ["student"] * 25


def test_a_report_is_json_with_the_fields_of_the_contract(report: ClassReport) -> None:
    fields = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert fields["kind"] == "supervised" and fields["schema"] == 1
    assert fields["data"]["rows"] == {"train": 400, "validation": 100, "test": 200}
    assert {"teacher", "alone", "student", "gain", "gain_ci", "kept", "kept_ci", "answers", "seconds"} <= set(fields)
    assert fields["config"]["epochs"] == 25
    assert str(report).startswith("bars: teacher ") and "gain" in str(report)


def test_the_same_seed_is_the_same_student(teacher: Classifier) -> None:
    a, b, other = (
        distill_classifier(DATA, teacher=teacher, student="cnn:2,4", seed=seed, **QUICK) for seed in (3, 3, 4)
    )
    for name in ("alone", "student"):
        one, same, third = (torch.cat([p.flatten() for p in r.policies[name].parameters()]) for r in (a, b, other))
        assert torch.equal(one, same) and not torch.equal(one, third)


@pytest.mark.parametrize("loss", CLASS_LOSSES)
def test_every_loss_teaches(teacher: Classifier, loss: Any) -> None:
    found = distill_classifier(DATA, teacher=teacher, student="cnn:4,8", loss=None, config=ClassifyConfig(
        loss=loss, epochs=14, batch_size=64, learning_rate=0.01))  # fmt: skip
    assert found.student.score.agreement is not None and found.student.score.agreement > 0.6
    assert found.to_dict()["method"] == loss


def test_with_few_labels_the_teacher_labels_the_rest(teacher: Classifier) -> None:
    asked = []

    class Listening(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = teacher.module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            asked.append(len(x))
            return self.inner(x)

    listening = Classifier(Listening(), DATA.classes)
    found = distill_classifier(DATA, teacher=listening, student="cnn:4,8", labels=0.1, **QUICK)
    assert found.data["labelled"] == 40 and found.answers["rows"] == 400
    few = distill_classifier(DATA, teacher=listening, student="cnn:4,8", labels=0.1, inputs="labelled", **QUICK)
    assert few.answers["rows"] == 40 and few.alone.updates == found.alone.updates == few.student.updates
    assert few.alone.score == found.alone.score


def test_the_cache_answers_the_second_time(teacher: Classifier, tmp_path: Path) -> None:
    first, second = (
        distill_classifier(DATA, teacher=teacher, student="cnn:4,8", cache=str(tmp_path), **QUICK) for _ in range(2)
    )
    assert (first.answers["hit_rate"], second.answers["hit_rate"]) == (0.0, 1.0)
    assert first.student.score == second.student.score
    # Validation and test rows of the same teacher are in the cache, too: no other teacher's, and no other data's.
    assert (first.answers["other_teachers"], first.answers["other_data"]) == (0, 0)
    other = build("cnn:4", inputs=DATA.train.inputs, classes=DATA.classes, seed=9)
    changed = distill_classifier(DATA, teacher=other, student="cnn:4,8", cache=str(tmp_path), **QUICK)
    assert (changed.answers["hit_rate"], changed.answers["other_teachers"]) == (0.0, 1)
    via = distill_classifier(DATA, teacher=teacher, student="cnn:2", via=["cnn:4,8"], cache=str(tmp_path), **QUICK)
    assert [it["hit_rate"] for it in (*via.via_answers, via.answers)] == [1.0, 0.0]


def numbers(n: int, seed: int) -> Split:
    """Three columns in three units; the second one, times a thousand, decides."""
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    label = (x[:, 1] > 0.4).long() + (x[:, 1] > -0.4).long()
    return Split(x * torch.tensor([1.0, 1000.0, 0.0]) + 7.0, label)


NUMBERS = Labelled("numbers", "made here", DATA.classes, numbers(300, 0), numbers(80, 1), numbers(100, 2))


def test_noise_is_in_the_units_of_each_column() -> None:
    view = view_of("noise", NUMBERS.train.inputs)
    assert view is not None
    plain = Examples(NUMBERS.train.inputs, NUMBERS.train.labels)
    seen = view(plain, torch.Generator().manual_seed(0))
    spread = plain.inputs.std(0)  # type: ignore[union-attr]
    noise = (seen.inputs - plain.inputs).std(0)  # type: ignore[operator]
    assert noise[2] == 0  # what never changes stays
    assert (noise[:2] / spread[:2]).tolist() == pytest.approx([0.1, 0.1], rel=0.15)
    found = distill_classifier(NUMBERS, teacher="mlp:16", student="mlp:4", view="noise", epochs=20, batch_size=50)
    assert found.answers["on_the_fly"] and found.config["view"] == "noise"
    assert found.student.score.accuracy.value is not None and found.student.score.accuracy.value > 0.75


@pytest.mark.parametrize("copies", [0, 3])
def test_a_view_of_ones_own(teacher: Classifier, copies: int) -> None:
    seen: list[int] = []

    def darker(examples: Examples, generator: torch.Generator) -> Examples:
        seen.append(len(examples))
        factor = torch.rand(len(examples), 1, 1, 1, generator=generator)
        dark = (examples.inputs.float() * (0.5 + 0.5 * factor)).to(torch.uint8)  # type: ignore[union-attr]
        return replace(examples, inputs=dark, target=None)

    found = distill_classifier(DATA, teacher=teacher, student="cnn:2", view=darker, copies=copies, **QUICK)
    assert found.answers["on_the_fly"] == (copies == 0) and found.answers["rows"] == 400 * (1 + copies)
    assert sum(seen) >= 400 * max(copies, 6)  # views of each batch, the student alone's too
    fields = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (fields["config"]["view"], fields["config"]["copies"]) == ("own", copies)
    plain = distill_classifier(DATA, teacher=teacher, student="cnn:2", **QUICK)
    assert plain.student.score != found.student.score and plain.alone.score != found.alone.score
    named = distill_classifier(DATA, teacher=teacher, student="cnn:2", view=views.shift(2), **QUICK)
    by_name = distill_classifier(DATA, teacher=teacher, student="cnn:2", view="shift", **QUICK)
    assert named.student.score == by_name.student.score and named.alone.score == by_name.alone.score


def rated_set(n: int, seed: int) -> Split:
    """Of rows on one side people are of two minds, 60 to 40: the label says half of what there is to know."""
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    right = x[:, 0] > 0
    law = torch.where(right[:, None], torch.tensor([0.4, 0.6]), torch.tensor([0.98, 0.02]))
    return Split(x, law.argmax(-1), law)


RATED = Labelled("rated", "made here", ("no", "yes"), rated_set(300, 0), rated_set(100, 1), rated_set(200, 2))


def test_students_may_learn_what_people_said() -> None:
    teacher = build("mlp:8", inputs=RATED.train.inputs, classes=RATED.classes, seed=3)
    how: dict[str, Any] = {"student": "mlp:8", "epochs": 60, "batch_size": 50, "learning_rate": 0.01}
    plain, rated = (
        distill_classifier(RATED, teacher=teacher, alpha=0.0, raters=raters, **how) for raters in (False, True)
    )

    def sure(who: Classifier) -> float:
        said = who.label_all(RATED.test.inputs).dist
        return float(said.probs[RATED.test.inputs[:, 0] > 0.3, 1].mean())  # type: ignore[union-attr,index]

    for who in ("alone", "student"):
        assert sure(plain.policies[who]) > 0.9
        assert sure(rated.policies[who]) == pytest.approx(0.6, abs=0.05)
    assert plain.to_dict()["config"]["raters"] is False and rated.config["raters"] is True


def test_rows_that_nobody_rated_have_their_label() -> None:
    said = Prediction(Categorical(torch.randn(3, 2, generator=torch.Generator().manual_seed(0))))
    soft = torch.tensor([[0.25, 0.75], [0.0, 0.0], [0.0, 0.0]])
    batch = Batch(torch.zeros(3, 1), said, extra={"label": torch.tensor([0, 1, MISSING]), "soft": soft})
    own = -said.dist.log_probs  # type: ignore[union-attr]
    wanted = torch.stack([0.25 * own[0, 0] + 0.75 * own[0, 1], own[1, 1], torch.tensor(0.0)])
    torch.testing.assert_close(rated(said, batch)[""], wanted)
    torch.testing.assert_close(
        rated(said, Batch(batch.obs, said, extra={"label": batch.extra["label"]}))[""],
        losses.label_nll(said, batch)[""],
    )


@pytest.mark.parametrize("view", ["shift", "flip", "mixup"])
def test_a_view_asks_the_teacher_anew(teacher: Classifier, view: Any) -> None:
    found = distill_classifier(DATA, teacher=teacher, student="cnn:4,8", view=view, **QUICK)
    assert found.answers["on_the_fly"] and found.answers["seconds"] > 0


def test_a_loss_and_a_student_of_ones_own(teacher: Classifier) -> None:
    class Mine(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.utils.skip_init(torch.nn.Linear, 64, 3)
            torch.nn.init.zeros_(self.layer.weight)
            torch.nn.init.zeros_(self.layer.bias)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.flatten(1).float() / 255)

    mine = Classifier(Mine(), DATA.classes)
    found = distill_classifier(DATA, teacher=teacher, student=mine, loss=losses.forward_kl, **QUICK)
    assert found.student.params == 64 * 3 + 3 and found.student.shape is None
    assert torch.equal(next(mine.parameters()), torch.zeros(3, 64))  # both students were copies


def test_assistants_stand_between_teacher_and_student(teacher: Classifier) -> None:
    finished: list[str] = []
    found = distill_classifier(
        DATA, teacher=teacher, student="cnn:2", via=["cnn:4,8", "same"], on_done=lambda who, it: finished.append(who),
        **QUICK,
    )  # fmt: skip
    assert finished == ["alone", "via-1", "via-2", "student"] and list(found.policies) == ["teacher", *finished]
    assert [it.shape for it in found.via] == ["cnn:4,8", "cnn:2"]
    looks = [look["who"] for look in found.history]
    assert looks == [who for who in finished for _ in range(6)]
    # The last one has learnt from the assistant before it, and is compared with the first teacher.
    assistant = distill_classifier(DATA, teacher=teacher, student="cnn:2", via=["cnn:4,8"], **QUICK)
    born_again = distill_classifier(
        DATA, teacher=assistant.policies["student"], student="cnn:2", alone=found.policies["alone"], **QUICK
    )
    assert torch.equal(*(next(it.policies["student"].parameters()) for it in (found, born_again)))
    theirs, own = (found.policies[who].label_all(DATA.test.inputs).dist.mode() for who in ("teacher", "student"))
    assert found.student.score.agreement == pytest.approx(float((theirs == own).float().mean()))
    fields = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [it["params"] for it in fields["via"]] == [it.params for it in found.via]
    assert [it["answers"]["rows"] for it in fields["via"]] == [400, 400] and fields["answers"]["rows"] == 400
    with pytest.raises(PolicykdError, match=r"classifier\.shape"):
        distill_classifier(DATA, teacher=teacher, student="cnn:2", via=["cnn"], **QUICK)


def test_teacher_from_a_shape_or_a_folder(teacher: Classifier, tmp_path: Path) -> None:
    save(teacher, tmp_path / "teacher")
    one = distill_classifier(DATA, teacher=tmp_path / "teacher", student="cnn:2", **QUICK)
    other = distill_classifier(DATA, teacher=teacher, student="cnn:2", **QUICK)
    assert one.student.score == other.student.score and one.teacher.epochs is None
    made = distill_classifier(DATA, teacher="mlp:16", student="cnn:2", **QUICK)
    assert made.teacher.epochs == 6 and made.teacher.shape == "mlp:16"


def test_texts_are_encoded_by_each_for_itself() -> None:
    words = ["good fine great", "bad poor awful"]
    rng = np.random.default_rng(0)

    def split(n: int) -> Split:
        y = rng.integers(0, 2, n)
        texts = tuple(" ".join(rng.choice([*words[i].split(), "film", "the", "plot"], 6)) for i in y)
        return Split(texts, torch.as_tensor(y))

    data = Labelled("words", "made here", ("good", "bad"), split(300), split(60), split(100))
    for loss in ("kd", "relations"):
        found = distill_classifier(
            data, teacher="bag:16,8", student="bag:4", config=ClassifyConfig(loss=loss, epochs=40)  # type: ignore[arg-type]
        )  # fmt: skip
        assert found.student.score.accuracy.value is not None and found.student.score.accuracy.value > 0.8
    with pytest.raises(PolicykdError, match=r"classify\.features"):
        distill_classifier(data, teacher="bag:16", student="bag:4", config=ClassifyConfig(loss="attention", epochs=1))


def test_copies_are_answered_once_and_have_no_label_of_their_own(tmp_path: Path) -> None:
    texts = tuple(f"{'good fine' if i % 2 else 'bad poor'} film number {i % 7}" for i in range(120))
    labels = torch.tensor([i % 2 for i in range(120)])
    rows = Split(texts, labels)
    data = Labelled("words", "made here", ("bad", "good"), rows, rows, rows)
    how: dict[str, Any] = {"teacher": "bag:8", "student": "bag:2", "epochs": 4, "batch_size": 32}
    made = distill_classifier(data, view="words", copies=3, cache=str(tmp_path), **how)
    assert made.answers["rows"] == 480 and not made.answers["on_the_fly"]
    assert made.alone.updates == made.student.updates
    again = distill_classifier(data, view="words", copies=3, cache=str(tmp_path), **how)
    assert again.answers["hit_rate"] == 1.0 and again.student.score == made.student.score
    anew = distill_classifier(data, view="words", **how)
    assert anew.answers["rows"] == 120 and anew.answers["on_the_fly"]
    for wrong in ({"copies": 2, "view": "none"}, {"copies": -1, "view": "words"}):
        with pytest.raises(PolicykdError, match=r"config\.copies"):
            distill_classifier(data, **{**how, **wrong})
    with pytest.raises(PolicykdError, match=r"config\.copies"):
        distill_classifier(DATA, copies=2, **{**how, "teacher": "cnn:2", "student": "cnn:2"})
    for view in ("words", "spans"):
        with pytest.raises(PolicykdError, match=r"classify\.view"):
            distill_classifier(DATA, view=view, **{**how, "teacher": "cnn:2", "student": "cnn:2"})


def test_what_nobody_chose_is_chosen_for_texts_and_for_images(teacher: Classifier, tmp_path: Path) -> None:
    texts = tuple(f"{'good fine' if i % 2 else 'bad poor'} film number {i % 7} of them all" for i in range(60))
    rows = Split(texts, torch.tensor([i % 2 for i in range(60)]))
    data = Labelled("words", "made here", ("bad", "good"), rows, rows, rows)
    how: dict[str, Any] = {"teacher": "bag:8", "student": "bag:2", "epochs": 2, "cache": str(tmp_path)}
    of_texts = distill_classifier(data, **how)
    assert [of_texts.config[k] for k in ("view", "copies", "temperature")] == ["spans", 1, 1.0]
    assert of_texts.answers["rows"] == 120 and of_texts.answers["hit_rate"] == 0.0
    # Another seed: other spans, the same rows (and the same teacher, or its answers would be others).
    same = {**how, "teacher": of_texts.policies["teacher"], "seed": 1}
    assert distill_classifier(data, **same).answers["hit_rate"] == 0.5
    plain = distill_classifier(data, **{**how, "view": "none", "temperature": 2.0})
    assert [plain.config[k] for k in ("view", "copies", "temperature")] == ["none", 0, 2.0]
    of_images = distill_classifier(DATA, teacher=teacher, student="cnn:2", epochs=1)
    assert [of_images.config[k] for k in ("view", "copies", "temperature")] == ["none", 0, 4.0]


class Pretrained(torch.nn.Module):
    """Features that are given, and a head that knows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.pooled = torch.nn.Identity()
        self.body, self.head = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
        torch.nn.init.orthogonal_(self.body.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pooled(self.body(x)))


def test_a_head_is_taught_before_the_rest_and_the_rest_stays() -> None:
    generator = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        x = torch.randn(n, 3, generator=generator)
        return Split(x, (x @ torch.tensor([1.0, -2.0, 0.5]) > 0).long())

    data = Labelled("halves", "made here", ("no", "yes"), split(600), split(100), split(400))
    data.train.labels[::3] = -1
    torch.manual_seed(3)
    classifier = Classifier(Pretrained(), data.classes)
    body = classifier.module.body.weight.clone()  # type: ignore[union-attr,operator]
    before = score(classifier.label_all(data.test.inputs), data.test.labels).accuracy.value
    probe(classifier, data, seed=1)
    after = score(classifier.label_all(data.test.inputs), data.test.labels).accuracy.value
    assert before is not None and after is not None and before < 0.8 < 0.97 < after
    assert torch.equal(classifier.module.body.weight, body)  # type: ignore[union-attr]
    first = classifier.module.head.weight.clone()  # type: ignore[union-attr,operator]
    torch.manual_seed(3)
    again = Classifier(Pretrained(), data.classes)
    probe(again, data, seed=1)
    assert torch.equal(again.module.head.weight, first)  # type: ignore[union-attr,arg-type]


def test_bad_input(teacher: Classifier, tmp_path: Path) -> None:
    def code(data: Any = DATA, **how: Any) -> str:
        with pytest.raises(PolicykdError) as caught:
            distill_classifier(data, **{"teacher": teacher, "student": "cnn:2", **QUICK, **how})
        return caught.value.code

    nothing = Split(DATA.train.inputs, torch.full((400,), MISSING))
    empty = Split(DATA.test.inputs[:0], DATA.test.labels[:0])
    assert code(Labelled("x", "", DATA.classes, nothing, DATA.validation, DATA.test)) == "classify.labels"
    assert code(Labelled("x", "", DATA.classes, DATA.train, empty, DATA.test)) == "classify.splits"
    assert code(student=build("cnn:2", inputs=DATA.train.inputs, classes=5)) == "classify.classes"
    assert code(teacher="cnn:") == "classifier.shape"
    assert code(data="fashion-minst") == "name.data"
    assert code(loss=None, config=ClassifyConfig(), alpha=2.0) == "config.range"
    assert code(epochs=0) == "config.zero"
    with pytest.raises(PolicykdError, match=r"did you mean standardised.*name\.loss"):
        ClassifyConfig(loss="standardized")  # type: ignore[arg-type]
    with pytest.raises(PolicykdError, match=r"name\.view"):
        ClassifyConfig(view="shft")  # type: ignore[arg-type]
    broken = build("cnn:2", inputs=DATA.train.inputs, classes=DATA.classes)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    assert code(teacher=broken) == "classifier.nan"


def test_what_cannot_be_is_refused_before_anything_is_learnt() -> None:
    def code(data: Labelled = DATA, **how: Any) -> str:
        steps: list[str] = []
        asked = {"teacher": "cnn:2", "student": "cnn:2", **QUICK, **how}
        with pytest.raises(PolicykdError) as caught:
            distill_classifier(data, on_update=lambda who, _: steps.append(who), **asked)
        assert not steps
        return caught.value.code

    def held(validation: Split, test: Split) -> Labelled:
        return Labelled("x", "", DATA.classes, DATA.train, validation, test)

    texts = Split(("good film", "bad film", "good plot") * 9, torch.arange(27) % 3)
    words = Labelled("words", "", DATA.classes, texts, texts, texts)
    unknown = Split(DATA.test.inputs, torch.full((200,), MISSING))
    single = torch.full((200,), MISSING)
    single[0] = 1
    assert code(held(DATA.validation, unknown)) == code(held(unknown, DATA.test)) == "classify.splits"
    assert code(held(DATA.validation, Split(DATA.test.inputs, single))) == "classify.splits"
    assert code(teacher="mlp:8", loss="attention") == "classify.features"
    assert code(words, teacher="bag:4", student="bag:2", view="mixup") == "classify.view"
    assert code(words, teacher="bag:4", student="bag:2", view="shift") == "classify.view"
    flat = Split(torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3)
    numbers = Labelled("numbers", "", DATA.classes, flat, flat, flat)
    assert code(numbers, teacher="mlp:4", student="mlp:2", view="flip") == "classify.view"
    turned = build("cnn:2", inputs=DATA.train.inputs, classes=DATA.classes[::-1])
    assert code(student=turned) == code(teacher=turned, student=turned) == code(alone=turned) == "classify.classes"
    assert code(view="noise") == code(words, teacher="bag:4", student="bag:2", view="noise") == "classify.view"
    assert code(raters=True) == "classify.raters"
    assert code(RATED, teacher="mlp:4", student="mlp:2", raters=True, view="mixup") == "config.raters"
    assert code(RATED, teacher="mlp:4", student="mlp:2", raters=True, labels=0.5) == "config.raters"
    own = {"teacher": "mlp:4", "student": "mlp:2", "loss": losses.hard_and_soft(hard=losses.soft_label_ce)}
    assert code(RATED, raters=True, **own) == "classify.raters"
    with pytest.raises(PolicykdError, match=r"hard=soft_label_ce.*alone=train_classifier"):
        distill_classifier(RATED, raters=True, **own)
    assert code(inputs="labeled") == "name.inputs"
    for knob in ("temperature", "learning_rate"):
        assert code(**{knob: float("inf")}) == "config.range"


def test_a_loss_by_name_and_a_cache_by_path(teacher: Classifier, tmp_path: Path) -> None:
    found = distill_classifier(
        DATA, teacher=teacher, student="cnn:2", loss="dist", cache=tmp_path, epochs=1, batch_size=64
    )
    fields = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert fields["method"] == "dist" and fields["config"]["cache"] == str(tmp_path)


@pytest.mark.parametrize("room", [2**30, 0])
def test_a_loss_of_ones_own_compares_taps(teacher: Classifier, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policykd.classify.training._KEPT", room)
    seen = []

    def closer(student: Prediction, target: Prediction) -> torch.Tensor:
        seen.append((student.features["maps"].requires_grad, target.features["maps"].requires_grad))
        return losses.attention_transfer(student, target, feature="maps")

    where = {"maps": "convolutions.1"}
    tapped = Classifier(teacher.module, teacher.classes, taps=where, shape=teacher.shape)
    student = build("cnn:2", inputs=DATA.train.inputs, classes=DATA.classes, taps=where)
    found = distill_classifier(DATA, teacher=tapped, student=student, loss=closer, epochs=1, batch_size=64)
    assert set(seen) == {(True, False)} and found.answers["on_the_fly"] == (room == 0)


def test_a_loss_that_cannot_judge_is_refused_before_anything_is_learnt(teacher: Classifier) -> None:
    where = {"maps": "convolutions.1"}
    tapped = Classifier(teacher.module, teacher.classes, taps=where, shape=teacher.shape)
    plain = build("cnn:2", inputs=DATA.train.inputs, classes=DATA.classes)
    student = build("cnn:2", inputs=DATA.train.inputs, classes=DATA.classes, taps=where)
    loss = partial(losses.attention_transfer, feature="maps")
    learnt: list[str] = []
    how: dict[str, Any] = {"teacher": tapped, "loss": loss, "on_update": lambda who, _: learnt.append(who), **QUICK}
    with pytest.raises(PolicykdError, match=r"via-1 \(the student gives no feature 'maps'.*\[classify\.via\]"):
        distill_classifier(DATA, student=student, via=["cnn:4"], **how)
    with pytest.raises(PolicykdError, match=r"the student gives no feature 'maps'.*\[loss\.feature\]"):
        distill_classifier(DATA, student=plain, **how)
    assert not learnt
    found = distill_classifier(DATA, student=student, via=["same"], **how)  # which has the student's taps
    assert set(learnt) == {"alone", "via-1", "student"} and found.via[0].shape == "cnn:2"


@pytest.mark.parametrize("copies", [0, 1])
def test_a_loss_is_tried_on_rows_as_the_view_shows_them(teacher: Classifier, copies: int) -> None:
    mixed = losses.hard_and_soft(alpha=0.5, hard=losses.soft_label_ce)
    how: dict[str, Any] = {"teacher": teacher, "student": "cnn:2", "copies": copies, **QUICK}
    found = distill_classifier(DATA, view=views.mixup(classes=3), loss=mixed, **how)
    assert found.config["view"] == "own" and found.student.updates == 6 * 7
    learnt: list[str] = []
    how["on_update"] = lambda who, _: learnt.append(who)
    with pytest.raises(PolicykdError, match=r"extra\['soft'\].*\[label\.missing\]"):
        distill_classifier(DATA, view=views.mixup(), loss=mixed, **how)  # which mixes no labels
    with pytest.raises(PolicykdError, match=r"extra\['soft'\].*\[label\.missing\]"):
        distill_classifier(DATA, view="shift", loss=mixed, **{**how, "copies": None})
    assert not learnt


def test_a_loss_is_tried_on_labelled_rows_where_only_those_are_seen(teacher: Classifier) -> None:
    late = DATA.train.labels.clone()
    late[:350] = MISSING
    seen: list[torch.Tensor] = []

    def hear(student: Prediction, batch: Batch) -> dict[str, torch.Tensor]:
        seen.append(batch.extra["label"])
        return losses.label_nll(student, batch)

    data = replace(DATA, train=replace(DATA.train, labels=late))
    distill_classifier(data, teacher=teacher, student="cnn:2", loss=hear, inputs="labelled", epochs=1, batch_size=64)
    assert len(seen[0]) == 32 and bool((seen[0] != MISSING).all())


@pytest.mark.parametrize("view", ["shift", "flip", "mixup"])
def test_both_students_see_the_views(teacher: Classifier, view: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[str, torch.Tensor] = {}
    course = "alone"

    def hear(self: Classifier, batch: Batch) -> Prediction:
        if len(batch) > 1:  # before all a look at one row tells whether classes fit
            read.setdefault(course, batch.obs)  # type: ignore[arg-type]
        return self(batch.obs)  # type: ignore[no-any-return]

    def tell(who: str, look: Any) -> None:
        nonlocal course
        course = "student"

    monkeypatch.setattr(Classifier, "read", hear)
    distill_classifier(DATA, teacher=teacher, student="cnn:2", view=view, on_look=tell, epochs=1, batch_size=64)
    plain = {image.numpy().tobytes() for image in DATA.train.inputs}
    assert torch.equal(read["alone"], read["student"])
    assert any(image.numpy().tobytes() not in plain for image in read["alone"])


def test_a_report_holds_no_infinity(teacher: Classifier) -> None:
    class Sure(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([0.0, 0.0, -torch.inf]).expand(len(x), 3)

    found = distill_classifier(DATA, teacher=Classifier(Sure(), DATA.classes), student="cnn:2", **QUICK)
    fields = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert found.teacher.score.nll == float("inf") and "nll" not in fields["teacher"] and "nll" in fields["student"]


def test_labels_alone_never_reach_the_teacher(teacher: Classifier) -> None:
    """The student alone learns from its labels: another teacher changes nothing for it."""
    other = build("cnn:4", inputs=DATA.train.inputs, classes=DATA.classes, seed=9)
    one, two = (distill_classifier(DATA, teacher=t, student="cnn:2", **QUICK) for t in (teacher, other))
    assert one.alone.score.accuracy == two.alone.score.accuracy and one.student.score != two.student.score


def test_a_learner_of_ones_own_takes_the_objective() -> None:
    """The objective of the front is an objective like any other: a Learner of its own takes it."""
    student = build("cnn:2", inputs=DATA.train.inputs, classes=DATA.classes)
    learner = Learner(student, losses.hard_and_soft(alpha=0.5))
    batch = Batch(DATA.train.inputs[:8], student.label(DATA.train.inputs[:8]), extra={"label": DATA.train.labels[:8]})
    update = learner.step(batch, Progress())
    assert set(update.terms) == {"hard", "soft"} and float(update.terms["soft"]) == pytest.approx(0.0, abs=1e-6)
