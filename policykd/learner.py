"""The one mutable object: a student, its objective and its optimizer; it never makes a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Generic

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from policykd.errors import UsageError
from policykd.losses import Objective, PairLoss, Weighted, as_objective
from policykd.losses.adversarial import Opponents
from policykd.optimizer import Adam, Flat
from policykd.policy import Blocks, Many, Policy, Taught
from policykd.prediction import Batch, Prediction, Progress, Update
from policykd.reduction import blanked, reduce_rows
from policykd.shortcut import Reduced, Shortcut
from policykd.straight import Straight

__all__ = ["Learner", "Schedule"]

Schedule = float | Callable[[Progress], float]
S = TypeVar("S", bound=Taught, default=Policy)


def _trained(student: Taught) -> Blocks:
    if isinstance(student, Many):
        return student.blocks()
    return [(1, [p for p in student.parameters() if p.requires_grad])]


def _norms(student: Taught) -> list[nn.Module]:
    """The layers whose running statistics a step moves."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return [layer for layer in student.modules() if isinstance(layer, kinds)]


class _Floats(Mapping[str, float]):
    """Numbers that wait for the device only when they are asked for."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> float:
        return float(self._tensors[name].mean())  # of Many: the members' mean

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class Learner(Generic[S]):
    """Teaches ``student`` one batch at a time.

    Args:
        student: any Policy with parameters to train (of ``Many``, each member learns as it would alone), or whatever
            else has a word on a batch.
        objective: an objective, or a pair loss ``(student, target) -> [*b]`` (a user's function is as good as ours).
        lr: Adam's learning rate, a number or a function of Progress.
        average: decay of the exponential moving average of the weights that ``averaged`` holds (Polyak & Juditsky
            1992), beside the newest running statistics of normalising layers; None keeps none, and ``averaged`` is the
            student itself.
        max_grad_norm: the gradient (of each member) is scaled down to this norm; None leaves it alone.
        adversary_lr: learning rate of the adversaries in the objective (``losses.Adversary``), which have an Adam of
            their own and are stepped after the student on the pairs that they judged; None takes the student's.

    Attributes:
        adversary_loss: of the last step, reduced as every loss; None where nothing was judged. It is no term.
    """

    def __init__(
        self,
        student: S,
        objective: Weighted | Objective | PairLoss,
        *,
        lr: Schedule = 3e-3,
        average: float | None = 0.99,
        max_grad_norm: float | None = 1.0,
        adversary_lr: Schedule | None = None,
    ) -> None:
        self.student, self.objective, self.lr = student, as_objective(objective), lr
        self.average, self.max_grad_norm, self.adversary_lr = average, max_grad_norm, adversary_lr
        self._many = isinstance(student, Many)
        self._opponents = Opponents.of(self.objective)
        theirs = self._opponents.parameters if self._opponents else frozenset()
        trained = _trained(student)
        losses = [p for m in self.objective.modules for p in m.parameters() if id(p) not in theirs]
        # The averaged student follows the student's own weights; a parametric loss's are trained but never acted with.
        self._own = sum(p.numel() for _, block in trained for p in block)
        if self._many:
            trained += [(1, losses)] if losses else []
        else:
            trained = [(1, [*trained[0][1], *losses])]  # one norm over both
        self._flat = Flat(trained)
        self._optimizer = Adam(self._flat)
        self._layers = Straight.of(student)
        family = student.spec.family if isinstance(student, Policy) else None
        self._shortcut = None if family is None else Shortcut.of(self._layers, family, self.objective)
        self.updates = 0
        self._last: Mapping[str, Tensor] = {}
        self.adversary_loss: Tensor | None = None
        self.averaged: S = student if average is None else copy.deepcopy(student)
        self._flat_average = None if average is None else Flat(_trained(self.averaged))
        self._norms = [] if average is None else list(zip(_norms(self.averaged), _norms(student), strict=True))

    def step(self, batch: Batch | Sequence[Batch], progress: Progress | None = None) -> Update:
        """One gradient step on one batch, or on the sum of the losses of several (one a task, say).

        Args:
            batch: labelled rows.
            progress: what schedules and weights are functions of; its losses are filled in where it has none.

        Returns:
            The reduced loss and terms as tensors (of Many: ``[members]``): nothing here waits for the device. A term of
            several batches is the sum of theirs.
        """
        progress = progress or Progress(updates=self.updates)
        if self._last and not progress.losses:
            progress = replace(progress, losses=_Floats(self._last))
        self._flat.follow()
        lr = self.lr(progress) if callable(self.lr) else self.lr
        straight = self._shortcut.take(batch, progress) if self._shortcut and isinstance(batch, Batch) else None
        loss, terms, weights = straight or self._differentiate(batch, progress)
        self._flat.gather()
        norm = self._clip()
        self._optimizer.step(lr)
        if self._opponents:
            own = lr if self.adversary_lr is None else self.adversary_lr
            reduce = partial(reduce_rows, members=self._many)
            self.adversary_loss = self._opponents.step(own(progress) if callable(own) else own, reduce)
        self.updates += 1
        self._follow()
        self._last = terms
        return Update(self.updates, loss, terms, weights, norm, progress, lr)

    def _differentiate(self, batch: Batch | Sequence[Batch], progress: Progress) -> Reduced:
        """Loss, reduced terms and their weights; the gradients are the parameters'."""
        terms: dict[str, Tensor] = {}
        weights: dict[str, float | Tensor] = {}
        parts: list[Tensor] = []
        if self._opponents:
            self._opponents.forget()
        straight: Prediction | None = None
        for one in (batch,) if isinstance(batch, Batch) else batch:
            rows = one if one.mask is None else blanked(one, one.mask)
            if self._layers is not None and isinstance(batch, Batch):
                straight = self._layers.read(rows.obs)
            said = self.student.read(rows) if straight is None else straight
            with self._opponents.hearing(rows) if self._opponents else nullcontext():
                found = self.objective.terms(said, rows, progress)
            for name, term in found.items():
                reduced = reduce_rows(term.rows, rows.weight, rows.mask, members=self._many)
                plain = isinstance(term.weight, float) and term.weight == 1
                parts.append(reduced if plain else term.weight * reduced)
                terms[name] = terms[name] + reduced.detach() if name in terms else reduced.detach()
                weights[name] = term.weight if isinstance(term.weight, float) else term.weight.detach()
        loss = sum(parts[1:], parts[0]) if parts else torch.zeros(())
        if loss.requires_grad:  # with every weight at 0 there is no term
            (loss.sum() if self._many else loss).backward()
            if self._layers is not None and straight is not None:
                self._layers.back()
        return loss.detach(), terms, weights

    @torch.no_grad()
    def _clip(self) -> Tensor:
        """Scale gradients down to ``max_grad_norm``, member by member; their norms before that."""
        blocks = self._flat.gradients
        norms = [torch.linalg.vector_norm(block, dim=1, keepdim=True) for block in blocks]
        if self.max_grad_norm is not None:
            for block, norm in zip(blocks, norms, strict=True):
                block.mul_((self.max_grad_norm / (norm + 1e-6)).clamp_max_(1.0))
        if isinstance(self.student, Many):
            return torch.cat(norms).squeeze(1)[: self.student.members]
        return norms[0].view(())

    def _follow(self) -> None:
        if self.average is None or self._flat_average is None:
            return
        # A young average would remember its random start for 1 / (1 - decay) steps: let it forget faster at first.
        decay = min(self.average, self.updates / (self.updates + 10.0))
        self._flat_average.follow()
        with torch.no_grad():
            self._flat_average.data.lerp_(self._flat.data[: self._own], 1.0 - decay)
            for layer, newest in self._norms:
                for own, theirs in zip(layer.buffers(recurse=False), newest.buffers(recurse=False), strict=True):
                    own.copy_(theirs)

    def restart_average(self) -> None:
        """Set the averaged student to the student as it is (buffers too: call it after changing a normaliser)."""
        if self.averaged is not self.student:
            self.averaged.load_state_dict(self.student.state_dict())

    def kept(self, members: Sequence[int]) -> Learner[Any]:
        """A Learner of some of the members, which go on as if the others had never been there.

        Args:
            members: which, in ascending order.

        Raises:
            UsageError: ``learner.members`` for a student that is not Many.
        """
        if not (isinstance(self.student, Many) and isinstance(self.averaged, Many)):
            raise UsageError("learner.members", f"members of a {type(self.student).__name__}", "several students")
        same = self.averaged is self.student
        less = Learner(
            self.student.kept(members),
            self.objective,
            lr=self.lr,
            average=self.average,
            max_grad_norm=self.max_grad_norm,
            adversary_lr=self.adversary_lr,
        )
        if not same:
            less.averaged = self.averaged.kept(members)
            less._flat_average = Flat(_trained(less.averaged))
            less._norms = list(zip(_norms(less.averaged), _norms(less.student), strict=True))
        less._optimizer.take(self._optimizer, self._numbers_of(members))
        if self._opponents and less._opponents:
            less._opponents.optimizer.load_state_dict(self._opponents.optimizer.state_dict())
        less.updates = self.updates
        less._last = self._last
        return less

    def _numbers_of(self, members: Sequence[int]) -> Tensor:
        """Where the numbers of some members lie in the flat vectors; a loss's own come along."""
        found, first = [], 0
        for block in self._flat.blocks_of(torch.arange(len(self._flat.data))):
            if block.numel() and int(block[0, 0]) >= self._own:
                found.append(block.reshape(-1))
            else:
                found.append(block[[m - first for m in members if first <= m < first + len(block)]].reshape(-1))
            first += len(block)
        return torch.cat(found)

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything that ``step`` changes: weights, averaged weights, losses, optimizer, counter."""
        state = {
            "student": self.student.state_dict(),
            "averaged": self.averaged.state_dict(),
            "losses": [m.state_dict() for m in self.objective.modules],
            "optimizer": self._optimizer.state_dict(),
            "updates": self.updates,
            "last": dict(self._last),
        }
        if self._opponents:
            state["adversary"] = self._opponents.optimizer.state_dict()
        return copy.deepcopy(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()``."""
        self.student.load_state_dict(state["student"])
        self.averaged.load_state_dict(state["averaged"])
        for module, saved in zip(self.objective.modules, state["losses"], strict=True):
            module.load_state_dict(saved)
        self._optimizer.load_state_dict(state["optimizer"])
        if self._opponents:
            self._opponents.optimizer.load_state_dict(state["adversary"])
        self.updates = state["updates"]
        self._last = dict(state.get("last", {}))  # a state from before dynamic weights has none
