"""Policies and environments with a known answer: a CartPole controller, and episodes that say where they are."""

from __future__ import annotations

from typing import Any, final

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from policykd.distributions import Categorical
from policykd.policy import Policy, Taught
from policykd.prediction import Batch, Obs, Origin, Prediction, Spec

CARTPOLE = Spec(spaces.Box(-np.inf, np.inf, (4,), np.float32), spaces.Discrete(2), "categorical")


def every_family(observation: spaces.Space, arm: spaces.Box) -> dict[str, Spec]:
    """A spec of each family by name; ``arm`` are the actions of the continuous ones."""
    return {
        "categorical": Spec(observation, spaces.Discrete(3), "categorical"),
        "multi_categorical": Spec(observation, spaces.MultiDiscrete([2, 3]), "multi_categorical"),
        "bernoulli": Spec(observation, spaces.MultiBinary(2), "bernoulli"),
        "diag_gaussian": Spec(observation, arm, "diag_gaussian"),
        "tanh_gaussian": Spec(observation, arm, "tanh_gaussian"),
        "tanh_deterministic": Spec(observation, arm, "tanh_deterministic"),
        "deterministic": Spec(observation, arm, "deterministic"),
    }


@final
class Balancer(Policy):
    """Pushes the cart towards where the pole falls: angle + angular velocity > 0 is right. It never drops the pole.

    Args:
        gain: of the logits +-gain x (angle + angular velocity); negative drops the pole at once.

    Attributes:
        calls, rows: how often it was asked, and about how many observations.
    """

    def __init__(self, gain: float = 10.0, spec: Spec = CARTPOLE, env_id: str | None = "CartPole-v1") -> None:
        super().__init__(spec, Origin(algo="ppo", env_id=env_id, gamma=0.99))
        self.lean = nn.Parameter(torch.tensor([0.05, 0.3, 1.0, 1.0]) * gain)
        self.calls = self.rows = 0

    def forward(self, obs: Obs, state: Any = None, start: Tensor | None = None, *, values: bool = True) -> Prediction:
        assert isinstance(obs, Tensor)
        self.calls += 1
        self.rows += obs.shape[:-1].numel()
        z = obs.float() @ self.lean
        value = 100.0 - 50.0 * obs[..., 2].abs().float() if values else None
        return Prediction(Categorical(torch.stack([-z, z], -1)), value)

    @property
    def acting_parameters(self) -> int:
        return 4


@final
class Told(Policy):
    """Says what it is told: logits from a function of the observation."""

    def __init__(self, spec: Spec, logits: Any) -> None:
        super().__init__(spec)
        self.logits = logits
        self.seen: list[Tensor] = []

    def forward(self, obs: Obs, state: Any = None, start: Tensor | None = None, *, values: bool = True) -> Prediction:
        assert isinstance(obs, Tensor)
        self.seen.append(obs.clone())
        return Prediction(Categorical(self.logits(obs)))

    @property
    def acting_parameters(self) -> int:
        return 0


class Diary(gym.Env):
    """Observations (seed, episode, step); 2 + (seed + episode) % 3 steps an episode; the reward is the step's number.

    ``seed`` is the one of the last seeded reset. Action 1 adds 100 to the reward.
    """

    observation_space = spaces.Box(-1, 1e9, (3,), np.float64)
    action_space = spaces.Discrete(2)
    spec_of = Spec(observation_space, action_space, "categorical")

    def __init__(self) -> None:
        self.named, self.episode = -1, -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.named, self.episode = seed, -1
        self.episode, self.t = self.episode + 1, 0
        return self._page(), {}

    @staticmethod
    def length(seed: int, episode: int) -> int:
        return 2 + (seed + episode) % 3

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        last = self.length(self.named, self.episode)
        assert self.t < last, "stepped after the end"
        self.t += 1
        return self._page(), self.t + 100.0 * float(action), self.t == last and last > 2, self.t == last == 2, {}

    def _page(self) -> np.ndarray:
        return np.array([self.named, self.episode, self.t], np.float64)


class Gates(gym.Env):
    """Three actions of which only one or two are allowed at each step; a forbidden one is an error. Four steps."""

    observation_space = spaces.Box(0, 4, (1,), np.float32)
    action_space: spaces.Space = spaces.Discrete(3)
    spec_of = Spec(observation_space, spaces.Discrete(3), "categorical")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def action_masks(self) -> np.ndarray:
        return self.allowed(self.t)

    @staticmethod
    def allowed(t: int) -> np.ndarray:
        """Step 0 allows only action 2, step 1 only 1, steps 2 and 3 all but 0; after the end nothing."""
        return np.array([[0, 0, 1], [0, 1, 0], [0, 1, 1], [0, 1, 1], [0, 0, 0]], bool)[t]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.allowed(self.t)[int(action)]:
            raise ValueError(f"action {action} is forbidden at step {self.t}")
        self.t += 1
        return np.full(1, self.t, np.float32), float(action), self.t == 4, False, {}


class Lottery(gym.Env):
    """Episodes of 1 step that earn 0, and of 40 that earn 40; the seed decides, half and half. Nothing else matters."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)
    spec_of = Spec(observation_space, action_space, "categorical")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 40 if self.np_random.random() < 0.5 else 1
        self.pay = float(self.left == 40)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return np.zeros(1, np.float32), self.pay, self.left == 0, False, {}


class Coins(gym.Env):
    """Ten steps of a number drawn from [0, 1]; action 1 earns 1, action 0 nothing, whatever the number."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)
    spec_of = Spec(observation_space, action_space, "categorical")

    def _toss(self) -> np.ndarray:
        return self.np_random.random(1, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 10
        return self._toss(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return self._toss(), float(action == 1), self.left == 0, False, {}


@final
class Keen(Policy):
    """Takes the coin where the number is below ``share``: of Coins it retains 2 x share - 1, random actions being 0.5.

    Args:
        size: acting parameters that it claims.
    """

    def __init__(self, share: float, size: int = 1) -> None:
        super().__init__(Coins.spec_of, Origin(algo="ppo"))
        self.share, self.size = share, size

    def forward(self, obs: Obs, state: Any = None, start: Tensor | None = None, *, values: bool = True) -> Prediction:
        assert isinstance(obs, Tensor)
        z = torch.where(obs[..., 0] < self.share, 1.0, -1.0)
        return Prediction(Categorical(torch.stack([-z, z], -1)))

    @property
    def acting_parameters(self) -> int:
        return self.size


@final
class Scorer(Taught):
    """A linear classifier of ``[n, d]`` inputs, with a word of its own: student and teacher of the supervised tests.

    Attributes:
        asked: rows that ``label`` was asked about.
    """

    def __init__(self, width: int, classes: int, seed: int = 0, gain: float = 0.1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layer = nn.Linear(width, classes)
        with torch.no_grad():
            self.layer.weight.copy_(gain * torch.randn(classes, width, generator=generator))
            self.layer.bias.zero_()
        self.asked = 0

    def forward(self, inputs: Tensor) -> Prediction:
        hidden = inputs.float().flatten(1)
        return Prediction(Categorical(self.layer(hidden)), features={"inputs": hidden})

    def read(self, batch: Batch) -> Prediction:
        assert isinstance(batch.obs, Tensor)
        said: Prediction = self(batch.obs)
        return said

    def label(self, inputs: Tensor) -> Prediction:
        self.asked += len(inputs)
        with torch.no_grad():
            said: Prediction = self(inputs)
        return said
