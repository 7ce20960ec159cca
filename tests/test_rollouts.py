"""What a Collector hands on: every row once, from no reset step, by the right actor, with its own reward and end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from toys import CARTPOLE, Balancer, Diary, Gates, Told

from policykd import recipe
from policykd.distributions import Categorical
from policykd.errors import DistributionError, EnvError
from policykd.policy import Policy
from policykd.prediction import EnvWrapper, Prediction, Spec
from policykd.rollouts import Collector, make
from policykd.rollouts.vector import action_masks, masks_actions, native

DIARY = recipe.load(Diary)
SEED = 50


def always(action: int, spec: Spec = Diary.spec_of) -> Told:
    row = torch.tensor([-5.0, 5.0] if action else [5.0, -5.0])
    return Told(spec, lambda obs: row.expand(*obs.shape[:-1], 2))


@pytest.fixture(params=["sync", "async"])
def diaries(request: pytest.FixtureRequest) -> Iterator[VectorEnv]:
    envs = make(DIARY, 3, request.param)
    yield envs
    envs.close()


def pages(steps: int, envs: int = 3) -> list[list[tuple[float, float, float]]]:
    """By hand, for each environment: what is acted on in ``steps`` vector steps; None stands for a reset step."""
    written = []
    for seed in range(SEED, SEED + envs):
        rows: list[Any] = []
        episode = 0
        while len(rows) < steps:
            rows += [(seed, episode, t) for t in range(Diary.length(seed, episode))] + [None]
            episode += 1
        written.append(rows[:steps])
    return written


def test_rows_are_those_acted_on_each_once_and_none_of_a_reset_step(diaries: VectorEnv) -> None:
    collector = Collector(diaries, always(0), seed=SEED)
    seen = [collector.collect(n) for n in (1, 5, 7)]  # a round may begin in the middle of an episode
    rows = torch.cat([r.batch.obs for r in seen])
    expected = [row for step in zip(*pages(13), strict=True) for row in step if row is not None]
    assert rows.tolist() == [list(row) for row in expected]
    assert sum(r.steps for r in seen) == len(expected) == sum(len(r.batch) for r in seen)


def test_rewards_and_ends_stand_beside_their_observation(diaries: VectorEnv) -> None:
    batch = Collector(diaries, always(1), seed=SEED).collect(20).batch
    length = [Diary.length(int(s), int(e)) for s, e, _ in batch.obs.tolist()]
    t = batch.obs[:, 2]
    assert batch.extra["reward"].tolist() == (t + 1 + 100).tolist()
    assert batch.extra["done"].tolist() == (t + 1 == torch.tensor(length)).tolist()
    assert set(batch.extra["action"].tolist()) == {1}


def test_returns_and_lengths_of_finished_episodes(diaries: VectorEnv) -> None:
    collector = Collector(diaries, always(1), seed=SEED)
    rounds = [collector.collect(n) for n in (2, 9, 4)]
    found = sorted(pair for r in rounds for pair in zip(r.returns, r.lengths, strict=True))
    lengths = []
    for seed in range(SEED, SEED + 3):
        steps, episode = 15, 0
        while (length := Diary.length(seed, episode)) <= steps:
            lengths.append(length)
            steps, episode = steps - length - 1, episode + 1
    assert found == sorted((100.0 * n + n * (n + 1) / 2, n) for n in lengths)
    assert collector.recent_return == pytest.approx(np.mean([r for r, _ in found]))


def test_whole_episodes_with_their_final_observation(diaries: VectorEnv) -> None:
    collector = Collector(diaries, always(0), seed=SEED, episodes=True)
    rounds = [collector.collect(n) for n in (4, 9)]
    batches = [r.batch for r in rounds]
    obs, mask = torch.cat([b.obs for b in batches]), torch.cat([b.mask for b in batches])
    extra = {k: torch.cat([b.extra[k] for b in batches]) for k in batches[0].extra}
    assert len(obs) == 13 * 3 and int(mask.sum()) == sum(r.steps for r in rounds)
    names = {}
    for row, number in zip(obs.tolist(), extra["episode"].tolist(), strict=True):
        names.setdefault(number, set()).add((row[0], row[1]))
    assert all(len(pair) == 1 for pair in names.values())
    assert len(set().union(*names.values())) == len(names), "one number an episode, one episode a number"
    length = torch.tensor([Diary.length(int(s), int(e)) for s, e, _ in obs.tolist()])
    assert mask.tolist() == (obs[:, 2] < length).tolist()
    assert extra["terminated"].tolist() == ((obs[:, 2] + 1 == length) & (length > 2)).tolist()
    assert extra["done"][~mask].sum() == 0 and extra["reward"][~mask].sum() == 0


@pytest.mark.parametrize("mode", ["auto", "sync", "async"])
def test_cartpole_equals_a_loop_by_hand(mode: Literal["auto", "sync", "async"]) -> None:
    """Seven environments, a policy that drops the pole: 200 steps hold many ends."""
    found = recipe.load("CartPole-v1")
    assert native(found)
    policy = Balancer(-10.0)
    envs = make(found, 7, mode)
    rollout = Collector(envs, policy, seed=3).collect(200)
    envs.close()
    twin = make(found, 7, mode)
    obs, rows, rewards, dones, returns = twin.reset(seed=3)[0].copy(), [], [], [], []
    reset, earned = np.zeros(7, bool), np.zeros(7)
    for _ in range(200):
        action = policy.predict(obs, deterministic=True)[0]
        after, reward, terminated, truncated, _ = twin.step(action)
        rows.append(obs[~reset])
        rewards.append(reward[~reset])
        dones.append((terminated | truncated)[~reset])
        earned[~reset] += reward[~reset]
        obs, reset = after.copy(), terminated | truncated
        returns += earned[reset].tolist()
        earned[reset] = 0
    twin.close()
    assert np.array_equal(rollout.batch.obs.numpy(), np.concatenate(rows))
    assert np.array_equal(rollout.batch.extra["reward"].numpy(), np.concatenate(rewards))
    assert np.array_equal(rollout.batch.extra["done"].numpy(), np.concatenate(dones))
    assert list(rollout.returns) == returns and len(returns) > 100
    assert rollout.steps < 7 * 200
    assert rollout.batch.obs[:, 2].abs().max() < 0.2095, "beyond that angle the episode has ended"


def test_labels_are_the_teachers_words_once_an_observation() -> None:
    envs = make(recipe.load("CartPole-v1"), 5)
    teacher, student = Balancer(), Balancer(-10.0)
    rollout = Collector(envs, teacher, seed=0).collect(40, student, 0.0)
    assert (teacher.calls, teacher.rows) == (1, rollout.steps), "nothing is labelled twice, and no reset row at all"
    word = teacher.label(rollout.batch.obs)
    assert torch.equal(rollout.batch.target.dist.logits, word.dist.logits)
    assert torch.equal(rollout.batch.target.value, word.value)
    assert not rollout.batch.target.dist.logits.requires_grad
    for beta in (0.5, 1.0):
        teacher = Balancer()
        rollout = Collector(envs, teacher, seed=0).collect(40, student, beta)
        assert (teacher.calls, teacher.rows) == (40, 40 * 5), "acting and labelling are one call a step"
        assert torch.allclose(rollout.batch.target.dist.logits, teacher.label(rollout.batch.obs).dist.logits)
    envs.close()


def test_values_are_left_out_on_request() -> None:
    envs = make(recipe.load("CartPole-v1"), 2)
    for beta in (0.0, 1.0):
        assert Collector(envs, Balancer(), seed=0, values=False).collect(3, Balancer(), beta).batch.target.value is None


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_who_acts_is_drawn_for_each_environment_and_step(beta: float) -> None:
    envs = make(DIARY, 8, "sync")
    student, teacher = always(0), always(1)
    collector = Collector(envs, teacher, seed=0)
    rollouts = [collector.collect(25, student, beta) for _ in range(8)]
    batch = [r.batch for r in rollouts]
    acted = torch.cat([b.extra["action"] for b in batch]).double()
    seeds = torch.cat([b.obs[:, 0] for b in batch])
    assert acted.mean() == pytest.approx(beta, abs=0.05)
    for seed in range(8):
        assert acted[seeds == seed].mean() == pytest.approx(beta, abs=0.12)
    if 0 < beta < 1:
        single = [set(collector.collect(1, student, beta).batch.extra["action"].tolist()) for _ in range(40)]
        assert sum(len(s) == 2 for s in single) > 20, "drawn for each environment"
        same = acted[seeds == 0][1:] == acted[seeds == 0][:-1]
        assert same.double().mean() == pytest.approx(beta**2 + (1 - beta) ** 2, abs=0.15), "drawn anew at each step"
    assert {tuple(r) for b in batch for r in b.target.dist.logits.tolist()} == {(-5.0, 5.0)}, "the teacher labels all"


def test_nobody_else_needs_to_be_there_when_the_teacher_acts() -> None:
    envs = make(DIARY, 2, "sync")
    assert set(Collector(envs, always(1), seed=0).collect(4).batch.extra["action"].tolist()) == {1}


def test_exploring_draws_and_the_same_seed_draws_the_same() -> None:
    def actions(seed: int, explore: bool) -> list[int]:
        envs = make(DIARY, 4, "sync")
        told = Told(Diary.spec_of, lambda obs: torch.tensor([0.0, 1.0]).expand(len(obs), 2))
        return Collector(envs, told, seed=seed, explore=explore).collect(100).batch.extra["action"].tolist()

    assert set(actions(0, False)) == {1}
    drawn = actions(0, True)
    assert np.mean(drawn) == pytest.approx(1 / (1 + np.exp(-1)), abs=0.1)
    assert drawn == actions(0, True) != actions(1, True)


def test_dict_observations() -> None:
    class Room(Diary):
        observation_space = spaces.Dict({"page": Diary.observation_space, "flag": spaces.Discrete(2)})

        def _page(self) -> Any:
            return {"page": super()._page(), "flag": self.t % 2}

    class Reader(Policy):
        acting_parameters = 0

        def forward(self, obs: Any, state: Any = None, start: Any = None, *, values: bool = True) -> Prediction:
            return Prediction(Categorical(torch.stack([obs["page"][..., 2], obs["flag"].double()], -1)))

    spec = Spec(Room.observation_space, Room.action_space, "categorical")
    rollout = Collector(make(recipe.load(Room), 3, "sync"), Reader(spec), seed=SEED).collect(6, Reader(spec), 0.5)
    page, flag = rollout.batch.obs["page"], rollout.batch.obs["flag"]
    assert page.tolist() == [list(row) for step in zip(*pages(6), strict=True) for row in step if row is not None]
    assert flag.tolist() == (page[:, 2] % 2).tolist()
    assert torch.equal(rollout.batch.target.dist.logits, torch.stack([page[:, 2], flag.double()], -1))


def gates(beta: float, mode: Literal["sync", "async"] = "sync", explore: bool = False) -> Any:
    """Both policies would take action 0 first, which is never allowed."""
    teacher = Told(Gates.spec_of, lambda obs: torch.tensor([9.0, 2.0, 1.0]).expand(len(obs), 3))
    student = Told(Gates.spec_of, lambda obs: torch.tensor([9.0, 1.0, 2.0]).expand(len(obs), 3))
    envs = make(recipe.load(Gates), 3, mode)
    collector = Collector(envs, teacher, seed=0, explore=explore)
    rollout = collector.collect(23, student, beta)
    envs.close()
    return rollout.batch


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_action_masks(beta: float, mode: Literal["sync", "async"]) -> None:
    batch = gates(beta, mode)
    t = batch.obs[:, 0].long()
    allowed = torch.from_numpy(np.stack([Gates.allowed(int(i)) for i in t]))
    assert torch.equal(torch.isfinite(batch.target.dist.logits), allowed), "what is forbidden is -inf in the label"
    assert (batch.target.dist.logits[allowed] == torch.tensor([9.0, 2.0, 1.0]).expand(len(t), 3)[allowed]).all()
    free = batch.extra["action"][t >= 2].tolist()
    assert set(free) == {0.0: {2}, 0.5: {1, 2}, 1.0: {1}}[beta], "student 2, teacher 1, where both may"


def test_masked_actions_are_not_drawn_either() -> None:
    batch = gates(0.5, explore=True)
    assert 0 not in batch.extra["action"].tolist()


def test_masks_that_forbid_all_are_refused_but_for_a_finished_episode() -> None:
    class Shut(Gates):
        def action_masks(self) -> np.ndarray:
            return np.zeros(3, bool)

    teacher = Told(Gates.spec_of, lambda obs: torch.zeros(len(obs), 3))
    with pytest.raises(DistributionError, match=r"\[dist.mask-empty\]"):
        Collector(make(recipe.load(Shut), 2, "sync"), teacher, seed=0).collect(1)


def test_who_has_masks() -> None:
    found = recipe.load("CartPole-v1")
    for envs, expected in (
        (make(recipe.load(Gates), 2, "sync"), True),
        (make(DIARY, 2, "sync"), False),
        (make(found, 2), False),
    ):
        assert masks_actions(envs) == expected
    with pytest.raises(EnvError, match=r"\[env.masks\]"):
        action_masks(make(found, 2))


def test_native_vectors_only_where_they_can_stand_in() -> None:
    assert native(recipe.load("CartPole-v1"))
    assert not native(recipe.load("Pendulum-v1")) and not native(DIARY)
    wrapped = recipe.load("CartPole-v1", wrappers=(EnvWrapper("TimeFeature"),))
    assert not native(wrapped)
    envs = make(wrapped, 2)
    assert isinstance(envs, gym.vector.SyncVectorEnv) and envs.single_observation_space.shape == (5,)


def test_a_vector_that_resets_in_another_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = recipe.load("CartPole-v1")
    other = gym.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point")
    other.metadata = {**other.metadata, "autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
    monkeypatch.setattr(gym, "make_vec", lambda *a, **k: other)
    with pytest.raises(EnvError, match=r"\[env.autoreset\]"):
        make(found, 2)


def test_the_toy_teacher_solves_its_task() -> None:
    env = gym.make("CartPole-v1")
    assert CARTPOLE.action_space == env.action_space
    for seed in range(3):
        obs, total, over = env.reset(seed=seed)[0], 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(Balancer().predict(obs, deterministic=True)[0])
            total, over = total + float(reward), terminated or truncated
        assert total == 500
