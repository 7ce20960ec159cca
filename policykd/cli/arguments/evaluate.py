"""Flags of ``policykd evaluate``."""

from __future__ import annotations

from dataclasses import dataclass

from policykd.cli.arguments import Manner
from policykd.errors import UsageError

__all__ = ["Arguments"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Manner):
    """Play agents and students, and the random policy, on the same episodes; retention is told against the first."""

    paths: tuple[str, ...]
    """Agents: zips, zoo or Hub folders, folders of agents/, run folders, student folders."""
    env: str | None = None
    """A Gymnasium id or a recipe, where an agent does not say or should not decide."""
    episodes: int = 100
    """Episodes of each."""
    stochastic: bool = False
    """Draw actions from the distributions instead of taking their modes."""
    normalizer: str = "auto"
    """The VecNormalize file of teachers; auto finds it, none acts in the zip's own spaces."""
    gym_packages: tuple[str, ...] = ()
    """Packages to import first, because they register environments."""
    seed: int = 0
    """Seed of the first episode."""
    threads: int = 1
    """Threads of torch; small networks run slower on more than one."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not self.paths:
            raise UsageError(
                "cli.arguments", "no agent", "one path or more", "policykd evaluate agents/lunarlander-ppo"
            )
        if self.episodes < 1:
            raise UsageError("config.zero", f"--episodes {self.episodes}", "at least 1", "leave --episodes out")
