"""Flags of ``policykd distill-classifier``; how is ``policykd.class_config.ClassifyConfig``, field by field."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from policykd.class_config import ClassifyConfig
from policykd.cli.arguments import Manner
from policykd.errors import UsageError

__all__ = ["Arguments"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Manner):
    """Teach a small classifier of images or texts what a large one says, beside the same one taught by labels alone."""

    data: str
    """fashion-mnist, mnist, digits, bbc-news, vader-movie ..., NAME=PATH, or a path (npz, csv, idx, class folders)."""
    teacher: str | None = field(default=None, metadata={"shown": "SHAPE|FOLDER"})
    """A shape to train first (cnn:32,64x128, minilm), or the folder of a trained one; None: what suits the data."""
    student: str | None = field(default=None, metadata={"shown": "SHAPE"})
    """cnn:8,16, mlp:32, bag:32, transformer:64x1; None: what suits the data."""
    via: tuple[str, ...] = field(default=(), metadata={"shown": "SHAPE|same ..."})
    """Assistants that learn first, each from the last: --via cnn:16,32 same; same: of the student's own shape."""
    how: ClassifyConfig = field(default_factory=ClassifyConfig)
    threads: int = 1
    """Threads of torch."""
    out: Path | None = None
    """The run folder, new or empty; one under runs/ named by time, data and student without it."""
    config: Path | None = None
    """A config.json of an earlier run: its values are the defaults, flags win."""
    dry_run: bool = False
    """Show the resolved configuration and what data, teacher and student are; write nothing."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, before anything heavy is imported."""
        if self.threads < 1:
            raise UsageError("config.zero", f"--threads {self.threads}", "at least 1", "leave --threads out")
