"""Weights that learn or remember, as modules a Learner registers and saves; they refuse to see a gradient of a term.

- ``DynamicAverage``: by how fast each loss falls. No parameters; its memory is in ``Learner.state_dict()``.
- ``Uncertainty``: by how large each loss stays. One parameter a term.
- ``Advisor``: row by row, by how well the teacher can be imitated there at all. A second student learns beside.

The last two are objectives: ``Learner(student, Uncertainty(weighted(...)))``. What they weigh by is in
``Update.weights``, and so in the charts as ``distill/weight/<term>``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from policykd.distributions import leading
from policykd.errors import UsageError
from policykd.losses.compose import Objective, PairLoss, Term, Weighted, as_objective
from policykd.losses.policy import forward_kl
from policykd.losses.tasks import tasks_in
from policykd.losses.weights import Schedule
from policykd.policy import Policy
from policykd.prediction import Batch, Prediction, Progress

__all__ = ["Advisor", "DynamicAverage", "Uncertainty"]


@final
class DynamicAverage(nn.Module):
    """Dynamic weight averaging: a term whose loss falls slowly counts more (Liu et al. 2019, 1803.10704, eq. 7).

    w_i = K softmax_i(r_i / T) with r_i = L_i(t - 1) / L_i(t - 2), L_i(t) the mean loss over window t. All weights are 1
    in the first two windows; they always sum to K. T -> inf: all 1. T -> 0: all of K on the slowest.

    ``dwa = DynamicAverage(("policy", "value"))``, then
    ``weighted(policy=(dwa.weight("policy"), f), value=(dwa.weight("value"), g))``. Losses are those of
    ``Progress.losses``, before their weights; a part with terms of its own (``part/term``) counts their sum. A loss
    that is not above 0 has no rate: its ratio counts 1.

    Args:
        terms: names of the terms, as in ``weighted``.
        temperature: T.
        window: updates in a window.

    Raises:
        UsageError: ``weight.dynamic`` for no terms, or numbers out of range.
    """

    _sums: Tensor
    _means: Tensor
    _weights: Tensor
    _counts: Tensor

    def __init__(self, terms: Sequence[str], *, temperature: float = 2.0, window: int = 100) -> None:
        super().__init__()
        if not terms or not temperature > 0 or window < 1:
            found = f"terms {tuple(terms)}, temperature {temperature}, window {window}"
            raise UsageError("weight.dynamic", found, "at least one term, a temperature above 0, a window of 1 or more")
        self.terms, self.temperature, self.window = tuple(terms), temperature, window
        count = len(self.terms)
        self.register_buffer("_sums", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("_means", torch.zeros(2, count, dtype=torch.float64))  # newest window first
        self.register_buffer("_weights", torch.ones(count, dtype=torch.float64))
        # Updates in the open window, windows closed, and the last update that was counted.
        self.register_buffer("_counts", torch.tensor([0, 0, -1]))

    def weight(self, term: str) -> Schedule:
        """The schedule of one of the terms.

        Raises:
            UsageError: ``weight.dynamic`` for a name that is not one of them.
        """
        if term not in self.terms:
            raise UsageError("weight.dynamic", f"the term {term!r}", f"one of {', '.join(self.terms)}")
        return partial(self._at, self.terms.index(term))

    def _at(self, index: int, progress: Progress) -> float:
        if progress.losses and progress.updates != int(self._counts[2]):
            self._counts[2] = progress.updates  # every term asks, and each step counts once
            self._take(torch.tensor([_loss_of(name, progress) for name in self.terms], dtype=torch.float64))
        return float(self._weights[index])

    def _take(self, losses: Tensor) -> None:
        self._sums += losses
        self._counts[0] += 1
        if int(self._counts[0]) < self.window:
            return
        self._means[1] = self._means[0]
        self._means[0] = self._sums / self.window
        self._sums.zero_()
        self._counts[0] = 0
        self._counts[1] += 1
        if int(self._counts[1]) < 2:
            return
        newest, older = self._means
        falling = (newest > 0) & (older > 0)
        ratio = torch.where(falling, newest / torch.where(falling, older, 1.0), 1.0)
        self._weights.copy_(len(self.terms) * torch.softmax(ratio / self.temperature, -1))


def _loss_of(name: str, progress: Progress) -> float:
    # Inside by_task losses have the task's own names; one average over several tasks goes by the tasks'.
    for losses in (progress.losses, getattr(progress.losses, "whole", {})):
        found = [float(v) for k, v in losses.items() if k == name or k.startswith(f"{name}/")]
        if found:
            return math.fsum(found)
    return 0.0


@final
class Uncertainty(nn.Module):
    """Each part over twice its own learnt variance: sum_i L_i / (2 s_i^2) + log s_i (Kendall et al. 2018, 1705.07115).

    The best s_i^2 is L_i itself: every part comes to count as 1/2, whatever its unit. It starts with the weights of
    ``objective`` (s_i^2 = 1/2), which also follow their schedules; a constant factor is soon learnt away. Losses must
    not be negative. The term ``log_sigma`` is sum_i log s_i.

    Args:
        objective: the parts; each learns one number.
        floor: s_i^2 = floor^2 + exp(2 rho_i), with rho_i what is learnt, so that a weight stays below
            1 / (2 floor^2) however small its loss becomes; 0 is the paper's.

    Raises:
        UsageError: ``weight.dynamic`` for a floor that is negative or 0.7 and more; ``weight.tasks`` for a ``by_task``,
            which is one part, however many tasks: it goes outside, ``by_task({name: Uncertainty(...)})``.
    """

    def __init__(self, objective: Weighted | Objective | PairLoss, *, floor: float = 0.1) -> None:
        super().__init__()
        if not 0 <= floor < math.sqrt(0.5):
            raise UsageError("weight.dynamic", f"a floor of {floor}", "0 to 0.7")
        self.objective, self.floor = as_objective(objective), floor
        if names := tasks_in(self.objective):
            raise UsageError(
                "weight.tasks",
                f"one uncertainty for the tasks {', '.join(names)}",
                "one for each, which learns its own",
                f"by_task({{{names[0]!r}: Uncertainty(...), ...}})",
            )
        self._registered = nn.ModuleList(self.objective.modules)
        start = 0.5 * math.log(0.5 - floor**2)
        self.rho = nn.ParameterDict({_key(part): nn.Parameter(torch.tensor(start)) for part in self.objective.parts})

    def variance(self, part: str) -> Tensor:
        """s^2 of a part, without dimensions."""
        return self.floor**2 + torch.exp(2.0 * self.rho[_key(part)])

    def forward(self, student: Prediction, batch: Batch, progress: Progress) -> dict[str, Term]:
        """The parts' terms with learnt weights, and ``log_sigma``."""
        found, seen = {}, {}
        for name, term in self.objective.terms(student, batch, progress).items():
            part = name.split("/")[0] if name.split("/")[0] in self.objective.parts else ""
            seen[part] = self.variance(part)
            found[name] = Term(term.weight / (2.0 * seen[part]), term.rows)
        if seen:
            logs = 0.5 * torch.stack([v.log() for v in seen.values()]).sum()
            found["log_sigma"] = Term(1.0, logs.expand(leading(student.dist)))
        return found


def _key(part: str) -> str:
    return f"part_{part}"  # names of parameters may be neither empty nor methods of a dict


@final
class Advisor(nn.Module):
    """Imitate where the teacher can be imitated, follow ``other`` where it cannot (ADVISOR, 2007.12173, section 3.2).

    L(s) = w(s) imitation(s) + (1 - w(s)) other(s), with w(s) = exp(-alpha d(teacher, auxiliary)(s)). The auxiliary
    policy only ever imitates, on the same batches: where it stays far from the teacher although it has learnt, the
    teacher acts on what a student cannot see, and copying it is no help there.

    alpha = 0: w = 1, imitation alone. alpha = inf: w = 0, ``other`` alone, but for rows where d is 0.
    ``Update.weights`` shows the mean w as ``imitation``, and the term is the w-weighted mean of its rows.

    Args:
        auxiliary: a policy of the student's spec that nobody else trains (``copy.deepcopy(student)``, say).
        imitation: pair loss; the auxiliary learns by it too.
        other: an objective on reward (``reinforced``), or any other.
        alpha: how fast w falls with the distance.
        distance: d, a pair loss (auxiliary, target); None takes ``imitation``. It must be 0 where they agree.

    Raises:
        UsageError: ``weight.dynamic`` for a negative alpha.
    """

    def __init__(
        self,
        auxiliary: Policy,
        other: Weighted | Objective | PairLoss,
        *,
        imitation: PairLoss = forward_kl,
        alpha: float = 4.0,
        distance: PairLoss | None = None,
    ) -> None:
        super().__init__()
        if not alpha >= 0:
            raise UsageError("weight.dynamic", f"alpha = {alpha}", "0 or more")
        self.auxiliary, self.alpha = auxiliary, alpha
        self.imitation, self.distance = imitation, distance or imitation
        self.other = as_objective(other)
        self._registered = nn.ModuleList(self.other.modules)

    def weight(self, said: Prediction, target: Prediction) -> Tensor:
        """w of each row, ``[*b]``, of the auxiliary's word and the teacher's; no gradient."""
        with torch.no_grad():
            far = self.distance(said, target).clamp(min=0.0)
            return torch.where(far > 0, torch.exp(-self.alpha * torch.where(far > 0, far, 1.0)), 1.0)

    def forward(self, student: Prediction, batch: Batch, progress: Progress) -> dict[str, Term]:
        """Terms ``imitation``, those of ``other``, and ``auxiliary``."""
        said, rows = self.auxiliary.read(batch), leading(student.dist)
        w = self.weight(said, batch.target)
        share = w.mean() if batch.mask is None else (w * batch.mask).sum() / batch.mask.sum().clamp(min=1)
        found = {"imitation": _shared(Term(1.0, self.imitation(student, batch.target)), w, share)}
        for name, term in self.other.terms(student, batch, progress).items():
            found[name or "other"] = _shared(term, 1.0 - w, 1.0 - share)
        found["auxiliary"] = Term(1.0, self.imitation(said, batch.target).expand(rows))
        return found


def _shared(term: Term, w: Tensor, share: Tensor) -> Term:
    # The mean goes into the weight, where charts see it. A row that counts 0 must not spoil the sum.
    rows = torch.where(w > 0, w * term.rows, 0.0)
    return Term(term.weight * share, rows / torch.where(share > 0, share, 1.0))
