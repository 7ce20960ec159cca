"""Many sizes from one stream of steps: the ladder, who goes on, who is chosen, and what is said of it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from toys import CARTPOLE, Balancer, Told

import policykd as kd
from policykd import students
from policykd.config import FrontierConfig
from policykd.errors import UsageError
from policykd.frontier import ladder
from policykd.frontier.ladder import ladder as rungs_of
from policykd.news import FrontierLook, FrontierTick
from policykd.prediction import Spec
from policykd.race import Race, Standing
from policykd.report import FrontierReport
from policykd.rollouts import Collector
from policykd.students import Student, Tree

SHORT = kd.Recipe("CartPole-v1", env_kwargs={"max_episode_steps": 60})
"""Balancing for 60 steps; random actions last for 23."""

FAST: dict[str, Any] = {"steps": 2048, "num_envs": 8, "batch_size": 64, "average": 0.95, "screen": 10, "seeds": 2}
HARD: dict[str, Any] = {**FAST, "rows_per_update": 512, "learning_rate": 1e-4, "steps": 256, "workers": 1}


def found(env: Any = SHORT, **changes: Any) -> FrontierReport:
    return kd.frontier(Balancer(), env, **{**FAST, "sizes": ("linear", "tree:4", "4"), **changes})


@pytest.fixture(scope="module")
def report() -> FrontierReport:
    return found()


def test_the_smallest_that_can_be_trusted_is_chosen(report: FrontierReport) -> None:
    names = [c.name for c in report.candidates]
    sizes = [c.policy.acting_parameters for c in report.candidates]
    assert set(names) == {"linear", "tree:4", "4"} and sizes == sorted(sizes)
    trusted = [c for c in report.candidates if c.retention.low is not None and c.retention.low >= 0.95]
    assert report.chosen == trusted[0].name and report.policy is trusted[0].policy
    assert report.best.retention == trusted[0].retention


def test_every_size_is_measured_with_an_interval_and_a_latency(report: FrontierReport) -> None:
    for c in report.candidates:
        assert c.score.episodes >= 100 and c.latency_us > 0 and c.size > 0
        low, value, high = c.retention.low, c.retention.value, c.retention.high
        assert low is not None and value is not None and high is not None and low <= value <= high
        assert len(c.seeds) == (1 if c.name.startswith("tree") else 2)
    kinds = {c.name: type(c.policy) for c in report.candidates}
    assert kinds == {"linear": Student, "4": Student, "tree:4": Tree}
    assert len({id(policy) for c in report.candidates for _, policy, _, _ in c.seeds}) == 5


def test_the_report_is_json_with_the_fields_of_the_contract(report: FrontierReport) -> None:
    fields = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert fields["kind"] == "frontier" and fields["target"] == 0.95 and fields["chosen"] == report.chosen
    assert {"teacher", "random", "student", "env_steps", "updates", "seconds", "retention_ci"} <= set(fields)
    wanted = {"name", "path", "params", "bytes", "retention", "retention_ci", "episodes", "latency_us"}
    assert all(wanted <= set(c) for c in fields["candidates"])
    assert {"load", "collect", "learn", "evaluate", "total"} <= set(fields["seconds"])
    assert str(report).splitlines()[-1] == f"smallest at 0.95: {report.chosen}"


def test_the_same_seed_finds_the_same(report: FrontierReport) -> None:
    again = found(workers=1)
    for a, b in zip(report.candidates, again.candidates, strict=True):
        assert a.retention == b.retention and a.score.returns.tolist() == b.score.returns.tolist()
    other = found(seed=1)
    mine, theirs = (c.policy.state_dict() for c in (report.candidates[0], other.candidates[0]))
    assert any(not torch.equal(mine[k], theirs[k]) for k in mine if k in theirs)


def test_no_size_reaches_the_target() -> None:
    none = found("CartPole-v1", **HARD, cycles=1, sizes=("1", "2"))
    assert none.chosen is None and none.best.stopped_by == "budget"
    lows = [c.retention.low for c in none.candidates]
    best = int(np.argmax([-np.inf if low is None else low for low in lows]))
    assert none.policy is none.candidates[best].policy
    assert str(none).splitlines()[-1] == "none reaches 0.95"


def test_sizes_beyond_one_that_is_good_enough_learn_no_more() -> None:
    looks: list[FrontierLook] = []
    easy = found(cycles=3, sizes=("linear", "4", "8"), on_look=looks.append)
    assert easy.best.stopped_by == "converged" and len(looks) < 3
    assert {name for name, *_ in looks[0].measured} == {"linear", "4", "8"}


def test_those_who_may_still_win_go_on_alone() -> None:
    looks: list[FrontierLook] = []
    one = found("CartPole-v1", **HARD, cycles=3, sizes=("1", "2"), on_look=looks.append)
    assert len(looks) == 3 and one.best.updates > 0
    assert [look.env_steps for look in looks] == sorted(look.env_steps for look in looks)
    assert max(c.cycles for c in one.candidates) == 3


def test_news_are_of_everybody_those_too_that_learn_no_more() -> None:
    told: list[list[tuple[str, int, kd.Policy]]] = []
    news = {"on_tick": lambda tick: told.append(tick.students())}
    kd.frontier(Balancer(), SHORT, **{**FAST, "sizes": ("linear", "tree:4", "8"), "cycles": 2, "target": 1.0, **news})
    names = [[(size, seed) for size, seed, _ in one] for one in told]
    everybody = [("linear", 0), ("linear", 1), ("8", 0), ("8", 1), ("tree:4", 0)]
    assert names[0] == names[-1] == everybody
    assert not torch.equal(told[0][0][2].action_head.weight, told[1][0][2].action_head.weight)  # type: ignore[arg-type,union-attr]


def test_a_size_whose_turn_did_not_come_is_ranked_by_its_last_screening(monkeypatch: pytest.MonkeyPatch) -> None:
    screened: list[list[float | None]] = []
    screen = Race.screen

    def second_in_vain(self: Race, runners: Any) -> list[Standing | None]:
        found: list[Standing | None] = screen(self, runners) if not screened else [None] * len(runners)
        screened.append([None if s is None else s.kept.value for s in found])
        return found

    monkeypatch.setattr(Race, "screen", second_in_vain)
    one = found("CartPole-v1", **HARD, cycles=2, sizes=("4",), on_look=lambda look: None)
    first = screened[0]
    assert len(screened) == 2 and len(first) == 2 and first[0] != first[1]
    [size] = one.candidates
    assert size.seed == int(np.argmax([v or 0.0 for v in first])) and size.cycles == 2


@pytest.mark.parametrize(("method", "teacher_acts"), [("dagger", True), ("student", False)])
def test_who_acts_first(method: Any, teacher_acts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    betas: list[float] = []
    collect = Collector.collect

    def watched(self: Collector, steps: int, actor: Any = None, beta: Any = 1.0) -> Any:
        betas.append(1.0 if actor is None else beta)
        return collect(self, steps, actor, beta)

    monkeypatch.setattr(Collector, "collect", watched)
    found(sizes=("linear",), cycles=1, steps=256, method=method)
    assert (betas[0] == 1.0) is teacher_acts


def test_a_guard_on_time_still_reports() -> None:
    late = found(cycles=3, max_seconds=1e-9, sizes=("linear",))
    assert late.best.stopped_by == "time" and late.candidates[0].score.episodes >= 100


def test_trees_alone() -> None:
    ticks: list[FrontierTick] = []
    only = found(sizes=("tree:4",), cycles=1, on_tick=ticks.append)
    assert len(ticks) > 1 and all(tick.learner is None for tick in ticks)
    [(size, seed, policy)] = ticks[0].students()
    assert (size, seed) == ("tree:4", 0) and isinstance(policy, Tree)
    assert isinstance(only.policy, Tree) and only.candidates[0].policy.acting_parameters <= 2 * 3 + 4 * 2
    assert only.best.updates == 0 and only.best.env_steps >= 2048


def test_everybody_takes_turns() -> None:
    ticks: list[FrontierTick] = []
    acted: list[int] = []
    teacher = Balancer()
    answer = students.Cohort.answer

    def watched(self: students.Cohort, obs: Any, who: torch.Tensor) -> Any:
        acted.extend(who.tolist())
        return answer(self, obs, who)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(students.Cohort, "answer", watched)
        kd.frontier(
            teacher, SHORT, on_tick=ticks.append, **{**FAST, "sizes": ("linear", "4"), "cycles": 1, "workers": 2}
        )
    assert set(acted) == {0, 1, 2, 3} and ticks
    counts = np.bincount(acted)
    assert counts.min() > 0.4 * counts.max()


def test_the_ladder_goes_up_to_the_teacher() -> None:
    teacher = students.mlp(CARTPOLE, (64, 64))
    names = [r.name for r in rungs_of(teacher)]
    assert names == ["linear", "tree:8", "4", "8", "16", "16,16", "32,32", "64,64"]
    assert all(r.params <= teacher.acting_parameters for r in rungs_of(teacher))
    small = students.mlp(CARTPOLE, (8,))
    assert [r.name for r in rungs_of(small)][-1] == "8"
    # What is asked for is tried, however large, and once.
    assert [r.name for r in rungs_of(small, ("64,64", "linear", "64,64"))] == ["linear", "64,64"]
    assert [r.name for r in rungs_of(small, ("08", "8", "16 16", "16,16", "tree:4", "tree:04"))].count("8") == 1
    params = {r.name: r.params for r in rungs_of(teacher)}
    assert params["linear"] == 4 * 2 + 2 and params["4"] == 5 * 4 + 5 * 2  # by hand
    assert params["tree:8"] == 2 * 7 + 8 * 2
    assert ladder is rungs_of


def test_a_tree_is_on_the_ladder_only_where_it_can_be_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["policykd.frontier.ladder"]  # the attribute `frontier` of the package is the function
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert not any(r.leaves for r in rungs_of(students.mlp(CARTPOLE, (64, 64))))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"target": 0.0}, "frontier.target"),
        ({"target": 1.5}, "frontier.target"),
        ({"seeds": 0}, "config.zero"),
        ({"sizes": ("8,x",)}, "student.hidden"),
        ({"sizes": ("tree:1",)}, "student.leaves"),
        ({"screen": 4}, "frontier.screen"),
        ({"max_episodes": 50}, "frontier.episodes"),
        ({"method": "dataset"}, "config.dataset"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as error:
        replace(FrontierConfig(), **changes)
    assert error.value.code == code


def test_a_teacher_that_looks_at_images_is_refused() -> None:
    image = Spec(spaces.Box(0, 255, (3, 36, 36), np.uint8), spaces.Discrete(2), "categorical")
    with pytest.raises(UsageError, match=r"frontier\.images"):
        rungs_of(Told(image, lambda obs: obs))
