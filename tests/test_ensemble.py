"""Several teachers as one: what it is, whom it refuses, and that everything that takes a teacher takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, final

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from toys import CARTPOLE, Balancer, Coins, Keen, Told

from policykd import distill, evaluate, losses, students
from policykd.distributions import Categorical, Deterministic
from policykd.errors import DistributionError, SpaceError, UsageError
from policykd.losses import calibrated, combine, with_disagreement
from policykd.networks import Normaliser
from policykd.policy import Policy
from policykd.prediction import EnvWrapper, Origin, Prediction, Spec
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
