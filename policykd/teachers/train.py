"""Training a teacher with Stable-Baselines3 from a recipe, into a zoo folder; it refuses to know a better algorithm.

Layout of the folder, which rl_zoo3's users and ``load_teacher`` read alike::

    LunarLander-v3.zip                  the model of the best evaluation, with the normaliser that belongs to it
    LunarLander-v3/vecnormalize.pkl     only where the recipe says ``normalize``
    LunarLander-v3/args.yml, config.yml what was asked; plain YAML that a safe loader reads
    evaluations.npz                     timesteps [n], results and ep_lengths [n, episodes]
    events.out.tfevents.*               TensorBoard, with SB3's tags
"""

from __future__ import annotations

import inspect
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, sync_envs_normalization

from policykd.errors import MissingExtraError, RunError, SpaceError, UnknownNameError, UsageError
from policykd.prediction import Progress
from policykd.teachers.output import Trainable, write_config

__all__ = ["ALGORITHMS", "TrainResult", "construct", "train"]

ALGORITHMS = {
    "a2c": "stable_baselines3.A2C",
    "ars": "sb3_contrib.ARS",
    "crossq": "sb3_contrib.CrossQ",
    "ddpg": "stable_baselines3.DDPG",
    "dqn": "stable_baselines3.DQN",
    "ppo": "stable_baselines3.PPO",
    "qrdqn": "sb3_contrib.QRDQN",
    "sac": "stable_baselines3.SAC",
    "td3": "stable_baselines3.TD3",
    "tqc": "sb3_contrib.TQC",
    "trpo": "sb3_contrib.TRPO",
}
_ACTIVATIONS = {"elu": torch.nn.ELU, "relu": torch.nn.ReLU, "silu": torch.nn.SiLU, "tanh": torch.nn.Tanh}
_NOISES = {"normal": NormalActionNoise, "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise}

_DEFAULT_TIMESTEPS = 100_000
_EVALUATIONS = 40  # looks during a run, at least 500 steps apart
_SELECT_EPISODES = 20
_CONFIRM_EPISODES = 100


@dataclass(frozen=True)
class TrainResult:
    """What a training run came to.

    Attributes:
        folder: the zoo folder.
        algo, env_id, seed: what was trained.
        timesteps: environment steps taken.
        best_return: mean return of the saved model over the episodes that selected it: biased upwards, measure anew.
        stopped_by: ``threshold`` (confirmed on 100 fresh episodes) or ``budget``.
        seconds: wall time.
    """

    folder: Path
    algo: str
    env_id: str
    seed: int
    timesteps: int
    best_return: float
    stopped_by: Literal["threshold", "budget"]
    seconds: float


def train(
    recipe: Trainable,
    algo: str,
    *,
    out: Path,
    seed: int = 0,
    total_timesteps: int | None = None,
    until: float | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Train ``algo`` with the recipe's hyper-parameters and keep the model of the best evaluation.

    Training stops early once the lower end of the 95 % interval of the mean return over 100 fresh deterministic
    episodes reaches ``until``.

    Args:
        recipe: a ``policykd.recipe.Recipe``.
        algo: a key of ``ALGORITHMS``.
        out: an empty or new folder; JSON that describes the run may lie in it already.
        seed: of training and evaluation; global generators are left as they were found.
        total_timesteps: environment steps, instead of the recipe's ``n_timesteps``.
        until: mean return to stop at, instead of the recipe's threshold.
        progress: called about a thousand times with the steps so far and SB3's newest figures as ``losses``.

    Raises:
        UsageError: unknown algorithm or hyper-parameter, zero budget, an action space that the algorithm refuses.
        RunError: ``run.exists`` where ``out`` holds something.
    """
    started = time.perf_counter()
    asked = recipe.hyperparams.get(algo, {})
    budget = int(asked.get("n_timesteps", _DEFAULT_TIMESTEPS) if total_timesteps is None else total_timesteps)
    if budget < 1:
        raise UsageError("train.budget", f"a budget of {budget} environment steps", "at least 1")
    if out.is_dir() and any(p.suffix != ".json" for p in out.iterdir()):
        raise RunError("run.exists", f"{out} is not empty", "a new or empty folder", "choose another --out")

    name = recipe.env_id.replace("/", "-")
    with _borrowed_randomness(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"stable_baselines3|sb3_contrib")
        model = construct(recipe, algo, seed=seed)
        envs, looks = model.get_env(), _environments(recipe.make, 1, asked.get("normalize", False), training=False)
        try:
            (out / name).mkdir(parents=True, exist_ok=True)
            write_config(out / name, recipe, algo, seed, budget)
            model.set_logger(configure(str(out), ["tensorboard"]))
            watch = _Watch(out, name, looks, budget, recipe.threshold if until is None else until, seed, progress)
            model.learn(budget, callback=watch)
            watch.finish()
        finally:
            looks.close()
            if envs is not None:
                envs.close()
    return TrainResult(
        out,
        algo,
        recipe.env_id,
        seed,
        model.num_timesteps,
        watch.best,
        "threshold" if watch.reached else "budget",
        time.perf_counter() - started,
    )


class _Watch(BaseCallback):
    """Looks at the policy now and then: keeps the best one, and stops when the threshold is met beyond doubt."""

    def __init__(
        self,
        out: Path,
        name: str,
        looks: VecEnv,
        budget: int,
        until: float | None,
        seed: int,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        super().__init__()
        self._out, self._name, self._looks, self._until, self._seed = out, name, looks, until, seed
        self._budget, self._progress = budget, progress
        self._every = max(budget // _EVALUATIONS, 500)
        self._next, self._tick = self._every, 0
        self._seen: dict[str, list[Any]] = {"timesteps": [], "results": [], "ep_lengths": []}
        self.best = -np.inf
        self.reached = False

    def _on_step(self) -> bool:
        if self._progress is not None and self.num_timesteps >= self._tick:
            self._tick = self.num_timesteps + self._budget // 1000
            figures = {k: float(v) for k, v in self.logger.name_to_value.items()}
            self._progress(
                Progress(self.num_timesteps, fraction=min(self.num_timesteps / self._budget, 1), losses=figures)
            )
        if self.num_timesteps >= self._next:
            self._next += self._every
            self._look()
        return not self.reached

    def finish(self) -> None:
        """The last look, unless training ended with one."""
        if not self._seen["timesteps"] or (not self.reached and self._seen["timesteps"][-1] < self.num_timesteps):
            self._look()

    def _look(self) -> None:
        # Selection always sees the same episodes; confirmation sees others, and none of them twice.
        returns, lengths = self._play(_SELECT_EPISODES, seed=1_000_000 * (self._seed + 1))
        for key, value in zip(self._seen, (self.num_timesteps, returns, lengths), strict=True):
            self._seen[key].append(value)
        timesteps, results, ep_lengths = (np.array(v) for v in self._seen.values())
        np.savez(self._out / "evaluations.npz", timesteps=timesteps, results=results, ep_lengths=ep_lengths)
        self.logger.record("eval/mean_reward", float(np.mean(returns)))
        self.logger.record("eval/mean_ep_length", float(np.mean(lengths)))
        self.logger.dump(self.num_timesteps)
        if self._until is not None and np.mean(returns) >= self._until:
            fresh, _ = self._play(
                _CONFIRM_EPISODES, seed=1_000_000 * (self._seed + 1) + 1_000 * len(self._seen["results"])
            )
            self.reached = bool(np.mean(fresh) - 1.96 * np.std(fresh, ddof=1) / np.sqrt(len(fresh)) >= self._until)
        if self.reached or np.mean(returns) >= self.best:
            self.best = float(np.mean(returns))
            self._keep()

    def _play(self, episodes: int, seed: int) -> tuple[list[float], list[int]]:
        sync_envs_normalization(self.training_env, self._looks)
        self._looks.seed(seed)
        returns, lengths = evaluate_policy(
            self.model, self._looks, episodes, deterministic=True, return_episode_rewards=True, warn=False
        )
        return list(np.atleast_1d(returns)), [int(n) for n in np.atleast_1d(lengths)]

    def _keep(self) -> None:
        normaliser = self.model.get_vec_normalize_env()
        if normaliser is not None:
            normaliser.save(str(self._out / self._name / "vecnormalize.pkl"))
        self.model.save(self._out / f"{self._name}.zip")


def construct(recipe: Trainable, algo: str, *, seed: int) -> BaseAlgorithm:
    """The untrained SB3 model that the recipe's hyper-parameters describe, with its environments.

    They are plain data, in the zoo's notation: SB3's constructor arguments, ``n_envs``, ``normalize``, ``noise_type``
    with ``noise_std``, ``lin_1e-3`` for a value that falls linearly to 0.

    Raises:
        UnknownNameError, SpaceError, MissingExtraError: as ``train`` does.
    """
    made = _algorithm(algo)
    params: dict[str, Any] = {"policy": "MlpPolicy", **recipe.hyperparams.get(algo, {})}
    params.pop("n_timesteps", None)
    n_envs, normalize = int(params.pop("n_envs", 1)), params.pop("normalize", False)
    noise, std = params.pop("noise_type", None), float(params.pop("noise_std", 0.1))
    network = dict(params.pop("policy_kwargs", {}))
    known = inspect.signature(made.__init__).parameters
    for key, value in params.items():
        if key not in known:
            raise UnknownNameError.of("hyper-parameter", key, {*known, "n_envs", "normalize", "noise_type"} - {"self"})
        if isinstance(value, str) and value.startswith("lin_"):
            params[key] = LinearSchedule(float(value[4:]), 0.0, 1.0)
    if "activation_fn" in network:
        network["activation_fn"] = _named("activation", network["activation_fn"], _ACTIVATIONS)
    if isinstance(params.get("train_freq"), list):
        params["train_freq"] = tuple(params["train_freq"])
    envs = _environments(recipe.make, n_envs, normalize, gamma=float(params.get("gamma", 0.99)))
    if noise is not None:
        width = int(np.prod(envs.action_space.shape or (1,)))
        params["action_noise"] = _named("noise", noise, _NOISES)(np.zeros(width), std * np.ones(width))
    device = "cpu" if params["policy"] == "MlpPolicy" else "auto"
    try:
        return made(env=envs, seed=seed, device=device, policy_kwargs=network or None, **params)
    except AssertionError as e:  # SB3's way of refusing a space
        text = " ".join(str(e).split())
        raise SpaceError("space.action", f"{algo} on {envs.action_space}", "", text) from e


def _algorithm(algo: str) -> Callable[..., BaseAlgorithm]:
    package, _, name = _named("algorithm", algo, ALGORITHMS).rpartition(".")
    try:
        found: Callable[..., BaseAlgorithm] = vars(import_module(package))[name]
    except ImportError as e:
        raise MissingExtraError.of("sb3-contrib", "contrib") from e
    return found


def _named(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    if name not in table:
        raise UnknownNameError.of(kind, name, table)
    return table[name]


def _environments(
    make: Callable[[], gym.Env],
    count: int,
    normalize: bool | Mapping[str, Any],
    *,
    gamma: float = 0.99,
    training: bool = True,
) -> VecEnv:
    envs: VecEnv = DummyVecEnv([lambda: Monitor(make())] * count)
    if normalize:
        asked = dict(normalize) if isinstance(normalize, Mapping) else {}
        if not training:
            asked["norm_reward"] = False
        envs = VecNormalize(envs, training=training, **{"gamma": gamma, **asked})
    return envs


@contextmanager
def _borrowed_randomness() -> Iterator[None]:
    """SB3 seeds Python's, numpy's and torch's global generators: hand them back as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
