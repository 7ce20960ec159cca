"""What single layers of a network say, heard through hooks that are gone after each call; it changes no answer."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeAlias, final, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from policykd.errors import UnknownNameError, UsageError
from policykd.policy import Many, Taught
from policykd.prediction import Batch, Obs, Prediction

__all__ = ["Names", "Tapped", "by_feature", "listen"]

Names: TypeAlias = Sequence[str] | Mapping[str, str]
"""Names of submodules as ``named_modules`` gives them (``torso.1``), or feature name -> module name."""

_SHOWN = 20  # names in a message: a large network has hundreds


@runtime_checkable
class _Labels(Protocol):
    def label(self, obs: Obs, /) -> Prediction: ...


@contextmanager
def listen(module: nn.Module, names: Names) -> Iterator[dict[str, Tensor]]:
    """The outputs of submodules, by feature name, as they are computed inside the ``with``; then the hooks are removed.

    Of a tuple or list the first tensor counts; of several calls of one submodule the last. Outputs keep their gradient.
    An in-place layer (``ReLU(inplace=True)``) right after a submodule changes what was heard: listen to that one.

    Args:
        module: any network.
        names: of its submodules.

    Raises:
        UnknownNameError: ``name.module`` for a name that is not a submodule.
        UsageError: ``taps.output`` (in the call) for an output without a tensor.
    """
    heard: dict[str, Tensor] = {}
    handles: list[RemovableHandle] = []
    try:
        for feature, (name, layer) in _layers(module, names).items():
            handles.append(layer.register_forward_hook(partial(_hear, heard, feature, name)))
            # Whoever runs layers in a way of its own while nobody listens (students.network) looks at the layers
            # themselves, not at the Sequential around them.
            while type(layer) is nn.Sequential and len(layer):
                layer = layer[-1]
                handles.append(layer.register_forward_hook(_notice))
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _hear(heard: dict[str, Tensor], feature: str, name: str, module: nn.Module, args: Any, output: Any) -> None:
    parts = output if isinstance(output, tuple | list) else [output]
    first = next((part for part in parts if isinstance(part, Tensor)), None)
    if first is None:
        found = f"the module {name!r} ({type(module).__name__}) returned {type(output).__name__}"
        raise UsageError("taps.output", found, "a tensor, or a tuple with one", "tap a layer inside it")
    heard[feature] = first


def _notice(*_: Any) -> None:
    pass


def by_feature(names: Names) -> dict[str, str]:
    """Feature name -> module name; one name alone is both."""
    if isinstance(names, str):
        return {names: names}
    return dict(names) if isinstance(names, Mapping) else {name: name for name in names}


def _layers(module: nn.Module, names: Names) -> dict[str, tuple[str, nn.Module]]:
    known = {name: layer for name, layer in module.named_modules(remove_duplicate=False) if name}
    for name in by_feature(names).values():
        if name not in known:
            shown = ", ".join(list(known)[:_SHOWN]) or "none: it has no submodules"
            more = f", ... ({len(known)} in all)" if len(known) > _SHOWN else ""
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            fix = f"did you mean {' or '.join(close)}?" if close else ""
            found = f"module {name!r} is not in {type(module).__name__}"
            raise UnknownNameError("name.module", found, f"one of {shown}{more}", fix)
    return {feature: (name, known[name]) for feature, name in by_feature(names).items()}


@final
class Tapped(Taught):
    """A student or teacher with outputs of its submodules among ``Prediction.features``.

    Its weights are those of ``inner`` (in ``state_dict`` under ``inner.``): train the tapped student, then keep
    ``learner.student.inner``. What ``inner`` says of its own accord stays, other features included.

    Args:
        inner: whatever a Learner can teach, or a teacher with ``label``.
        names: submodules of ``inner``, or feature name -> submodule; see ``listen``.

    Raises:
        UnknownNameError: ``name.module`` for a name that is not a submodule.
        UsageError: ``taps.many`` for several students in one; at the call ``taps.output`` (see ``listen``),
            ``taps.silent`` for a submodule that was not called, ``taps.feature`` for a name that ``inner`` uses for
            something else.
    """

    def __init__(self, inner: Taught, names: Names) -> None:
        super().__init__()
        if isinstance(inner, Many):
            raise UsageError(
                "taps.many", f"a tapped {type(inner).__name__}", "one student or teacher", "tap each alone"
            )
        self.inner, self.names = inner, by_feature(names)
        _layers(inner, self.names)  # a wrong name is an error here, not at the first batch

    def read(self, batch: Batch) -> Prediction:
        """What ``inner`` says about the rows of ``batch``, and what was heard, with a gradient to its weights."""
        return self._heard(self.inner.read, batch)

    def forward(self, *args: Any, **knobs: Any) -> Prediction:
        """``inner`` called with the same arguments, and what was heard."""
        return self._heard(self.inner, *args, **knobs)

    @torch.no_grad()
    def label(self, obs: Obs) -> Prediction:
        """The frozen prediction that a student is taught with, and what was heard: no gradient.

        Raises:
            UsageError: ``taps.label`` for an ``inner`` that only learns.
        """
        if not isinstance(self.inner, _Labels):
            raise UsageError(
                "taps.label", f"a {type(self.inner).__name__} without label(obs)", "a Policy or Classifier"
            )
        return self._heard(self.inner.label, obs)

    def _heard(self, ask: Callable[..., Prediction], *args: Any, **knobs: Any) -> Prediction:
        with listen(self.inner, self.names) as heard:
            said = ask(*args, **knobs)
        for feature, name in self.names.items():
            if feature not in heard:
                found = f"the module {name!r} was not called"
                raise UsageError("taps.silent", found, "one that takes part in the prediction", "tap a layer inside it")
            if said.features.get(feature, heard[feature]) is not heard[feature]:
                found = f"a tap named {feature!r}, which {type(self.inner).__name__} uses for a feature of its own"
                raise UsageError("taps.feature", found, "a free name", f"names={{'my_{feature}': {name!r}}}")
        return replace(said, features={**said.features, **heard})
