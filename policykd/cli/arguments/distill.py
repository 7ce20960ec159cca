"""Flags of ``policykd distill``; how to teach and measure is ``policykd.config.DistillConfig``, field by field."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from policykd.cli.arguments import Manner
from policykd.cli.names import check_loss
from policykd.config import DistillConfig
from policykd.errors import UsageError
from policykd.sizes import parse_hidden, parse_share

__all__ = ["Arguments"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Manner):
    """Teach a small student what a trained agent does, then measure teacher, student and random side by side."""

    teacher: str
    """A trained agent: an SB3 zip, a zoo or Hub folder, a folder of agents/, or a run folder."""
    hidden: str = field(default="64,64", metadata={"joined": r"\d+(,\d+)*|linear", "shown": "64,64|linear"})
    """Widths of the student's layers: 64,64 (or 64 64), 8, or linear for none."""
    max_params: str | None = field(default=None, metadata={"shown": "4%|2000"})
    """Instead of --hidden: the widest two-layer student within a share of the teacher's parameters, or a number."""
    env: str | None = None
    """A Gymnasium id or a recipe (envs/lunarlander.py), where the teacher does not say or should not decide."""
    loss: str | None = None
    """A name of `policykd list losses`, or module:function of your own; the family's default without it."""
    value: bool = False
    """Give the student a value head and teach it the teacher's value."""
    normalizer: str = "auto"
    """The teacher's VecNormalize file; auto finds it, none acts in the zip's own spaces."""
    gym_packages: tuple[str, ...] = ()
    """Packages to import first, because they register environments."""
    threads: int = 1
    """Threads of torch; small networks run slower on more than one."""
    out: Path | None = None
    """The run folder, new or empty; runs/<time>-<env>-<student> without it."""
    config: Path | None = None
    """A config.json of an earlier run: its values are the defaults, flags win."""
    dry_run: bool = False
    """Show the resolved configuration and what teacher and student are; write nothing."""
    how: DistillConfig = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, before anything heavy is imported."""
        parse_hidden(self.hidden)
        if self.max_params is not None:
            parse_share(self.max_params)
        if self.loss is not None:
            check_loss(self.loss)
        if self.threads < 1:
            raise UsageError("config.zero", f"--threads {self.threads}", "at least 1", "leave --threads out")
