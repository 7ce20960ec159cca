"""From a teacher to a report in one call: what is measured, on whose seeds, when it stops, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from toys import CARTPOLE, Balancer, Gates, Lottery, Told

import policykd as kd
from policykd import datasets, evaluation, selection, students
from policykd.config import DistillConfig
from policykd.datasets import Ring
from policykd.errors import CheckpointError, PolicykdError, SpaceError, UnknownNameError, UsageError
from policykd.evaluation import evaluate
from policykd.news import Look, Tick
from policykd.prediction import Spec
from policykd.report import Report
from policykd.rollouts import RANDOM, Collector, make
from policykd.supervised import label

SHORT = kd.Recipe("CartPole-v1", env_kwargs={"max_episode_steps": 60})
"""Balancing for 60 steps; random actions last for 23."""

FAST: dict[str, Any] = {
    "steps": 4096,
    "cycles": 1,
    "rows_per_update": 8,
    "batch_size": 64,
    "num_envs": 8,
    "average": 0.95,
    "max_episodes": 100,
}
# The attribute `distill` of the package is the function.

HARD: dict[str, Any] = {**FAST, "steps": 256, "rows_per_update": 64, "learning_rate": 1e-4}
"""A budget that teaches little."""


def distilled(**changes: Any) -> Report:
    return kd.distill(Balancer(), changes.pop("student", None), SHORT, hidden=(8,), **{**FAST, **changes})


@pytest.fixture(scope="module")
def report() -> Report:
    return distilled()


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, range]]:
    """(who, seeds) of every block of episodes that is played."""
    found: list[tuple[str, range]] = []
    play = evaluation.play_panel

    def noted(panel: Any, recipe: Any, pairs: Any, **how: Any) -> Any:
        for member in {m for m, _ in pairs}:
            who = "random" if member == RANDOM else type(panel.policies[panel.policy_of(member)]).__name__
            seeds = [seed for m, seed in pairs if m == member]
            found.append((who, range(seeds[0], seeds[-1] + 1)))
        return play(panel, recipe, pairs, **how)

    monkeypatch.setattr(evaluation, "play_panel", noted)
    return found


# The report


def kinds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: kinds(v) for k, v in value.items()}
    if isinstance(value, list):
        return [kinds(v) for v in value]
    return float if isinstance(value, float) else type(value)


CONTRACT = {
    "schema": int,
    "kind": str,
    "env_id": str,
    "method": str,
    "seed": int,
    "stopped_by": str,
    "teacher": {"algo": str, "params": int, "return_mean": float, "return_ci": [float, float], "episodes": int},
    "student": {"params": int, "bytes": int, "return_mean": float, "return_ci": [float, float], "episodes": int},
    "random": {"return_mean": float, "episodes": int},
    "retention": float,
    "retention_ci": [float, float],
    "agreement": float,
    "kl": float,
    "value_error": type(None),
    "env_steps": int,
    "updates": int,
    "evaluations": int,
    "seconds": {"load": float, "collect": float, "learn": float, "evaluate": float, "total": float},
    "versions": {"policykd": str, "torch": str},
}


def assert_holds(found: Any, contract: Any, where: str = "report") -> None:
    if not isinstance(contract, dict):
        assert found == contract, where
        return
    for name, kind in contract.items():
        assert name in found, f"{where}.{name}"
        assert_holds(found[name], kind, f"{where}.{name}")


def test_report_keeps_its_contract(report: Report) -> None:
    said = report.to_dict()
    assert json.loads(json.dumps(said, allow_nan=False)) == said, "strict JSON, and nothing but JSON"
    assert_holds(kinds(said), CONTRACT)
    assert (said["schema"], said["kind"], said["env_id"]) == (1, "distill", "CartPole-v1")
    assert (said["method"], said["seed"]) == ("dagger", 0)
    assert said["teacher"]["params"] == 4 and said["student"]["params"] == 4 * 8 + 8 + 8 * 2 + 2
    assert said["student"]["episodes"] == said["teacher"]["episodes"] == said["random"]["episodes"] == 100
    assert said["config"] == {f.name: getattr(DistillConfig(**FAST), f.name) for f in fields(DistillConfig)}
    assert said["seconds"]["total"] >= sum(said["seconds"][k] for k in ("load", "collect", "learn", "evaluate")) - 0.01


def test_numbers_of_the_report(report: Report) -> None:
    assert report.teacher.return_mean == 60 and 15 < report.random.return_mean < 30
    gap = report.teacher.return_mean - report.random.return_mean
    by_hand = (report.student.return_mean - report.random.return_mean) / gap
    assert report.retention.value == pytest.approx(by_hand) and by_hand > 0.9
    assert report.retention.low is not None and report.retention.high is not None
    assert report.retention.low <= by_hand <= report.retention.high
    assert report.kept.agreement > 0.9 and report.kept.kl is not None and report.kept.kl < 0.2
    assert 4096 <= report.env_steps < 4096 + 8 and report.updates == report.env_steps // 8
    assert "retention" in str(report) and f"{report.student.params}" in str(report)


def test_what_is_reported_can_be_measured_again(report: Report) -> None:
    """The policy in the report earns what the report says, on the seeds that it was measured on."""
    assert report.policy is not None
    again = evaluate(report.policy, SHORT, 100, seed=selection.REPORT)
    assert again.mean == report.student.return_mean
    assert (report.policy.origin.env_id, report.policy.origin.gamma) == ("CartPole-v1", 0.99)
    assert dict(report.policy.origin.env_kwargs) == dict(SHORT.env_kwargs)


def test_same_seed_same_numbers_another_seed_others() -> None:
    def numbers(r: Report) -> dict[str, Any]:
        return {k: v for k, v in r.to_dict().items() if k not in ("seconds", "cpu_seconds", "config", "seed")}

    first = numbers(distilled(**HARD))
    assert numbers(distilled(**HARD)) == first
    assert numbers(distilled(**HARD, seed=1)) != first


def test_the_student_that_is_given_is_taught_in_place(tmp_path: Path) -> None:
    student = students.mlp(CARTPOLE, (8,), seed=7)
    before = student.action_head.weight.detach().clone()
    report = distilled(student=student, **HARD)
    assert report.policy is student and not torch.equal(student.action_head.weight, before)
    students.save(student, tmp_path)
    assert evaluate(students.load(tmp_path), SHORT, 20).mean == evaluate(student, SHORT, 20).mean


def test_the_teacher_stays_as_it_was() -> None:
    teacher = Balancer()
    kd.distill(teacher, None, SHORT, hidden=(8,), **HARD)
    assert torch.equal(teacher.lean, Balancer().lean) and teacher.lean.grad is None


def test_a_value_head_learns_where_the_teacher_has_values() -> None:
    report = distilled(student=students.mlp(CARTPOLE, (8,), value=True), steps=1024)
    assert report.kept.value_error is not None and 0 <= report.kept.value_error < 2
    mute = Told(CARTPOLE, lambda obs: Balancer().label(obs).dist.logits)
    report = kd.distill(mute, students.mlp(CARTPOLE, (8,), value=True), SHORT, **HARD)
    assert report.kept.value_error is None, "no value of the teacher, nothing to learn and nothing to compare"


def test_a_users_loss() -> None:
    asked = []

    def nll(student: Any, batch: Any) -> dict[str, Any]:
        asked.append(len(batch))
        return {"nll": -student.dist.log_prob(batch.target.dist.mode())}

    report = kd.distill(Balancer(), None, SHORT, hidden=(8,), loss=nll, **{**FAST, "method": "student", "steps": 1024})
    assert len(asked) == report.updates and report.retention.value is not None and report.retention.value > 0.8


def test_action_masks_from_the_first_row_to_the_report() -> None:
    teacher = Told(Gates.spec_of, lambda obs: torch.tensor([9.0, 2.0, 1.0]).expand(len(obs), 3))
    report = kd.distill(teacher, None, Gates, hidden=(8,), **{**FAST, "steps": 1024})
    assert report.student.return_mean == report.teacher.return_mean == 2 + 1 + 1 + 1
    assert report.kept.agreement == 1.0 and report.kept.kl is not None and report.kept.kl < 0.1


# Seeds


def test_seeds_that_choose_are_never_reported(played: list[tuple[str, range]]) -> None:
    report = distilled(until_retention=0.9, cycles=3, seed=3, select_episodes=50)
    first = {"report": selection.REPORT, "select": selection.SELECT, "confirm": selection.CONFIRM}
    use: dict[str, set[int]] = {name: set() for name in first}
    for who, seeds in played:
        name = max((n for n in first if first[n] <= seeds[0]), key=lambda n: first[n])
        if who != "NoneType":
            use[name] |= set(seeds)
    assert all(use.values()) and min(min(s) for s in use.values()) > 1_000_000, "training's seeds are small"
    assert not (use["report"] & use["select"] or use["report"] & use["confirm"] or use["select"] & use["confirm"])
    reported = sum(len(s) for who, s in played if s[0] < selection.SELECT and who == "Student")
    assert reported == report.student.episodes
    told = report.student.episodes + report.teacher.episodes + report.random.episodes
    chose = sum(len(s) for _, s in played) - told
    assert report.evaluations == chose


# When it stops


def test_a_budget_that_teaches_little_is_spent(played: list[tuple[str, range]]) -> None:
    report = distilled(**{**HARD, "cycles": 3})
    assert report.stopped_by == "budget"
    ends = [256, 256 + 512, 256 + 512 + 1024]
    assert [h["env_steps"] for h in report.history] == [pytest.approx(e, abs=7) for e in ends], "a look ends a cycle"
    assert ends[-1] <= report.env_steps < ends[-1] + 8 and report.updates == ends[-1] // 64


def test_no_cycle_more_once_it_is_as_good() -> None:
    long = distilled(cycles=9)
    assert long.stopped_by == "converged" and long.env_steps < 20 * 4096
    assert long.history[-1]["retention"] >= 0.99
    assert all(h["retention"] < 0.99 for h in long.history[:-1])


def test_until_retention_stops_and_confirms(played: list[tuple[str, range]]) -> None:
    report = distilled(until_retention=0.8, cycles=20)
    assert report.stopped_by == "target" and report.env_steps < 20 * 4096
    assert report.history[-1]["retention"] >= 0.8
    confirmed = [(who, s) for who, s in played if s[0] >= selection.CONFIRM]
    assert {"Student", "Balancer"} == {who for who, _ in confirmed}
    assert all(len(s) == 100 for _, s in confirmed), "on 100 fresh episodes"
    steps = [h["env_steps"] for h in report.history]
    assert all(b >= a * 2**0.5 - 1 for a, b in zip(steps, steps[1:], strict=False)), "looks get rarer"


def test_a_student_out_of_its_targets_reach_is_still_looked_at_when_the_budget_ends() -> None:
    report = distilled(until_retention=2.0)
    assert report.stopped_by == "budget"
    assert report.history[-1]["updates"] == report.updates
    # The averaged student was looked at and is reported; without a look the raw one would be.
    assert report.retention.value == pytest.approx(distilled().retention.value)


def test_a_selection_that_is_not_confirmed_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A student that is good on the selection's episodes and bad on all others never reaches a target."""
    extend = selection.extend

    def two_faced(score: Any, policy: Any, recipe: Any, episodes: int, *, seed: int = 0, **how: Any) -> Any:
        if isinstance(policy, students.Student) and seed < selection.CONFIRM and seed >= selection.SELECT:
            policy = Balancer()
        elif isinstance(policy, students.Student):
            policy = Balancer(-10.0)
        return extend(score, policy, recipe, episodes, seed=seed, **how)

    monkeypatch.setattr(selection, "extend", two_faced)
    report = distilled(until_retention=0.95, **HARD)
    assert report.stopped_by == "budget" and all(h["retention"] == 1.0 for h in report.history)
    assert report.retention.value is not None and report.retention.value < 0


def test_time_is_a_guard() -> None:
    report = distilled(cycles=1000, max_seconds=1e-3)
    assert report.stopped_by == "time" and report.env_steps < 1000 * 4096
    assert len(report.history) >= 1 and report.to_dict()["retention"] is not None


def test_a_teacher_no_better_than_random() -> None:
    """Nothing to retain: no number, a reason, and no early stop."""
    told = Told(Lottery.spec_of, lambda obs: torch.zeros(len(obs), 2))
    report = kd.distill(told, None, Lottery, hidden=(8,), **{**HARD, "until_retention": 0.5})
    said = report.to_dict()
    assert report.stopped_by == "budget" and said["retention"] is None and said["retention_ci"] is None
    assert "not distinguishable" in said["retention_reason"]
    assert json.dumps(said, allow_nan=False)


def test_luck_on_a_few_episodes_is_no_convergence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A student that equals its teacher in the mean of wildly different episodes, as far as the first fifty go."""
    extend = selection.extend
    played: list[int] = []

    def lucky(score: Any, policy: Any, recipe: Any, episodes: int, *, seed: int = 0, **how: Any) -> Any:
        found = extend(score, policy, recipe, episodes, seed=seed, **how)
        if isinstance(policy, students.Student) and seed >= selection.SELECT:
            played.append(episodes)
            found.returns[:] = np.where(np.arange(episodes) < 50, np.where(np.arange(episodes) % 2, 40.0, 90.0), 40.0)
        return found

    monkeypatch.setattr(selection, "extend", lucky)
    report = distilled(**{**HARD, "cycles": 2, "select_episodes": 50})
    assert report.stopped_by == "budget"
    assert played == [50, 100] * 2  # a hundred say surely that it was luck
    assert all(h["return_mean"] == pytest.approx((25 * 90 + 75 * 40) / 100) for h in report.history)


# What it keeps


def test_the_best_by_selection_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Selection scores are forged: the second of four looks is the best, so its weights are the ones reported."""
    extend = selection.extend
    looks: list[dict[str, torch.Tensor]] = []
    bonus = iter([0.0, 40.0, 20.0, 30.0])

    def forged(score: Any, policy: Any, recipe: Any, episodes: int, *, seed: int = 0, **how: Any) -> Any:
        found = extend(score, policy, recipe, episodes, seed=seed, **how)
        if isinstance(policy, students.Student) and seed >= selection.SELECT:
            looks.append({k: v.clone() for k, v in policy.state_dict().items()})
            found.returns[:] = next(bonus)
        return found

    monkeypatch.setattr(selection, "extend", forged)
    report = distilled(**{**HARD, "cycles": 4})
    assert len(looks) == 4 and report.policy is not None
    kept = report.policy.state_dict()
    assert all(torch.equal(kept[k], looks[1][k]) for k in kept)
    assert not all(torch.equal(kept[k], looks[3][k]) for k in kept)


@pytest.mark.parametrize(("spread", "kept"), [(0.0, 0), (30.0, 1)])
def test_the_newest_is_kept_unless_it_is_surely_worse(
    spread: float, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second look is two steps lower: sure where every episode is, luck where they differ by thirty."""
    extend = selection.extend
    looks: list[dict[str, torch.Tensor]] = []
    means = iter([42.0, 40.0])

    def forged(score: Any, policy: Any, recipe: Any, episodes: int, *, seed: int = 0, **how: Any) -> Any:
        found = extend(score, policy, recipe, episodes, seed=seed, **how)
        if isinstance(policy, students.Student) and seed >= selection.SELECT:
            looks.append({k: v.clone() for k, v in policy.state_dict().items()})
            found.returns[:] = next(means) + spread * np.where(np.arange(episodes) % 2, 1.0, -1.0)
        return found

    monkeypatch.setattr(selection, "extend", forged)
    report = distilled(**{**HARD, "cycles": 2, "select_episodes": 50})
    assert len(looks) == 2 and report.policy is not None
    found = report.policy.state_dict()
    assert all(torch.equal(found[k], looks[kept][k]) for k in found)
    assert not all(torch.equal(found[k], looks[1 - kept][k]) for k in found)


def test_more_episodes_are_played_until_the_interval_is_narrow() -> None:
    wide = distilled(**{**HARD, "max_episodes": 300, "precision": 0.001})
    assert wide.student.episodes == wide.teacher.episodes == 300
    narrow = distilled(**{**HARD, "max_episodes": 300, "precision": 10.0})
    assert narrow.student.episodes == 100


# News


def test_news_of_a_run() -> None:
    ticks: list[Tick] = []
    looks: list[Look] = []
    report = distilled(cycles=2, steps=1024, on_tick=ticks.append, on_look=looks.append)
    steps = [t.update.progress.env_steps for t in ticks]
    assert steps == sorted(set(steps)) and len(steps) > 4, "one a round"
    assert {t.total_steps for t in ticks} == {1024 + 2048}
    assert [x.env_steps for x in looks] == [h["env_steps"] for h in report.history]
    assert [x.score.mean for x in looks] == [h["return_mean"] for h in report.history]
    assert all(x.teacher.mean == 60 for x in looks)


def test_watching_changes_nothing() -> None:
    watched = distilled(**HARD, on_tick=lambda t: t.memory.all(), on_look=lambda x: None)
    assert watched.student == distilled(**HARD).student


# From a dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    teacher = Balancer()
    collector = Collector(make(SHORT, 8), teacher, seed=0, episodes=True)
    batches = label(collector, 3000, Balancer(0.5), 0.5)
    path = tmp_path_factory.mktemp("labelled") / "data"
    datasets.write(path, batches, spec=teacher.spec, origin=teacher.origin)
    return path


def test_from_a_dataset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_steps(*a: Any, **k: Any) -> None:
        raise AssertionError("an environment was stepped for training")

    monkeypatch.setattr(Collector, "collect", no_steps)
    steps: list[int] = []
    data: dict[str, Any] = {"method": "dataset", "dataset": folder, "steps": 2048}
    report = distilled(**data, on_tick=lambda t: steps.append(t.update.progress.env_steps))
    assert report.method == "dataset" and report.env_steps == 0 and report.updates == 2048 // 8
    assert steps == list(range(8, 2048 + 1, 8))
    assert report.retention.value is not None and report.retention.value > 0.9
    said = report.to_dict()
    assert said["config"]["dataset"] == str(folder) and json.dumps(said, allow_nan=False)
    assert distilled(**{**data, "dataset": str(folder)}).student == report.student


def test_a_dataset_stops_at_a_target_too(folder: Path) -> None:
    report = distilled(method="dataset", dataset=folder, cycles=9, until_retention=0.7)
    assert report.stopped_by == "target" and report.updates < 9 * 512
    two = distilled(method="dataset", dataset=folder, **{**HARD, "cycles": 2})
    assert two.updates == 256 // 64 + 512 // 64 and [h["env_steps"] for h in two.history] == [256, 768]


def test_a_dataset_larger_than_the_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rings: list[Ring] = []
    made = Ring.__init__

    def noted(self: Ring, *a: Any, **k: Any) -> None:
        made(self, *a, **k)
        rings.append(self)

    monkeypatch.setattr(Ring, "__init__", noted)
    distilled(method="dataset", dataset=folder, **{**HARD, "memory": 500})
    (batch,) = datasets.read(folder)
    counted = batch.obs[batch.mask.bool()]
    assert len(rings[0]) == 500 < len(counted)
    assert torch.equal(rings[0].all().obs.sort(0).values, counted[-500:].sort(0).values), "the newest"


def test_a_dataset_without_values_teaches_a_student_with_a_value_head(tmp_path: Path) -> None:
    collector = Collector(make(SHORT, 8), Balancer(), seed=0, values=False)
    datasets.write(tmp_path / "data", label(collector, 500), spec=CARTPOLE)
    student = students.mlp(CARTPOLE, (8,), value=True)
    report = distilled(student=student, method="dataset", dataset=tmp_path / "data", **HARD)
    assert report.updates == 4


# What it refuses


def refused(code: str, kind: type[PolicykdError], *args: Any, **how: Any) -> None:
    with pytest.raises(kind, match=rf"\[{code}\]"):
        kd.distill(*args, **how)


def test_budgets_of_nothing() -> None:
    for name in ("steps", "cycles", "rows_per_update", "batch_size", "memory", "num_envs", "episodes"):
        refused("config.zero", UsageError, Balancer(), None, SHORT, **{name: 0})
    refused("config.zero", UsageError, Balancer(), None, SHORT, steps=-5)
    refused("name.method", UnknownNameError, Balancer(), None, SHORT, method="dager")


def test_spaces_that_do_not_fit() -> None:
    refused("space.observation", SpaceError, Balancer(), None, "MountainCar-v0")
    refused("space.observation", SpaceError, Balancer(), None, "FrozenLake-v1")
    three = Spec(CARTPOLE.observation_space, spaces.Discrete(3), "categorical")
    refused("space.action", SpaceError, Balancer(spec=three), None, "CartPole-v1")
    continuous = Spec(CARTPOLE.observation_space, spaces.Box(-1, 1, (2,), np.float32), "diag_gaussian")
    refused("space.family", SpaceError, Balancer(), students.mlp(continuous), SHORT)
    refused("env.missing", UsageError, Balancer(env_id=None))


@pytest.mark.parametrize(
    "spec",
    [
        Spec(spaces.Box(-1, 1, (5,), np.float32), spaces.Discrete(2), "categorical"),
        Spec(CARTPOLE.observation_space, spaces.Discrete(3), "categorical"),
    ],
    ids=["observations", "actions"],
)
def test_a_student_for_other_spaces(spec: Spec) -> None:
    with pytest.raises(SpaceError, match=r"\[space\.(observation|action)\]"):
        kd.distill(Balancer(), students.mlp(spec), SHORT, **HARD)


def test_datasets_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    refused("config.dataset", UsageError, Balancer(), None, SHORT, method="dataset")
    refused("config.dataset", UsageError, Balancer(), None, SHORT, dataset=folder)
    refused("dataset.missing", CheckpointError, Balancer(), None, SHORT, method="dataset", dataset=tmp_path)
    wide = Spec(spaces.Box(-np.inf, np.inf, (5,), np.float32), spaces.Discrete(2), "categorical")
    five = datasets.write(
        tmp_path / "five",
        [kd.Batch(torch.zeros(4, 5), kd.Prediction(kd.distributions.Categorical(torch.zeros(4, 2))))],
        spec=wide,
    )
    refused("dataset.spec", SpaceError, Balancer(), None, SHORT, method="dataset", dataset=five.folder)
