"""The loops that feed a Learner: who acts, what is kept, and that budgets and progress are told truly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from toys import CARTPOLE, Balancer

from policykd import losses, recipe, students
from policykd.clock import Clock
from policykd.config import DistillConfig, Method
from policykd.datasets import Ring
from policykd.evaluation import evaluate
from policykd.learner import Learner
from policykd.policy import Policy
from policykd.prediction import Progress, Update
from policykd.rollouts import Collector, make
from policykd.supervised import ROUND, cosine, interact, label, mixture, replay

ENV = recipe.load("CartPole-v1")
SMALL = DistillConfig(steps=2048, rows_per_update=32, num_envs=8, batch_size=128, learning_rate=0.01)


class Run:
    """A student, a teacher, environments and a memory, as distill() puts them together."""

    def __init__(self, config: DistillConfig, *, average: float | None = 0.9, seed: int = 0) -> None:
        self.config = config
        self.teacher = Balancer()
        self.student = students.mlp(CARTPOLE, (16,), seed=seed)
        students.adopt_scales(
            self.student, self.teacher, Collector(make(ENV, 8), self.teacher, seed=9).collect(50).batch
        )
        self.collector = Collector(make(ENV, config.num_envs), self.teacher, seed=seed)
        self.memory = Ring(config.memory, seed=seed)
        self.learner = Learner(self.student, losses.policy.forward_kl, lr=cosine(config.learning_rate), average=average)
        self.betas: list[float] = []
        self.actors: list[Policy | None] = []
        self.vector_steps: list[int] = []
        collect = self.collector.collect

        def noted(vector_steps: int, student: Policy | None = None, beta: float = 1.0) -> Any:
            self.vector_steps.append(vector_steps)
            self.actors.append(student)
            self.betas.append(beta)
            return collect(vector_steps, student, beta)

        self.collector.collect = noted  # type: ignore[method-assign]

    def cycle(self, cycle: int = 0, **how: Any) -> Iterator[Update]:
        beta, steps = mixture(self.config, cycle), how.pop("steps", self.config.steps)
        return interact(self.learner, self.collector, self.memory, self.config, steps=steps, beta=beta, **how)


def config(method: Method, **changes: Any) -> DistillConfig:
    return DistillConfig(**{**vars(SMALL), "method": method, **changes})


# Who acts


@pytest.mark.parametrize(
    ("method", "mix", "cycle", "betas"),
    [
        ("teacher", 0.5, 0, [1, 1, 1, 1, 1]),
        ("teacher", 0.5, 1, [1, 1, 1, 1, 1]),
        ("student", 0.5, 0, [0, 0, 0, 0, 0]),
        ("dagger", 0.5, 0, [1, 0.5, 0, 0, 0]),
        ("dagger", 1.0, 0, [1, 0.75, 0.5, 0.25, 0]),
        ("dagger", 0.0, 0, [0, 0, 0, 0, 0]),
        ("dagger", 0.5, 1, [0, 0, 0, 0, 0]),
    ],
)
def test_mixture(method: Method, mix: float, cycle: int, betas: list[float]) -> None:
    beta = mixture(config(method, mixture=mix), cycle)
    assert [beta(Progress(fraction=f)) for f in (0, 0.25, 0.5, 0.75, 1)] == betas


def test_cosine() -> None:
    rate = cosine(0.1, end=0.2)
    found = [rate(Progress(fraction=f)) for f in (0, 0.5, 1, 3)]
    assert found == pytest.approx([0.1, 0.1 * (0.2 + 0.8 / 2), 0.02, 0.02])
    assert rate(Progress(fraction=1 / 3)) == pytest.approx(0.1 * (0.2 + 0.4 * (1 + math.cos(math.pi / 3))))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("teacher", lambda b: b == [1.0] * len(b)),
        ("student", lambda b: b == [0.0] * len(b)),
        ("dagger", lambda b: b[0] == 1.0 and b[-1] == 0.0 and b == sorted(b, reverse=True) and len(set(b)) >= 3),
    ],
)
def test_the_mixture_is_asked_before_each_round(method: Method, expected: Callable[[list[float]], bool]) -> None:
    run = Run(config(method))
    list(run.cycle())
    assert expected(run.betas)
    assert all(actor is run.learner.averaged for actor in run.actors), "the averaged student acts"


# Budgets and progress


@pytest.mark.parametrize("rows", [32, 30, 7, 5000])
@pytest.mark.parametrize(("steps", "envs"), [(1000, 6), (512, 16), (33, 4), (1, 3)])
def test_budgets_are_kept(rows: int, steps: int, envs: int) -> None:
    run = Run(config("teacher", steps=steps, num_envs=envs, rows_per_update=rows, batch_size=8))
    updates = list(run.cycle())
    taken = run.memory.added
    assert steps <= taken < steps + envs
    assert len(updates) == taken // rows == run.learner.updates
    assert max(run.vector_steps) <= ROUND


def test_progress_tells_the_truth() -> None:
    run = Run(config("dagger"))
    taken = []
    for update in run.cycle():
        taken.append(run.memory.added)
        assert update.progress.env_steps == run.memory.added
        assert update.progress.updates == update.step - 1
        assert update.progress.fraction == pytest.approx(min(run.memory.added / 2048, 1.0))
        assert update.lr == pytest.approx(cosine(0.01)(update.progress))
    assert taken == sorted(taken) and taken[0] < ROUND * 8 + 1
    assert update.progress.fraction == 1.0 and update.lr == pytest.approx(0.01 * 0.02)


def test_rows_already_taken_are_learnt_from_and_not_taken_again() -> None:
    run = Run(config("teacher", steps=1000, rows_per_update=10))
    first = run.collector.collect(50)
    run.memory.add(first.batch)
    updates = list(run.cycle(taken=first.steps))
    assert 1000 <= run.memory.added < 1008 and len(updates) == run.memory.added // 10
    assert updates[0].progress.env_steps == first.steps, "before anything more is collected"


def test_a_cycle_that_is_taken_up_again_makes_no_update_twice() -> None:
    whole = Run(config("student"))
    steps = len(list(whole.cycle()))
    parts, made, taken = Run(config("student")), 0, 0
    while made < steps:
        before = made
        for update in parts.cycle(taken=taken, made=made):
            made, taken = made + 1, update.progress.env_steps
            if made - before == 3:
                break
        assert made > before
    assert parts.learner.updates == whole.learner.updates == steps and made == steps


def test_a_budget_that_is_taken_already_is_still_learnt_from() -> None:
    run = Run(config("teacher", steps=64, rows_per_update=10))
    first = run.collector.collect(8)
    run.memory.add(first.batch)
    updates = list(run.cycle(taken=64))
    assert len(updates) == 6 and run.memory.added == 64 and updates[-1].progress.fraction == 1.0


def test_a_second_cycle_goes_on_counting_and_begins_its_fraction_anew() -> None:
    run = Run(config("dagger", steps=600))
    list(run.cycle())
    taken = run.memory.added
    second = list(run.cycle(1, steps=1200, done=600, taken=taken))
    assert 1800 <= run.memory.added < 1808
    assert second[0].progress.env_steps > taken and second[0].progress.fraction < 0.5
    assert second[-1].progress.fraction == 1.0
    assert second[0].step == taken // 32 + 1


def test_the_memory_is_capped_and_keeps_the_newest() -> None:
    run = Run(config("teacher", memory=600))
    list(run.cycle())
    assert len(run.memory) == 600 and run.memory.added >= 2048
    whole = Run(config("teacher"))
    list(whole.cycle())
    newest = whole.memory.all().obs[-600:]
    assert {tuple(r) for r in run.memory.all().obs.tolist()} == {tuple(r) for r in newest.tolist()}


def test_time_is_counted_by_phase() -> None:
    run, clock = Run(config("teacher", steps=256)), Clock()
    list(run.cycle(clock=clock))
    assert set(clock.wall) == set(clock.cpu) == {"collect", "learn"}
    assert 0 < clock.wall["collect"] + clock.wall["learn"] <= clock.elapsed


def test_a_loop_can_be_left_at_any_update() -> None:
    run = Run(config("teacher"))
    for update in run.cycle():
        if update.step == 3:
            break
    assert run.learner.updates == 3 and run.memory.added <= ROUND * 8


# Learning


@pytest.mark.parametrize("method", ["teacher", "student", "dagger"])
def test_the_student_reaches_its_teacher(method: Method) -> None:
    run = Run(config(method, steps=4096, rows_per_update=16))
    before = run.teacher.lean.detach().clone()
    random = evaluate(run.student, ENV, 20, seed=10**7).mean
    losses_seen = [float(u.loss) for u in run.cycle()]
    score = evaluate(run.learner.averaged, ENV, 20, seed=10**7)
    assert random < 100 and score.mean > 475
    assert np.mean(losses_seen[-10:]) < 0.3 * losses_seen[0]
    assert torch.equal(run.teacher.lean, before)


def test_same_seed_same_student() -> None:
    def trained(seed: int) -> list[float]:
        run = Run(config("dagger", steps=512), seed=seed)
        return [float(u.loss) for u in run.cycle()]

    assert trained(0) == trained(0) != trained(1)


# From a dataset


def test_replay_learns_from_what_is_there() -> None:
    run = Run(config("teacher", steps=4096, rows_per_update=16))
    for batch in label(run.collector, 2000):
        run.memory.add(batch)
    rounds, added = len(run.betas), run.memory.added
    updates = list(replay(run.learner, run.memory, run.config, steps=4096))
    assert len(updates) == 4096 // 16
    assert (len(run.betas), run.memory.added) == (rounds, added), "no environment is stepped"
    assert [u.progress.env_steps for u in updates[:2]] == [16, 32] and updates[-1].progress.env_steps == 4096
    fractions = [u.progress.fraction for u in updates]
    assert fractions == pytest.approx([i / 256 for i in range(256)])
    assert evaluate(run.learner.averaged, ENV, 20, seed=10**7).mean > 475


def test_replay_goes_on_counting_and_makes_at_least_one_update() -> None:
    run = Run(config("teacher", steps=100, rows_per_update=32))
    run.memory.add(run.collector.collect(5).batch)
    found = list(replay(run.learner, run.memory, run.config, steps=100, done=100))
    assert [u.progress.env_steps for u in found] == [132, 164, 196]
    assert len(list(replay(run.learner, run.memory, run.config, steps=5))) == 1


@pytest.mark.parametrize(("steps", "envs"), [(100, 8), (1, 3), (1000, 4)])
def test_label_keeps_to_its_budget(steps: int, envs: int) -> None:
    collector = Collector(make(ENV, envs), Balancer(-10.0), seed=0, episodes=True)
    batches = list(label(collector, steps))
    taken = sum(int(b.mask.sum()) for b in batches if b.mask is not None)
    assert steps <= taken < steps + envs
    drawn = list(label(collector, 64, students.mlp(CARTPOLE), 0.5))
    assert sum(len(b) for b in drawn) >= 64
