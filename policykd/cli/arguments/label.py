"""Flags of ``policykd label``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from policykd.cli.arguments import Manner
from policykd.errors import UsageError

__all__ = ["Arguments"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Manner):
    """Let a teacher act, and write what it saw, did and said (distribution, value) as a dataset."""

    teacher: str
    """A trained agent, as for distill."""
    out: Path | None = None
    """The dataset's folder, new or empty; it must be named."""
    steps: int = 100_000
    """Environment steps, one row each."""
    env: str | None = None
    """A Gymnasium id or a recipe, where the teacher does not say or should not decide."""
    explore: bool = False
    """Draw actions from the teacher's distributions instead of taking their modes."""
    normalizer: str = "auto"
    """The teacher's VecNormalize file; auto finds it, none acts in the zip's own spaces."""
    num_envs: int = 16
    """Environments stepped side by side."""
    gym_packages: tuple[str, ...] = ()
    """Packages to import first, because they register environments."""
    seed: int = 0
    """Seeds environments and draws."""
    threads: int = 1
    """Threads of torch; small networks run slower on more than one."""
    dry_run: bool = False
    """Show what would be written; write nothing."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.out is None:
            raise UsageError("cli.arguments", "no --out", "a folder for the dataset", "add --out DIR")
        for flag, value in (("--steps", self.steps), ("--num-envs", self.num_envs), ("--threads", self.threads)):
            if value < 1:
                raise UsageError("config.zero", f"{flag} {value}", "at least 1", f"leave {flag} out for the default")
