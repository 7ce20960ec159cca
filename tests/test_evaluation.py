"""Returns, intervals and closeness: against loops by hand, toy numbers and tables of other people's."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from toys import Balancer, Diary, Gates, Lottery, Told

import policykd as kd
from policykd import evaluation, recipe
from policykd.distributions import Categorical, Deterministic, DiagGaussian, Distribution, MultiCategorical
from policykd.errors import UsageError
from policykd.evaluation import Interval, Score, compare_on, evaluate, extend, retention, student_t_interval
from policykd.policy import Policy
from policykd.prediction import EnvWrapper, Prediction, Spec
from policykd.rollouts import native, play

PENDULUM = recipe.load("Pendulum-v1")


class Constant(Policy):
    """Says one thing whatever it sees."""

    acting_parameters = 0

    def __init__(self, spec: Spec, dist: Distribution, value: torch.Tensor | None = None) -> None:
        super().__init__(spec)
        self.dist, self.value = dist, value

    def forward(self, obs: Any, state: Any = None, start: Any = None, *, values: bool = True) -> Prediction:
        return Prediction(self.dist, self.value)


class Damper(Policy):
    """Brakes a pendulum: some action in proportion to its angular velocity."""

    acting_parameters = 1

    def forward(self, obs: Any, state: Any = None, start: Any = None, *, values: bool = True) -> Prediction:
        return Prediction(DiagGaussian(-0.7 * obs[..., 2:], torch.zeros_like(obs[..., 2:])))


def damper() -> Damper:
    env = PENDULUM.make()
    return Damper(Spec(env.observation_space, env.action_space, "diag_gaussian"))


def by_hand(policy: Policy | None, env: gym.Env, seed: int) -> tuple[float, int]:
    env.action_space.seed(seed)
    obs, total, steps, over = env.reset(seed=seed)[0], 0.0, 0, False
    while not over:
        action = env.action_space.sample() if policy is None else policy.predict(obs, deterministic=True)[0]
        obs, reward, terminated, truncated, _ = env.step(action)
        total, steps, over = total + float(reward), steps + 1, terminated or truncated
    return total, steps


# Episodes


@pytest.mark.parametrize("acting", [True, False], ids=["a policy", "at random"])
def test_returns_of_seeds_equal_a_loop_by_hand(acting: bool) -> None:
    policy, env, seeds = damper() if acting else None, PENDULUM.make(), [7, 3, 11, 8]
    expected = [by_hand(policy, env, seed) for seed in seeds]
    found = play(policy, PENDULUM, seeds)
    assert found.returns == pytest.approx([r for r, _ in expected], abs=1e-4)
    assert found.lengths.tolist() == [n for _, n in expected]
    assert found.steps == sum(n for _, n in expected)


@pytest.mark.parametrize("slots", [1, 2, 3, 50])
def test_returns_do_not_depend_on_slots_or_order(slots: int) -> None:
    told = Told(Diary.spec_of, lambda obs: torch.stack([obs[..., 2] - 1.5, 1.5 - obs[..., 2]], -1))
    seeds = [9, 4, 30, 5, 12, 6, 8]
    expected = {s: by_hand(told, Diary(), s) for s in seeds}
    found = play(told, recipe.load(Diary), seeds, slots=slots)
    assert found.returns.tolist() == [expected[s][0] for s in seeds]
    back = play(told, recipe.load(Diary), seeds[::-1], slots=slots)
    assert back.returns.tolist() == found.returns.tolist()[::-1]


def test_every_seed_is_played_and_played_out() -> None:
    """Half the episodes are 40 times longer: whoever took the first to finish would report close to 0."""
    told = Told(Lottery.spec_of, lambda obs: torch.zeros(len(obs), 2))
    score = evaluate(told, Lottery, 200)
    by_seed = [by_hand(told, Lottery(), seed)[0] for seed in range(200)]
    assert score.returns.tolist() == by_seed
    assert 15 < score.mean < 25, "about half of 0 and 40"
    assert sorted(set(score.lengths.tolist())) == [1, 40] and score.mean_length == np.mean(score.lengths)


def test_a_native_vector_plays_each_slots_first_episode() -> None:
    policy, found = Balancer(-10.0), recipe.load("CartPole-v1")
    score = evaluate(policy, "CartPole-v1", 100, seed=5)
    envs = gym.make_vec("CartPole-v1", 100, vectorization_mode="vector_entry_point")
    obs, total, live = envs.reset(seed=5)[0], np.zeros(100), np.full(100, True)
    while live.any():
        obs, reward, terminated, truncated, _ = envs.step(policy.predict(obs, deterministic=True)[0])
        total += reward * live
        live &= ~(terminated | truncated)
    assert score.returns.tolist() == total.tolist()
    assert native(found)


@pytest.mark.parametrize("limit", [1, 60])
def test_a_time_limit_ends_an_episode_in_a_native_vector_too(limit: int) -> None:
    cut = kd.Recipe("CartPole-v1", env_kwargs={"max_episode_steps": limit})
    assert native(cut)
    found = evaluate(Balancer(), cut, 20)
    assert set(found.returns.tolist()) == {float(limit)} and set(found.lengths.tolist()) == {limit}


@pytest.mark.parametrize("env", ["CartPole-v1", "sync CartPole"])
def test_growing_a_score_gives_what_playing_at_once_gives(env: str) -> None:
    named: Any = env if env == "CartPole-v1" else lambda: gym.make("CartPole-v1")
    found, policy = recipe.load(named), Balancer(-3.0)
    at_once = evaluate(policy, found, 230)
    grown = None
    for episodes in (30, 100, 130, 230):
        grown = extend(grown, policy, found, episodes, seed=0)
        assert grown.episodes == episodes
        assert evaluate(policy, found, episodes).returns.tolist() == grown.returns.tolist()
    assert grown is not None and grown.returns.tolist() == at_once.returns.tolist()
    assert extend(grown, policy, found, 100) is grown


def test_same_call_same_result_and_draws_are_seeded() -> None:
    policy = Balancer(0.3)
    a, b, c = (evaluate(policy, "CartPole-v1", 20, deterministic=d).returns.tolist() for d in (False, False, True))
    assert a == b != c
    assert evaluate(None, "CartPole-v1", 20).returns.tolist() == evaluate(None, "CartPole-v1", 20).returns.tolist()


def test_observations_are_kept_from_all_of_the_play() -> None:
    told = Told(Diary.spec_of, lambda obs: torch.zeros(len(obs), 2))
    score = extend(None, told, recipe.load(Diary), 100, keep=60, workers=1)
    assert score.obs is not None and score.obs.shape == (60, 3)
    acted_on = {tuple(row) for row in torch.cat(told.seen).tolist()}
    assert {tuple(row) for row in score.obs.tolist()} <= acted_on
    assert score.obs[:, 0].max() > 80 and score.obs[:, 0].min() < 20
    assert evaluate(told, Diary, 3).obs is None


def test_wrappers_of_the_policys_origin_are_applied() -> None:
    policy = Balancer()
    policy.origin = kd.Origin(wrappers=(EnvWrapper("TimeFeature"),))
    policy.lean = torch.nn.Parameter(torch.tensor([0.5, 3.0, 10.0, 10.0, 0.0]))
    assert evaluate(policy, "CartPole-v1", 3).mean == 500


def test_no_episodes_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\[evaluate.episodes\]"):
        evaluate(None, "CartPole-v1", 0)


def test_masks_are_kept_obeyed_and_counted_in() -> None:
    """Both policies like the forbidden action 0 best; among what is allowed they agree at steps 0 and 1 only."""
    teacher = Told(Gates.spec_of, lambda obs: torch.tensor([9.0, 2.0, 1.0]).expand(len(obs), 3))
    student = Told(Gates.spec_of, lambda obs: torch.tensor([9.0, 1.0, 2.0]).expand(len(obs), 3))
    score = evaluate(student, Gates, 10, keep=40)
    assert score.returns.tolist() == [2 + 1 + 2 + 2] * 10
    assert score.obs is not None and score.masks is not None and len(score.obs) == len(score.masks) == 40
    assert score.masks.tolist() == [Gates.allowed(int(t)).tolist() for t in score.obs[:, 0]]
    kept = compare_on(score.obs, student, teacher, score.masks)
    assert kept.agreement == 0.5
    odds = 1 / (1 + math.exp(-1))
    assert kept.kl == pytest.approx(0.5 * (odds - (1 - odds)), rel=1e-5), "two actions with odds swapped, half the time"
    assert compare_on(score.obs, student, teacher).agreement == 1.0
    random = evaluate(None, Gates, 50)
    assert set(random.returns.tolist()) == {2 + 1 + a + b for a in (1, 2) for b in (1, 2)}


# Intervals


def score(returns: Any, seed: int = 0) -> Score:
    returns = np.asarray(returns, float)
    return Score(returns, np.ones(len(returns), int), seed)


def test_interval_of_a_mean_by_the_binomial_law() -> None:
    """100 episodes of 0 or 1, half each: the mean of a resample is binomial(100, 0.5) / 100."""
    low, high = score([0, 1] * 50).ci()
    assert (low, high) == (pytest.approx(0.40, abs=0.011), pytest.approx(0.60, abs=0.011))
    assert score([3.0] * 10).ci() == (3.0, 3.0) and score([3.0]).ci() == (3.0, 3.0)


def test_a_higher_level_is_wider_and_its_ends_are_refused() -> None:
    rng = np.random.default_rng(0)
    scores = [score(rng.normal(mean, 20, 100)) for mean in (90.0, 100.0, 0.0)]
    half = [retention(*scores, level=level).half_width for level in (0.5, 0.9, 0.95, 1 - 0.05 / 3, 0.999)]
    assert half == sorted(half) and half[-1] > 1.5 * half[2]
    low, high = zip(*(scores[0].ci(level) for level in (0.5, 0.9, 0.95, 1 - 0.05 / 3, 0.999)), strict=True)
    assert list(low) == sorted(low, reverse=True) and list(high) == sorted(high)
    for level in (0.0, 1.0, -0.95, 95.0, 0.9999, math.nan):
        with pytest.raises(UsageError, match=r"\[interval.level\]"):
            retention(*scores, level=level)
        with pytest.raises(UsageError, match=r"\[interval.level\]"):
            scores[0].ci(level)


def test_retention_by_hand() -> None:
    kept = retention(score([60.0] * 100), score([110.0] * 100), score([10.0] * 100))
    # The pseudo-episode (10 for the lower bound, 110 for the upper) has the weight of one in 101, Beta(1, 100) in
    # distribution: at most w = 1 - 0.025^(1/100) = 0.0362 in 97.5 % of the draws. 0.5 - 0.5 w and 0.5 + 0.5 w.
    weight = 1 - 0.025**0.01
    assert kept.value == 0.5
    assert (kept.low, kept.high) == (
        pytest.approx(0.5 - weight / 2, abs=1e-4),
        pytest.approx(0.5 + weight / 2, abs=1e-4),
    )


def test_the_pseudo_episode_moves_the_interval_and_not_the_estimate() -> None:
    """A sample without a failure is not certified as perfect; one pseudo-episode in 101 is worth 1 % of the gap."""
    kept = retention(score([100.0] * 100), score([100.0] * 100), score([0.0] * 100))
    assert kept.value == kept.high == 1.0
    assert kept.low is not None and 0.963 < kept.low < 0.965
    larger = retention(score([100.0] * 400), score([100.0] * 400), score([0.0] * 100))
    assert larger.low is not None and kept.low < larger.low < 1.0
    stricter = retention(score([100.0] * 100), score([100.0] * 100), score([0.0] * 100), level=1 - 0.05 / 3)
    assert stricter.low is not None and 0.95 < stricter.low < kept.low


def test_pairing_makes_the_interval_of_a_copy_narrow() -> None:
    returns = np.random.default_rng(0).normal(100, 60, 200)
    random = score(np.random.default_rng(1).normal(0, 10, 200))
    paired = retention(score(returns), score(returns), random)
    unpaired = retention(score(returns, seed=1), score(returns), random)
    assert paired.value == unpaired.value == 1.0
    assert paired.half_width < unpaired.half_width / 4
    uneven = retention(score(returns[:150]), score(returns), random)
    assert uneven.half_width > unpaired.half_width / 2, "other episodes are not pairs"


def test_negative_returns() -> None:
    """Acrobot's sign: teacher -80, random -500, student -122 keeps nine tenths."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 5, 100)
    kept = retention(score(-122 + noise), score(-80 + noise), score(-500 + rng.normal(0, 5, 100)))
    assert kept.value == pytest.approx(0.9, abs=0.005)
    assert kept.low is not None and kept.high is not None and 0.85 < kept.low < 0.9 < kept.high < 0.92


def test_worse_than_random_is_below_zero_and_better_than_the_teacher_above_one() -> None:
    kept = [retention(score([x] * 100), score([10.0] * 100), score([0.0] * 100)).value for x in (-5.0, 15.0)]
    assert kept == [-0.5, 1.5]


def test_no_retention_where_the_teacher_cannot_be_told_from_random() -> None:
    rng = np.random.default_rng(0)
    kept = retention(score([0.0] * 100), score(rng.normal(0, 1, 100)), score(rng.normal(0, 1, 100)))
    assert (kept.value, kept.low, kept.high) == (None, None, None) and "not distinguishable" in str(kept)
    assert kept.half_width == math.inf


def test_no_bounds_from_few_episodes() -> None:
    kept = retention(score([9.0] * 99), score([10.0] * 100), score([0.0] * 100))
    assert kept.value == pytest.approx(0.9) and kept.low is None and kept.high is None
    assert kept.reason == "fewer than 100 episodes" and "0.900" in str(kept)
    assert retention(score([9.0] * 20), score([10.0] * 20), score([0.0] * 20), min_episodes=20).low is not None
    one = retention(score([9.0]), score([10.0] * 20), score([0.0] * 20), min_episodes=1)
    assert one.low is None and one.reason == "fewer than 2 episodes"


def test_intervals_cover() -> None:
    """Retention 0.9 of normal returns, 60 experiments: about 95 % of the intervals hold it."""
    hits = 0
    for i in range(60):
        rng = np.random.default_rng(i)
        s, t, r = (score(rng.normal(mean, 20, 100), seed=k) for k, mean in enumerate((90.0, 100.0, 0.0)))
        kept = retention(s, t, r)
        hits += kept.low is not None and kept.high is not None and kept.low <= 0.9 <= kept.high
    assert 53 <= hits


def test_interval_as_text() -> None:
    assert str(Interval(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"
    assert Interval(0.5, 0.25, 0.75).half_width == 0.25


@pytest.mark.parametrize(
    ("n", "quantile"),
    # Two-sided 95 % points of Student's t in any book of tables.
    [(2, 12.706), (3, 4.303), (5, 2.776), (11, 2.228), (16, 2.131), (17, 2.120), (31, 2.042), (1000, 1.962)],
)
def test_student_t(n: int, quantile: float) -> None:
    means = np.arange(n, dtype=float)
    found = student_t_interval(list(means))
    assert found.value == means.mean() and found.low is not None and found.high is not None
    half = quantile * means.std(ddof=1) / math.sqrt(n)
    assert found.half_width == pytest.approx(half, rel=2e-3)
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_student_t_beyond_the_table() -> None:
    for freedom, quantile in ((31, 2.0395), (40, 2.0211), (60, 2.0003), (120, 1.9799)):
        means = np.arange(freedom + 1, dtype=float)
        half = student_t_interval(list(means)).half_width / (means.std(ddof=1) / math.sqrt(freedom + 1))
        assert half == pytest.approx(quantile, abs=2e-4)


def test_one_training_seed_has_no_interval() -> None:
    assert student_t_interval([3.0]) == Interval(3.0, reason="one seed")


# Closeness

FOUR = torch.zeros(4, 2)
CHOICE = Spec(spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2), "categorical")


def test_discrete_agreement_kl_and_value_error() -> None:
    teacher = Constant(
        CHOICE,
        Categorical(torch.log(torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]))),
        torch.tensor([1.0, 2.0, 3.0, 4.0]),
    )
    student = Constant(
        CHOICE,
        Categorical(torch.log(torch.tensor([[0.6, 0.4], [0.4, 0.6], [0.2, 0.8], [0.5, 0.5]]))),
        torch.tensor([1.0, 2.0, 3.0, 2.0]),
    )
    kept = compare_on(FOUR, student, teacher)
    assert kept.agreement == 0.75
    kl = (
        0.9 * math.log(0.9 / 0.6) + 0.1 * math.log(0.1 / 0.4) + 0.9 * math.log(0.9 / 0.4) + 0.1 * math.log(0.1 / 0.6)
    ) / 4
    assert kept.kl == pytest.approx(kl, rel=1e-5)
    assert kept.value_error == pytest.approx(1.0 / math.sqrt(5 / 3), rel=1e-6), "rmse 1 over the std of 1, 2, 3, 4"


def test_agreement_of_several_choices_needs_all_of_them() -> None:
    spec = Spec(CHOICE.observation_space, spaces.MultiDiscrete([2, 3]), "multi_categorical")
    logits = torch.tensor([[5.0, 0.0, 0.0, 5.0, 0.0]]).repeat(4, 1)
    other = logits.clone()
    other[0, 1] = 9.0
    other[1, 4] = 9.0
    kept = compare_on(
        FOUR, Constant(spec, MultiCategorical(other, (2, 3))), Constant(spec, MultiCategorical(logits, (2, 3)))
    )
    assert kept.agreement == 0.5


def arm(bounds: tuple[float, float], actions: list[list[float]]) -> Constant:
    space = spaces.Box(np.full(2, bounds[0], np.float32), np.full(2, bounds[1], np.float32))
    return Constant(Spec(CHOICE.observation_space, space, "deterministic"), Deterministic(torch.tensor(actions)))


def test_continuous_agreement_is_within_a_twentieth_of_the_range_everywhere() -> None:
    teacher = arm((-2, 2), [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [5.0, 0.0]])
    student = arm((-2, 2), [[0.19, -0.19], [0.19, 0.21], [-0.21, 0.0], [2.0, 0.0]])
    kept = compare_on(FOUR, student, teacher)
    assert kept.agreement == 0.5, "0.2 is a twentieth; beyond the bounds the environment sees no difference"
    assert kept.kl is None and kept.value_error is None


def test_continuous_agreement_without_bounds_takes_the_teachers_range() -> None:
    teacher = arm((-np.inf, np.inf), [[0.0, 0.0], [10.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    student = arm((-np.inf, np.inf), [[0.4, 0.0], [10.6, 0.0], [0.0, 1.04], [0.0, 0.06]])
    assert compare_on(FOUR, student, teacher).agreement == 0.5


def test_squashed_actions_are_compared_in_environment_units() -> None:
    space = spaces.Box(np.array([0.0, -1.0], np.float32), np.array([10.0, 1.0], np.float32))
    spec = Spec(CHOICE.observation_space, space, "tanh_deterministic")
    a = Constant(spec, Deterministic(torch.tensor([[0.0, 0.0]] * 4)))
    b = Constant(spec, Deterministic(torch.tensor([[0.09, 0.0], [0.11, 0.0], [0.0, 0.09], [0.0, -0.11]])))
    assert compare_on(FOUR, b, a).agreement == 0.5


def test_kl_of_gaussians_and_an_infinite_one() -> None:
    spec = Spec(CHOICE.observation_space, spaces.Box(-9, 9, (2,), np.float32), "diag_gaussian")
    a = Constant(spec, DiagGaussian(torch.zeros(4, 2), torch.zeros(4, 2)))
    b = Constant(spec, DiagGaussian(torch.ones(4, 2), torch.zeros(4, 2)))
    assert compare_on(FOUR, b, a).kl == pytest.approx(1.0), "two dimensions of 1/2 each"


def test_values_that_never_change_do_not_divide_by_zero() -> None:
    a = Constant(CHOICE, Categorical(torch.zeros(4, 2)), torch.ones(4))
    kept = compare_on(FOUR, a, a)
    assert kept.value_error == 0.0 and kept.agreement == 1.0


def test_what_a_user_may_name() -> None:
    assert {"evaluate", "retention", "student_t_interval"} <= set(evaluation.__all__)
