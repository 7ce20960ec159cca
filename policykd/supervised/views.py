"""Augmentations, the same for teacher and student: a view of the examples that the teacher is asked about anew.

A view is ``(Examples, Generator) -> Examples`` without a target: what the teacher said of the old inputs does not hold
for new ones. Teacher and student see one view (function matching: Beyer et al. 2022, 2106.05237).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from policykd.errors import UsageError
from policykd.prediction import map_obs
from policykd.supervised.examples import MISSING, Examples, View

__all__ = ["chain", "flip", "mixup", "noise", "shift", "spans", "words"]


def chain(*views: View) -> View:
    """One view after the other."""
    return partial(_chain, views=views)


def _chain(examples: Examples, generator: torch.Generator, *, views: tuple[View, ...]) -> Examples:
    for view in views:
        examples = view(examples, generator)
    return examples


def shift(pixels: int = 2) -> View:
    """Images ``[n, c, h, w]`` moved by up to so many pixels each way, the border repeated (DrQ: 2004.13649).

    Args:
        pixels: 0 leaves them where they are.

    Raises:
        UsageError: ``view.range``; ``view.images`` (at the call) for inputs that are no images.
    """
    if pixels < 0:
        raise UsageError("view.range", f"a shift by {pixels} pixels", "0 or more")
    return _on_inputs(partial(_shifted, pixels=pixels))


def _shifted(x: Tensor, generator: torch.Generator, *, pixels: int) -> Tensor:
    if pixels == 0:
        return x
    n, _, height, width = _images(x).shape
    down, right = torch.randint(-pixels, pixels + 1, (2, n), generator=generator)
    rows = (torch.arange(height) + down[:, None]).clamp(0, height - 1)
    columns = (torch.arange(width) + right[:, None]).clamp(0, width - 1)
    each = torch.arange(n)[:, None, None]
    return x.movedim(1, -1)[each, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def flip(share: float = 0.5) -> View:
    """Images ``[n, c, h, w]`` mirrored left to right, each with this probability.

    Raises:
        UsageError: ``view.range``, ``view.images``.
    """
    if not 0 <= share <= 1:
        raise UsageError("view.range", f"mirroring a share of {share}", "0 to 1")
    return _on_inputs(partial(_flipped, share=share))


def _flipped(x: Tensor, generator: torch.Generator, *, share: float) -> Tensor:
    turned = torch.rand(len(_images(x)), generator=generator) < share
    return torch.where(turned[:, None, None, None], x.flip(-1), x)


def noise(std: float | Tensor) -> View:
    """Normal noise on inputs ``[n, ...]``; what was whole numbers (0 to 255) stays so.

    Args:
        std: in the inputs' own units: a number, or one a column of a state vector.

    Raises:
        UsageError: ``view.range`` for a negative one.
    """
    scale = torch.as_tensor(std, dtype=torch.float32)
    if not bool((scale >= 0).all()):
        raise UsageError("view.range", f"noise of {std}", "0 or more")
    return _on_inputs(partial(_noisy, std=scale))


def _noisy(x: Tensor, generator: torch.Generator, *, std: Tensor) -> Tensor:
    if not x.is_floating_point() and x.dtype != torch.uint8:
        raise UsageError("view.images", f"noise on {x.dtype}", "images of bytes, or numbers", "leave it out for tokens")
    moved = x.float() + std * torch.randn(x.shape, generator=generator)
    return moved.round_().clamp_(0, 255).to(torch.uint8) if x.dtype == torch.uint8 else moved.to(x.dtype)


def mixup(alpha: float = 1.0, *, classes: int | None = None) -> View:
    """Each input mixed with another's, m x + (1 - m) x', m from Beta(alpha, alpha) a batch (1710.09412).

    The teacher labels the mixed input itself, which is all that distillation needs. True labels of mixed rows are
    ``MISSING`` but where both are the same; given ``classes``, ``soft`` holds the paper's mixed label.

    Args:
        alpha: 0 mixes nothing.
        classes: k; None mixes no labels.

    Raises:
        UsageError: ``view.range``; ``view.mixup`` (at the call) for inputs that cannot be mixed (texts, tokens).
    """
    if not alpha >= 0:
        raise UsageError("view.range", f"mixup({alpha})", "0 or more")
    return partial(_mixed, alpha=alpha, classes=classes)


def _mixed(examples: Examples, generator: torch.Generator, *, alpha: float, classes: int | None) -> Examples:
    if alpha == 0:
        return examples
    # torch's own Beta draws from the global generator.
    m = float(np.random.default_rng(int(torch.randint(2**62, (), generator=generator))).beta(alpha, alpha))
    other = torch.randperm(len(examples), generator=generator)

    def mix(x: Tensor) -> Tensor:
        if not (x.is_floating_point() or x.dtype == torch.uint8):
            raise UsageError("view.mixup", f"mixup of {x.dtype}", "images or numbers", "mix no tokens")
        mixed = m * x.float() + (1.0 - m) * x[other].float()
        return mixed.round_().to(torch.uint8) if x.dtype == torch.uint8 else mixed.to(x.dtype)

    if isinstance(examples.inputs, tuple):
        raise UsageError("view.mixup", "mixup of texts", "images or numbers")
    label, theirs = examples.label, examples.label[other]
    soft = None
    if classes is not None:
        known = (label != MISSING) & (theirs != MISSING)
        own, of_other = (F.one_hot(t.clamp_min(0), classes).float() for t in (label, theirs))
        soft = torch.where(known.unsqueeze(-1), m * own + (1.0 - m) * of_other, 0.0)
    mixed = map_obs(examples.inputs, mix)
    return replace(examples, inputs=mixed, label=torch.where(label == theirs, label, MISSING), soft=soft, target=None)


def words(drop: float = 0.3, swap: float = 0.1) -> View:
    """Texts with some words left out and some taken from other texts of the batch, for a teacher to label anew.

    A teacher's answers on the rows that it was trained on are little more than their labels; on texts that it has not
    seen they tell what it has understood (TinyBERT's transfer set: Jiao et al. 2020, 1909.10351, section 3.3, with a
    language model in the place of other texts). The new texts have no true label.

    Args:
        drop: share of words left out; one word always stays.
        swap: share of words replaced by a random word of another text.

    Raises:
        UsageError: ``view.range`` outside 0 to 1; ``view.texts`` (at the call) for inputs that are no texts.
    """
    if not (0 <= drop <= 1 and 0 <= swap <= 1):
        raise UsageError("view.range", f"words(drop={drop}, swap={swap})", "shares from 0 to 1")
    return partial(_reworded, drop=drop, swap=swap)


def _reworded(examples: Examples, generator: torch.Generator, *, drop: float, swap: float) -> Examples:
    texts = _texts(examples, "words")
    pool = [word for text in texts for word in text]
    made = []
    for text in texts:
        kept, other = torch.rand(2, max(len(text), 1), generator=generator)
        strange = torch.randint(max(len(pool), 1), (max(len(text), 1),), generator=generator).tolist()
        new = [
            pool[strange[i]] if other[i] < swap else word for i, word in enumerate(text) if kept[i] >= drop or drop == 0
        ]
        made.append(" ".join(new or text[:1]))
    return _unlabelled(examples, made)


def spans(least: int = 5, most: int = 12) -> View:
    """Of each text a run of words, for a teacher to label anew: what a part means is in no label of the whole.

    Cheap to answer, and what a bag of words can say again. The parts have no true label.

    Args:
        least, most: words in a run, each length as likely; a shorter text stays as it is.

    Raises:
        UsageError: ``view.range`` outside 1 <= least <= most; ``view.texts`` (at the call) for what is no text.
    """
    if not 1 <= least <= most:
        raise UsageError("view.range", f"spans({least}, {most})", "1 <= least <= most")
    return partial(_cut, least=least, most=most)


def _cut(examples: Examples, generator: torch.Generator, *, least: int, most: int) -> Examples:
    made = []
    for text in _texts(examples, "spans"):
        length, start = torch.rand(2, generator=generator).tolist()
        count = min(least + int(length * (most - least + 1)), len(text))
        first = int(start * (len(text) - count + 1))
        made.append(" ".join(text[first : first + count]))
    return _unlabelled(examples, made)


def _texts(examples: Examples, view: str) -> list[list[str]]:
    if not isinstance(examples.inputs, tuple):
        found = f"{view}() of {type(examples.inputs).__name__}"
        raise UsageError("view.texts", found, "texts", "shift() is for images")
    return [text.split() for text in examples.inputs]


def _unlabelled(examples: Examples, texts: list[str]) -> Examples:
    return replace(
        examples, inputs=tuple(texts), label=torch.full_like(examples.label, MISSING), soft=None, target=None
    )


def _on_inputs(f: Callable[[Tensor, torch.Generator], Tensor]) -> View:
    return partial(_seen, f=f)


def _seen(
    examples: Examples, generator: torch.Generator, *, f: Callable[[Tensor, torch.Generator], Tensor]
) -> Examples:
    if isinstance(examples.inputs, tuple):
        raise UsageError("view.images", "a view of texts", "inputs that are tensors")
    return replace(examples, inputs=map_obs(examples.inputs, lambda x: f(x, generator)), target=None)


def _images(x: Tensor) -> Tensor:
    if x.dim() != 4:
        raise UsageError("view.images", f"inputs of shape {tuple(x.shape)}", "images, [n, channels, height, width]")
    return x
