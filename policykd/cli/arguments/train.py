"""Flags of ``policykd train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from policykd.cli.arguments import Manner
from policykd.errors import UsageError

__all__ = ["Algorithm", "Arguments"]

Algorithm = Literal["a2c", "ars", "crossq", "ddpg", "dqn", "ppo", "qrdqn", "sac", "td3", "tqc", "trpo"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Manner):
    """Train a teacher with Stable-Baselines3, with the hyper-parameters of a recipe, and measure it."""

    env: str
    """A recipe (envs/lunarlander.py) or a Gymnasium id."""
    algo: Algorithm = "ppo"
    """Algorithm of stable-baselines3 or sb3-contrib."""
    steps: int | None = None
    """Environment steps, instead of the recipe's n_timesteps."""
    until: float | None = None
    """Mean return to stop at, confirmed on 100 fresh episodes, instead of the recipe's reward_threshold."""
    episodes: int = 100
    """Reported episodes."""
    seed: int = 0
    """Seeds weights, environments and draws."""
    threads: int = 1
    """Threads of torch; small networks run slower on more than one."""
    gym_packages: tuple[str, ...] = ()
    """Packages to import first, because they register environments."""
    out: Path | None = None
    """The run folder, new or empty; runs/<time>-<env>-<algo> without it."""
    config: Path | None = None
    """A config.json of an earlier run: its values are the defaults, flags win."""
    dry_run: bool = False
    """Show the resolved hyper-parameters; write nothing."""

    def __post_init__(self) -> None:
        """Refuse budgets that cannot be meant."""
        for flag, value in (("--steps", self.steps), ("--episodes", self.episodes), ("--threads", self.threads)):
            if value is not None and value < 1:
                raise UsageError("config.zero", f"{flag} {value}", "at least 1", f"leave {flag} out for the default")
