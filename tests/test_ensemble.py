"""Several teachers as one: what it is, whom it refuses, and that everything that takes a teacher takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, final

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from toys import CARTPOLE, Balancer, Coins, Keen, Told

from policykd import distill, evaluate, losses, recipe, students
from policykd.config import RewardConfig
from policykd.distributions import (
    Bernoulli,
    Categorical,
    Deterministic,
    DiagGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
)
from policykd.errors import DistributionError, SpaceError, UsageError
from policykd.learner import Learner
from policykd.load import load_teacher
from policykd.losses import Gate, calibrated, combine, with_disagreement
from policykd.networks import Normaliser
from policykd.policy import Policy
from policykd.prediction import Batch, EnvWrapper, Origin, Prediction, Spec, Update
from policykd.reinforced import train_gate
from policykd.rollouts import Collector, make
from policykd.teachers import Ensemble

BOX = spaces.Box(-np.inf, np.inf, (4,), np.float32)


def obs(n: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))


def at(policy: Policy, **changes: Any) -> Policy:
    policy.origin = replace(policy.origin, **changes)
    return policy


@final
class Mover(Policy):
    """A squashed deterministic teacher."""

    def __init__(self, high: float = 1.0, **origin: Any) -> None:
        space = spaces.Box(-high, high, (1,), np.float32)
        super().__init__(Spec(BOX, space, "tanh_deterministic"), Origin(**origin))

    def forward(self, obs: Any, state: Any = None, start: Any = None, *, values: bool = True) -> Prediction:
        return Prediction(Deterministic(obs[..., :1].tanh()), value=obs[..., 0] if values else None)

    @property
    def acting_parameters(self) -> int:
        return 3


@final
class Valuer(Policy):
    """A DQN teacher that balances: its action values are the Balancer's logits, a hundred times as large."""

    def __init__(self) -> None:
        super().__init__(CARTPOLE, Origin(algo="dqn", env_id="CartPole-v1", gamma=0.99))
        self.inner = Balancer()

    def forward(self, obs: Any, state: Any = None, start: Any = None, *, values: bool = True) -> Prediction:
        q = 100.0 * self.inner(obs).dist.logits
        return Prediction(Categorical(q), value=q.amax(-1) if values else None, q=q)

    @property
    def acting_parameters(self) -> int:
        return 4


# --- what it says ----------------------------------------------------------------------------------------------------


def test_it_says_what_its_formula_makes_of_its_teachers_words() -> None:
    teachers = [Balancer(1.0), Balancer(3.0)]
    word = Ensemble(teachers, combine.mean).label(obs())
    want = torch.stack([t.label(obs()).dist.probs for t in teachers]).mean(0)  # type: ignore[union-attr]
    assert isinstance(word.dist, Categorical)
    torch.testing.assert_close(word.dist.probs, want)
    assert not word.dist.logits.requires_grad


def test_who_it_is() -> None:
    team = Ensemble([at(Balancer(), path="a.zip"), at(Balancer(3.0), path="b.zip", algo="a2c")], combine.mean)
    assert team.acting_parameters == 8 and team.acting_layers is None and team.normaliser is None
    assert team.origin == Origin(path="a.zip + b.zip", algo="ppo + a2c", env_id="CartPole-v1", gamma=0.99)
    assert Ensemble([at(Balancer(), path="a.zip"), Balancer()], combine.mean).origin.path is None
    known = Ensemble([Balancer(env_id=None), Balancer()], combine.mean)
    assert known.origin.env_id == "CartPole-v1"


def test_each_teacher_keeps_its_own_normaliser() -> None:
    class Normed(Policy):
        def __init__(self, mean: float) -> None:
            super().__init__(CARTPOLE)
            self.normaliser = Normaliser(np.full(4, mean), np.ones(4))

        def forward(self, obs: Any, state: Any = None, start: Any = None, *, values: bool = True) -> Prediction:
            assert self.normaliser is not None
            return Prediction(Categorical(self.normaliser(obs)[..., :2].float()))

        @property
        def acting_parameters(self) -> int:
            return 0

    teachers: list[Policy] = [Normed(1.0), Normed(-2.0)]
    word = Ensemble(teachers, combine.product).label(obs())
    assert isinstance(word.dist, Categorical)
    z = obs()[:, :2]
    torch.testing.assert_close(word.dist.probs, torch.softmax((z - 1) + (z + 2), -1))


def test_values_are_heard_only_where_discounts_are_equal() -> None:
    same = Ensemble([Balancer(), Balancer(3.0)], combine.mean)
    torch.testing.assert_close(same.label(obs()).value, Balancer().label(obs()).value)
    assert same(obs(), values=False).value is None
    for other in (0.9, None):
        mixed = Ensemble([Balancer(), at(Balancer(), gamma=other)], combine.mean)
        assert mixed.origin.gamma is None and mixed.label(obs()).value is None
    best = partial(combine.best_by_value, gammas=[0.99, 0.9])
    with pytest.raises(DistributionError, match=r"\[combine.gamma\]"):
        Ensemble([Balancer(), at(Balancer(), gamma=0.9)], best).label(obs())


def test_best_by_value_acts_without_being_asked_for_values() -> None:
    class Proud(Policy):
        def __init__(self, action: int, sign: float) -> None:
            super().__init__(CARTPOLE, Origin(gamma=0.99))
            self.action, self.sign = action, sign

        def forward(self, obs: Any, state: Any = None, start: Any = None, *, values: bool = True) -> Prediction:
            logits = nn.functional.one_hot(torch.full(obs.shape[:-1], self.action), 2).float()
            return Prediction(Categorical(logits), self.sign * obs[..., 0] if values else None)

        @property
        def acting_parameters(self) -> int:
            return 0

    team = Ensemble([Proud(0, 1.0), Proud(1, -1.0)], partial(combine.best_by_value, gammas=[0.99, 0.99]))
    action, _ = team.predict(obs().numpy(), deterministic=True)
    np.testing.assert_array_equal(action, (obs()[:, 0] < 0).numpy())


def test_teachers_of_different_algorithms() -> None:
    teachers: list[Policy] = [Balancer(1.0), Valuer()]
    with pytest.raises(DistributionError, match=r"calibrated.*\[combine.scale\]"):
        Ensemble(teachers, combine.mean).label(obs())
    team = Ensemble(teachers, calibrated(combine.mean, teachers, obs(500)))
    word = team.label(obs())
    assert word.q is None and word.value is not None
    assert evaluate(team, "CartPole-v1", 3, workers=1).mean == 500.0


def test_masks_of_the_environment_are_its_own() -> None:
    team = Ensemble([Balancer(), Balancer(3.0)], combine.mean)
    masks = np.array([[True, False]] * 6)
    action, _ = team.predict(obs().numpy(), deterministic=True, action_masks=masks)
    assert action.tolist() == [0] * 6


# --- a gate ----------------------------------------------------------------------------------------------------------


class Matching(gym.Env):
    """Ten steps of a number drawn from [-1, 1]; 1 for the action that says whether it is positive."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)
    spec_of = Spec(observation_space, action_space, "categorical")

    def _draw(self) -> np.ndarray:
        self.number = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.number

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 10
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        reward = float(action == int(self.number[0] > 0))
        return self._draw(), reward, self.left == 0, False, {}


def stubborn(action: int) -> Told:
    """Nine times out of ten the same action."""
    return Told(
        Matching.spec_of, lambda o: (2.2 * nn.functional.one_hot(torch.tensor(action), 2)).expand(*o.shape[:-1], 2)
    )


NUMBERS = torch.linspace(-1, 1, 101)[:, None]


def gated(seed: int = 0) -> Ensemble:
    teachers = [stubborn(0), stubborn(1)]
    return Ensemble(teachers, combine.mean, Gate(Matching.spec_of, 2, NUMBERS, seed=seed))


QUICK_GATE = RewardConfig(critic_first=0, rollout=512, epochs=4, minibatch=256, reward_rate=0.02)


def test_a_gate_learns_from_reward_whom_to_listen_to_where() -> None:
    plain = Ensemble([stubborn(0), stubborn(1)], combine.mean)
    assert evaluate(plain, Matching, 20, workers=1).mean < 7.0  # either of them alone is right half the time
    told: list[Update] = []
    team = train_gate(plain, Matching, steps=6000, config=QUICK_GATE, num_envs=8, on_update=told.append)
    assert plain.gate is None and team.how is plain.how and list(team.teachers) == list(plain.teachers)
    assert evaluate(team, Matching, 20, workers=1).mean > 9.5
    shares = team.gate(NUMBERS, team.ask(NUMBERS)).detach()  # type: ignore[misc]
    assert shares[0, 0] > 0.8 and shares[1, -1] > 0.8
    assert told[-1].progress.env_steps == pytest.approx(6000, abs=8) and told[-1].progress.fraction == 1.0
    assert {name for update in told for name in update.terms} == {"policy/surrogate", "value/return"}, "reward alone"


def test_a_gate_that_is_there_is_trained_in_place_and_again_alike() -> None:
    def trained(seed: int, config: RewardConfig = QUICK_GATE) -> Tensor:
        team = gated()
        found = train_gate(team, Matching, steps=512, config=config, sample=NUMBERS, num_envs=8, seed=seed)
        assert found is team and team.gate is not None
        return team.gate(NUMBERS, team.ask(NUMBERS)).detach()  # type: ignore[no-any-return]

    first, fresh = trained(0), gated()
    assert torch.equal(first, trained(0)) and not torch.equal(first, trained(1))
    assert not torch.equal(first, fresh.gate(NUMBERS, fresh.ask(NUMBERS)))  # type: ignore[misc]
    # A moving average of the gate is what stays, where one is asked for: it lags behind.
    lags = trained(0, replace(QUICK_GATE, reward_average=0.99))
    assert not torch.equal(first, lags)


def silent(said: Any) -> Prediction:
    return combine.mean(said)


@pytest.mark.parametrize(
    ("team", "knobs", "code"),
    [
        ([stubborn(0), stubborn(1)], {}, "gate.team"),
        (Ensemble([stubborn(0)], combine.mean), {}, "gate.teachers"),
        (Ensemble([stubborn(0), stubborn(1)], combine.confident), {}, "gate.how"),
        (Ensemble([stubborn(0), stubborn(1)], silent), {}, "gate.how"),
        (Ensemble([stubborn(0), stubborn(1)], combine.product), {}, "gate.how"),
        (Ensemble([stubborn(0), stubborn(1)], combine.mean), {"steps": 0}, "config.zero"),
        (Ensemble([stubborn(0), stubborn(1)], combine.mean), {"env": None}, "env.missing"),
    ],
)
def test_a_gate_that_could_not_learn_is_refused(team: Any, knobs: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as why:
        train_gate(team, **{"env": Matching, "sample": NUMBERS, "steps": 64, **knobs})
    assert why.value.code == code


def test_teachers_of_other_algorithms_get_a_gate_and_play_for_its_scales() -> None:
    agents = [load_teacher(Path(__file__).parents[1] / "agents" / name) for name in ("cartpole-ppo", "cartpole-dqn")]
    states = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    team = Ensemble(agents, calibrated(combine.mean, agents, states))
    found = train_gate(team, steps=256, config=replace(QUICK_GATE, rollout=128), num_envs=4)
    assert isinstance(found.gate, Gate) and found.gate.teachers == 2
    # The scales are of states that good teachers see: a pole that hardly leans.
    assert 0 < found.gate.spread[2] < 0.1


def test_a_fresh_gate_listens_to_all_nearly_alike_and_its_shares_are_shares() -> None:
    team = gated()
    shares = team.gate(NUMBERS, team.ask(NUMBERS))  # type: ignore[misc]
    assert shares.shape == (2, 101)
    torch.testing.assert_close(shares.sum(0), torch.ones(101))
    assert shares.min() > 0.25
    same, other = gated(0), gated(1)
    assert torch.equal(same.gate(NUMBERS, same.ask(NUMBERS)), shares)  # type: ignore[misc]
    assert not torch.equal(other.gate(NUMBERS, other.ask(NUMBERS)), shares)  # type: ignore[misc]
    assert team.acting_parameters == sum(p.numel() for p in team.gate.parameters())  # type: ignore[union-attr]


def test_only_the_gate_gets_a_gradient_and_no_label_carries_one() -> None:
    teachers: list[Policy] = [Balancer(1.0), Balancer(-1.0), Valuer()]
    how = calibrated(combine.mean, teachers, obs(500))
    team = Ensemble(teachers, how, Gate(CARTPOLE, 3, obs(500)))
    team(obs()).dist.log_prob(torch.zeros(6)).sum().backward()
    assert all(p.grad is None for t in teachers for p in t.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in team.gate.parameters())  # type: ignore[union-attr]
    assert not team.label(obs()).dist.logits.requires_grad  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"\[gate.said\]"):
        team.gate(obs(), team.ask(obs())[:2])  # type: ignore[misc]
    with pytest.raises(UsageError, match=r"\[gate.teachers\]"):
        Gate(CARTPOLE, 1, obs())


# A teacher that follows its student


def test_a_students_moving_average_teaches_beside_its_teacher_and_stays_alive() -> None:
    teacher = Balancer(0.5)
    learner = Learner(students.mlp(CARTPOLE, (8,)), losses.forward_kl, lr=0.02, average=0.9)
    team = Ensemble([teacher, learner.averaged], partial(combine.mean, weights=(0.75, 0.25)))
    collector = Collector(make(recipe.load("CartPole-v1"), 4, "sync"), team, seed=0)
    seen, said = obs(200), []
    for _ in range(150):
        learner.step(collector.collect(16).batch)
        said.append(team.label(seen).dist.probs)  # type: ignore[union-attr]
    collector.envs.close()
    own, averaged, asked = (p.label(seen).dist.probs for p in (learner.student, learner.averaged, teacher))  # type: ignore[union-attr]
    torch.testing.assert_close(said[-1], 0.75 * asked + 0.25 * averaged)
    assert (said[-1] - said[0]).abs().max() > 0.01, "labels follow the student"
    assert not torch.equal(own, averaged)
    assert all(p.grad is None for p in learner.averaged.parameters())
    # Both fixed points are the teacher's law: its student comes closer to it than it began.
    first = students.mlp(CARTPOLE, (8,)).label(seen).dist.probs  # type: ignore[union-attr]
    assert (averaged - asked).abs().mean() < 0.5 * (first - asked).abs().mean()


def test_a_students_moving_average_is_taken_where_a_teacher_is_wanted() -> None:
    learner = Learner(students.mlp(Coins.spec_of, (8,)), losses.forward_kl, lr=0.02, average=0.9)
    rows = torch.linspace(0, 1, 256)[:, None]
    for _ in range(300):
        learner.step(Batch(rows, Keen(0.8).label(rows)))
    how: dict[str, Any] = {"hidden": (4,), "steps": 2000, "cycles": 1, "max_episodes": 100, "workers": 1}
    report = distill(learner.averaged, env=Coins, **how)
    assert report.teacher.params == learner.averaged.acting_parameters
    assert report.teacher.return_mean == pytest.approx(8.0, abs=0.4) and report.kept.agreement > 0.9


def test_masked_actions_give_a_gate_no_nan() -> None:
    blind = Told(CARTPOLE, lambda o: torch.stack([o[..., 0], torch.full_like(o[..., 0], -torch.inf)], -1))
    team = Ensemble([blind, blind], combine.mean, Gate(CARTPOLE, 2, obs()))
    word = team(obs())
    assert isinstance(word.dist, Categorical) and word.dist.probs[:, 1].tolist() == [0.0] * 6
    word.dist.log_prob(torch.zeros(6)).sum().backward()
    assert all(p.grad.isfinite().all() for p in team.gate.parameters() if p.grad is not None)  # type: ignore[union-attr]


WORLDS: dict[str, tuple[Spec, Any, Distribution]] = {
    "multi_categorical": (
        Spec(spaces.MultiDiscrete([3, 2]), spaces.MultiDiscrete([2, 2]), "multi_categorical"),
        torch.zeros(5, 2, dtype=torch.long),
        MultiCategorical(torch.zeros(5, 4), (2, 2)),
    ),
    "bernoulli": (
        Spec(
            spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(-1, 1, (2, 2), np.float32)}),
            spaces.MultiBinary(3),
            "bernoulli",
        ),
        {"a": torch.arange(5) % 3, "b": torch.zeros(5, 2, 2)},
        Bernoulli(torch.zeros(5, 3)),
    ),
    "diag_gaussian": (
        Spec(BOX, spaces.Box(-1, 1, (2,), np.float32), "diag_gaussian"),
        obs(5),
        DiagGaussian(torch.zeros(5, 2), torch.zeros(5, 2)),
    ),
    "tanh_gaussian": (
        Spec(BOX, spaces.Box(-1, 1, (2,), np.float32), "tanh_gaussian"),
        obs(5),
        TanhGaussian(torch.zeros(5, 2), torch.zeros(5, 2)),
    ),
    "deterministic": (
        Spec(BOX, spaces.Box(-1, 1, (2,), np.float32), "deterministic"),
        obs(5),
        Deterministic(torch.zeros(5, 2)),
    ),
}


@pytest.mark.parametrize("family", WORLDS)
def test_a_gate_reads_every_family_and_kind_of_observation(family: str) -> None:
    spec, rows, dist = WORLDS[family]
    shares = Gate(spec, 3, rows)(rows, [Prediction(dist)] * 3)
    assert shares.shape == (3, 5)
    word = combine.mean([Prediction(dist)] * 3, weights=shares).dist
    torch.testing.assert_close(word.mode(), dist.mode())


# --- whom it refuses -------------------------------------------------------------------------------------------------

WIDE = Spec(spaces.Box(-1, 1, (5,), np.float32), spaces.Discrete(2), "categorical")
THREE = Spec(CARTPOLE.observation_space, spaces.Discrete(3), "categorical")


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (lambda: Balancer(spec=WIDE), r"teacher 2 \(ppo\) with the observation .*5.*first teacher's.*4.*observation\]"),
        (lambda: Balancer(spec=THREE), r"teacher 2 \(ppo\) with the action Discrete\(3\).*Discrete\(2\).*action\]"),
        (
            lambda: at(Mover(), path="x.zip"),
            r"teacher 2 \(x.zip\) with the family tanh_deterministic.*categor.*family\]",
        ),
        (lambda: Balancer(env_id="Acrobot-v1"), r"teachers of Acrobot-v1, CartPole-v1.*\[ensemble.env\]"),
        (lambda: at(Balancer(), env_kwargs={"g": 2}), r"\[ensemble.env\]"),
        (lambda: at(Balancer(), wrappers=(EnvWrapper("TimeFeature"),)), r"TimeFeature.*\[ensemble.wrappers\]"),
    ],
)
def test_it_says_which_teacher_does_not_fit_and_why(other: Callable[[], Policy], says: str) -> None:
    with pytest.raises(SpaceError, match=says):
        Ensemble([Balancer(), Balancer(), other()], combine.mean)


def test_squashed_actions_need_the_same_bounds() -> None:
    assert Ensemble([Mover(), Mover()], combine.mean).acting_parameters == 6
    with pytest.raises(SpaceError, match=r"teacher 1 .*2.0.*\[ensemble.action\]"):
        Ensemble([Mover(), Mover(2.0)], combine.mean)
    with pytest.raises(UsageError, match=r"\[ensemble.empty\]"):
        Ensemble([], combine.mean)


# --- whatever takes a teacher takes it -------------------------------------------------------------------------------


def test_distill_takes_it_as_any_teacher() -> None:
    # Two of three take the coin below 0.8: alone they retain 0.2, 0.6 and 0.8, together 0.6.
    team = Ensemble([Keen(0.6), Keen(0.8), Keen(0.9)], with_disagreement(combine.mean))
    student = students.mlp(team.spec, (8,), value=True)
    few: dict[str, Any] = {"select_episodes": 20, "episodes": 100, "max_episodes": 100, "workers": 1}
    report = distill(team, student, Coins, steps=4000, cycles=1, num_envs=8, **few)
    assert report.retention.value == pytest.approx(1.0, abs=0.05)
    assert report.teacher.params == 3 and report.to_dict()["teacher"]["algo"] == "ppo + ppo + ppo"
    assert report.teacher.return_mean == pytest.approx(8.0, abs=0.5)


def test_rows_on_which_teachers_disagree_can_be_left_out_of_a_batch() -> None:
    apart = Told(CARTPOLE, lambda o: torch.stack([10.0 * o[..., 0], -10.0 * o[..., 0]], -1))
    team = Ensemble([Balancer(), apart], with_disagreement(combine.mean))
    word = team.label(obs(200))
    weight = losses.disagreement_weight(word, threshold=0.3)
    alike = (Balancer().label(obs(200)).dist.mode() == apart.label(obs(200)).dist.mode()).float()
    assert 0.2 < float(weight.mean()) < 0.8
    assert float((weight * (1 - alike)).mean()) < 0.1
