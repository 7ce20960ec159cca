"""Teachers that answer late, twice, in another order, never, with NaN, or not at all: what is learnt is right."""

from __future__ import annotations

import hashlib
import math
import random
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from online_toys import Gone, seen
from torch import Tensor
from toys import CARTPOLE, Balancer, Told

from policykd import students
from policykd.distributions import Bernoulli, Categorical, Deterministic, DiagGaussian, Distribution, MultiCategorical
from policykd.errors import PolicykdError, SpaceError, UsageError
from policykd.online import Answer, OnlineDistiller, Status, TeacherSilent, Threaded
from policykd.online.labels import Kind
from policykd.prediction import Obs, Prediction, Spec

TRUTH = torch.tensor([[-1.0, 1.0], [-0.5, 0.5], [2.0, -2.0], [1.0, -1.0]])


def truth(obs: Tensor) -> Tensor:
    return obs.float() @ TRUTH


class Script:
    """A teacher whose post is written by the test: each poll hands over what ``post`` makes of what was asked so far.

    Attributes:
        asked: the observation of each question, by its number.
        polls: how often it was polled.
    """

    def __init__(self, post: Callable[[Script], list[Any]]) -> None:
        self.post, self.asked, self.polls = post, {}, 0
        self.obs: dict[int, Tensor] = {}

    def ask(self, ids: np.ndarray, obs: Obs) -> None:
        assert isinstance(obs, Tensor)
        self.obs |= dict(zip(ids.tolist(), obs.clone(), strict=True))

    def poll(self) -> list[Any]:
        self.polls += 1
        return self.post(self)

    def right(self, ids: list[int], version: int = 0) -> Answer:
        return Answer(np.array(ids), Prediction(Categorical(truth(torch.stack([self.obs[i] for i in ids])))), version)


def wrong(ids: list[int], logits: float = 30.0) -> Answer:
    return Answer(np.array(ids), Prediction(Categorical(torch.tensor([[logits, -logits]]).repeat(len(ids), 1))))


def distiller(teacher: Any, **how: Any) -> OnlineDistiller:
    small = dict(
        ask_rows=4, warm_up=32, batch_size=16, rows_per_update=4, capacity=1000, open_rows=64, learning_rate=0.02
    )
    return OnlineDistiller(students.mlp(CARTPOLE, (8,), seed=3), teacher, **{**small, **how})


def lived(teacher: Any, rounds: int, **how: Any) -> OnlineDistiller:
    """A loop that sees four new observations a round."""
    online = distiller(teacher, **how)
    for i in range(rounds):
        for j in range(4):
            online.observe(seen(4 * i + j))
        online.update()
    return online


def digest(online: OnlineDistiller) -> str:
    assert online.learner is not None
    found = hashlib.sha256()
    for state in (online.learner.student.state_dict(), online.learner.averaged.state_dict()):
        for t in state.values():
            found.update(t.numpy().tobytes())
    return found.hexdigest()


def books(status: Status) -> dict[str, int]:
    names = "asked answered open reordered late duplicated unknown missing invalid".split()
    return {name: vars(status)[name] for name in names}


# Nothing wrong is learnt


def chaos(seed: int, rounds: int) -> tuple[dict[int, list[list[tuple[str, int]]]], Counter[str]]:
    """A post for each poll, made before anybody learns: answers, each a list of (what, number of the question).

    A tenth of the questions are never answered, a tenth are answered with NaN first, a third late by up to five polls;
    a fifth are answered again afterwards with a wrong label, and some numbers were never asked. A twentieth come when
    they have long been given up.
    """
    dice, post = random.Random(seed), {poll: [] for poll in range(1, rounds + 1)}
    planned: Counter[str] = Counter()

    def deliver(poll: int, what: str, number: int) -> bool:
        if poll > rounds:
            return False
        if dice.random() < 0.5 or not post[poll]:
            post[poll].append([])
        dice.choice(post[poll]).append((what, number))
        planned[what] += 1
        return True

    for number in range(4 * rounds):
        poll, fate = number // 4 + 1, dice.random()
        if fate < 0.10:
            continue
        if fate < 0.15:
            deliver(poll + 150, "late", number)
            continue
        if fate < 0.25:
            deliver(poll, "nan", number)
            poll += 1
        if dice.random() < 0.35:
            poll += dice.randint(1, 5)
        if deliver(poll, "right", number) and dice.random() < 0.2:
            # In a later poll, so that the right one was there first.
            deliver(poll + dice.randint(1, 3), "again", number)
        if dice.random() < 0.05:
            deliver(poll, "unknown", dice.choice([-1, 10**6, 4 * rounds + number]))
    for answers in post.values():
        dice.shuffle(answers)
        for answer in answers:
            dice.shuffle(answer)
    return post, planned


def spoken(post: dict[int, list[list[tuple[str, int]]]], only_right: bool) -> Callable[[Script], list[Any]]:
    def of(script: Script) -> list[Any]:
        answers = []
        for answer in post[script.polls]:
            kept = [(what, i) for what, i in answer if what == "right" or not only_right]
            if not kept:
                continue
            rows = [truth(script.obs[i]) if what == "right" else torch.tensor([30.0, -30.0]) for what, i in kept]
            for row, (what, _) in zip(rows, kept, strict=True):
                if what == "nan":
                    row[1] = math.nan
            ids = np.array([i for _, i in kept])
            answers.append(Answer(ids, Prediction(Categorical(torch.stack(rows)))))
        return answers

    return of


@pytest.mark.parametrize(("memory", "seed"), [("fifo", 0), ("fifo", 1), ("reservoir", 2)])
def test_a_post_in_chaos_teaches_what_the_right_labels_alone_teach(memory: str, seed: int) -> None:
    """Bit for bit: the run beside it never gets anything but the right labels, in the same order."""
    rounds, how = 300, dict(memory=memory, capacity=300, rows_per_update=16)
    post, planned = chaos(seed, rounds)
    assert min(planned[what] for what in ("right", "late", "nan", "again", "unknown")) > 20
    one = lived(Script(spoken(post, only_right=False)), rounds, **how)
    two = lived(Script(spoken(post, only_right=True)), rounds, **how)
    assert digest(one) == digest(two)
    assert one.status.updates == two.status.updates > 50
    found, clean = one.status, two.status
    assert found.answered == clean.answered == planned["right"]
    assert found.late == planned["late"] and found.duplicated == planned["again"]
    assert found.unknown == planned["unknown"] and found.invalid == planned["nan"]
    assert found.reordered == clean.reordered > 100
    assert clean.late == clean.duplicated == clean.unknown == clean.invalid == 0
    assert found.missing == clean.missing > 60 and found.open == clean.open <= 64
    assert found.asked == 4 * rounds == found.answered + found.missing + found.open


def test_the_wrong_labels_would_have_been_noticed() -> None:
    """The comparison above can fail: one wrong label, believed, changes the weights."""

    def spoilt(script: Script) -> list[Any]:
        now = list(range(4 * script.polls - 4, 4 * script.polls))
        return [wrong(now[:1]), script.right(now[1:])] if script.polls == 3 else [script.right(now)]

    def clean(script: Script) -> list[Any]:
        now = list(range(4 * script.polls - 4, 4 * script.polls))
        return [script.right(now[:1]), script.right(now[1:])] if script.polls == 3 else [script.right(now)]

    assert digest(lived(Script(spoilt), 40)) != digest(lived(Script(clean), 40))


# Each kind, by hand


def post(*polls: Callable[[Script], list[Any]]) -> Callable[[Script], list[Any]]:
    """A post for the first polls; nothing comes afterwards."""
    return lambda script: polls[script.polls - 1](script) if script.polls <= len(polls) else []


def test_in_time() -> None:
    online = lived(Script(post(lambda s: [s.right([0, 1, 2, 3])], lambda s: [s.right([4, 5, 6, 7])])), 2)
    assert books(online.status) == dict(
        asked=8, answered=8, open=0, reordered=0, late=0, duplicated=0, unknown=0, missing=0, invalid=0
    )


def test_out_of_order_within_and_between_questions() -> None:
    nothing = lambda s: []  # noqa: E731
    online = lived(Script(post(nothing, nothing, lambda s: [s.right([9, 5, 4]), s.right([0, 10, 3])])), 3)
    # 0 and 3 come after 9; 5 and 4 come with it in one answer.
    assert online.status.reordered == 2 and online.status.answered == 6 and online.status.open == 6


def test_the_label_stands_beside_its_own_observation() -> None:
    nothing = lambda s: []  # noqa: E731
    online = lived(Script(post(nothing, nothing, lambda s: [s.right([9, 5, 4]), s.right([0, 10, 3])])), 3)
    rows = online._lessons.memory.sample(200)
    torch.testing.assert_close(rows.target.dist.logits, truth(rows.obs))  # type: ignore[union-attr,arg-type]
    assert {tuple(row.tolist()) for row in rows.obs} == {tuple(seen(i).tolist()) for i in (9, 5, 4, 0, 10, 3)}  # type: ignore[union-attr]


def test_twice_in_one_answer_in_another_and_after_all_is_answered() -> None:
    online = lived(
        Script(post(lambda s: [s.right([0, 1, 1]), wrong([1, 0])], lambda s: [s.right([2, 3]), wrong([2])])), 2
    )
    assert online.status.duplicated == 1 + 2 + 1 and online.status.answered == 4


def test_nan_leaves_the_question_open() -> None:
    nan = Answer([0, 1], Prediction(Categorical(torch.tensor([[math.nan, 0.0], [0.0, 1.0]]))))
    online = lived(Script(post(lambda s: [nan], lambda s: [s.right([0, 2])])), 2)
    assert online.status.invalid == 1 and online.status.answered == 3 and online.status.open == 5


def test_missing_then_late_then_again() -> None:
    """Room for eight: at the fourth question the first block is given up, whatever was answered in it."""
    nothing = lambda s: []  # noqa: E731
    script = Script(post(lambda s: [s.right([1])], nothing, nothing, lambda s: [wrong([0, 0, 1, 2]), s.right([15])]))
    online = lived(script, 4, open_rows=8)
    assert books(online.status) == dict(
        asked=16, answered=2, open=7, reordered=0, late=2, duplicated=2, unknown=0, missing=7, invalid=0
    )


def test_another_family_width_or_number_of_rows_is_no_answer() -> None:
    bad = [
        Answer([0], Prediction(DiagGaussian(torch.zeros(1, 2), torch.zeros(1, 2)))),
        Answer([0], Prediction(Categorical(torch.zeros(1, 3)))),
        Answer([0, 1], Prediction(Categorical(torch.zeros(1, 2)))),
    ]
    online = lived(Script(post(lambda s: bad)), 1)
    assert online.status.invalid == 4 and online.status.answered == 0


def test_other_columns_than_before_are_no_answer() -> None:
    valued = Answer([2], Prediction(Categorical(torch.zeros(1, 2)), value=torch.zeros(1)))
    online = lived(Script(post(lambda s: [s.right([0, 1]), valued, s.right([3])])), 1)
    assert online.status.invalid == 1 and online.status.answered == 3


@pytest.mark.parametrize(
    ("family", "dist", "good"),
    [
        ("categorical", Categorical(torch.tensor([[0.0, -torch.inf], [-torch.inf] * 2, [torch.inf, 0.0]])), [1, 0, 0]),
        (
            "multi_categorical",
            MultiCategorical(torch.tensor([[0.0, 0.0, -torch.inf, 1.0], [-torch.inf, -torch.inf, 0.0, 0.0]]), (2, 2)),
            [1, 0],
        ),
        ("bernoulli", Bernoulli(torch.tensor([[torch.inf, -torch.inf], [math.nan, 0.0]])), [1, 0]),
        (
            "diag_gaussian",
            DiagGaussian(torch.tensor([[0.0], [torch.inf], [0.0]]), torch.tensor([[-torch.inf], [0.0], [math.nan]])),
            [1, 0, 0],
        ),
        ("diag_gaussian", Deterministic(torch.tensor([[0.0], [math.nan]])), [1, 0]),
    ],
)
def test_what_is_a_law(family: Any, dist: Distribution, good: list[int]) -> None:
    action: spaces.Space = {
        "categorical": spaces.Discrete(2),
        "multi_categorical": spaces.MultiDiscrete([2, 2]),
        "bernoulli": spaces.MultiBinary(2),
        "diag_gaussian": spaces.Box(-1, 1, (1,), np.float32),
    }[family]
    kind = Kind(Spec(spaces.Box(-1, 1, (4,)), action, family))
    kind.check(Prediction(dist), len(good))
    assert kind.sound(Prediction(dist)).tolist() == [bool(g) for g in good]


def test_a_nan_value_is_no_label() -> None:
    kind = Kind(CARTPOLE)
    said = Prediction(Categorical(torch.zeros(3, 2)), value=torch.tensor([0.0, math.nan, 1.0]), q=torch.ones(3, 2))
    kind.check(said, 3)
    assert kind.sound(said).tolist() == [True, False, True]


# A teacher that is gone


class Mortal:
    """Answers at once while it lives; ``how`` it is dead: it raises when asked, when polled, or says nothing."""

    def __init__(self, how: str) -> None:
        self.how, self.alive, self.rows = how, True, 0
        self._answers: list[Answer] = []

    def ask(self, ids: np.ndarray, obs: Obs) -> None:
        assert isinstance(obs, Tensor)
        if not self.alive and self.how == "ask":
            raise Gone("no route")
        if self.alive:
            self.rows += len(ids)
            self._answers.append(Answer(ids, Prediction(Categorical(truth(obs)))))

    def poll(self) -> list[Answer]:
        if not self.alive and self.how == "poll":
            raise Gone("no route")
        answers, self._answers = self._answers, []
        return answers


@pytest.mark.parametrize("how", ["ask", "poll", "silence"])
def test_a_dead_teacher_stops_learning_once_said_and_not_acting(how: str) -> None:
    teacher = Mortal(how)
    online = distiller(teacher, silence=20)

    def live(start: int, rounds: int) -> list[warnings.WarningMessage]:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            for i in range(start, start + 4 * rounds):
                assert CARTPOLE.action_space.contains(online.act(seen(i)))
                online.observe(seen(i))
                online.update()
        return heard

    assert live(0, 30) == [] and online.status.updates > 10
    teacher.alive = False
    (warning,) = live(120, 40)
    assert warning.category is TeacherSilent and "online.silent" in str(warning.message)
    assert warning.filename == __file__, "the warning points at the loop"
    assert online.status.silent and online.status.outages == 1
    stopped = online.status.updates
    assert live(280, 20) == [] and online.status.updates == stopped
    teacher.alive = True
    assert live(360, 30) == [] and not online.status.silent and online.status.updates > stopped
    teacher.alive = False
    assert len(live(480, 40)) == 1 and online.status.outages == 2, "another outage is told again"
    status = online.status
    assert status.observed == 640 == status.waiting + status.overflowed + status.asked
    assert status.asked == status.answered + status.open + status.missing
    assert status.failures == 0 if how == "silence" else status.failures > 2


def test_a_question_that_could_not_be_sent_is_asked_again() -> None:
    teacher = Mortal("ask")
    online = distiller(teacher)
    teacher.alive = False
    with pytest.warns(TeacherSilent):
        for i in range(12):
            online.observe(seen(i))
            online.update()
    assert online.status.asked == 0 and online.status.waiting == 12
    teacher.alive = True
    for i in range(12, 16):
        online.observe(seen(i))
        online.update()
    assert online.status.answered == 16 == teacher.rows and online.status.overflowed == 0


def test_what_no_room_is_left_for_is_counted() -> None:
    teacher = Mortal("ask")
    teacher.alive = False
    online = distiller(teacher, open_rows=16)
    with pytest.warns(TeacherSilent):
        for i in range(100):
            online.observe(seen(i))
            online.update()
    status = online.status
    assert status.waiting == 4 + 16 and status.overflowed == 80 and status.observed == 100


def test_a_slow_teacher_is_not_a_dead_one() -> None:
    """Fifty observations behind, and never silent for twenty."""

    def slow(script: Script) -> list[Any]:
        first = 4 * (script.polls - 13)
        return [script.right(list(range(first, first + 4)))] if first >= 0 else []

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        online = lived(Script(slow), 100, silence=60)
    assert online.status.outages == 0 and online.status.answered == 4 * 88


def test_a_mistake_is_raised_rather_than_taken_for_an_outage() -> None:
    class Mistaken(Mortal):
        def ask(self, ids: np.ndarray, obs: Obs) -> None:
            raise SpaceError("space.observation", "these", "others")

    online = distiller(Mistaken("ask"))
    with pytest.raises(PolicykdError, match=r"\[space.observation\]"):
        for i in range(4):
            online.observe(seen(i))
        online.update()


# A teacher that changes


def versioned(script: Script) -> list[Any]:
    now = list(range(4 * script.polls - 4, 4 * script.polls))
    return [script.right(now, version=0 if script.polls <= 10 else 2)]


def test_stale_rows_count_less() -> None:
    online = lived(Script(versioned), 20, stale="weigh", stale_decay=0.5)
    batch = online._lessons.draw(online._desk.counts.version)
    assert batch is not None and batch.weight is not None
    assert torch.equal(batch.weight, torch.where(batch.extra["version"] == 0, 0.25, 1.0))
    assert {0.25, 1.0} == set(batch.weight.tolist()) and online.status.stale_weighted > 0
    assert online.status.teacher_version == 2 and online.status.stale_dropped == 0


def test_a_version_behind_may_be_let_pass() -> None:
    online = lived(Script(versioned), 20, stale="weigh", stale_decay=0.5, stale_after=1)
    batch = online._lessons.draw(online._desk.counts.version)
    assert batch is not None and batch.weight is not None
    assert torch.equal(batch.weight, torch.where(batch.extra["version"] == 0, 0.5, 1.0))


def test_stale_rows_are_left_out() -> None:
    online = lived(Script(versioned), 20, stale="drop")
    before = online.status.stale_dropped
    batch = online._lessons.draw(online._desk.counts.version)
    assert batch is not None and batch.weight is None and 0 < len(batch) < 16
    assert set(batch.extra["version"].tolist()) == {2}
    assert online.status.stale_dropped == before + 16 - len(batch)


def test_stale_labels_are_refused_when_they_come() -> None:
    script = Script(post(lambda s: [s.right([0, 1], version=7), s.right([2, 3], version=5)]))
    online = lived(script, 1, stale="drop", stale_after=1)
    assert online.status.answered == 2 and online.status.stale_dropped == 2 and online.status.open == 0


def test_stale_rows_are_kept_when_that_is_the_rule() -> None:
    online = lived(Script(versioned), 20, stale="keep")
    batch = online._lessons.draw(online._desk.counts.version)
    assert batch is not None and batch.weight is None and set(batch.extra["version"].tolist()) == {0, 2}
    assert online.status.stale_dropped == online.status.stale_weighted == 0


def test_a_new_teacher_is_a_new_version() -> None:
    online = distiller(Balancer(gain=1.0), stale="drop", warm_up=8)
    for i in range(40):
        online.observe(seen(i))
        online.update()
    other = Told(CARTPOLE, lambda obs: torch.stack([obs[..., 0] * 0 + 9, obs[..., 0] * 0 - 9], -1))
    online.teach(other)
    for i in range(40, 44):
        online.observe(seen(i))
    online.update()
    assert online.status.teacher_version == 1
    for i in range(44, 200):
        online.observe(seen(i))
        online.update()
    assert online.status.stale_dropped > 0
    assert [int(online.act(seen(i), deterministic=True)) for i in range(20)] == [0] * 20


# Threads that ask for us


def waited(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.001)


def test_a_blocking_function_becomes_a_teacher() -> None:
    gate = threading.Event()

    def answer(obs: Obs) -> tuple[Prediction, int]:
        assert isinstance(obs, Tensor)
        gate.wait(10)
        return Prediction(Categorical(truth(obs))), 4

    with Threaded(answer, workers=2) as teacher:
        online = distiller(teacher)
        for i in range(64):
            online.observe(seen(i))
        assert online.update() is None and online.status.open == 64, "asking does not wait for answers"
        gate.set()
        waited(lambda: (online.update(), online.status.answered == 64)[1])
        assert online.status.teacher_version == 4 and online.status.updates > 0


def test_an_error_in_the_thread_is_the_teachers() -> None:
    def answer(obs: Obs) -> Prediction:
        raise Gone("no route")

    with Threaded(answer) as teacher:
        online = distiller(teacher)
        for i in range(4):
            online.observe(seen(i))
        with pytest.warns(TeacherSilent, match="no route"):
            waited(lambda: (online.update(), online.status.failures > 0)[1])


def test_questions_in_the_queue_are_bounded() -> None:
    gate, taken = threading.Event(), []

    def answer(obs: Obs) -> Prediction:
        assert isinstance(obs, Tensor)
        taken.append(int(obs[0, 0]))
        gate.wait(10)
        return Prediction(Categorical(torch.zeros(len(obs), 2)))

    with Threaded(answer, waiting=3) as teacher:
        teacher.ask(np.arange(1), torch.zeros(1, 1))
        waited(lambda: taken == [0])
        for i in range(1, 9):
            teacher.ask(np.arange(i, i + 1), torch.full((1, 1), float(i)))
        gate.set()
        waited(lambda: len(taken) == 4)
    assert taken == [0, 6, 7, 8]


def test_a_closed_teacher_takes_no_questions_and_its_threads_end() -> None:
    teacher = Threaded(lambda obs: Prediction(Categorical(torch.zeros(1, 2))), workers=3)
    teacher.close()
    for thread in teacher._threads:
        thread.join(10)
        assert not thread.is_alive()
    with pytest.raises(UsageError, match=r"\[online.closed\]"):
        teacher.ask(np.arange(1), torch.zeros(1, 4))
    with pytest.raises(UsageError, match=r"\[online.workers\]"):
        Threaded(lambda obs: Prediction(Categorical(torch.zeros(1, 2))), workers=0)
