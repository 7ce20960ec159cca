"""From a shape to a classifier with weights of its own; it refuses to draw from the global generator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from policykd.classifiers import minilm
from policykd.classifiers.classifier import Classifier
from policykd.classifiers.images import ImageNetwork, Scale, fit_scale
from policykd.classifiers.shapes import Shape, parse
from policykd.classifiers.texts import Bag, Transformer
from policykd.classifiers.vocabulary import PADDING, Vocabulary
from policykd.errors import UsageError

__all__ = ["build", "empty", "initialise"]

_OUTPUT_GAIN = 0.01  # a fresh classifier is close to uniform, whatever it sees


def build(
    shape: str | Shape,
    *,
    inputs: Tensor | Sequence[str],
    classes: Sequence[str] | int,
    seed: int = 0,
    encoder: Vocabulary | None = None,
    words: int = 8192,
    length: int | None = None,
    taps: Sequence[str] | Mapping[str, str] = (),
    attention: bool = False,
) -> Classifier:
    """A classifier of this shape for inputs such as these.

    Args:
        shape: as ``parse`` takes it (``cnn:16,32``, ``bag:32``, ``minilm``).
        inputs: the training set's, raw: images or vectors ``[n, ...]``, whose mean and spread it keeps, or texts, whose
            words become its vocabulary.
        classes: names, or how many.
        seed: of the first weights (of minilm: of its head).
        encoder: a vocabulary to take instead of fitting one (a student's and its teacher's may be the same).
        words, length: of a vocabulary that is fitted (words of a text that count, 64), or of minilm's tokens (128).
        taps: submodules that become features, see Classifier.
        attention: of minilm: let ``map`` and ``values`` be tapped.

    Raises:
        UsageError: ``classifier.shape``; ``classifier.inputs`` for texts where the shape reads images, or the other way
            round; ``classifier.classes``; ``classifier.vocabulary``.
        MissingExtraError: for minilm without the extra ``text``.
    """
    shape = parse(shape)
    if shape.texts == isinstance(inputs, Tensor):
        what = "a tensor" if isinstance(inputs, Tensor) else f"a {type(inputs).__name__}"
        raise UsageError(
            "classifier.inputs",
            f"{what} for the shape {shape}",
            "a sequence of texts" if shape.texts else "a tensor of images or vectors [n, ...]",
            "type bag:32 or minilm for texts, cnn:16,32 or mlp:64,64 for tensors",
        )
    about: dict[str, Any] = {"taps": taps, "attention": attention}
    if isinstance(inputs, Tensor):
        made = empty(shape, classes, inputs=tuple(inputs.shape[1:]), **about)
    elif shape.kind == "minilm":
        made = empty(shape, classes, encoder=minilm.Tokens(128 if length is None else length), **about)
    else:
        encoder = encoder or Vocabulary.fit(inputs, words=words, length=64 if length is None else length)
        made = empty(shape, classes, encoder=encoder, **about)
    initialise(made.module, seed)
    if isinstance(inputs, Tensor):
        fit_scale(made.module, inputs)
    return made


def empty(
    shape: Shape,
    classes: Sequence[str] | int,
    *,
    inputs: tuple[int, ...] = (),
    encoder: Vocabulary | minilm.Tokens | None = None,
    taps: Sequence[str] | Mapping[str, str] = (),
    attention: bool = False,
) -> Classifier:
    """A classifier of the right shapes without memory behind them (device "meta"; minilm has memory).

    Args:
        inputs: shape of one image or vector, () for texts.
        encoder: of texts.

    Raises:
        UsageError: as ``build``.
    """
    outputs = classes if isinstance(classes, int) else len(classes)
    with torch.device("meta"):  # no layer draws its default weights from the global generator
        match shape.kind, encoder:
            case (("mlp" | "cnn"), None):
                module: nn.Module = ImageNetwork(shape, inputs, outputs)
            case (("bag" | "bag2"), Vocabulary()):
                module = Bag(shape, len(encoder), outputs)
            case "transformer", Vocabulary():
                module = Transformer(shape, len(encoder), encoder.length, outputs)
            case "minilm", minilm.Tokens():
                with torch.device("cpu"):
                    module = minilm.MiniLM(outputs, attention=attention)
            case _:
                found = f"an encoder {type(encoder).__name__} for the shape {shape}"
                raise UsageError("classifier.inputs", found, "a Vocabulary for bag, bag2 and transformer")
    return Classifier(module, classes, taps=taps, encoder=encoder, shape=shape)


@torch.no_grad()
def initialise(module: nn.Module, seed: int) -> None:
    """First weights, on the CPU: orthogonal (Saxe et al. 2014, 1312.6120), a head's close to zero, embeddings small.

    Of minilm only the head's are drawn; the others are the pre-trained ones.
    """
    generator = torch.Generator().manual_seed(seed)
    head = module.get_submodule("head")
    if isinstance(module, minilm.MiniLM):
        minilm.fill(module)
        parts: list[nn.Module] = [head]
    else:
        module.to_empty(device="cpu")
        parts = list(module.modules())
    for part in parts:
        match part:
            case nn.Linear() | nn.Conv2d():
                nn.init.orthogonal_(part.weight, _gain(module, part is head), generator=generator)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
            case nn.Embedding() | nn.EmbeddingBag():
                part.weight.normal_(0.0, part.embedding_dim**-0.5, generator=generator)
                if part.padding_idx is not None:
                    part.weight[PADDING].zero_()
            case nn.LayerNorm():
                nn.init.ones_(part.weight)
                nn.init.zeros_(part.bias)
            case Scale():
                part.mean.zero_()
                part.std.fill_(1.0)


def _gain(module: nn.Module, head: bool) -> float:
    # Blocks add to what they read: gain 1 keeps that; ReLU halves the square, sqrt(2) keeps it (He et al. 2015).
    return _OUTPUT_GAIN if head else 1.0 if isinstance(module, Transformer) else math.sqrt(2.0)
