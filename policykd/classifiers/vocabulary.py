"""Texts as numbers: the most frequent words of a training set, others unknown; it refuses to learn anything."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from policykd.errors import UsageError

__all__ = ["PADDING", "UNKNOWN", "Vocabulary", "padded"]

PADDING, UNKNOWN = 0, 1
_SPECIAL = 2  # ids that are no words
_PIECES = re.compile(r"\w+(?:'\w+)*|[^\w\s]")


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of ids side by side, ``[n, longest]`` (long), filled up with ``PADDING``."""
    found = torch.full((len(rows), max(map(len, rows), default=1)), PADDING, dtype=torch.long)
    for i, row in enumerate(rows):
        found[i, : len(row)] = torch.tensor(row, dtype=torch.long)
    return found


def _pieces(text: str) -> list[str]:
    return _PIECES.findall(text.lower())


@dataclass(frozen=True)
class Vocabulary:
    """Lower-cased words (with their apostrophes) and punctuation marks as ids; made by ``fit``, kept as JSON."""

    words: tuple[str, ...]
    """The word of id 2, 3, ...: id 0 is padding, id 1 any other word."""
    length: int = 64
    """The words of a text that count: what comes after them is cut off."""

    def __post_init__(self) -> None:
        if not (type(self.length) is int and self.length >= 1):
            raise UsageError("classifier.vocabulary", f"length={self.length}", "1 word or more", "give length=64")
        if len(set(self.words)) < len(self.words):
            raise UsageError("classifier.vocabulary", "a word that is there twice", "each word once", "fit it again")

    @classmethod
    def fit(cls, texts: Iterable[str], *, words: int = 8192, length: int = 64, least: int = 2) -> Vocabulary:
        """The most frequent words of ``texts`` (of equals, the first in alphabetical order).

        Args:
            texts: training texts, and only these.
            words: how many at most.
            length: how many words of a text count.
            least: how often a word must be there.

        Raises:
            UsageError: ``classifier.vocabulary`` where no word is that frequent, or for a length below 1.
        """
        counts = Counter(piece for text in texts for piece in _pieces(text))
        found = sorted((-n, word) for word, n in counts.items() if n >= least)[: max(words, 0)]
        if not found:
            raise UsageError(
                "classifier.vocabulary",
                f"{len(counts)} words, none of them {least} times (words={words})",
                "training texts with words in common",
                "give more texts, or least=1",
            )
        return cls(tuple(word for _, word in found), length)

    def __len__(self) -> int:
        """How many ids there are."""
        return len(self.words) + _SPECIAL

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words, _SPECIAL)}

    def encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``{"tokens": [n, t] long}``, t being the longest text's words, ``length`` at most.

        A text without a word is one unknown word.
        """
        ids = self._ids
        rows = [[ids.get(piece, UNKNOWN) for piece in _pieces(text)[: self.length]] or [UNKNOWN] for text in texts]
        return {"tokens": padded(rows)}

    def trim(self, obs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same texts without columns that are padding in all of them; one column stays."""
        tokens = obs["tokens"]
        used = (tokens != PADDING).flatten(0, -2).any(0)
        last = int(used.nonzero().max()) + 1 if bool(used.any()) else 1
        return {**obs, "tokens": tokens[..., :last]}

    def to_json(self) -> dict[str, Any]:
        """What ``from_json`` takes."""
        return {"words": list(self.words), "length": self.length}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Vocabulary:
        """The vocabulary of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError, UsageError: for anything else.
        """
        words = data["words"]
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError("words that are no list of words")
        return cls(tuple(words), data["length"])
