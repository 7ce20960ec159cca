"""Modules over tokens: bags of words and small transformers; they refuse raw texts and random dropout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policykd.classifiers.shapes import Shape
from policykd.classifiers.vocabulary import PADDING
from policykd.errors import UsageError

__all__ = ["BUCKETS", "Bag", "Transformer", "attend", "mean_over"]

BUCKETS = 2**14
"""Rows of the table of word pairs in a ``bag2``."""
_FORBIDDEN = -1e9  # finite: a row that is all padding attends evenly, where -inf would give NaN


def mean_over(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``[b, t, n]`` over the positions in ``mask`` ``[b, t]`` (bool), ``[b, n]``; 0 where there is none."""
    weights = mask.to(states.dtype).unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1).clamp_min(1.0)


def _dense(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers)


class Bag(nn.Module):
    """The mean of word embeddings, hidden layers, logits (fastText: Joulin et al. 2016, 1607.01759).

    Args:
        shape: of kind bag, or bag2: neighbouring words count as one more word each, hashed into ``BUCKETS`` rows.
        words: number of ids.
        outputs: number of classes k.

    Attributes:
        words, pairs: embeddings (pairs: None in a bag), said as their mean ``[b, n]``.
        hidden, head: layers behind.
    """

    def __init__(self, shape: Shape, words: int, outputs: int) -> None:
        super().__init__()
        width = shape.widths[0]
        self.words = nn.EmbeddingBag(words, width, mode="mean", padding_idx=PADDING)
        self.pairs: nn.EmbeddingBag | None = None
        if shape.kind == "bag2":
            self.pairs = nn.EmbeddingBag(BUCKETS + 1, width, mode="mean", padding_idx=PADDING)
        widths = (width, *shape.hidden)
        self.hidden = _dense(widths)
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``[*b, k]`` of tokens ``[*b, t]`` (long)."""
        rows = tokens.reshape(-1, tokens.shape[-1])
        x = self.words(rows)
        if self.pairs is not None:
            x = x + self.pairs(_pairs(rows))
        return self.head(self.hidden(x)).reshape(*tokens.shape[:-1], -1)


def _pairs(tokens: Tensor) -> Tensor:
    """Hashes 1 to ``BUCKETS`` of neighbours ``[b, t]`` (each text's last token with the padding behind it)."""
    after = F.pad(tokens[:, 1:], (0, 1), value=PADDING)
    # Multiplicative hashing (Knuth, TAOCP 3, 6.4); the numbers are ids, so the products stay far below 2^63.
    mixed = tokens * 2_654_435_761 + after * 2_246_822_519
    return torch.where(tokens == PADDING, PADDING, (mixed >> 15) % BUCKETS + 1)


def attend(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """softmax(Q K' / sqrt(d)), ``[b, h, t, t]``, of ``[b, h, t, d]``: positions outside ``mask`` ``[b, t]`` get 0."""
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    return scores.masked_fill(~mask[:, None, None, :], _FORBIDDEN).softmax(-1)


class _Block(nn.Module):
    """Attention and a feed-forward layer of twice the width, each behind its norm (Xiong et al. 2020, 2002.04745)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        # Nothing happens in these: they are places to listen at.
        self.queries, self.keys, self.values, self.map = (nn.Identity() for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        seen = self.norm(x)
        parts = (layer(seen).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key))
        queries, keys = parts
        values = self.values(self.value(seen).unflatten(-1, (self.heads, -1)).transpose(1, 2))
        map = self.map(attend(self.queries(queries), self.keys(keys), mask))
        x = x + self.out((map @ values).transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.wide(self.norm2(x))))


class Transformer(nn.Module):
    """Words and learned positions, blocks, the mean over words, logits.

    Args:
        shape: of kind transformer.
        words: number of ids.
        length: positions there are.
        outputs: number of classes k.

    Attributes:
        blocks: each says token states ``[b, t, n]``; in it ``map`` (attention, ``[b, h, t, t]``, rows sum to 1) and
            ``queries``, ``keys``, ``values`` (``[b, h, t, d]``).
        norm: the last token states, normalised, ``[b, t, n]``.
        head: logits.
    """

    def __init__(self, shape: Shape, words: int, length: int, outputs: int) -> None:
        super().__init__()
        width = shape.widths[0]
        self.words = nn.Embedding(words, width, padding_idx=PADDING)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(_Block(width, shape.heads) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``[*b, k]`` of tokens ``[*b, t]`` (long).

        Raises:
            UsageError: ``classifier.inputs`` for more tokens than ``length``.
        """
        rows = tokens.reshape(-1, tokens.shape[-1])
        if rows.shape[1] > len(self.positions.weight):
            found = f"texts of {rows.shape[1]} tokens"
            expected = f"{len(self.positions.weight)} at most"
            raise UsageError("classifier.inputs", found, expected, "encode texts with this classifier's own prepare")
        mask = rows != PADDING
        x = self.words(rows) + self.positions.weight[: rows.shape[1]]
        for block in self.blocks:
            x = block(x, mask)
        return self.head(mean_over(self.norm(x), mask)).reshape(*tokens.shape[:-1], -1)
