"""The one mutable object and the one reduction: a student, its objective and its optimizer; it never makes a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from policykd.errors import UsageError
from policykd.losses import Objective, PairLoss, Weighted, as_objective
from policykd.prediction import Batch, Many, Policy, Progress, Update

__all__ = ["Learner", "Schedule", "reduce_rows"]

Schedule = float | Callable[[Progress], float]


def reduce_rows(rows: Tensor, weight: Tensor | None, mask: Tensor | None, *, members: bool = False) -> Tensor:
    """sum(weight x mask x rows) / max(sum(mask), 1): the only reduction there is.

    Args:
        rows: one loss a row, ``[*b]``; a row that is masked out may hold anything, NaN included.
        weight, mask: ``[*b]`` or None for ones. With every row masked the result is 0, with a zero gradient.
        members: ``rows`` is ``[members, *b]``, and each member gets a number of its own.

    Returns:
        A number, or ``[members]``.
    """
    if weight is not None:
        rows = rows * weight
    if mask is not None:
        rows = torch.where(mask.bool(), rows, 0.0)
    flat = rows.flatten(1) if members else rows.reshape(-1)
    return flat.mean(-1) if mask is None else flat.sum(-1) / mask.sum().clamp_min(1)


def _blanked(batch: Batch, mask: Tensor) -> Batch:
    # 0 x NaN is NaN in a gradient: what is masked out must not only count 0, it must be harmless.
    def blank(t: Tensor) -> Tensor:
        return t.masked_fill(~mask.bool().reshape(*mask.shape, *[1] * (t.dim() - mask.dim())), 0)

    return batch.map(blank)


class _Flat:
    """Parameters and gradients of many small tensors in two long ones, so that a step is a handful of calls.

    The tensors stay what they are to everyone else: their data become views. Nets of a few thousand numbers otherwise
    spend more time on being updated than on being evaluated.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.data = torch.cat([p.detach().reshape(-1) for p in parameters] or [torch.zeros(0)])
        self.gradient = torch.zeros_like(self.data)
        sizes = [p.numel() for p in parameters]
        self._views = [(p, data.view_as(p)) for p, data in zip(parameters, self.data.split(sizes), strict=True)]
        self.follow()

    def follow(self) -> None:
        """Take over what others put in a parameter's place (another Learner, a file), and forget old gradients."""
        for p, data in self._views:
            p.grad = None
            if p.data_ptr() != data.data_ptr():
                data.copy_(p.data)
                p.data = data

    def gather(self) -> None:
        """Bring the gradients of a backward pass side by side; one that was not reached is 0."""
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p, _ in self._views]
        torch.cat([g.reshape(-1) for g in found] or [torch.zeros(0)], out=self.gradient)


class _Adam:
    """Adam (Kingma & Ba 2014, 1412.6980, algorithm 1) on one long vector.

    The first optimizer of ``torch.optim`` imports torch's compiler: a second of CPU, more than many students take.
    """

    def __init__(self, flat: _Flat, decay: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8) -> None:
        self.flat, self.decay, self.epsilon = flat, decay, epsilon
        self.mean, self.square = torch.zeros_like(flat.gradient), torch.zeros_like(flat.gradient)
        self.steps = 0

    @torch.no_grad()
    def step(self, lr: float) -> None:
        first, second = self.decay
        self.steps += 1
        gradient = self.flat.gradient
        self.mean.lerp_(gradient, 1.0 - first)
        self.square.mul_(second).addcmul_(gradient, gradient, value=1.0 - second)
        scale = (self.square / (1.0 - second**self.steps)).sqrt_().add_(self.epsilon)
        self.flat.data.addcdiv_(self.mean, scale, value=-lr / (1.0 - first**self.steps))

    def take(self, other: _Adam, chosen: Tensor) -> None:
        """Go on from some of the numbers of another's."""
        self.mean.copy_(other.mean[chosen])
        self.square.copy_(other.square[chosen])
        self.steps = other.steps

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "square": self.square, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
        self.steps = int(state["steps"])


def _trained(student: Policy) -> list[nn.Parameter]:
    if isinstance(student, Many):
        return [p for _, block in student.blocks() for p in block]
    return [p for p in student.parameters() if p.requires_grad]


def _owners(student: Policy, others: int) -> Tensor | None:
    """Whose each trained number is: a member's, or (``others`` numbers of losses) nobody's, which is one more."""
    if not isinstance(student, Many):
        return None
    owners, first = [], 0
    for members, block in student.blocks():
        mine = torch.arange(first, first + members)
        owners += [mine.repeat_interleave(p.numel() // members) for p in block]
        first += members
    return torch.cat([*owners, torch.full((others,), first)])


class Learner:
    """Teaches ``student`` one batch at a time.

    Args:
        student: any Policy with parameters to train; of ``Many``, each member learns as it would alone.
        objective: an objective, or a pair loss ``(student, target) -> [*b]`` (a user's function is as good as ours).
        lr: Adam's learning rate, a number or a function of Progress.
        average: decay of the exponential moving average of the weights that ``averaged`` holds (Polyak & Juditsky
            1992); None keeps none, and ``averaged`` is the student itself.
        max_grad_norm: the gradient (of each member) is scaled down to this norm; None leaves it alone.
    """

    def __init__(
        self,
        student: Policy,
        objective: Weighted | Objective | PairLoss,
        *,
        lr: Schedule = 3e-3,
        average: float | None = 0.99,
        max_grad_norm: float | None = 1.0,
    ) -> None:
        self.student, self.objective, self.lr = student, as_objective(objective), lr
        self.average, self.max_grad_norm = average, max_grad_norm
        self._many = isinstance(student, Many)
        trained, losses = _trained(student), [p for m in self.objective.modules for p in m.parameters()]
        # The averaged student follows the student's own weights; a parametric loss's are trained but never acted with.
        self._own = sum(p.numel() for p in trained)
        self._owners = _owners(student, sum(p.numel() for p in losses))
        self._flat = _Flat(trained + losses)
        self._optimizer = _Adam(self._flat)
        self.updates = 0
        self.averaged = student if average is None else copy.deepcopy(student)
        self._flat_average = None if average is None else _Flat(_trained(self.averaged))

    def step(self, batch: Batch, progress: Progress | None = None) -> Update:
        """One gradient step on one batch.

        Returns:
            The reduced loss and terms as tensors (of Many: ``[members]``): nothing here waits for the device.
        """
        progress = progress or Progress(updates=self.updates)
        self._flat.follow()
        if batch.mask is not None:
            batch = _blanked(batch, batch.mask)
        lr = self.lr(progress) if callable(self.lr) else self.lr
        found = self.objective.terms(self.student(batch.obs), batch, progress)
        weights = {name: term.weight for name, term in found.items()}
        terms = {
            name: reduce_rows(term.rows, batch.weight, batch.mask, members=self._many) for name, term in found.items()
        }
        parts = [term if weights[name] == 1 else weights[name] * term for name, term in terms.items()]
        loss = sum(parts[1:], parts[0]) if parts else torch.zeros(())
        if loss.requires_grad:  # with every weight at 0 there is no term
            (loss.sum() if self._many else loss).backward()
        self._flat.gather()
        norm = self._clip()
        self._optimizer.step(lr)
        self.updates += 1
        self._follow()
        detached = {name: term.detach() for name, term in terms.items()}
        return Update(self.updates, loss.detach(), detached, weights, norm, progress, lr)

    @torch.no_grad()
    def _clip(self) -> Tensor:
        """Scale gradients down to ``max_grad_norm``, member by member; their norms before that."""
        gradient = self._flat.gradient
        if self._owners is None:
            norm = torch.linalg.vector_norm(gradient)
            if self.max_grad_norm is not None:
                gradient.mul_((self.max_grad_norm / (norm + 1e-6)).clamp_max(1.0))
            return norm
        groups = int(self._owners[-1]) + 1
        norms = torch.zeros(groups).index_add_(0, self._owners, gradient.square()).sqrt_()
        if self.max_grad_norm is not None:
            gradient.mul_((self.max_grad_norm / (norms + 1e-6)).clamp_max_(1.0)[self._owners])
        return norms[: self.student.members] if isinstance(self.student, Many) else norms

    def _follow(self) -> None:
        if self.average is None or self._flat_average is None:
            return
        # A young average would remember its random start for 1 / (1 - decay) steps: let it forget faster at first.
        decay = min(self.average, self.updates / (self.updates + 10.0))
        self._flat_average.follow()
        with torch.no_grad():
            self._flat_average.data.lerp_(self._flat.data[: self._own], 1.0 - decay)

    def restart_average(self) -> None:
        """Set the averaged student to the student as it is (buffers too: call it after changing a normaliser)."""
        if self.averaged is not self.student:
            self.averaged.load_state_dict(self.student.state_dict())

    def kept(self, members: Sequence[int]) -> Learner:
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
        )
        if not same:
            less.averaged = self.averaged.kept(members)
            less._flat_average = _Flat(_trained(less.averaged))
        assert self._owners is not None
        stay = torch.isin(self._owners, torch.tensor([*members, self.student.members]))
        less._optimizer.take(self._optimizer, stay)
        less.updates = self.updates
        return less

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything that ``step`` changes: weights, averaged weights, losses, optimizer, counter."""
        state = {
            "student": self.student.state_dict(),
            "averaged": self.averaged.state_dict(),
            "losses": [m.state_dict() for m in self.objective.modules],
            "optimizer": self._optimizer.state_dict(),
            "updates": self.updates,
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()``."""
        self.student.load_state_dict(state["student"])
        self.averaged.load_state_dict(state["averaged"])
        for module, saved in zip(self.objective.modules, state["losses"], strict=True):
            module.load_state_dict(saved)
        self._optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]
