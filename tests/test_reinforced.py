"""Learning from reward beside a teacher: who acts, what a row says, that labels are made once, and what is learnt."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from toys import CARTPOLE, Balancer, Coins, Diary, Gates, Keen, Told

import policykd as kd
from policykd import losses, recipe, students
from policykd.config import REWARDED, FrontierConfig, RewardConfig
from policykd.datasets import Ring
from policykd.errors import SpaceError, UsageError
from policykd.learner import Learner
from policykd.losses import combine
from policykd.networks import Normaliser
from policykd.news import Tick
from policykd.policy import Policy
from policykd.prediction import Progress, Spec, Update
from policykd.reinforced import ActorCritic, advised, check_gate, critic_for, reinforced, start
from policykd.reinforced.actor_critic import rescale
from policykd.reinforced.experience import log_prob
from policykd.rollouts import make
from policykd.run import Run
from policykd.run.record import record
from policykd.students import Student
from policykd.teachers import Ensemble

CONFIG = RewardConfig(rollout=64, epochs=2, minibatch=32, critic_first=1, teacher_until=0.0)


def setting(
    teacher: Policy, env: Any, actor: Policy | None = None, config: RewardConfig = CONFIG, envs: int = 4, **how: Any
) -> Any:
    """A Learner and an Experience, as ``distill`` puts them together."""
    actor = actor or students.mlp(teacher.spec, (8,))
    how = {"loss": losses.forward_kl, "ratio": True, "lr": 1e-2, **how}
    return start(actor, teacher, make(recipe.load(env), envs), config, **how)


# What a rollout says


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_advantages_of_whole_episodes_by_hand(gamma: float) -> None:
    """Episodes that end for good and that are cut off, in environments with rows of resets between them."""
    teacher = Told(Diary.spec_of, lambda obs: torch.zeros(len(obs), 2))
    config = RewardConfig(gamma=gamma, gae_lambda=0.8, normalise_reward=False)
    learner, experience = setting(teacher, Diary, config=config, envs=5)
    found = experience.rollout(learner.student, 11)
    batch, rows = found.batch, {}
    assert found.steps == len(batch) < 5 * 11 and batch.mask is None
    assert isinstance(batch.obs, Tensor)
    for i, (seed, episode, t) in enumerate(batch.obs.long().tolist()):
        assert t < Diary.length(seed, episode), "no row of a reset step"
        rows[seed, episode, t] = i
    critic, cut, ended = learner.student.critic, 0, 0
    for (seed, episode, t), i in rows.items():
        after = torch.tensor([[seed, episode, t + 1]], dtype=torch.float64)
        follows = float(critic.label(after).value)
        last = Diary.length(seed, episode)
        if t + 1 == last:
            ended, cut = ended + (last > 2), cut + (last == 2)
            follows = 0.0 if last > 2 else follows
        reward = t + 1 + 100 * float(batch.extra["action"][i])
        delta = reward + gamma * follows - float(batch.extra["old_value"][i])
        j = rows.get((seed, episode, t + 1))
        later = 0.0 if j is None else float(batch.extra["return"][j] - batch.extra["old_value"][j])
        raw = float(batch.extra["return"][i] - batch.extra["old_value"][i])
        assert raw == pytest.approx(delta + gamma * 0.8 * later, abs=1e-2)
    assert cut > 3 and ended > 3
    raws = batch.extra["return"] - batch.extra["old_value"]
    torch.testing.assert_close(batch.extra["advantage"], (raws - raws.mean()) / raws.std(), atol=1e-4, rtol=1e-3)


class Echo(gym.Env):
    """Any action space; the observation is a draw, the reward how large the action is. It keeps what it was given."""

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    given: list[np.ndarray] = []  # noqa: RUF012

    def __init__(self, action_space: spaces.Space) -> None:
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.random(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        Echo.given.append(np.array(action))
        self.t += 1
        return self.np_random.random(2, np.float32), float(np.sum(action)), self.t == 100, False, {}


SPACES: dict[str, spaces.Space] = {
    "categorical": spaces.Discrete(3, start=2),
    "multi_categorical": spaces.MultiDiscrete([2, 3], start=np.array([1, 0])),
    "bernoulli": spaces.MultiBinary(3),
    "diag_gaussian": spaces.Box(np.float32(-0.5), np.float32(0.5), (2,)),
    "tanh_gaussian": spaces.Box(np.array([-1, 0], np.float32), np.array([3, 1], np.float32)),
}


@pytest.mark.parametrize("family", SPACES)
def test_actions_are_kept_as_they_were_drawn(family: Any) -> None:
    """What the environment was given is the kept action, clipped, squashed and shifted; its probability is exact."""
    spec = Spec(Echo.observation_space, SPACES[family], family)
    teacher, actor = students.mlp(spec, (4,), seed=1), students.mlp(spec, (4,), seed=2)
    learner, experience = setting(teacher, lambda: Echo(SPACES[family]), actor, envs=1)
    Echo.given.clear()
    batch = experience.rollout(learner.student, 60).batch
    action = batch.extra["action"]
    given = np.stack(Echo.given)
    kept = spec.to_env(torch.tanh(action) if family == "tanh_gaussian" else action)
    np.testing.assert_allclose(given, kept, atol=1e-6)
    assert len(np.unique(given, axis=0)) > 1, "it explores"
    if family == "diag_gaussian":
        assert float(action.abs().max()) > 0.5, "kept as drawn, before the bounds"
    torch.testing.assert_close(batch.extra["old_log_prob"], log_prob(actor.label(batch.obs).dist, action))
    terms: set[str] = set()
    for update in reinforced(learner, experience, CONFIG, steps=320):
        assert np.isfinite(float(update.loss))
        terms = terms | update.terms.keys()
    assert terms == {"policy/surrogate", "value/return", "teacher/policy"}


def test_forbidden_actions_are_not_done_and_have_no_probability() -> None:
    teacher = Told(Gates.spec_of, lambda obs: torch.tensor([9.0, 2.0, 1.0]).expand(len(obs), 3))
    learner, experience = setting(teacher, Gates)
    batch = experience.rollout(learner.student, 20).batch
    legal = torch.from_numpy(np.stack([Gates.allowed(int(t)) for t in batch.obs[:, 0]]))
    assert torch.equal(batch.extra["allowed"], legal)
    assert legal.gather(1, batch.extra["action"].unsqueeze(1)).all()
    only = batch.extra["old_log_prob"][legal.sum(1) == 1]
    torch.testing.assert_close(only, torch.zeros_like(only))
    updates = list(reinforced(learner, experience, CONFIG, steps=600))
    assert all(np.isfinite(float(u.loss)) for u in updates)
    # Steps 2 and 3 allow 1 and 2; action 2 earns more, the teacher thinks otherwise.
    probs = learner.student.actor.label(torch.tensor([[2.0]])).dist.probs
    assert float(probs[0, 2]) > float(probs[0, 1])


def test_the_first_ratio_is_one_and_the_average_never_acts() -> None:
    config = RewardConfig(rollout=128, epochs=1, minibatch=64, critic_first=0, reward_average=0.9)
    learner, experience = setting(Balancer(), "CartPole-v1", config=config)
    assert learner.averaged is not learner.student
    for _ in reinforced(learner, experience, config, steps=512):
        pass
    own, averaged = (p.actor.action_head.weight for p in (learner.student, learner.averaged))
    assert not torch.equal(own, averaged)
    batch = experience.rollout(learner.student, 8).batch
    acted = learner.student.label(batch.obs).dist.log_prob(batch.extra["action"])
    torch.testing.assert_close(batch.extra["old_log_prob"], acted)
    update = learner.step(batch)
    assert float(update.terms["policy/surrogate"]) == pytest.approx(0, abs=1e-5), "r = 1: minus the mean advantage"


def test_labels_are_made_once_a_row_and_not_once_an_epoch() -> None:
    teacher = Balancer()
    learner, experience = setting(teacher, "CartPole-v1")
    rollouts = len({u.progress.env_steps for u in reinforced(learner, experience, CONFIG, steps=640)})
    assert teacher.calls == rollouts, "one call a rollout"
    assert 640 <= teacher.rows <= 640 + 64


# The loop


def updates_of(config: RewardConfig, steps: int, **how: Any) -> tuple[Any, list[Update]]:
    learner, experience = setting(Balancer(), "CartPole-v1", config=config)
    return learner, list(reinforced(learner, experience, config, steps=steps, **how))


@pytest.mark.parametrize(("steps", "rollout", "minibatch"), [(300, 64, 32), (64, 64, 1000), (5, 64, 32), (129, 64, 7)])
def test_budgets_are_kept(steps: int, rollout: int, minibatch: int) -> None:
    config = RewardConfig(rollout=rollout, epochs=3, minibatch=minibatch, critic_first=0)
    _, found = updates_of(config, steps, taken=1000)
    taken = found[-1].progress.env_steps - 1000
    assert steps <= taken < steps + 4 and found[-1].progress.fraction == 1.0
    assert [u.step for u in found] == list(range(1, len(found) + 1))
    assert [u.progress.updates for u in found] == list(range(len(found)))
    assert [u.progress.env_steps for u in found] == sorted(u.progress.env_steps for u in found)
    rollouts = len({u.progress.env_steps for u in found})
    assert len(found) >= 3 * rollouts and len(found) % 3 == 0


def test_a_rollout_of_nothing_but_resets_is_passed_over() -> None:
    teacher = Told(Diary.spec_of, lambda obs: torch.zeros(len(obs), 2))
    config = RewardConfig(rollout=1, epochs=1, critic_first=0)
    learner, experience = setting(teacher, Diary, config=config, envs=1)
    found = list(reinforced(learner, experience, config, steps=12))
    assert [u.progress.env_steps for u in found] == list(range(1, 13))
    assert all(np.isfinite(float(u.loss)) for u in found)
    assert bool(torch.isfinite(learner.student.actor.action_head.weight).all())


def test_at_first_only_the_critic_learns() -> None:
    config = RewardConfig(rollout=64, epochs=1, minibatch=64, critic_first=3)
    learner, experience = setting(Balancer(), "CartPole-v1", config=config)
    actor, critic = learner.student.actor, learner.student.critic
    before = [p.clone() for p in actor.parameters()]
    value = critic.value_head.weight.clone()
    heads = [p.clone() for p in critic.action_head.parameters()]
    for i, update in enumerate(reinforced(learner, experience, config, steps=320, value_weight=0.5)):
        same = all(map(torch.equal, before, actor.parameters()))
        assert same == (i < 3)
        assert set(update.terms) >= ({"value/return", "teacher_value"} if i < 3 else {"policy/surrogate"})
    assert not torch.equal(value, critic.value_head.weight)
    assert all(map(torch.equal, heads, critic.action_head.parameters())), "of the critic only the value learns"


def test_a_teachers_values_are_asked_for_only_where_they_mean_the_same() -> None:
    for gamma, names in ((0.99, {"value/return", "teacher_value"}), (0.9, {"value/return"})):
        config = RewardConfig(rollout=64, epochs=1, gamma=gamma)
        learner, experience = setting(Balancer(), "CartPole-v1", config=config)
        update = next(reinforced(learner, experience, config, steps=64, value_weight=0.5))
        assert set(update.terms) == names
    with pytest.raises(UsageError, match=r"gamma 0\.99 and a student of gamma 0\.9.*reinforced\.gate"):
        setting(Balancer(), "CartPole-v1", config=RewardConfig(gamma=0.9, value_gate=True))


def test_progress_is_filled_in_once_a_rollout() -> None:
    memory, asked = Ring(64, seed=0, extra=False), []

    def known(progress: Progress) -> Progress:
        asked.append((progress.env_steps, len(memory)))
        return Progress(progress.env_steps, 0, progress.fraction, retention=0.5)

    _, found = updates_of(CONFIG, 200, known=known, memory=memory)
    assert {u.progress.retention for u in found} == {0.5}
    assert len(asked) == len({u.progress.env_steps for u in found}) and all(rows > 0 for _, rows in asked)


def test_same_seed_same_weights() -> None:
    def weights(seed: int) -> list[float]:
        learner, experience = setting(Balancer(), "CartPole-v1", seed=seed)
        list(reinforced(learner, experience, CONFIG, steps=256, seed=seed))
        return learner.student.actor.action_head.weight.flatten().tolist()  # type: ignore[no-any-return]

    assert weights(0) == weights(0) != weights(1)


# Actor and critic


def test_a_critic_reads_through_the_actors_normaliser_and_another_unit_changes_no_word() -> None:
    actor = students.mlp(CARTPOLE, (8,))
    actor.normaliser = Normaliser(np.array([1.0, 2, 3, 4]), np.array([4.0, 4, 4, 4]))
    critic = critic_for(actor, seed=3)
    obs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert critic.normaliser is actor.normaliser
    before = critic(obs).value
    rescale(critic, 250.0)
    assert float(critic.value_units[1]) == 250
    torch.testing.assert_close(critic(obs).value, before)
    pair = ActorCritic(actor, critic)
    torch.testing.assert_close(pair(obs).dist.logits, actor(obs).dist.logits)
    assert pair(obs, values=False).value is None and pair.acting_parameters == actor.acting_parameters
    action, _ = pair.predict(np.zeros(4, np.float32), deterministic=True)
    assert action == actor.predict(np.zeros(4, np.float32), deterministic=True)[0]


def test_the_critics_unit_follows_the_returns_where_asked() -> None:
    for normalise in (True, False):
        config = RewardConfig(rollout=128, normalise_reward=normalise)
        learner, experience = setting(Balancer(), "CartPole-v1", config=config)
        units = [float(experience.rollout(learner.student, 32).batch.extra["unit"][0]) for _ in range(3)]
        assert (len(set(units)) == 3) == normalise
        assert (units[-1] == pytest.approx(experience.scale.unit, rel=1e-5)) == normalise


def test_who_cannot_learn_from_reward() -> None:
    box = spaces.Box(-1, 1, (2,))
    for family in ("deterministic", "tanh_deterministic"):
        actor = students.mlp(Spec(box, box, family), (4,))  # type: ignore[arg-type]
        with pytest.raises(SpaceError, match=rf"family {family}.*--method dagger.*reinforced\.density"):
            ActorCritic(actor, critic_for(actor))
        with pytest.raises(SpaceError, match=r"reinforced\.density"):
            kd.distill(actor, None, "Pendulum-v1", method="ppd")
    actor = students.mlp(CARTPOLE, (4,), value=True)
    with pytest.raises(UsageError, match=r"value head.*reinforced\.actor"):
        ActorCritic(actor, critic_for(actor))


# distill()


FAST: dict[str, Any] = {
    "steps": 4096,
    "imitate": 1024,
    "rollout": 256,
    "minibatch": 128,
    "epochs": 5,
    "reward_rate": 0.01,
    "critic_first": 1,
    "teacher_until": 0.5,
    "looks": 3,
    "select_episodes": 20,
    "max_episodes": 100,
    "workers": 1,
}


UNFADED = {name: value for name, value in FAST.items() if name != "teacher_until"}


def halfway() -> Keen:
    """Takes 7 of 10 coins; random actions take 5."""
    return Keen(0.7)


@pytest.mark.parametrize("method", REWARDED)
def test_a_student_passes_a_teacher_that_leaves_coins_behind(method: str) -> None:
    """The teacher takes 7 of 10; whoever imitates takes 7, whoever sees the reward takes 10."""
    ticks: list[Tick] = []
    report = kd.distill(halfway(), None, Coins, hidden=(8,), method=method, on_tick=ticks.append, **FAST)
    assert report.teacher.return_mean == pytest.approx(7, abs=0.3)
    assert report.student.return_mean > 9.5
    assert report.retention.low is not None and report.retention.low > 1.5
    assert (report.method, report.stopped_by, report.kind) == (method, "budget", "distill")
    assert 4096 <= report.env_steps < 4096 + 16
    assert len(report.history) == 1 + 3 and report.history[0]["env_steps"] < 1100
    assert report.config["teacher_until"] == 0.5 and report.config["rollout"] == 256
    student = report.policy
    assert isinstance(student, Student) and student.value_head is None
    assert report.student.params == 1 * 8 + 8 + 8 * 2 + 2
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False)) == report.to_dict()
    steps = [t.update.progress.env_steps for t in ticks]
    assert steps == sorted(steps) and all(t.total_steps == 4096 for t in ticks)
    weights = [
        float(t.update.weights.get("teacher/policy", 0.0)) for t in ticks if "policy/surrogate" in t.update.terms
    ]
    assert weights[0] > 0.6 and weights == sorted(weights, reverse=True) and weights[-1] == 0
    told = [t.update.progress for t in ticks]
    assert told[-1].retention == pytest.approx(report.history[-2]["retention"])
    assert all(p.agreement is not None and 0 <= p.agreement <= 1 for p in told)
    assert report.updates == ticks[-1].learner.updates + 2 * 5, "one rollout was the critic's"


def test_who_only_imitates_does_not() -> None:
    report = kd.distill(halfway(), None, Coins, hidden=(8,), method="dagger", steps=2048, cycles=1, max_episodes=100)
    assert report.student.return_mean < 7.6


def test_plain_ppo_is_a_weight_of_zero_without_imitation() -> None:
    terms: set[str] = set()

    def note(tick: Tick) -> None:
        terms.update(tick.update.terms)

    how = {**FAST, "imitate": 0, "teacher_weight": 0.0, "steps": 6144}
    report = kd.distill(halfway(), None, Coins, hidden=(8,), method="ppd", on_tick=note, **how)
    assert terms == {"policy/surrogate", "value/return"}
    assert report.student.return_mean > 9 and len(report.history) == 3


def test_the_same_seed_gives_the_same_report() -> None:
    def numbers(seed: int) -> Any:
        how = {**FAST, "steps": 2048, "seed": seed}
        said = kd.distill(halfway(), None, Coins, hidden=(4,), method="ppd", **how).to_dict()
        return {k: v for k, v in said.items() if k not in ("seconds", "cpu_seconds", "config", "seed")}

    assert numbers(0) == numbers(0) != numbers(1)


def test_guard_and_target() -> None:
    report = kd.distill(halfway(), None, Coins, hidden=(4,), method="ppd", max_seconds=0.0, **FAST)
    assert report.stopped_by == "time" and report.env_steps < 4096
    report = kd.distill(halfway(), None, Coins, hidden=(8,), method="ppd", until_retention=1.3, **FAST)
    assert report.stopped_by == "target" and report.env_steps < 4096 and report.student.return_mean > 7.5


def test_ordinary_distillation_knows_what_it_has_reached_too() -> None:
    told: list[Progress] = []
    kd.distill(
        Balancer(),
        None,
        "CartPole-v1",
        hidden=(4,),
        num_envs=8,
        steps=512,
        cycles=2,
        rows_per_update=64,
        learning_rate=1e-5,
        select_episodes=8,
        max_episodes=100,
        on_tick=lambda tick: told.append(tick.update.progress),
    )
    assert all((p.retention is None) == (p.env_steps <= 512) for p in told)
    assert all(p.agreement is not None and 0 <= p.agreement <= 1 for p in told)


# Weights that follow the run


@pytest.mark.parametrize("method", REWARDED)
def test_a_users_weight_is_told_the_progress_and_is_in_the_charts(method: str, tmp_path: Path) -> None:
    seen: list[Progress] = []
    ticks: list[Tick] = []

    def weight(progress: Progress) -> float:
        seen.append(progress)
        return 0.25 + 0.5 * progress.fraction

    run = Run.create(tmp_path / "r", config={}, command="")
    chart, on_look = record(run)

    def on_tick(tick: Tick) -> None:
        ticks.append(tick)
        chart(tick)

    report = kd.distill(
        halfway(), None, Coins, hidden=(4,), method=method, teacher_weight=weight, on_tick=on_tick, on_look=on_look,
        **{**UNFADED, "critic_first": 0},
    )  # fmt: skip
    run.finish(report)
    assert seen[0].fraction < 0.1 and seen[-1].fraction == 1.0 and seen[-1].env_steps == report.env_steps
    assert all(p.agreement is not None and 0 <= p.agreement <= 1 for p in seen)
    # Imitation is looked at before there is reward, and each look is known from then on.
    looked = [look["retention"] for look in report.history]
    assert list(dict.fromkeys(p.retention for p in seen)) == looked[:-1]
    rewarded = [t.update for t in ticks if "policy/surrogate" in t.update.terms]
    assert all(u.weights["teacher/policy"] == 0.25 + 0.5 * u.progress.fraction for u in rewarded)
    events = EventAccumulator(str(tmp_path / "r/student"))
    events.Reload()
    drawn = {e.step: e.value for e in events.Scalars("distill/weight/teacher/policy")}
    assert drawn == {u.progress.env_steps: pytest.approx(u.weights["teacher/policy"]) for u in rewarded}
    assert (report.config["teacher_weight"], report.config["teacher_until"]) == ("a function of progress", None)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False)) == report.to_dict()


def test_the_line_of_the_config_as_a_schedule_is_the_same_run() -> None:
    def numbers(**how: Any) -> Any:
        how = {**UNFADED, "steps": 2048, "critic_first": 0, **how}
        said = kd.distill(halfway(), None, Coins, hidden=(4,), method="ppd", **how).to_dict()
        return {k: v for k, v in said.items() if k not in ("seconds", "cpu_seconds", "config")}

    line = losses.weights.linear(1.0, 0.0, finish=0.5)
    assert numbers(teacher_weight=line) == numbers(teacher_until=0.5) != numbers(teacher_weight=0.1, teacher_until=0.5)


def test_a_teacher_counts_less_the_more_its_student_keeps() -> None:
    told: list[Update] = []
    kd.distill(
        halfway(), None, Coins, hidden=(4,), method="kickstart", teacher_weight=losses.weights.by_performance(2.0),
        on_tick=lambda tick: told.append(tick.update), **{**UNFADED, "imitate": 0, "steps": 6144, "critic_first": 0},
    )  # fmt: skip
    first = told[0]
    assert first.progress.retention is None and first.weights["teacher/policy"] == 2.0, "nobody has looked"
    for update in told:
        expected = 2.0 * max(1.0 - (update.progress.retention or 0.0), 0.0)
        assert update.weights.get("teacher/policy", 0.0) == pytest.approx(expected)
    assert "teacher/policy" not in told[-1].terms, "a student that has passed its teacher is not held back"


def test_what_a_weight_remembers_stays_with_its_student() -> None:
    dwa = losses.DynamicAverage(("teacher", "value"), window=3)
    told: list[Update] = []
    kd.distill(
        halfway(), None, Coins, hidden=(4,), via=["8"], method="ppd", teacher_weight=dwa.weight("teacher"),
        on_tick=lambda tick: told.append(tick.update), **{**UNFADED, "steps": 2048},
    )  # fmt: skip
    weights = [u.weights["teacher/policy"] for u in told if "policy/surrogate" in u.terms]
    assert weights[-1] != 1.0 and weights.count(1.0) >= 2, "both stages began in memories of their own"
    assert int(dwa._counts[1]) >= 2, "the student's is the one that was given"


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"method": "dagger", "teacher_weight": lambda p: 1.0}, "distill.weight"),
        ({"method": "ppd", "teacher_weight": lambda p: 1.0, "teacher_until": 0.2}, "distill.weight"),
        (
            {"method": "ppd", "teacher_weight": lambda p: 1.0, "reward": RewardConfig(teacher_until=0.2)},
            "distill.weight",
        ),
        ({"method": "ppd", "teacher_weight": "half"}, "config.range"),
        ({**UNFADED, "method": "ppd", "teacher_weight": lambda p: float("nan")}, "loss.weight"),
    ],
)
def test_weights_that_cannot_be_meant(how: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as why:
        kd.distill(halfway(), None, Coins, hidden=(4,), **how)
    assert why.value.code == code
    with pytest.raises(UsageError, match=r"distill\(\.\.\., teacher_weight=weight\) \[config\.range\]"):
        RewardConfig(teacher_weight=lambda p: 1.0)  # type: ignore[arg-type]


# The value gate, before anything is learnt


def valuer(gamma: float | None) -> Balancer:
    found = Balancer()
    found.origin = replace(found.origin, gamma=gamma)
    return found


@pytest.mark.parametrize(
    ("teacher", "gamma", "says"),
    [
        (Keen(0.7), None, r"a teacher without values; .* leave --value-gate out"),
        (valuer(None), None, r"does not say the gamma of its values; .* say it in teacher\.origin"),
        (valuer(None), 0.99, r"does not say the gamma of its values"),
        (valuer(0.99), 0.9, r"gamma 0\.99 and a student of gamma 0\.9; .* leave --gamma out, or --value-gate"),
        (Ensemble([valuer(0.99), valuer(0.98)], combine.mean), None, r"teachers of gamma 0\.99, 0\.98, .*--value-gate"),
        (Ensemble([valuer(None), valuer(None)], combine.mean), None, r"teachers of gamma None, None, .*--value-gate"),
    ],
)
def test_a_gate_without_comparable_values_is_refused_before_any_step(
    teacher: Policy, gamma: float | None, says: str
) -> None:
    student = students.mlp(teacher.spec, (4,))
    before = [p.clone() for p in student.parameters()]
    env = Coins if isinstance(teacher, Keen) else "CartPole-v1"
    with pytest.raises(UsageError, match=rf"{says}.* \[reinforced\.gate\]"):
        kd.distill(teacher, student, env, method="ppd", value_gate=True, gamma=gamma, **{**FAST, "steps": 10**9})
    assert all(map(torch.equal, before, student.parameters()))


def test_a_gate_with_values_of_one_discount_passes() -> None:
    for teacher in (valuer(0.9), Ensemble([valuer(0.9), valuer(0.9)], combine.mean)):
        check_gate(RewardConfig(value_gate=True), teacher)
        check_gate(RewardConfig(value_gate=True, gamma=0.9), teacher)
    check_gate(RewardConfig(), Keen(0.7))


# ADVISOR


def advised_weights(teacher: Policy) -> tuple[Student, list[float]]:
    """A student of a teacher by ADVISOR, and what the teacher counted for over the updates."""
    actor = students.mlp(Coins.spec_of, (8,))
    config = RewardConfig(rollout=256, epochs=5, minibatch=128, critic_first=1)
    learner, experience = setting(teacher, Coins, actor, config)
    objective = advised(copy.deepcopy(actor), alpha=30.0)
    learner = Learner(learner.student, objective, lr=0.01, average=None, max_grad_norm=0.5)
    found = list(reinforced(learner, experience, config, steps=6144))
    return actor, [float(u.weights["advisor/imitation"]) for u in found if "advisor/imitation" in u.weights]


def test_advisor_follows_the_teacher_where_it_can_be_imitated_and_reward_where_not() -> None:
    riddle = Told(Coins.spec_of, lambda obs: 5 * torch.cat([torch.sin(400 * obs), -torch.sin(400 * obs)], -1))
    actor, weights = advised_weights(riddle)
    assert weights[-1] < 0.2
    assert kd.evaluate(actor, Coins, 20, workers=1).mean > 9.5
    actor, weights = advised_weights(Keen(0.7))
    assert weights[-1] > 0.5
    assert kd.evaluate(actor, Coins, 20, workers=1).mean < 8.5, "a teacher that can be imitated is, wrong or not"


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"gamma": 1.5}, r"--gamma 1.5; expected a number from 0 to 1.*config\.range"),
        ({"teacher_weight": -1}, r"--teacher-weight -1.*config\.range"),
        ({"gae_lambda": float("nan")}, r"--gae-lambda nan.*config\.range"),
        ({"reward_rate": 0}, r"--reward-rate 0.*config\.range"),
        ({"epochs": 0}, r"--epochs 0; expected at least 1.*config\.zero"),
        ({"looks": 0}, r"--looks 0.*config\.zero"),
    ],
)
def test_knobs_that_cannot_be_meant(knobs: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        RewardConfig(**knobs)


def test_a_frontier_learns_from_no_reward() -> None:
    with pytest.raises(UsageError, match=r"policykd distill --method ppd --hidden SIZE \[config\.rewarded\]"):
        FrontierConfig(method="ppd")
