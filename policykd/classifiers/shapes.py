"""What a classifier looks like before it exists (``cnn:16,32``, ``bag:32``); it refuses to build anything."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from policykd.errors import UsageError

__all__ = ["Kind", "Shape", "parse"]

Kind: TypeAlias = Literal["mlp", "cnn", "bag", "bag2", "transformer", "minilm"]

_WIDEST, _DEEPEST = 2**16, 64
_TEXTS = ("bag", "bag2", "transformer", "minilm")
_WIDTHS = r"\d+(?:,\d+)*"
_GRAMMAR = re.compile(
    rf"(?P<linear>linear|mlp:linear)|mlp:(?P<mlp>{_WIDTHS})|cnn:(?P<cnn>{_WIDTHS})(?:x(?P<hidden>{_WIDTHS}))?"
    rf"|(?P<bags>bag2?):(?P<bag>{_WIDTHS})|transformer:(?P<width>\d+)x(?P<layers>\d+)(?:x(?P<heads>\d+))?"
    r"|(?P<minilm>minilm)"
)


@dataclass(frozen=True)
class Shape:
    """All that decides which numbers a classifier has, but for its inputs and classes; made by ``parse``."""

    kind: Kind
    widths: tuple[int, ...] = ()
    """Channels of a cnn, the width of word embeddings (bag) or of a transformer; () elsewhere."""
    hidden: tuple[int, ...] = ()
    """Widths of the layers between that and the logits; () for a linear head."""
    layers: int = 0
    heads: int = 0

    @property
    def texts(self) -> bool:
        """Whether it reads texts rather than images or vectors."""
        return self.kind in _TEXTS

    def __str__(self) -> str:
        hidden = ",".join(map(str, self.hidden))
        match self.kind:
            case "mlp":
                return f"mlp:{hidden}" if hidden else "linear"
            case "cnn":
                return f"cnn:{','.join(map(str, self.widths))}" + (f"x{hidden}" if hidden else "")
            case "transformer":
                return f"transformer:{self.widths[0]}x{self.layers}x{self.heads}"
            case "minilm":
                return "minilm"
        return f"{self.kind}:{','.join(map(str, (*self.widths, *self.hidden)))}"


def parse(text: str | Shape) -> Shape:
    """The shape that people type.

    ======================  ========================================================================================
    ``linear``              logistic regression on pixels or numbers
    ``mlp:64,64``           layers of 64 and 64 on flat inputs
    ``cnn:16,32``           two convolutions (kernel 3, stride 2) and a linear head; ``cnn:16,32x64`` has a layer of
                            64 before the head
    ``bag:32``              mean of word embeddings of width 32, linear head; ``bag:32,16`` has a layer of 16 between
    ``bag2:32``             the same with pairs of neighbouring words (hashed) beside the words
    ``transformer:64x1``    width 64, 1 layer; ``transformer:64x1x2`` with 2 heads (otherwise 4, where 4 divides it)
    ``minilm``              MiniLM of 6 layers, pre-trained (a teacher's size: 22.7 million numbers)
    ======================  ========================================================================================

    Raises:
        UsageError: ``classifier.shape`` for anything else.
    """
    if isinstance(text, Shape):
        return text
    found = _GRAMMAR.fullmatch(re.sub(r"\s", "", str(text)))
    if found is None or not found[0].isascii():
        raise _refused(text)
    shape = _shape(found)
    sizes = (*shape.widths, *shape.hidden)
    fitting = all(1 <= size <= _WIDEST for size in sizes) and len(sizes) <= _DEEPEST
    if shape.kind == "transformer":
        fitting &= 1 <= shape.layers <= _DEEPEST and shape.heads >= 1 and shape.widths[0] % shape.heads == 0
    if not fitting:
        raise _refused(text)
    return shape


def _refused(text: object) -> UsageError:
    return UsageError(
        "classifier.shape",
        f"the shape {str(text)[:200]!r}",
        "linear, mlp:64,64, cnn:16,32, cnn:16,32x64, bag:32, bag:32,16, bag2:32, transformer:64x1, transformer:64x1x4 "
        f"or minilm, widths from 1 to {_WIDEST}, a transformer's a multiple of its heads",
        "type cnn:16,32 for images, bag:32 for texts" + (f"; no folder {text} is there" if "/" in str(text) else ""),
    )


def _shape(found: re.Match[str]) -> Shape:
    def numbers(name: str) -> tuple[int, ...]:
        # More digits than any width has: int() is slow there, and refuses very long ones.
        return tuple(int(word) if len(word) < 9 else _WIDEST + 1 for word in (found[name] or "").split(",") if word)

    if found["linear"]:
        return Shape("mlp")
    if found["mlp"]:
        return Shape("mlp", hidden=numbers("mlp"))
    if found["cnn"]:
        return Shape("cnn", numbers("cnn"), numbers("hidden"))
    if found["bag"]:
        return Shape("bag" if found["bags"] == "bag" else "bag2", numbers("bag")[:1], numbers("bag")[1:])
    if found["width"]:
        width, layers = numbers("width"), numbers("layers")[0]
        heads = numbers("heads")[0] if found["heads"] else 4 if width[0] % 4 == 0 else 1
        return Shape("transformer", width, layers=layers, heads=heads)
    return Shape("minilm")
