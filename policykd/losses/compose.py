"""Weighted sums of losses that still show each term; it refuses to reduce rows and to resolve names.

A *pair loss* is ``(student: Prediction, target: Prediction) -> Tensor[*b]``, an *objective* is
``(student: Prediction, batch: Batch) -> dict[str, Tensor[*b]]``; in the place of rows an objective may put a ``Term``,
rows with a weight of its own, which may be learnt. Both may be functions, partials or ``nn.Module``s.
They are told apart by the name of their second parameter: ``batch`` makes an objective, any other name a pair loss.
An objective with a third parameter named ``progress`` is told how far the run has come.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from policykd.distributions import leading
from policykd.errors import UsageError
from policykd.losses.weights import Weight, weight_at
from policykd.prediction import Batch, Prediction, Progress

__all__ = ["Objective", "PairLoss", "Term", "Weighted", "as_objective", "on_rows", "on_target", "weighted"]

PairLoss: TypeAlias = Callable[[Prediction, Prediction], Tensor]


class Term(NamedTuple):
    """One term of a step: how much it counts, and its rows before that."""

    weight: float | Tensor
    """A tensor without dimensions where it is learnt."""
    rows: Tensor


Said: TypeAlias = Mapping[str, Tensor | Term]
Objective: TypeAlias = Callable[[Prediction, Batch], Said] | Callable[[Prediction, Batch, Progress], Said]


@dataclass(frozen=True)
class Weighted:
    """An objective made of named terms, each with a weight; made by ``weighted`` and ``as_objective``."""

    parts: Mapping[str, tuple[Weight, PairLoss | Objective]]

    @cached_property
    def _objectives(self) -> frozenset[str]:
        return frozenset(name for name, (_, part) in self.parts.items() if _takes_batch(part))

    @cached_property
    def _following(self) -> frozenset[str]:
        return frozenset(name for name in self._objectives if _parameters(self.parts[name][1])[2:3] == ["progress"])

    def terms(self, student: Prediction, batch: Batch, progress: Progress | None = None) -> dict[str, Term]:
        """Weight and rows ``[*b]`` of each term at this point of a run.

        A term whose weight is 0 is not computed and not in the result. A part that is an objective itself reports its
        terms as ``part/term``.

        Raises:
            UsageError: ``loss.returns`` or ``loss.rows`` for a user's function that does not keep its contract,
                ``loss.weight`` for a weight that is not a finite number.
        """
        progress = progress or Progress()
        found: dict[str, Term] = {}
        for name, (weight, part) in self.parts.items():
            at = weight_at(weight, progress, name)
            if at == 0:
                continue
            if isinstance(part, Weighted):
                inner = part.terms(student, batch, progress)
                found |= {_join(name, k): Term(at * w, rows) for k, (w, rows) in inner.items()}
            elif name in self._objectives:
                told = (progress,) if name in self._following else ()
                said = _check_mapping(name, part(student, batch, *told))  # type: ignore[arg-type]
                found |= {_join(name, k): _term(_join(name, k), at, v, student) for k, v in said.items()}
            else:
                pair: Callable[[Prediction, Prediction], Any] = part  # type: ignore[assignment]
                found[name] = Term(at, _check_rows(name, pair(student, batch.target), student))
        return found

    def weights(self, progress: Progress | None = None) -> dict[str, float]:
        """The weight of each part at this point of a run, those at 0 included: for charts."""
        return {name: weight_at(w, progress or Progress(), name) for name, (w, _) in self.parts.items()}

    def __call__(self, student: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Rows ``[*b]`` of each term before its weight, as at the start of a run: the contract of an objective."""
        return {name: term.rows for name, term in self.terms(student, batch).items()}

    @property
    def modules(self) -> list[nn.Module]:
        """The modules among parts and weights (also inside partials, ``on_target``, ``on_rows``), each once."""
        seen = {id(m): m for pair in self.parts.values() for m in _modules(pair)}
        return list(seen.values())


def weighted(**parts: tuple[Weight, PairLoss | Objective]) -> Weighted:
    """An objective from named terms: ``weighted(policy=(1.0, forward_kl), value=(0.5, value_mse))``.

    Args:
        parts: ``name=(weight, f)``; a weight is a number or a function of Progress, ``f`` a pair loss or an objective.
            A weight of 0 skips the term.

    Raises:
        UsageError: ``loss.term`` for anything else, or nothing at all.
    """
    given: Mapping[str, object] = parts
    if not given:
        raise UsageError("loss.term", "weighted() without terms", "", "weighted(policy=(1.0, losses.forward_kl))")
    for name, part in given.items():
        if not (isinstance(part, tuple) and len(part) == 2 and callable(part[1])):
            raise UsageError(
                "loss.term", f"the term {name}={part!r}", "a pair (weight, loss)", f"weighted({name}=(1.0, loss))"
            )
        if not callable(part[0]):
            weight_at(part[0], Progress(), name)
    return Weighted(dict(parts))


def as_objective(loss: PairLoss | Objective | Weighted) -> Weighted:
    """Any loss as a Weighted: a pair loss becomes the term ``policy``, an objective keeps its own names.

    Raises:
        UsageError: ``loss.term`` for something that cannot be called.
    """
    if isinstance(loss, Weighted):
        return loss
    if not callable(loss):
        raise UsageError(
            "loss.term", f"a loss that is a {type(loss).__name__}", "a function (student, target) or (student, batch)"
        )
    return Weighted({"" if _takes_batch(loss) else "policy": (1.0, loss)})


def on_target(loss: PairLoss, *transforms: Callable[[Prediction], Prediction]) -> PairLoss:
    """The pair loss on a transformed target: ``on_target(forward_kl, partial(from_q, tau=0.01))``; left to right."""
    return partial(_on_target, loss=loss, transforms=transforms)


def _on_target(
    student: Prediction,
    target: Prediction,
    *,
    loss: PairLoss,
    transforms: tuple[Callable[[Prediction], Prediction], ...],
) -> Tensor:
    for transform in transforms:
        target = transform(target)
    return loss(student, target)


def on_rows(loss: PairLoss, row_weight: Callable[[Prediction], Tensor]) -> PairLoss:
    """The pair loss with its rows multiplied by ``row_weight(target)``, ``[*b]``: ``weigh`` for a single term."""
    return partial(_on_rows, loss=loss, row_weight=row_weight)


def _on_rows(
    student: Prediction, target: Prediction, *, loss: PairLoss, row_weight: Callable[[Prediction], Tensor]
) -> Tensor:
    rows, weight = loss(student, target), row_weight(target)
    # A row that counts 0 must not spoil the sum, however wrong the student is there.
    return torch.where(weight != 0, weight * rows, 0.0)


def _join(name: str, term: str) -> str:
    return f"{name}/{term}" if name and term else name or term


def _takes_batch(f: Callable[..., Any]) -> bool:
    return _parameters(f)[1:2] == ["batch"]


def _parameters(f: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(f.forward if isinstance(f, nn.Module) else f).parameters)
    except (TypeError, ValueError):  # a builtin that does not show its parameters
        return []


def _check_mapping(name: str, said: object) -> Mapping[str, object]:
    if isinstance(said, Mapping):
        return said
    raise UsageError(
        "loss.returns",
        f"the objective {name!r} returned {type(said).__name__}",
        "a dict of tensors, one number per row",
        "name the second parameter `target` if it is a pair loss",
    )


def _term(name: str, weight: float, said: object, student: Prediction) -> Term:
    own, rows = said if isinstance(said, Term) else (1.0, said)
    return Term(weight * own, _check_rows(name, rows, student))


def _check_rows(name: str, rows: object, student: Prediction) -> Tensor:
    if not isinstance(rows, Tensor):
        raise UsageError(
            "loss.returns",
            f"the loss {name!r} returned {type(rows).__name__}",
            "a tensor with one number per row",
            "name the second parameter `batch` if it is an objective that returns a dict",
        )
    if rows.shape != leading(student.dist):
        raise UsageError(
            "loss.rows",
            f"the loss {name!r} returned the shape {tuple(rows.shape)}",
            f"one number per row, {tuple(leading(student.dist))}",
            "leave mean() and sum() over rows to the Learner",
        )
    return rows


def _modules(part: object) -> Iterator[nn.Module]:
    if isinstance(part, nn.Module):
        yield part
    elif isinstance(part, Weighted):
        yield from part.modules
    elif isinstance(part, partial):
        for inner in (part.func, *part.args, *part.keywords.values()):
            yield from _modules(inner)
    elif isinstance(part, tuple):
        for inner in part:
            yield from _modules(inner)
    elif inspect.ismethod(part):
        yield from _modules(part.__self__)
