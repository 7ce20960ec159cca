"""Flags of ``policykd distill``; how to teach and measure is ``policykd.config.DistillConfig``, field by field."""

from __future__ import annotations

from dataclasses import dataclass, field

from policykd.cli.arguments import Teaches
from policykd.cli.names import check_loss
from policykd.config import REWARDED, DistillConfig, RewardConfig, parse_via
from policykd.errors import UsageError
from policykd.sizes import parse_hidden, parse_share

__all__ = ["Arguments"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Teaches):
    """Teach a small student what a trained agent does, then measure teacher, student and random side by side."""

    hidden: str = field(default="64,64", metadata={"joined": r"\d+(,\d+)*|linear", "shown": "64,64|linear"})
    """Widths of the student's layers: 64,64 (or 64 64), 8, linear for none; the teacher's own make it born again."""
    max_params: str | None = field(default=None, metadata={"shown": "4%|2000"})
    """Instead of --hidden: the widest two-layer student within a share of the teacher's parameters, or a number."""
    via: tuple[str, ...] = field(
        default=(), metadata={"joined": r"\d+(,\d+)*|linear|same", "shown": "256,256|same ..."}
    )
    """Like 256,256 and again --via 64,64: assistants, each to learn from the last; same: of the student's size."""
    loss: str | None = None
    """A name of `policykd list losses`, or module:function of your own; the family's default without it."""
    value: bool = False
    """Give the student a value head and teach it the teacher's value."""
    how: DistillConfig = field(default_factory=DistillConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, before anything heavy is imported."""
        super().__post_init__()
        parse_hidden(self.hidden)
        if self.max_params is not None:
            parse_share(self.max_params)
        parse_via(self.via, self.how, self.reward)
        if self.loss is not None:
            check_loss(self.loss)
        if self.value and self.how.method in REWARDED:
            raise UsageError(
                "reinforced.actor",
                f"--value with --method {self.how.method}",
                "one of them: that method's critic is a network of its own, thrown away at the end",
                "leave --value out",
            )
