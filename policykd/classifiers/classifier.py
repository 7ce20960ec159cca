"""Any module that says logits, as a teacher or a student; it refuses to train it and to ask where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, final

import torch
from torch import Tensor, nn

from policykd.classifiers.shapes import Shape
from policykd.distributions import Categorical
from policykd.errors import UsageError
from policykd.policy import Taught, evaluating
from policykd.prediction import Batch, Obs, Origin, Prediction, map_obs, rows_of
from policykd.taps import Names, by_feature, listen

__all__ = ["Classifier", "Encoder", "Inputs"]

Inputs: TypeAlias = Tensor | dict[str, Tensor] | Sequence[str]
"""Raw images or numbers ``[n, ...]``, encoded texts (tensors ``[n, t]`` by name), or raw texts."""


class Encoder(Protocol):
    """What makes tensors of raw texts: ``Vocabulary``, or the tokens of ``classifiers.minilm``."""

    def encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Tensors ``[n, t]`` by name, t being the longest text's tokens."""

    def trim(self, obs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same texts without columns that are padding in all of them."""


@final
class Classifier(Taught):
    """A module whose logits are a Categorical over classes.

    Args:
        module: gives logits ``[*b, k]``, or an object or mapping with ``logits`` (as transformers' models do), for a
            tensor of inputs, or for a dict of them as keyword arguments.
        classes: their names, two or more, or how many there are (named 0, 1, ...).
        taps: names of submodules whose outputs go into ``Prediction.features``; a mapping gives each feature a name of
            its own (``{"map": "blocks.0.map"}``).
        encoder: of raw texts; None where inputs are tensors.
        shape: what the module was built from, where it was built here (``build``).
        origin: where it comes from.

    Attributes:
        classes: their names; logit i is the i-th's.

    Raises:
        UsageError: ``classifier.classes`` for fewer than two, or equal names.
        UnknownNameError: ``name.module`` for a tap that is no submodule.
    """

    def __init__(
        self,
        module: nn.Module,
        classes: Sequence[str] | int,
        *,
        taps: Names = (),
        encoder: Encoder | None = None,
        shape: Shape | None = None,
        origin: Origin | None = None,
    ) -> None:
        super().__init__()
        self.module, self.encoder, self.shape = module, encoder, shape
        self.classes = _named(classes)
        self.taps = by_feature(taps)
        self.origin = origin or Origin(algo=None if shape is None else shape.kind)
        with listen(module, self.taps):
            pass  # a name that is not there is refused now, not at the first batch

    def prepare(self, inputs: Inputs) -> Obs:
        """What the module reads: raw texts encoded, tensors as they are.

        Raises:
            UsageError: ``classifier.inputs`` for texts without an encoder, and for what is neither.
        """
        match inputs:
            case Tensor() | dict():
                return inputs
            case str() | bytes():
                found = "one text"
            case Sequence() if all(isinstance(text, str) for text in inputs):
                if self.encoder is not None:
                    return self.encoder.encode(inputs)
                found = f"{len(inputs)} texts, which this classifier has no encoder for"
            case _:
                found = f"inputs of type {type(inputs).__name__}"
        raise UsageError(
            "classifier.inputs",
            found,
            "a tensor [n, ...], a dict of tensors, or a sequence of texts where there is an encoder",
            "give [text], torch.as_tensor(array), or Classifier(..., encoder=Vocabulary.fit(texts))",
        )

    def forward(self, inputs: Inputs) -> Prediction:
        """Prediction for inputs: logits ``[*b, k]``, and a feature for each tap.

        Raises:
            UsageError: ``classifier.inputs``; ``taps.silent`` for a tap that was not called; ``classifier.logits``
                where the module says something else;
                ``classifier.classes`` for another number of logits than there are classes.
        """
        obs = self.prepare(inputs)
        if not self.taps:
            return Prediction(Categorical(self._logits(obs)))
        with listen(self.module, self.taps) as heard:
            dist = Categorical(self._logits(obs))
        for feature, name in self.taps.items():
            if feature not in heard:
                found = f"the module {name!r} was not called"
                raise UsageError("taps.silent", found, "one that takes part in the prediction", "tap a layer inside it")
        return Prediction(dist, features=heard)

    def _logits(self, obs: Obs) -> Tensor:
        if isinstance(obs, dict):
            # Padding costs as much as words. Whoever listens to a submodule hears tokens where they are in the batch.
            if self.encoder is not None and not any(m._forward_hooks for m in self.module.modules()):
                obs = self.encoder.trim(obs)
            said = self.module(**obs)
        else:
            said = self.module(obs)
        if not isinstance(said, Tensor):
            kind = type(said).__name__
            said = said.get("logits") if isinstance(said, Mapping) else getattr(said, "logits", None)
            if not isinstance(said, Tensor):
                raise UsageError(
                    "classifier.logits",
                    f"a module that returns {kind}",
                    "a tensor of logits, or something with logits",
                    "wrap it in a module that returns its logits",
                )
        if said.dim() == 0 or said.shape[-1] != len(self.classes):
            raise UsageError(
                "classifier.classes",
                f"logits of shape {tuple(said.shape)}",
                f"{len(self.classes)} in the last dimension, one a class",
                "give the classes that the module was made for",
            )
        return said

    def read(self, batch: Batch) -> Prediction:
        """What it says about the inputs of ``batch``."""
        said: Prediction = self(batch.obs)
        return said

    def label(self, inputs: Inputs) -> Prediction:
        """The frozen prediction that a student is taught with: no gradient, evaluation mode (put back afterwards).

        Raises:
            UsageError: ``classifier.nan`` where logits are no distribution (NaN, +inf, -inf for all classes).
        """
        with evaluating(self), torch.no_grad():
            said: Prediction = self(inputs)
        assert isinstance(said.dist, Categorical)  # forward makes no other
        lost = int(said.dist.log_probs.isnan().any(-1).sum())
        if lost:
            raise UsageError(
                "classifier.nan",
                f"{lost} of {said.dist.logits.shape[:-1].numel()} rows where logits are NaN or infinite",
                "finite logits (-inf only for classes that cannot be)",
                "look for NaN in the inputs; where training diverged, take a smaller learning rate",
            )
        return said

    def label_all(self, inputs: Inputs, batch_size: int = 512) -> Prediction:
        """``label`` in mini-batches, for as many inputs as there are; on the CPU, wherever the weights are.

        Raises:
            UsageError: as ``label``; ``classifier.batch`` for a size below 1; ``classifier.inputs`` without inputs.
        """
        if batch_size < 1:
            raise UsageError("classifier.batch", f"batch_size={batch_size}", "1 or more", "give 512, say")
        obs = self.prepare(inputs)
        rows = rows_of(obs)
        if rows == 0:
            raise UsageError("classifier.inputs", "no inputs", "one or more", "give the rows to label")
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        said = []
        for first in range(0, rows, batch_size):
            piece = map_obs(obs, lambda t, first=first: t[first : first + batch_size].to(device))  # type: ignore[misc]
            said.append(self.label(piece).map(lambda t: t.cpu()))
        logits = torch.cat([one.dist.logits for one in said if isinstance(one.dist, Categorical)])
        features = {name: torch.cat([one.features[name] for one in said]) for name in self.taps}
        return Prediction(Categorical(logits), features=features)

    @property
    def acting_parameters(self) -> int:
        """Numbers in the module, word embeddings included."""
        return sum(p.numel() for p in self.parameters())

    @property
    def size_bytes(self) -> int:
        """Bytes of its parameters and buffers."""
        return sum(t.numel() * t.element_size() for t in (*self.parameters(), *self.buffers()))


def _named(classes: Sequence[str] | int) -> tuple[str, ...]:
    names: tuple[Any, ...] = (
        tuple(str(i) for i in range(classes))
        if isinstance(classes, int)
        else (classes,)
        if isinstance(classes, str)
        else tuple(classes)
    )
    if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise UsageError(
            "classifier.classes",
            f"classes={str(classes)[:200]}",
            "two or more names, each once, or their number",
            "give classes=10, or classes=('cat', 'dog')",
        )
    return names
