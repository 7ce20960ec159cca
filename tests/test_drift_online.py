"""Through a change: a privileged teacher with a known rule, a student that does not see what changed."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from policykd import recipe, students
from policykd.distributions import Categorical
from policykd.evaluation import evaluate
from policykd.online import OnlineDistiller, Watch
from policykd.policy import Policy
from policykd.prediction import Obs, Prediction, Spec

FILE = Path(__file__).parents[1] / "envs/drifting_cartpole.py"
WORLD = runpy.run_path(str(FILE))
BEFORE, AFTER = WORLD["BEFORE"], WORLD["AFTER"]
CHANGE, STEPS = 3_500, 6_000


@final
class Informed(Policy):
    """Pushes the cart to where the pole falls, whichever way the motor is wired: it sees the sign of the force."""

    def __init__(self) -> None:
        super().__init__(Spec(spaces.Box(-np.inf, np.inf, (7,), np.float32), spaces.Discrete(2), "categorical"))
        self.lean = torch.tensor([0.1, 0.2, 4.7, 1.1])

    def forward(self, obs: Obs, state: Any = None, start: Tensor | None = None, *, values: bool = True) -> Prediction:
        assert isinstance(obs, Tensor)
        z = 4.0 * (obs[..., :4] @ self.lean) * obs[..., 6].sign()
        return Prediction(Categorical(torch.stack([-z, z], -1)))

    @property
    def acting_parameters(self) -> int:
        return 4


def earned(policy: Policy | None, physics: tuple[float, ...], privileged: bool) -> float:
    where = recipe.load(FILE, env_kwargs={"physics": physics, "privileged": privileged})
    return evaluate(policy, where, 10, seed=1_000, workers=1).mean


def test_the_student_learns_rests_and_learns_anew() -> None:
    teacher = Informed()
    env = WORLD["make"](privileged=False, physics=BEFORE, then=AFTER, change=CHANGE)
    spec = Spec(env.observation_space, env.action_space, "categorical")
    how: dict[str, Any] = {"rows_per_update": 5, "learning_rate": 1e-2, "warm_up": 200, "publish_every": 10}
    watch = Watch(low=0.02, patience=20)
    online = OnlineDistiller(students.mlp(spec, (16,)), teacher, watch=watch, rest_every=2, **how)
    frozen, alarms, taught = None, [], 0
    obs, info = env.reset(seed=0)
    for step in range(STEPS):
        was = online.status
        if step == CHANGE:
            frozen = copy.deepcopy(online.published.policy)
            assert not was.learning
        taught += was.learning
        online.observe(obs, teacher_obs=info["teacher_obs"])
        online.update()
        now = online.status
        if now.alarms > was.alarms:
            alarms.append(step)
            assert now.remembered <= 64 and now.updates == was.updates, "it begins anew"
        elif not now.learning:
            assert now.updates == was.updates or was.learning
        obs, _, terminated, truncated, info = env.step(online.act(obs))
        if terminated or truncated:
            obs, info = env.reset()
    status = online.status
    assert status.observed == STEPS == status.asked + status.skipped + status.waiting
    assert [CHANGE < step <= CHANGE + 500 for step in alarms] == [True]
    assert taught < STEPS - 1_000
    for physics in (BEFORE, AFTER):
        best, random = earned(teacher, physics, True), earned(None, physics, False)
        assert best > 450
        kept = [(earned(p, physics, False) - random) / (best - random) for p in (frozen, online.published.policy)]
        assert [k > 0.9 for k in kept] == [physics == BEFORE, physics == AFTER]
        assert min(kept) < 0.2
