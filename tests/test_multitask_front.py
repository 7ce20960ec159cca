"""``multitask()``, tiny: what is learnt from whom, how long, what is measured and kept, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import CARTPOLE, Balancer, Coins, Gates, Keen, Told

from policykd.errors import EnvError, SpaceError, UnknownNameError, UsageError
from policykd.evaluation import Interval, evaluate, retention
from policykd.losses import DynamicAverage, forward_kl, hard_nll, mse, weighted
from policykd.multitask import by_environment, multitask
from policykd.prediction import Prediction, Progress, Update
from policykd.report import MultiReport, geometric_mean
from policykd.run.tasks import places
from policykd.students import MultiTask

QUICK: dict[str, Any] = {"steps": 1500, "cycles": 1, "select_episodes": 8, "max_episodes": 100, "workers": 1}


@pytest.fixture(scope="module")
def learnt() -> tuple[MultiReport, list[tuple[str, int]], list[str]]:
    """A report, the looks (task, updates) and the ticks (task)."""
    looks: list[tuple[str, int]] = []
    ticks: list[str] = []
    report = multitask(
        {"pole": Balancer(), "coins": Keen(0.9)},
        envs={"coins": Coins},
        hidden=(8, 8),
        on_look=lambda name, look: looks.append((name, look.updates)),
        on_tick=lambda name, tick: ticks.append(name),
        **{**QUICK, "steps": 3000},
    )
    return report, looks, ticks


# --- learning


def test_one_student_keeps_what_two_teachers_do(learnt: Any) -> None:
    report = learnt[0]
    assert report.policy.names == ("pole", "coins")
    assert all(task.retention.value > 0.95 for task in report.tasks.values())
    # Coins pays a tenth a number at random actions half of it: Keen(0.9) earns 9 of 10, random 5.
    assert report.tasks["coins"].teacher.return_mean == pytest.approx(9.0, abs=0.2)
    assert report.tasks["coins"].kept.agreement > 0.95
    by_hand = math.sqrt(math.prod(task.retention.value for task in report.tasks.values()))
    assert report.retention.value == pytest.approx(by_hand)
    assert report.params == report.policy.acting_parameters == (4 + 1) * 8 + 16 + 72 + 2 * 18


def test_retention_is_measured_again_by_whoever_likes(learnt: Any) -> None:
    report = learnt[0]
    seed = 500_000_000  # the reported episodes' first
    view, keen = report.policy.task("coins"), Keen(0.9)
    mine, theirs, random = (evaluate(p, Coins, 100, seed=seed, workers=1) for p in (view, keen, None))
    assert retention(mine, theirs, random) == report.tasks["coins"].retention


def test_tasks_report_in_turn(learnt: Any) -> None:
    report, looks, ticks = learnt
    assert [name for name, _ in looks] == ["pole", "coins"] * (len(looks) // 2)
    assert ticks == ["pole", "coins"] * (len(ticks) // 2) and len(ticks) >= 4
    assert report.history[-1]["updates"] == looks[-1][1] == report.updates == 300
    assert report.env_steps == sum(task.env_steps for task in report.tasks.values())
    assert report.stopped_by == "converged"


def test_seconds_are_each_tasks_own_where_they_are_known(learnt: Any) -> None:
    report = learnt[0]
    for spent, whole in (("seconds", report.seconds), ("cpu_seconds", report.cpu_seconds)):
        own = [getattr(task, spent) for task in report.tasks.values()]
        more = {"total"} if spent == "seconds" else set()
        assert all(set(phases) == {"collect", "evaluate"} | more for phases in own)
        for phase in ("collect", "evaluate"):
            assert min(phases[phase] for phases in own) > 0 or spent == "cpu_seconds"
            assert sum(phases[phase] for phases in own) == pytest.approx(whole[phase], rel=0.05, abs=0.02)
    assert {"load", "collect", "learn", "evaluate", "total"} == set(report.seconds)


def test_a_cycle_is_as_long_as_its_longest_task_and_who_is_good_enough_takes_no_more_steps() -> None:
    # A teacher that nothing tells from random actions has no retention: its task is never done.
    coin = Told(Coins.spec_of, lambda obs: torch.cat([torch.sin(400 * obs), -torch.sin(400 * obs)], -1))
    report = multitask(
        {"easy": Keen(1.0), "never": coin}, envs={"easy": Coins, "never": Coins}, hidden=(4, 4), num_envs=4,
        **{**QUICK, "cycles": 2, "steps": 1100, "rows_per_update": 50},
    )  # fmt: skip
    assert report.stopped_by == "budget"
    assert report.tasks["easy"].env_steps == pytest.approx(1100, abs=4)
    assert report.tasks["never"].env_steps == pytest.approx(1100 * 3, abs=8)
    assert report.updates == pytest.approx(22 * 3, abs=2)
    assert report.tasks["easy"].retention.value == pytest.approx(1.0, abs=0.05)
    assert report.tasks["never"].retention.value is None
    assert report.retention.value is None and "never: " in str(report.retention.reason)
    assert report.to_dict()["retention_geometric_mean"] is None


def test_default_steps_are_each_tasks_own() -> None:
    report = multitask(
        {"pole": Balancer(), "coins": Keen(1.0)}, envs={"coins": Coins}, hidden=(4, 4), num_envs=8,
        **{**QUICK, "steps": None, "rows_per_update": 50},
    )  # fmt: skip
    # 1,500 for each number in the spaces: 4 + 2 and 1 + 2.
    assert report.tasks["pole"].env_steps == pytest.approx(9000, abs=8)
    assert report.tasks["coins"].env_steps == pytest.approx(4500, abs=8)
    assert report.updates == 180


def test_the_same_seed_gives_the_same_student() -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        found = multitask(
            {"a": Keen(0.7), "b": Keen(0.9)}, envs={"a": Coins, "b": Coins}, hidden=(4, 4), seed=seed,
            **{**QUICK, "steps": 600},
        )  # fmt: skip
        assert found.policy is not None
        return found.policy.weights()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_it_stops_at_a_target_that_all_tasks_have_reached() -> None:
    report = multitask(
        {"a": Keen(0.9), "b": Keen(0.8)}, envs={"a": Coins, "b": Coins}, hidden=(8, 8), until_retention=0.8,
        **{**QUICK, "steps": 20_000},
    )  # fmt: skip
    assert report.stopped_by == "target" and report.updates < 1500
    assert all(task.retention.value is not None and task.retention.value > 0.7 for task in report.tasks.values())


def test_time_is_a_guard() -> None:
    report = multitask({"pole": Balancer(), "coins": Keen(1.0)}, envs={"coins": Coins}, max_seconds=1e-3, **QUICK)
    assert report.stopped_by == "time" and report.updates == 1


def test_the_best_weights_are_those_of_the_geometric_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    # Retentions of three looks; the second look's mean is the highest, though the first is better in task a and the
    # third in task b.
    told = {"a": iter([1.2, 0.9, 0.3]), "b": iter([0.3, 0.8, 1.2])}
    seen: list[dict[str, Tensor]] = []

    from policykd import selection
    from policykd.news import Look

    def look(self: Any, learner: Any, env_steps: int, student: Any) -> float:
        name = "a" if self.teacher.share == 0.9 else "b"
        if name == "a":
            seen.append({k: v.clone() for k, v in student.state_dict().items()})
        score = evaluate(None, Coins, 2, workers=1)
        self.on_look(Look(env_steps, learner.updates, learner, score, score, score, Interval(next(told[name]))))
        return 0.0

    monkeypatch.setattr(selection.Selection, "look", look)
    report = multitask(
        {"a": Keen(0.9), "b": Keen(0.8)}, envs={"a": Coins, "b": Coins}, hidden=(4, 4),
        **{**QUICK, "cycles": 3, "steps": 300},
    )  # fmt: skip
    assert [look["retention"] for look in report.history] == pytest.approx([0.6, math.sqrt(0.72), 0.6])
    assert report.policy is not None
    kept = report.policy.task("a").state_dict()
    assert all(torch.equal(kept[k], seen[1][k]) for k in kept)
    assert not all(torch.equal(kept[k], seen[2][k]) for k in kept)


def test_actions_that_are_not_allowed_are_not_taken() -> None:
    gates = Told(Gates.spec_of, lambda obs: torch.cat([obs, 1 - obs, 0 * obs], -1))
    report = multitask({"gates": gates, "coins": Keen(1.0)}, envs={"gates": Gates, "coins": Coins}, **QUICK)
    assert report.tasks["gates"].student.length_mean == 4  # a forbidden action would have been an error


# --- losses


def two_coins(**how: Any) -> tuple[MultiReport, list[tuple[str, Update]]]:
    """A run of two tasks of coins, and its updates as each task sees them."""
    told: list[tuple[str, Update]] = []
    found = multitask(
        {"a": Keen(0.7), "b": Keen(0.9)}, envs={"a": Coins, "b": Coins}, hidden=(4, 4),
        on_tick=lambda name, tick: told.append((name, tick.update)),
        **{**QUICK, "steps": 1200, "rows_per_update": 40, **how},
    )  # fmt: skip
    return found, told


def test_a_loss_for_all_tasks_or_by_name() -> None:
    def halved(student: Prediction, target: Prediction) -> Tensor:
        return 0.5 * forward_kl(student, target)

    def terms(loss: Any) -> dict[str, float]:
        return {name: float(t) for name, t in two_coins(loss=loss)[1][0][1].terms.items()}

    plain = terms(None)
    assert set(plain) == {"a/policy", "b/policy"}
    assert set(terms(weighted(near=(1.0, mse)))) == {"a/near", "b/near"}
    some = terms({"b": weighted(close=(1.0, halved))})
    assert set(some) == {"a/policy", "b/close"}
    assert terms({}) == plain == terms(forward_kl), "the default of coins is forward KL"


def test_weights_of_a_task_follow_how_far_the_student_is_in_it() -> None:
    seen: dict[str, list[Progress]] = {"a": [], "b": []}

    def follow(name: str) -> Any:
        def weight(progress: Progress) -> float:
            seen[name].append(progress)
            return 1.0 if name == "a" else 0.25

        return weighted(policy=(weight, forward_kl), greedy=(0.1, hard_nll))

    report, told = two_coins(loss={name: follow(name) for name in seen}, cycles=2, until_retention=2.0)
    assert report.stopped_by == "budget"
    for name, of in seen.items():
        assert len(of) == report.updates
        assert all(p.agreement is not None and 0 <= p.agreement <= 1 for p in of)
        looked = [look["retention"] for look in report.tasks[name].history]
        told_of = list(dict.fromkeys(p.retention for p in of))
        assert told_of[0] is None and len(told_of) > 1, "at first nobody has looked"
        assert set(told_of[1:]) <= set(looked)
        assert set(of[-1].losses) == {"policy", "greedy"}
    assert seen["a"][-1].losses["policy"] != seen["b"][-1].losses["policy"]
    assert {u.weights["a/policy"] for _, u in told} == {1.0} and {u.weights["b/policy"] for _, u in told} == {0.25}


def test_a_loss_with_a_memory_has_one_for_each_task() -> None:
    dwa = DynamicAverage(("policy", "greedy"), window=5)
    loss = weighted(policy=(dwa.weight("policy"), forward_kl), greedy=(dwa.weight("greedy"), hard_nll))
    _, told = two_coins(loss=loss)
    last = told[-1][1].weights
    for name in "ab":
        both = last[f"{name}/policy"], last[f"{name}/greedy"]
        assert sum(both) == pytest.approx(2.0) and both[0] != 1.0, "it has heard the losses of its task"
    assert last["a/policy"] != last["b/policy"]
    assert int(dwa._counts[1]) == 0, "the one that was given is left as it was"


# --- what cannot be meant


def nan(obs: Tensor) -> Tensor:
    return torch.full((len(obs), 2), float("nan"))


def never_a_number(student: Prediction, target: Prediction) -> Tensor:
    return forward_kl(student, target) * float("nan")


def test_a_name_that_no_teacher_has_is_told_with_the_one_that_was_meant() -> None:
    with pytest.raises(UnknownNameError, match=r"task 'poel' is not known; -> did you mean pole\?"):
        multitask({"pole": Balancer(), "b": Balancer()}, envs={"poel": "CartPole-v1"}, **QUICK)


def test_a_loss_that_is_no_number_is_told_with_its_task() -> None:
    with pytest.raises(UsageError, match="the loss b/policy, which has become nan"):
        multitask({"a": Balancer(), "b": Balancer()}, loss={"b": never_a_number}, **QUICK)


@pytest.mark.parametrize(
    ("teachers", "arguments", "code"),
    [
        ({"pole": Balancer()}, {}, "multitask.teachers"),
        ([], {}, "multitask.teachers"),
        ({"a": Balancer(), "b": Told(CARTPOLE, nan)}, {"envs": {"b": "CartPole-v1"}}, "multitask.nan"),
        ({"a": Balancer(), "b": Balancer(env_id=None)}, {}, "env.missing"),
        ({"a": Balancer(), "b": Balancer()}, {"envs": {"b": "Acrobot-v1"}}, "space.observation"),
        ({"a": Balancer(), "b": Balancer()}, {"method": "dataset", "dataset": "x"}, "multitask.method"),
        ({"a": Balancer(), "b": Balancer()}, {"student": MultiTask({"a": CARTPOLE})}, "multitask.tasks"),
        (
            {"a": Balancer(), "b": Balancer()},
            {"student": MultiTask({"a": CARTPOLE, "b": Coins.spec_of})},
            "space.observation",
        ),
        ({"a": Balancer(), "b": Balancer()}, {"hidden": (8,)}, "multitask.sharing"),
        ({"pole": Balancer(), "b": Balancer()}, {"envs": {"poel": "CartPole-v1"}}, "name.task"),
        ({"a": Balancer(), "b": Balancer()}, {"loss": {"c": forward_kl}}, "name.task"),
        ({"a": Balancer(), "b": Balancer()}, {"loss": {"b": "forward-kl"}}, "loss.term"),
        ({"a": Balancer(), "b": Balancer()}, {"loss": 3.0}, "loss.term"),
        ({"a": Balancer(), "b": Balancer()}, {"loss": {"b": never_a_number}}, "multitask.loss"),
        ({"a": Balancer(), "b": Balancer()}, {"steps": 0}, "config.zero"),
    ],
)
def test_refused(teachers: Any, arguments: dict[str, Any], code: str) -> None:
    with pytest.raises((UsageError, SpaceError, EnvError)) as error:
        multitask(teachers, **{**QUICK, **arguments})
    assert error.value.code == code


def test_nan_is_told_with_its_task() -> None:
    with pytest.raises(EnvError, match="labels of second that are NaN"):
        multitask({"first": Balancer(), "second": Told(CARTPOLE, nan)}, envs={"second": "CartPole-v1"}, **QUICK)


def test_tasks_without_names_are_called_after_their_environments() -> None:
    found = by_environment([Balancer(), Keen(1.0), Balancer(), Balancer()])
    assert list(found) == ["CartPole-v1", "task", "CartPole-v1-2", "CartPole-v1-3"]
    assert list(by_environment({"x": Balancer(), "y": Balancer()})) == ["x", "y"]


def test_places_are_folders_of_their_own() -> None:
    assert places(["CartPole-v1", "ALE/Pong-v5", "ALE-Pong-v5", "..", "my.module:Env-v0"]) == {
        "CartPole-v1": "tasks/CartPole-v1",
        "ALE/Pong-v5": "tasks/ALE-Pong-v5",
        "ALE-Pong-v5": "tasks/ALE-Pong-v5-2",
        "..": "tasks/task",
        "my.module:Env-v0": "tasks/my.module-Env-v0",
    }


# --- the geometric mean


def test_geometric_mean_by_hand() -> None:
    four = {str(i): Interval(0.8, 0.8 / math.e**0.2, 0.8 * math.e**0.1) for i in range(4)}
    found = geometric_mean(four)
    assert found.value == pytest.approx(0.8)
    # Four equal distances add up in squares, and are a quarter each: half of one.
    assert found.low == pytest.approx(0.8 / math.e**0.1) and found.high == pytest.approx(0.8 * math.e**0.05)
    assert geometric_mean({"a": Interval(0.25), "b": Interval(1.0)}).value == pytest.approx(0.5)
    one = Interval(0.9, 0.85, 0.93)
    alone = geometric_mean({"a": one})
    assert (alone.value, alone.low, alone.high) == pytest.approx((0.9, 0.85, 0.93))


def test_geometric_mean_where_there_is_none() -> None:
    good = Interval(0.9, 0.8, 1.0)
    assert geometric_mean({}) == Interval(None, reason="no task")
    nothing = geometric_mean({"a": good, "b": Interval(-0.2, -0.4, 0.1)})
    assert (nothing.value, nothing.low, nothing.reason) == (0.0, None, "nothing is kept of b")
    lost = geometric_mean({"a": good, "b": Interval(None, reason="no gap")})
    assert (lost.value, lost.reason) == (None, "b: no gap")
    few = geometric_mean({"a": good, "b": Interval(0.4, reason="few")})
    assert (few.value, few.low, few.reason) == (pytest.approx(0.6), None, "b: few")
    wide = geometric_mean({"a": good, "b": Interval(0.1, -0.1, 0.3)})
    assert wide.low == 0.0 and wide.high is not None and wide.high > 0.3


def test_the_interval_of_the_geometric_mean_covers_what_it_should() -> None:
    # Three tasks of known means, 100 episodes each; intervals of the parts by the normal law.
    rng, truth, hits, rounds = np.random.default_rng(0), np.array([0.9, 1.0, 0.7]), 0, 2000
    for _ in range(rounds):
        episodes = rng.normal(truth, 0.5, (100, 3))
        mean, half = episodes.mean(0), 1.96 * episodes.std(0, ddof=1) / 10
        found = geometric_mean(
            {str(i): Interval(m, m - h, m + h) for i, (m, h) in enumerate(zip(mean, half, strict=True))}
        )
        assert found.low is not None and found.high is not None
        hits += found.low <= math.exp(np.log(truth).mean()) <= found.high
    assert 0.935 <= hits / rounds <= 0.965
