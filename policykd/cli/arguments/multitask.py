"""Flags of ``policykd multitask``; how to teach and measure is ``policykd.config.DistillConfig``, field by field."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from policykd.cli.arguments import Runs
from policykd.cli.names import check_loss
from policykd.config import DistillConfig
from policykd.errors import UsageError
from policykd.sizes import parse_hidden

__all__ = ["Arguments"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Runs):
    """Teach one student what several trained agents do, each in its own environment, then measure all of them."""

    teachers: tuple[str, ...]
    """Two trained agents or more: SB3 zips, zoo or Hub folders, folders of agents/, run folders."""
    hidden: str = field(default="16,16", metadata={"joined": r"\d+(,\d+)*|linear", "shown": "16,16"})
    """Widths of the student's layers; all but the first are shared by all tasks."""
    heads: Literal["own", "shared"] = "own"
    """A last layer for each task, or one for all."""
    inputs: Literal["own", "padded"] = "own"
    """A first layer for each task, or one for all that reads observations padded with zeros."""
    normalizer: str = "auto"
    """The teachers' VecNormalize files; auto finds them, none acts in the zips' own spaces."""
    loss: str | None = None
    """A name of `policykd list losses`, or module:function of your own, for every task; else each family's default."""
    value: bool = False
    """Give the student a value head a task and teach it the teachers' values."""
    how: DistillConfig = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, before anything heavy is imported."""
        super().__post_init__()
        if len(self.teachers) < 2:
            raise UsageError(
                "multitask.teachers",
                f"{len(self.teachers)} teacher{'s' * (len(self.teachers) != 1)}",
                "two or more, one a task",
                "for one: policykd distill TEACHER",
            )
        if self.normalizer not in ("auto", "none"):
            raise UsageError(
                "multitask.normalizer", f"--normalizer {self.normalizer} for several teachers", "auto or none"
            )
        if self.how.method not in ("teacher", "student", "dagger"):
            raise UsageError(
                "multitask.method", f"several tasks with --method {self.how.method}", "teacher, student or dagger"
            )
        parse_hidden(self.hidden)
        if self.loss is not None:
            check_loss(self.loss)
