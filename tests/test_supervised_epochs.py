"""Passes over labelled inputs: who is asked what, what counts, and what is kept."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from toys import CARTPOLE, Balancer, Scorer

from policykd import losses, students
from policykd.classifiers import Classifier, build
from policykd.clock import Clock
from policykd.distributions import Categorical
from policykd.errors import PolicykdError, UsageError
from policykd.learner import Learner
from policykd.policy import Taught
from policykd.prediction import Batch, Prediction, Update
from policykd.supervised import MISSING, Examples, Rows, WithAnswers, epochs, fit, mutual, views
from policykd.supervised.examples import as_examples

THREE = Prediction(Categorical(torch.zeros(3, 2)))


def blobs(n: int = 300, seed: int = 0, classes: int = 3, width: int = 4) -> tuple[Tensor, Tensor]:
    """Points around a centre a class."""
    generator = torch.Generator().manual_seed(seed)
    centres = 4.0 * torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    label = torch.randint(classes, (n,), generator=generator)
    return centres[label] + torch.randn(n, width, generator=generator), label


def accuracy(student: Scorer, x: Tensor, y: Tensor) -> float:
    return float((student.label(x).dist.mode() == y).float().mean())


def learnt(updates: Iterator[Update]) -> list[Update]:
    return list(updates)


def test_rows_give_each_row_once_a_pass_in_new_orders() -> None:
    x = torch.arange(10.0).unsqueeze(1)
    rows = Rows(x, torch.arange(10), batch_size=4, seed=3)
    first, second = ([e.label.tolist() for e in rows] for _ in range(2))
    assert len(rows) == 3 and [len(part) for part in first] == [4, 4, 2]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(10))
    assert first != second
    assert [e.label.tolist() for e in Rows(x, torch.arange(10), batch_size=4, seed=3)] == first
    for e in rows:
        assert isinstance(e.inputs, Tensor) and e.inputs[:, 0].long().tolist() == e.label.tolist()


@pytest.mark.parametrize(
    ("rows", "size", "sizes"),
    [(9, 4, [4, 5]), (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (1, 4, [1]), (5, 4, [5]), (3, 1, [1, 1, 1])],
)
def test_no_row_is_alone_in_a_batch_that_it_could_share(rows: int, size: int, sizes: list[int]) -> None:
    loader = Rows(torch.zeros(rows, 2), torch.arange(rows), batch_size=size)
    made = list(loader)
    assert [len(batch) for batch in made] == sizes and len(loader) == len(sizes)
    assert sorted(torch.cat([batch.label for batch in made]).tolist()) == list(range(rows))


def test_rows_take_texts_and_dicts_and_answers() -> None:
    said = Prediction(Categorical(torch.eye(5)), features={"h": torch.arange(5.0).unsqueeze(1)})
    rows = Rows(("a", "b", "c", "d", "e"), torch.arange(5), target=said, batch_size=3, shuffle=False)
    parts = list(rows)
    assert [p.inputs for p in parts] == [("a", "b", "c"), ("d", "e")]
    assert parts[1].target is not None and parts[1].target.features["h"].tolist() == [[3.0], [4.0]]
    [part] = Rows({"t": torch.arange(3)}, torch.zeros(3).long(), shuffle=False)
    assert isinstance(part.inputs, dict) and part.inputs["t"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: Rows(torch.zeros(0, 2), torch.zeros(0)), "supervised.empty"),
        (lambda: Rows(torch.zeros(3, 2), torch.zeros(2)), "supervised.batch"),
        (lambda: Rows(torch.zeros(2, 2), torch.zeros(2), target=THREE), "supervised.batch"),
        (lambda: as_examples(torch.zeros(3)), "supervised.batch"),
        (lambda: as_examples((torch.zeros(3), torch.zeros(2).long())), "supervised.batch"),
        (lambda: as_examples((torch.zeros(3), torch.zeros(3))), "label.type"),
        (lambda: as_examples({"x": 1}), "supervised.batch"),
        (lambda: Rows(torch.zeros(3, 2), torch.tensor([0.5, 1.0, 2.0])), "label.type"),
        (lambda: as_examples((torch.zeros(2, 4), torch.zeros(2).long(), torch.zeros(3, 5))), "supervised.batch"),
        (lambda: as_examples((torch.zeros(2, 4), torch.zeros(2).long(), THREE)), "supervised.batch"),
        (lambda: as_examples((torch.zeros(2, 4), torch.zeros(2).long(), np.zeros((2, 5)))), "supervised.batch"),
    ],
)  # fmt: skip
def test_what_a_loader_must_not_give(make: Any, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert caught.value.code == code


def test_a_torch_loader_teaches_as_rows_do() -> None:
    x, y = blobs()
    students = [Scorer(4, 3) for _ in range(2)]
    loaders: list[Any] = [
        DataLoader(TensorDataset(x, y), batch_size=50, shuffle=False),
        Rows(x, y, batch_size=50, shuffle=False),
    ]
    for student, loader in zip(students, loaders, strict=True):
        learner = Learner(student, losses.forward_kl)
        learnt(epochs(learner, loader, 2, teacher=Scorer(4, 3, seed=5, gain=1.0)))
    assert torch.equal(students[0].layer.weight, students[1].layer.weight)


def test_the_teacher_is_asked_once_where_it_has_answered_and_anew_for_every_view() -> None:
    x, y = blobs(100)
    teacher = Scorer(4, 3, seed=1, gain=1.0)
    said = teacher.label(x)
    learner = Learner(Scorer(4, 3), losses.forward_kl)
    learnt(epochs(learner, Rows(x, y, target=said), 3, teacher=teacher))
    assert teacher.asked == 100
    learnt(epochs(learner, Rows(x, y, target=said), 3, teacher=teacher, view=views.noise(0.1)))
    assert teacher.asked == 400


def test_teacher_and_student_see_one_view_and_the_student_alone_another() -> None:
    x, y = torch.zeros(8, 2), torch.zeros(8).long()
    seen: list[tuple[str, Tensor]] = []

    class Watched(Taught):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(2))

        def read(self, batch: Batch) -> Prediction:
            assert isinstance(batch.obs, Tensor)
            seen.append(("student", batch.obs))
            return Prediction(Categorical(batch.obs * self.w))

    class Asked:
        def label(self, inputs: Any, /) -> Prediction:
            seen.append(("teacher", inputs))
            return Prediction(Categorical(torch.zeros(len(inputs), 2)))

    learner = Learner(Watched(), losses.forward_kl)
    learnt(epochs(learner, Rows(x, y), 1, teacher=Asked(), view=views.noise(1.0)))
    (_, theirs), *own = seen
    assert theirs.abs().min() > 0 and all(torch.equal(mine[: len(theirs)], theirs[: len(mine)]) for _, mine in own)
    seen.clear()
    learnt(epochs(learner, Rows(x, y), 1, teacher=Asked(), student_view=views.noise(1.0)))
    kinds = dict(seen)
    assert kinds["teacher"].abs().max() == 0 and kinds["student"].abs().min() > 0


def test_progress_counts_examples_and_shares_of_the_budget() -> None:
    x, y = blobs(100)
    learner = Learner(Scorer(4, 3), losses.forward_kl)
    clock = Clock()
    found = learnt(epochs(learner, Rows(x, y, batch_size=40), 2, teacher=Scorer(4, 3, seed=1), clock=clock))
    assert [u.progress.env_steps for u in found] == [40, 80, 100, 140, 180, 200]
    assert [round(u.progress.fraction, 3) for u in found] == [0.0, 0.167, 0.333, 0.5, 0.667, 0.833]
    assert clock.wall["label"] > 0 and clock.wall["learn"] > 0


def test_an_epoch_is_the_same_wherever_a_run_is_taken_up() -> None:
    x, y = blobs(100)
    teacher = Scorer(4, 3, seed=1, gain=1.0)
    whole, parts = (Learner(Scorer(4, 3), losses.forward_kl) for _ in range(2))
    learnt(epochs(whole, Rows(x, y, shuffle=False), 3, teacher=teacher, view=views.noise(0.5), seed=4))
    for begin in range(3):
        rows = Rows(x, y, shuffle=False)
        learnt(epochs(parts, rows, 3, teacher=teacher, view=views.noise(0.5), seed=4, begin=begin, end=begin + 1))
    assert torch.equal(whole.student.layer.weight, parts.student.layer.weight)


def test_bad_input_is_one_clear_line() -> None:
    x, y = blobs(20)
    learner = Learner(Scorer(4, 3), losses.forward_kl)
    teacher = Scorer(4, 3, seed=1)

    def code(**how: Any) -> str:
        with pytest.raises(PolicykdError) as caught:
            learnt(epochs(how.pop("learner", learner), how.pop("loader", Rows(x, y)), how.pop("count", 1), **how))
        return caught.value.code

    assert code(loader=[], teacher=teacher) == "supervised.empty"
    assert code(count=0, teacher=teacher) == "supervised.epochs"
    assert code(loader=Rows(x, y, target=teacher.label(x)), view=views.noise(0.1)) == "supervised.view"
    broken = Scorer(4, 3)
    with torch.no_grad():
        broken.layer.bias[0] = float("nan")
    assert code(teacher=broken) == "supervised.nan"
    assert code(teacher=Scorer(4, 5)) == "supervised.classes"
    assert code() == "supervised.unlabelled"  # nobody has spoken


@pytest.mark.parametrize(
    "objective",
    [
        losses.forward_kl,
        losses.reverse_kl,
        losses.mse,
        losses.hard_and_soft(),
        losses.dist_relations,
        losses.decoupled,
        losses.relational_distance,
        losses.agreeing(losses.label_nll),
        partial(losses.feature_mse, feature="inputs"),
    ],
)
def test_a_loss_that_needs_a_teacher_says_that_there_is_none(objective: Any) -> None:
    x, y = blobs(20)
    with pytest.raises(UsageError, match=r"none has labelled.*pass teacher=.*\[supervised\.unlabelled\]") as caught:
        learnt(epochs(Learner(Scorer(4, 3), objective), Rows(x, y), 1))
    assert "Categorical" not in str(caught.value)


def test_complaints_that_are_no_teacher_s_stay_what_they_are() -> None:
    x, y = blobs(20)
    missing = partial(losses.feature_mse, feature=("mine", "inputs"))
    with pytest.raises(UsageError, match=r"the student gives no feature 'mine'"):
        learnt(epochs(Learner(Scorer(4, 3), missing), Rows(x, y), 1))
    with pytest.raises(UsageError, match=r"\[label\.range\]"):
        learnt(epochs(Learner(Scorer(4, 3), losses.label_nll), Rows(x, y + 1), 1))
    of_values = losses.value_mse
    with pytest.raises(PolicykdError, match=r"\[loss\.no-value\]"):
        learnt(epochs(Learner(Scorer(4, 3), of_values), Rows(x, y), 1, teacher=Scorer(4, 3)))


def test_a_pass_in_which_nobody_says_anything() -> None:
    x, y = blobs(40)
    nothing, soft = torch.full_like(y, MISSING), torch.zeros(40, 3)
    steps = 0
    with pytest.raises(UsageError, match=r"pass teacher=.*\[supervised\.unlabelled\]"):
        for _ in epochs(Learner(Scorer(4, 3), losses.label_nll), Rows(x, nothing, batch_size=10), 5):
            steps += 1
    assert steps == 4  # one pass is enough to tell
    with pytest.raises(UsageError, match=r"\[supervised\.unlabelled\]"):
        learnt(epochs(Learner(Scorer(4, 3), losses.soft_label_ce), Rows(x, nothing, soft=soft), 1))
    few = torch.where(torch.arange(40) == 39, y, MISSING)
    soft[3, 1] = 1.0
    for rows, loss in (
        (Rows(x, few, batch_size=10, shuffle=False), losses.label_nll),
        (Rows(x, nothing, soft=soft, batch_size=10, shuffle=False), losses.soft_label_ce),
        (Rows(x, nothing, target=Scorer(4, 3).label(x), batch_size=10), losses.forward_kl),
    ):
        assert len(learnt(epochs(Learner(Scorer(4, 3), loss), rows, 2))) == 8


UNSOUND = {
    "nan": [math.nan, 0.0, 0.0],
    "infinity": [math.inf, 0.0, 0.0],
    "no class": [-math.inf, -math.inf, -math.inf],
}


def spoilt(row: list[float], n: int = 20) -> Tensor:
    logits = torch.zeros(n, 3)
    logits[7] = torch.tensor(row)
    assert Categorical(logits).log_probs.isnan().any(-1).tolist() == [i == 7 for i in range(n)]
    return logits


@pytest.mark.parametrize("row", UNSOUND.values(), ids=list(UNSOUND))
@pytest.mark.parametrize("given", ["tuple", "rows", "torch", "teacher"])
def test_logits_that_are_no_law_are_refused_wherever_they_come_from(given: str, row: list[float]) -> None:
    x, y = blobs(20)
    logits = spoilt(row)
    said = Prediction(Categorical(logits))

    class Broken:
        def label(self, inputs: Any, /) -> Prediction:
            return said

    loaders: dict[str, Any] = {
        "tuple": [(x, y, logits)],
        "rows": Rows(x, y, target=said),
        "torch": DataLoader(WithAnswers(TensorDataset(x, y), said), batch_size=5),
        "teacher": [(x, y)],
    }
    learner = Learner(Scorer(4, 3), losses.hard_and_soft(), average=None)
    with pytest.raises(PolicykdError, match=r"for 1 of \d+ rows.*\[supervised\.nan\]"):
        learnt(epochs(learner, loaders[given], 1, teacher=Broken()))
    assert learner.student.layer.weight.isfinite().all()


def test_a_class_that_cannot_be_and_rows_that_do_not_count_are_sound() -> None:
    x, y = blobs(20)
    logits = torch.zeros(20, 3)
    logits[:, 2] = -math.inf
    assert len(learnt(epochs(Learner(Scorer(4, 3), losses.forward_kl), [(x, y, logits)], 2))) == 2
    logits[5] = math.nan
    masked = Rows(x, y, target=Prediction(Categorical(logits)), mask=torch.arange(20) != 5)
    [update] = learnt(epochs(Learner(Scorer(4, 3), losses.forward_kl), masked, 1))
    assert update.loss.isfinite()


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Rows without a length."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(self.x, self.y, strict=True))


def test_a_torch_loader_without_a_length() -> None:
    x, y = blobs(60)
    loader = DataLoader(Stream(x, y), batch_size=20)
    learner = Learner(Scorer(4, 3), losses.label_nll)
    found = learnt(epochs(learner, loader, 2))
    assert [u.progress.fraction for u in found] == [0.0, 0.0, 0.0, 0.5, 0.5, 0.5]
    pair = [Learner(Scorer(4, 3, seed=s), losses.hard_and_soft()) for s in (0, 1)]
    assert [u.progress.fraction for u, _ in mutual(pair, loader, 1)] == [0.0, 0.0, 0.0]


def test_a_used_up_iterator_is_named() -> None:
    x, y = blobs(20)
    once = iter(Rows(x, y))
    with pytest.raises(UsageError, match="used up"):
        learnt(epochs(Learner(Scorer(4, 3), losses.forward_kl), once, 2, teacher=Scorer(4, 3)))


def test_fit_keeps_the_best_epoch_and_stops_when_none_is_better() -> None:
    x, y = blobs(400)
    held, truth = blobs(200, seed=7)
    teacher = Scorer(4, 3, seed=1)
    learnt(epochs(Learner(teacher, losses.label_nll, average=None, lr=0.05), Rows(x, y, batch_size=50), 20))
    assert accuracy(teacher, held, truth) > 0.9
    learner = Learner(Scorer(4, 3, seed=2), losses.forward_kl, lr=0.02)
    told = []
    found = fit(
        learner, Rows(x, torch.full_like(y, MISSING), target=teacher.label(x)), 60, patience=3,
        validation=lambda s: s.label(held), label=truth, validation_target=teacher.label(held), on_look=told.append,
    )  # fmt: skip
    assert found.stopped_by in ("patience", "budget") and list(found.looks) == told
    assert found.best.best and found.best.found.nll == min(look.found.nll for look in found.looks)
    assert [look.best for look in found.looks] == [
        look.found.nll < min((before.found.nll for before in found.looks[:i]), default=math.inf)
        for i, look in enumerate(found.looks)
    ]
    assert accuracy(found.student, held, truth) == pytest.approx(found.best.found.accuracy.value)
    assert found.best.found.agreement is not None and found.best.found.agreement > 0.8
    if found.stopped_by == "patience":
        assert len(found.looks) - found.best.epoch == 3


def test_fit_without_labels_goes_by_agreement() -> None:
    x, y = blobs(200)
    teacher = Scorer(4, 3, seed=1, gain=1.0)
    nothing = torch.full_like(y, MISSING)
    learner = Learner(Scorer(4, 3, seed=2), losses.forward_kl, lr=0.05)
    found = fit(
        learner, Rows(x, nothing, target=teacher.label(x)), 10,
        validation=lambda s: s.label(x), label=nothing, validation_target=teacher.label(x),
    )  # fmt: skip
    assert found.best.found.accuracy.value == pytest.approx(found.best.found.agreement)
    with pytest.raises(UsageError, match=r"score\.labels"):
        fit(learner, Rows(x, y, target=teacher.label(x)), 1, validation=lambda s: s.label(x), label=nothing)
    with pytest.raises(UsageError, match=r"supervised\.patience"):
        fit(learner, Rows(x, y), 1, validation=lambda s: s.label(x), label=y, patience=0)


def test_statistics_of_a_normalising_layer_reach_the_student_that_is_measured() -> None:
    class Normed(Taught):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.layer = torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2)

        def read(self, batch: Batch) -> Prediction:
            return Prediction(Categorical(self.layer(self.norm(batch.obs))))

        def label(self, inputs: Tensor) -> Prediction:
            self.eval()
            with torch.no_grad():
                said = Prediction(Categorical(self.layer(self.norm(inputs))))
            self.train()
            return said

    torch.manual_seed(0)  # BatchNorm has no say in it, Linear has
    x = 10.0 + torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 10).long()
    learner = Learner(Normed(), losses.label_nll, lr=0.05, average=0.9)
    found = fit(learner, Rows(x, y, batch_size=16), 60, validation=lambda s: s.label(x), label=y)
    assert found.best.found.accuracy.value is not None and found.best.found.accuracy.value > 0.9
    assert found.student.norm.running_mean is not None and float(found.student.norm.running_mean.min()) > 5


def test_only_what_is_learnt_moves_running_statistics() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    module[0].eval()  # whoever set a part of it aside finds it there
    learner = Learner(Classifier(module, 3), losses.forward_kl)
    x, y = blobs(40)
    list(epochs(learner, Rows(x, y, batch_size=10), 2, teacher=Scorer(4, 3)))
    counted = learner.student.module[1].num_batches_tracked  # type: ignore[index]
    assert int(counted) == 8 and module[1].training and not module[0].training


@pytest.mark.parametrize("average", [0.9, None])
def test_the_averaged_student_has_the_newest_running_statistics(average: float | None) -> None:
    torch.manual_seed(0)
    x = 10.0 + torch.randn(200, 4)
    y = (x[:, 0] > 10).long()
    layers = (torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
    learner = Learner(Classifier(torch.nn.Sequential(*layers), 2), losses.label_nll, lr=0.01, average=average)
    list(epochs(learner, Rows(x, y, batch_size=40), 30))
    assert float((learner.averaged.label(x).dist.mode() == y).float().mean()) > 0.9
    moved = learner.state_dict()
    assert torch.equal(moved["averaged"]["module.2.running_var"], moved["student"]["module.2.running_var"])


def test_raw_texts_with_rows_that_do_not_count() -> None:
    texts = ("good film", "bad film", "no film at all", "good") * 5
    teacher, one, other = (build("bag:4", inputs=texts, classes=2, seed=seed) for seed in (1, 0, 0))
    for student, prepare in ((one, None), (other, other.prepare)):
        rows = Rows(texts, torch.zeros(20).long(), mask=torch.arange(20) < 15, batch_size=8)
        list(epochs(Learner(student, losses.forward_kl), rows, 1, teacher=teacher, prepare=prepare))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_view_that_keeps_old_answers_is_not_believed() -> None:
    x, y = blobs(30)
    teacher = Scorer(4, 3, seed=1)
    rows = Rows(x, y, target=teacher.label(x), batch_size=30)
    asked = teacher.asked
    list(epochs(Learner(Scorer(4, 3), losses.forward_kl), rows, 1, teacher=teacher, view=lambda e, g: replace(e)))
    assert teacher.asked == asked + 30


def test_two_students_teach_each_other() -> None:
    x, y = blobs(300)
    few = torch.where(torch.arange(300) < 60, y, MISSING)
    learners = [
        Learner(
            Scorer(4, 3, seed=s),
            losses.weighted(label=(0.5, losses.label_nll), policy=(0.5, losses.forward_kl)),
            lr=0.05,
        )
        for s in (0, 1)
    ]
    made = list(mutual(learners, Rows(x, few), 60))
    assert all(len(pair) == 2 for pair in made)
    one, other = (learner.student.label(x).dist for learner in learners)
    assert float((one.mode() == other.mode()).float().mean()) > 0.97
    assert accuracy(learners[0].student, x, y) > 0.9
    assert Counter(u.step for pair in made for u in pair) == dict.fromkeys(range(1, len(made) + 1), 2)
    with pytest.raises(UsageError, match=r"supervised\.mutual"):
        list(mutual(learners[:1], Rows(x, y), 1))
    with pytest.raises(UsageError, match=r"supervised\.empty"):
        list(mutual(learners, [], 1))
    third = Learner(Scorer(4, 5), losses.forward_kl)
    for crowd in ([*learners[:1], third], [*learners, third]):
        with pytest.raises(PolicykdError, match=r"supervised\.classes"):
            list(mutual(crowd, Rows(x, y), 1))


def test_missing_labels_and_masks_count_nothing() -> None:
    x, y = blobs(60)
    mask = torch.arange(60) < 30
    wrong = torch.where(mask, y, (y + 1) % 3)
    one, other = (Learner(Scorer(4, 3), losses.label_nll) for _ in range(2))
    learnt(epochs(one, [Examples(x, wrong, mask=mask)], 5))
    learnt(epochs(other, [Examples(x, y, mask=mask)], 5))
    assert torch.equal(one.student.layer.weight, other.student.layer.weight)


def test_a_policy_learns_from_noisy_states_what_its_teacher_says_of_them() -> None:
    """The loop is the classifiers': states are inputs, the teacher's law is the target, nobody has a label."""
    teacher = Balancer(gain=3.0)
    student = students.mlp(CARTPOLE, hidden=(8,), seed=0)
    states = 0.1 * torch.randn(400, 4, generator=torch.Generator().manual_seed(2))
    nobody_knows = torch.full((400,), MISSING)
    learner = Learner(student, losses.forward_kl, lr=0.02, average=None)
    loader = Rows(states, nobody_knows, batch_size=50)
    first, *_, last = epochs(learner, loader, 30, teacher=teacher, view=views.noise(torch.tensor([0.2, 0.2, 0.1, 0.1])))
    assert float(last.loss) < 0.2 * float(first.loss)
    assert teacher.rows == 30 * 400  # every view is new
    fresh = 0.2 * torch.randn(500, 4, generator=torch.Generator().manual_seed(3))
    assert float((student.label(fresh).dist.mode() == teacher.label(fresh).dist.mode()).float().mean()) > 0.95
