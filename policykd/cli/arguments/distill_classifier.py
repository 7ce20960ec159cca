"""Flags of ``policykd distill-classifier``; how is ``policykd.class_config.ClassifyConfig``, field by field."""

from __future__ import annotations

from dataclasses import dataclass, field

from policykd.class_config import ClassifyConfig
from policykd.cli.arguments import Leaves

__all__ = ["Arguments"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Leaves):
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
