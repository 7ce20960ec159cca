"""The loop of three lines: what acts, what is remembered, what is learnt, in which time, and in which thread."""

from __future__ import annotations

import hashlib
import math
import sys
import threading
import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from online_toys import seen
from toys import CARTPOLE, Balancer, Told

import policykd as kd
from policykd import losses, students
from policykd.datasets import Ring
from policykd.distributions import Categorical, DiagGaussian
from policykd.errors import SpaceError, UnknownNameError, UsageError
from policykd.learner import Learner
from policykd.online import OnlineConfig, OnlineDistiller, Published, Reservoir
from policykd.online import meter as meters
from policykd.online.publish import checksum, publish
from policykd.policy import Policy
from policykd.prediction import Batch, Obs, Prediction, Progress, Spec, obs_tensor


def distiller(teacher: Any = None, student: Policy | None = None, **how: Any) -> OnlineDistiller:
    small = dict(
        ask_rows=4, warm_up=16, batch_size=16, rows_per_update=4, capacity=1000, publish_every=5, learning_rate=0.02
    )
    student = student or students.mlp(CARTPOLE, (8,), seed=3)
    return OnlineDistiller(student, teacher or Balancer(gain=3.0), **{**small, **how})


def fed(online: OnlineDistiller, rows: int, first: int = 0) -> OnlineDistiller:
    for i in range(first, first + rows):
        online.observe(seen(i))
        online.update()
    return online


# The loop


def test_three_lines_teach_cartpole() -> None:
    """One environment, a teacher that never drops the pole, and a student that did not know what a pole is."""
    online = OnlineDistiller(
        students.mlp(CARTPOLE, (8,)), Balancer(), warm_up=200, publish_every=20, learning_rate=0.02, batch_size=64
    )
    env = gym.make("CartPole-v1")
    obs, _ = env.reset(seed=0)
    for _ in range(2_500):
        action = online.act(obs)
        after, reward, terminated, truncated, _ = env.step(action)
        online.observe(obs, reward=reward, done=terminated or truncated)
        online.update()
        obs = env.reset()[0] if terminated or truncated else after
    score = kd.evaluate(online.published.policy, "CartPole-v1", 10, workers=1)
    assert score.mean > 400, "at random it is 22"
    status = online.status
    assert status.observed == 2_500 and status.answered == 2_496 and status.waiting == 4
    assert status.updates == 2_496 // 10 and status.due == 0 and status.published == status.updates // 20
    assert status.episodes > 10 and status.recent_return is not None and status.recent_return > 20


def test_updates_are_those_of_a_learner_on_the_same_memory() -> None:
    online = fed(distiller(), 400)
    teacher, student = Balancer(gain=3.0), students.mlp(CARTPOLE, (8,), seed=3)
    memory, learner = Ring(1000, seed=0), None
    for block in range(100):
        obs = torch.from_numpy(np.stack([seen(4 * block + j) for j in range(4)]))
        memory.add(Batch(obs, Prediction(teacher.label(obs).dist)))
        if len(memory) < 16:
            continue
        if learner is None:
            students.adopt_scales(student, teacher, memory.sample(16))
            learner = Learner(student, losses.forward_kl, lr=0.02)
        while learner.updates < len(memory) // 4:
            learner.step(memory.sample(16), Progress(updates=learner.updates))
    assert learner is not None and online.learner is not None and learner.updates == online.learner.updates == 100
    assert checksum(learner.averaged) == checksum(online.learner.averaged)
    assert checksum(learner.averaged) == online.published.checksum


def test_same_seed_same_student() -> None:
    assert fed(distiller(), 200).published.checksum == fed(distiller(), 200).published.checksum
    assert fed(distiller(), 200).published.checksum != fed(distiller(seed=1), 200).published.checksum


def test_the_teacher_labels_each_row_once_and_in_blocks() -> None:
    teacher = Balancer()
    fed(distiller(teacher), 403)
    assert (teacher.calls, teacher.rows) == (100, 400)


def test_update_says_what_it_did() -> None:
    online = distiller(warm_up=64)
    assert online.learner is None and online.update() is None
    for i in range(63):
        online.observe(seen(i))
    assert online.update() is None and online.status.due == 15
    online.observe(seen(63))
    update = online.update()
    assert update is not None and update.step == 16 == online.status.updates and update.progress.env_steps == 64
    assert set(update.terms) == {"policy"} and online.update() is None


def test_a_batch_of_observations_is_as_many_rows() -> None:
    one, many = distiller(), distiller()
    fed(one, 80)
    for i in range(0, 80, 8):
        many.observe(np.stack([seen(j) for j in range(i, i + 8)]), reward=np.ones(8), done=np.zeros(8))
        many.update()
    assert many.status.answered == 80 and many.status.updates == one.status.updates == 20


def test_what_was_seen_is_copied() -> None:
    online, obs = distiller(capacity=8), np.zeros(4, np.float32)
    for i in range(4):
        obs[:] = i
        online.observe(obs)
    obs[:] = 99.0
    online.update()
    assert sorted(set(online._lessons.memory.sample(100).obs[:, 0].tolist())) == [0, 1, 2, 3]  # type: ignore[union-attr,index]


def test_returns_by_hand() -> None:
    online = distiller()
    for reward, done in [(1, False), (2, False), (3, True), (4, False), (10, True), (7, False)]:
        online.observe(seen(0), reward=reward, done=done)
    assert online.status.episodes == 2 and online.status.recent_return == (6 + 14) / 2
    sides = distiller()
    for reward, done in [([1, 10], [0, 0]), ([1, 10], [1, 0]), ([5, 10], [1, 1])]:
        sides.observe(np.zeros((2, 4), np.float32), reward=np.array(reward), done=np.array(done, bool))
    assert sides.status.episodes == 3 and sides.status.recent_return == (2 + 5 + 30) / 3
    assert distiller().status.recent_return is None


def test_agreement_is_told_before_a_row_is_learnt_from() -> None:
    """Against a teacher that always says 1, a student that says 0 until it is published agrees nowhere."""
    stubborn = Told(CARTPOLE, lambda obs: torch.stack([obs[..., 0] * 0, obs[..., 0] * 0 + 2], -1))
    student = students.mlp(CARTPOLE, "linear")
    with torch.no_grad():
        student.action_head.weight.zero_()
        student.action_head.bias.copy_(torch.tensor([3.0, 0.0]))
    online = distiller(stubborn, student, warm_up=8, publish_every=10**6)
    assert online.status.agreement is online.status.divergence is None
    fed(online, 8)
    p, q = torch.softmax(torch.tensor([0.0, 2.0]), 0), torch.softmax(torch.tensor([3.0, 0.0]), 0)
    assert online.status.agreement == 0 and online.status.updates == 2
    assert online.status.divergence == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-5)
    update = fed(online, 400, 8).update() or online.learner.step(online._lessons.memory.sample(4))  # type: ignore[union-attr]
    assert online.status.agreement == 0, "what acts has not been published anew"
    online.publish()
    fed(online, 1_000, 408)
    assert online.status.agreement > 0.5 and update is not None  # type: ignore[operator]


def test_a_weight_may_follow_the_agreement() -> None:
    told: list[float | None] = []

    def weight(progress: Progress) -> float:
        told.append(progress.agreement)
        return 1.0

    online = OnlineDistiller(
        students.mlp(CARTPOLE, (8,)), Balancer(), losses.weighted(policy=(weight, losses.forward_kl)), warm_up=64
    )
    fed(online, 640)
    assert None not in told[1:] and all(0 <= a <= 1 for a in told[1:])  # type: ignore[operator]


def test_a_loss_of_ones_own_finds_its_columns() -> None:
    found: list[torch.Tensor] = []

    def mine(student: Prediction, batch: Batch) -> dict[str, torch.Tensor]:
        found.append(batch.extra["price"])
        return {"mine": batch.extra["price"] * losses.forward_kl(student, batch.target)}

    online = OnlineDistiller(students.mlp(CARTPOLE, (8,)), Balancer(), mine, ask_rows=4, warm_up=8, rows_per_update=4)
    for i in range(12):
        online.observe(seen(i), extra={"price": np.float32(i)})
        update = online.update()
    assert update is not None and set(update.terms) == {"mine"}
    assert set(found[-1].tolist()) == set(range(12))


def test_a_privileged_teacher_sees_more() -> None:
    wide = Spec(spaces.Box(-np.inf, np.inf, (5,), np.float32), spaces.Discrete(2), "categorical")
    teacher = Told(wide, lambda obs: torch.stack([obs[..., 4], -obs[..., 4]], -1))
    online = distiller(teacher)
    for i in range(40):
        online.observe(seen(i), teacher_obs=np.append(seen(i), np.float32(i)))
        online.update()
    rows = online._lessons.memory.sample(100)
    told = rows.target.dist.logits[:, 0].long()  # type: ignore[union-attr]
    assert torch.equal(rows.obs, torch.from_numpy(np.stack([seen(int(i)) for i in told])))  # type: ignore[arg-type]


def test_dict_observations_and_continuous_actions() -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)})
    spec = Spec(space, spaces.Box(-2, 2, (1,), np.float32), "diag_gaussian")

    class Sum(Told):  # type: ignore[misc]
        def forward(self, obs: Obs, state: Any = None, start: Any = None, *, values: bool = True) -> Prediction:
            assert isinstance(obs, dict)
            mean = obs["a"].sum(-1, keepdim=True)
            return Prediction(DiagGaussian(mean, torch.full_like(mean, -1.0)))

    online = distiller(Sum(spec, None), students.mlp(spec, (16,)), batch_size=64, learning_rate=0.01)
    dice = np.random.default_rng(0)
    for _ in range(1_000):
        online.observe({"a": dice.uniform(-1, 1, 2).astype(np.float32), "b": dice.integers(3)})
        online.update()
    obs = {"a": np.array([0.5, 0.25], np.float32), "b": np.int64(1)}
    action = online.act(obs)
    assert action.shape == (1,) and action[0] == pytest.approx(0.75, abs=0.2)
    assert online.act({"a": np.ones((3, 2), np.float32), "b": np.zeros(3, int)}).shape == (3, 1)


# Acting


def test_a_tensor_an_array_and_predict_agree() -> None:
    online = fed(distiller(), 100)
    obs = np.stack([seen(i) for i in range(500, 600)])
    many = online.act(obs)
    assert many.shape == (100,) and np.array_equal(many, online.published.policy.predict(obs, deterministic=True)[0])
    for i in range(10):
        assert online.act(obs[i]) == many[i] == online.act(torch.from_numpy(obs[i]))
        assert np.shape(online.act(obs[i])) == ()


def test_until_it_has_learnt_it_draws() -> None:
    online = distiller(warm_up=1_000)
    assert {int(online.act(seen(0))) for _ in range(50)} == {0, 1}
    assert len({int(online.act(seen(0), deterministic=True)) for _ in range(50)}) == 1
    learnt = fed(distiller(), 100)
    assert len({int(learnt.act(seen(0))) for _ in range(50)}) == 1


def test_draws_do_not_begin_anew_with_each_publication() -> None:
    online = distiller(warm_up=1_000)
    drawn = []
    for _ in range(40):
        drawn.append(int(online.act(seen(0), deterministic=False)))
        online.publish()
    assert len(set(drawn)) == 2


BOX = spaces.Box(-2, 2, (3,), np.float32)
FAMILIES = [
    (spaces.Discrete(4, start=-1), "categorical"),
    (spaces.MultiDiscrete([2, 3]), "multi_categorical"),
    (spaces.MultiBinary(3), "bernoulli"),
    (BOX, "diag_gaussian"),
    (BOX, "tanh_gaussian"),
    (BOX, "deterministic"),
    (BOX, "tanh_deterministic"),
]
VIEWS = {
    "flat": spaces.Box(-1, 1, (5,), np.float32),
    "doubles": spaces.Box(-1, 1, (5,), np.float64),
    "square": spaces.Box(-1, 1, (2, 3), np.float32),
    "choice": spaces.Discrete(6),
    "dict": spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.MultiBinary(2)}),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("action", "family"), FAMILIES, ids=[f for _, f in FAMILIES])
def test_what_acts_says_what_the_policy_says_bit_for_bit(view: str, action: spaces.Space, family: Any) -> None:
    spec = Spec(VIEWS[view], action, family)
    obs = gym.vector.utils.batch_space(spec.observation_space, 40)
    obs.seed(0)
    sample = obs.sample()
    for activation in ("silu", "tanh", "relu"):
        student = students.mlp(spec, (6, 5), activation=activation, value=True)
        tensors = obs_tensor(sample) if view != "choice" else torch.from_numpy(sample)
        students.fit_normaliser(student, tensors)
        online = OnlineDistiller(student, students.mlp(spec, (4,)))
        online.publish()
        policy = online.published.policy
        with torch.no_grad():
            a, b = online.published.says(tensors), policy(tensors).dist
        for mine, theirs in zip(vars(a).values(), vars(b).values(), strict=True):
            assert type(a) is type(b) and (not isinstance(mine, torch.Tensor) or torch.equal(mine, theirs))
        assert np.array_equal(online.act(sample, deterministic=True), policy.predict(sample, deterministic=True)[0])


# Publishing


def test_what_acts_is_published_now_and_then() -> None:
    online = distiller(publish_every=5)
    first = online.published
    assert (first.number, first.updates) == (0, 0)
    numbers = []
    for i in range(200):
        fed(online, 1, i)
        numbers.append((online.published.number, online.published.updates))
    assert [n for n, _ in numbers] == sorted(n for n, _ in numbers)
    assert numbers[-1] == (10, 50) and all(updates == 5 * number for number, updates in numbers)
    assert first.verify() and online.published.verify() and first.checksum != online.published.checksum


def test_what_is_published_is_nobodys_to_change() -> None:
    online = fed(distiller(), 100)
    published = online.published
    assert not any(p.requires_grad for p in published.policy.parameters())
    kept = hashlib.sha256(b"".join(t.numpy().tobytes() for t in published.policy.state_dict().values())).digest()
    fed(online, 100, 100)
    assert online.published is not published and published.verify()
    assert (
        hashlib.sha256(b"".join(t.numpy().tobytes() for t in published.policy.state_dict().values())).digest() == kept
    )


def test_one_bit_is_seen() -> None:
    published = publish(students.mlp(CARTPOLE, (8,)), 3, 7)
    assert published.verify() and (published.number, published.updates) == (3, 7)
    with torch.no_grad():
        weight = next(published.policy.parameters())
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(math.inf))
    assert not published.verify()


def test_buffers_count_too() -> None:
    student = students.mlp(CARTPOLE, (8,))
    students.fit_normaliser(student, torch.randn(100, 4, generator=torch.Generator().manual_seed(0)))
    published = publish(student, 0, 0)
    published.policy.normaliser.mean += 1e-9  # type: ignore[union-attr,operator,assignment]
    assert not published.verify()


def test_a_published_student_can_be_saved(tmp_path: Any) -> None:
    online = fed(distiller(), 100)
    students.save(online.published.policy, tmp_path)  # type: ignore[arg-type]
    assert checksum(students.load(tmp_path)) == online.published.checksum


# Memory


def rows(*numbers: int) -> Batch:
    t = torch.tensor(numbers, dtype=torch.float32).unsqueeze(-1)
    return Batch(t, Prediction(Categorical(torch.cat([t, -t], -1))), extra={"n": torch.tensor(numbers)})


def test_a_reservoir_holds_a_fair_sample() -> None:
    """Each of 30 rows is held in 1/6 of 600 reservoirs of 5: within 5 standard deviations of 100."""
    held = np.zeros(30, int)
    for seed in range(600):
        memory = Reservoir(5, seed=seed)
        for first in range(0, 30, 6):
            memory.add(rows(*range(first, first + 6)))
        numbers = memory.all().extra["n"].numpy()
        assert len(set(numbers.tolist())) == 5
        held[numbers] += 1
    assert np.all(np.abs(held - 100) < 5 * math.sqrt(600 * 5 / 36))


def test_a_reservoirs_columns_stay_together() -> None:
    memory = Reservoir(50, seed=0)
    for first in range(0, 500, 7):
        memory.add(rows(*range(first, first + 7)))
    batch = memory.sample(300)
    assert len(memory) == 50 and memory.added == 504
    assert torch.equal(batch.obs[:, 0].long(), batch.extra["n"])  # type: ignore[index]
    assert torch.equal(batch.target.dist.logits[:, 1], -batch.obs[:, 0])  # type: ignore[union-attr,index]


def test_until_it_is_full_a_reservoir_keeps_everything() -> None:
    memory = Reservoir(3_000, seed=0)
    for first in range(0, 2_500, 500):
        memory.add(rows(*range(first, first + 500)))
    assert memory.all().extra["n"].tolist() == list(range(2_500))


def test_a_reservoir_refuses_other_columns_and_leaves_masked_rows_out() -> None:
    memory = Reservoir(10, seed=0)
    with pytest.raises(UsageError, match=r"\[ring.empty\]"):
        memory.sample(1)
    one = rows(1, 2, 3)
    memory.add(Batch(one.obs, one.target, mask=torch.tensor([True, False, True]), extra=one.extra))
    assert memory.all().extra["n"].tolist() == [1, 3]
    with pytest.raises(UsageError, match=r"\[ring.columns\]"):
        memory.add(Batch(one.obs, one.target))
    with pytest.raises(UsageError, match=r"\[ring.capacity\]"):
        Reservoir(0, seed=0)


@pytest.mark.parametrize("name", ["fifo", "reservoir"])
def test_a_memory_by_name_is_bounded(name: str) -> None:
    online = fed(distiller(memory=name, capacity=50), 300)
    assert online.status.remembered == 50 and online.status.answered == 300
    held = {tuple(row.tolist()) for row in online._lessons.memory.sample(1_000).obs}  # type: ignore[union-attr]
    newest = {tuple(seen(i).tolist()) for i in range(250, 300)}
    assert (held == newest) == (name == "fifo")


# Time


class Clock:
    """Processor time that passes only where a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: float) -> None:
        self.now, self.steps = 0.0, 0
        monkeypatch.setattr(meters.time, "thread_time", lambda: self.now)
        really = Learner.step

        def slowly(learner: Learner, *args: Any) -> Any:
            self.now += step
            self.steps += 1
            return really(learner, *args)

        monkeypatch.setattr(Learner, "step", slowly)


def test_a_budget_is_kept_by_doing_fewer_steps_and_losing_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 0.002)
    online = distiller(budget_ms=9)
    for i in range(400):
        online.observe(seen(i))
    calls = []
    while online.status.due or not calls:
        begun, before = clock.now, clock.steps
        online.update()
        calls.append((clock.now - begun, clock.steps - before))
    # Four steps of 2 ms fit into 9 ms, a fifth would not.
    assert calls == [(pytest.approx(0.008), 4)] * 25
    assert online.status.updates == 100 and online.status.answered == 400 and online.status.overflowed == 0


def test_without_a_budget_all_that_is_due_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 1.0)
    online = distiller()
    for i in range(400):
        online.observe(seen(i))
    online.update()
    assert clock.steps == 100 and online.status.step_ms == pytest.approx(1e3)


def test_a_step_longer_than_the_budget_is_taken_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be split; the estimate is doubted a little each time it kept a step from being taken."""
    clock = Clock(monkeypatch, 0.020)
    online = distiller(budget_ms=10)
    for i in range(400):
        online.observe(seen(i))
    for _ in range(200):
        begun = clock.now
        online.update()
        assert clock.now - begun <= 0.020 + 1e-9
    assert 200 / 16 <= clock.steps <= 200 / 13  # 0.95 ** 14 is a half


def test_one_slow_call_does_not_stop_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 0.001)
    online = distiller(budget_ms=5)
    for i in range(400):
        online.observe(seen(i))
    online.update()
    clock.now, first = clock.now + 0.001, clock.steps
    with online._meter.unit("step"):
        clock.now += 10.0
    online.update()
    assert clock.steps - first >= 4


def test_the_first_of_a_kind_is_not_what_it_usually_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(meters.time, "thread_time", lambda: now[0])
    meter = meters.Meter(0.005)
    for spent in (1.0, 0.002, 0.003, 0.002):
        with meter.unit("read"):
            now[0] += spent
    assert meter.cost("read") == pytest.approx(0.002)
    meter.begin()
    assert meter.fits("read") and meter.cost("ask") is None and meter.fits("ask")
    now[0] += 0.004
    assert not meter.fits("read")


# Threads


def test_one_thread_acts_while_another_learns() -> None:
    """Two seconds: no torn weights, no deadlock, no error, publications in order."""
    online = distiller(Balancer(gain=3.0), rows_per_update=1, publish_every=1, capacity=500)
    end, errors = time.monotonic() + 2.0, []
    used: list[Published] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # hand over in the middle of things

    def acting() -> None:
        try:
            i = 0
            while time.monotonic() < end:
                before = online.published
                assert online.act(seen(i)) in (0, 1)
                if not used or used[-1] is not before:
                    used.append(before)
                online.observe(seen(i), reward=1.0, done=i % 10 == 9)
                i += 1
        except BaseException as error:
            errors.append(error)

    def learning() -> None:
        try:
            while time.monotonic() < end:
                online.update()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=f, daemon=True) for f in (acting, learning)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        sys.setswitchinterval(interval)
    assert errors == [] and not any(thread.is_alive() for thread in threads)
    assert len(used) > 5 and all(published.verify() for published in used)
    numbers = [published.number for published in used]
    assert numbers == sorted(set(numbers)), "never an older student after a newer one"
    status = online.status
    assert status.observed == status.waiting + status.overflowed + status.asked
    assert status.asked == status.answered and status.remembered <= 500


# What cannot be meant


@pytest.mark.parametrize(
    ("changes", "error", "code"),
    [
        (dict(memory="lifo"), UnknownNameError, "name.memory"),
        (dict(stale="burn"), UnknownNameError, "name.stale"),
        (dict(batch_size=0), UsageError, "config.zero"),
        (dict(stale_decay=1.5), UsageError, "online.knobs"),
        (dict(stale_after=-1), UsageError, "online.knobs"),
        (dict(budget_ms=0), UsageError, "online.knobs"),
        (dict(ask_rows=10, open_rows=5), UsageError, "online.knobs"),
    ],
)
def test_refusals(changes: dict[str, Any], error: type[Exception], code: str) -> None:
    with pytest.raises(error, match=rf"\[{code}\]"):
        distiller(**changes)


def test_a_student_of_other_actions_is_refused() -> None:
    other = Spec(CARTPOLE.observation_space, spaces.Discrete(3), "categorical")
    with pytest.raises(SpaceError, match=r"\[space.action\]"):
        OnlineDistiller(students.mlp(other, (4,)), Balancer())


def test_what_does_not_fit_is_refused_where_it_is_seen() -> None:
    online = distiller()
    with pytest.raises(SpaceError, match=r"\[space.observation\]"):
        online.observe(np.zeros(5, np.float32))
    with pytest.raises(SpaceError, match=r"\[space.observation\]"):
        online.act(np.zeros(5, np.float32))
    with pytest.raises(UsageError, match=r"\[online.rows\]"):
        online.observe(np.zeros((3, 4), np.float32), extra={"price": np.zeros(2)})


def test_a_config_and_changes() -> None:
    config = OnlineConfig(batch_size=7)
    online = OnlineDistiller(students.mlp(CARTPOLE, (4,)), Balancer(), config=config, capacity=9)
    assert (online.config.batch_size, online.config.capacity) == (7, 9)
    assert kd.OnlineDistiller is OnlineDistiller
