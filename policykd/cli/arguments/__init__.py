"""What can be typed after each verb, one light module a verb; a field without a default is positional."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from policykd.config import COMBINATIONS, Combination
from policykd.errors import UnknownNameError, UsageError

__all__ = ["Leaves", "Manner", "Runs", "Teaches"]


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a verb speaks."""

    json: bool = False
    """One JSON object on stdout, nothing else there."""
    quiet: bool = False
    """The result only: no progress, no hints."""
    debug: bool = False
    """Show the traceback of a failure."""


@dataclass(frozen=True, kw_only=True)
class Leaves(Manner):
    """A verb that leaves a run folder."""

    threads: int = 1
    """Threads of torch; small networks run slower on more than one."""
    out: Path | None = None
    """The run folder, new or empty; one under runs/ named by time, environment and student without it."""
    config: Path | None = None
    """A config.json of an earlier run: its values are the defaults, flags win."""
    dry_run: bool = False
    """Show the resolved configuration and what teachers and students are; write nothing."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, before anything heavy is imported."""
        if self.threads < 1:
            raise UsageError("config.zero", f"--threads {self.threads}", "at least 1", "leave --threads out")


@dataclass(frozen=True, kw_only=True)
class Runs(Leaves):
    """A verb that steps environments and leaves a run folder."""

    gym_packages: tuple[str, ...] = ()
    """Packages to import first, because they register environments."""


@dataclass(frozen=True, kw_only=True)
class Teaches(Runs):
    """A verb that makes students of an agent."""

    teacher: str
    """A trained agent: an SB3 zip, a zoo or Hub folder, a folder of agents/, or a run folder."""
    also: tuple[str, ...] = field(default=(), metadata={"shown": "TEACHER ..."})
    """More teachers of the same environment, of whatever algorithms: they and the first are combined into one."""
    combine: Combination = "mean"
    """How: mean of their probabilities; product (only what nobody rules out); confident (the surer, the heavier)."""
    env: str | None = None
    """A Gymnasium id or a recipe (envs/lunarlander.py), where the teacher does not say or should not decide."""
    normalizer: str = "auto"
    """The teacher's VecNormalize file; auto finds it, none acts in the zip's own spaces."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, before anything heavy is imported."""
        super().__post_init__()
        if self.combine not in COMBINATIONS:
            raise UnknownNameError.of("combine", self.combine, COMBINATIONS)
