"""Flags of ``policykd distill-classifier``; how is ``policykd.class_config.ClassifyConfig``, field by field."""

from __future__ import annotations

from dataclasses import dataclass, field

from policykd.class_config import ClassifyConfig
from policykd.cli.arguments import Leaves

__all__ = ["Arguments"]

_SHAPES = r"same|linear|minilm|(mlp|cnn|bag2?|transformer):\S*"
"""Words that follow --via as assistants; ``classifiers.parse`` says whether they are shapes."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Leaves):
    """Teach a small classifier of images or texts what a large one says, beside the same one taught by labels alone."""

    data: str
    """fashion-mnist, mnist, digits, bbc-news, vader-movie ..., NAME=PATH, or a path (npz, csv, idx, class folders)."""
    teacher: str | None = field(default=None, metadata={"shown": "SHAPE|FOLDER"})
    """A shape to train first (cnn:32,64x128, minilm), or the folder of a trained one; None: what suits the data."""
    student: str | None = field(default=None, metadata={"shown": "SHAPE"})
    """cnn:8,16, mlp:32, bag:32, transformer:64x1; None: what suits the data."""
    via: tuple[str, ...] = field(default=(), metadata={"joined": _SHAPES, "shown": "SHAPE|same ..."})
    """Like cnn:16,32 and again --via cnn:8: assistants, each to learn from the last; same: of the student's shape."""
    how: ClassifyConfig = field(default_factory=ClassifyConfig)
