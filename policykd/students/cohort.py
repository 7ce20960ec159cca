"""Students that learn together from the same rows: those of one shape in batched products; it measures nobody."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import groupby
from typing import Any, final

import torch
from torch import Tensor, nn

from policykd.errors import UsageError
from policykd.fused import Layers, network
from policykd.policy import Blocks, Many
from policykd.prediction import Obs, Origin, Prediction
from policykd.students.network import Student, distribution_of
from policykd.students.shape import ACTIVATIONS, Shape

__all__ = ["Cohort"]


class _Stack(nn.Module):
    """The weights of several students of one shape, a first dimension of members before each."""

    def __init__(self, students: Sequence[Student]) -> None:
        super().__init__()
        first = students[0]
        self.shape, self.members, self.spec = first.shape, len(students), first.spec
        trained = {name: p.requires_grad for name, p in first.named_parameters()}
        self.names = list(trained)
        every = [dict(s.named_parameters()) for s in students]
        for name in self.names:
            stacked = torch.stack([own[name].detach() for own in every])
            self.register_parameter(name.replace(".", "_"), nn.Parameter(stacked, trained[name]))

        torso = [n.removesuffix(".weight") for n in self.names if n.startswith("torso.") and n.endswith(".weight")]
        heads = [n for n in ("action_head", "log_std") if f"{n}.weight" in self.names]
        at = self.names.index
        # Where in the parameters each layer's weight and bias are.
        self._inner = [(at(f"{n}.weight"), at(f"{n}.bias")) for n in torso]
        self._outer = [(at(f"{n}.weight"), at(f"{n}.bias")) for n in heads]
        self._one_spread = "log_std" in self.names

    def named(self) -> dict[str, nn.Parameter]:
        """The parameters under the names that a student has for them."""
        return dict(zip(self.names, self.parameters(), strict=True))

    def layers(self) -> tuple[Layers, Layers]:
        """Weight and bias of each layer, and of each head."""
        own = list(self.parameters())
        inner, outer = ([(own[w], own[b]) for w, b in pairs] for pairs in (self._inner, self._outer))
        return inner, outer

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encoded rows ``[b, width]`` to outputs and, of normal families, log_std: ``[members, b, a]`` each."""
        inner, outer = self.layers()
        _, *outs = network(x, inner, ACTIVATIONS[self.shape.activation], outer)
        return self.says(outs)

    def says(self, outs: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Outputs and log_std, from what the heads say."""
        out, *spread = outs
        if self._one_spread:
            spread = [self.get_parameter("log_std").unsqueeze(1).expand_as(out)]
        return out, spread[0] if spread else None


@final
class Cohort(Many):
    """Several students of one spec as one policy: what each says has a first dimension of members.

    Students of one shape (other seeds, say) share batched matrix products; all share one pass over the observations,
    one evaluation of the loss and one optimizer. Each learns as it would alone on the same batches.

    Args:
        students: alike in spec and normaliser, those of one shape side by side. They are copied.

    Raises:
        UsageError: ``cohort.students`` for students that differ in more than shape and weights (some layers of one
            shape frozen in one of them only), that have a value head or layers of somebody's own, or that read images
            by convolution.
    """

    def __init__(self, students: Sequence[Student]) -> None:
        if not students:
            raise UsageError("cohort.students", "a cohort of nobody", "one student or more")
        first = students[0]
        super().__init__(first.spec, Origin(algo="cohort", env_id=first.origin.env_id))
        for student in students:
            _check(student, first)
        self._pattern = [copy.deepcopy(s).requires_grad_(False) for s in students]
        groups = [list(group) for _, group in groupby(students, key=lambda s: s.shape)]
        for group in groups:
            _check_frozen(group)
        self.stacks = nn.ModuleList(_Stack(group) for group in groups)
        self.normaliser = copy.deepcopy(first.normaliser)

    def _stacks(self) -> list[_Stack]:
        return list(self.stacks)  # type: ignore[arg-type]

    @property
    def members(self) -> int:
        """How many students there are."""
        return len(self._pattern)

    @property
    def acting_parameters(self) -> int:
        """Of all members together."""
        return sum(s.acting_parameters for s in self._pattern)

    def _encode(self, obs: Obs) -> Tensor:
        # Encoders of such students have no weights, and the normaliser is everybody's.
        return self._pattern[0].encode(obs)

    def _said(self, outs: Sequence[Tensor], spreads: Sequence[Tensor | None]) -> Prediction:
        clip = self._pattern[0].shape.clip_mean
        known = [s for s in spreads if s is not None]
        return Prediction(distribution_of(self.spec, torch.cat(list(outs)), torch.cat(known) if known else None, clip))

    def forward(self, obs: Obs, state: Any = None, start: Tensor | None = None, *, values: bool = True) -> Prediction:
        """What every member says about raw observations ``[b, ...]``: leading dimensions ``[members, b]``."""
        x = self._encode(obs)
        said = [stack(x) for stack in self._stacks()]
        return self._said([out for out, _ in said], [spread for _, spread in said])

    def says(self, outs: Sequence[Sequence[Tensor]]) -> Prediction:
        """The Prediction that outputs of each shape's heads stand for."""
        said = [stack.says(own) for stack, own in zip(self._stacks(), outs, strict=True)]
        return self._said([out for out, _ in said], [spread for _, spread in said])

    def answer(self, obs: Obs, who: Tensor) -> Prediction:
        """What member ``who[i]`` says about row i: leading dimensions ``[n]``."""
        x = self._encode(obs)
        outs: list[Tensor] = []
        spreads: list[Tensor | None] = []
        rows: list[Tensor] = []
        first = 0
        for stack in self._stacks():
            mine = ((who >= first) & (who < first + stack.members)).nonzero().squeeze(1)
            if len(mine):
                own, at = who[mine] - first, torch.arange(len(mine))
                out, spread = stack(x[mine])
                outs.append(out[own, at])
                spreads.append(None if spread is None else spread[own, at])
                rows.append(mine)
            first += stack.members
        back = torch.cat(rows).argsort()
        return self._said(outs, spreads).map(lambda t: t[back])

    @property
    def shapes(self) -> list[Shape]:
        """The shapes, in the members' order."""
        return [stack.shape for stack in self._stacks()]

    def layers(self) -> list[tuple[Layers, Layers]]:
        """Of each shape, weight and bias of its layers, and of its heads, a first dimension of members before each."""
        return [stack.layers() for stack in self._stacks()]

    def blocks(self) -> Blocks:
        """One block a shape."""
        return [(stack.members, list(stack.parameters())) for stack in self._stacks()]

    def member(self, i: int) -> Student:
        """Student number ``i`` with the weights it has now, its own from here on."""
        first = 0
        for stack in self._stacks():
            if i < first + stack.members:
                student = copy.deepcopy(self._pattern[i])
                trained = {name: w.requires_grad for name, w in stack.named().items()}
                for name, p in student.named_parameters():
                    p.requires_grad_(trained[name])
                own = {name: w[i - first].detach().clone() for name, w in stack.named().items()}
                student.load_state_dict({**student.state_dict(), **own})
                return student
            first += stack.members
        raise UsageError("cohort.member", f"member {i} of {self.members}", f"0 to {self.members - 1}")

    def kept(self, members: Sequence[int]) -> Cohort:
        """Some of the members, in ascending order, with numbers of their own."""
        return Cohort([self.member(i) for i in members])


def _refusal(found: str, expected: str) -> UsageError:
    return UsageError("cohort.students", found, expected, "distil it alone")


def _check_frozen(group: Sequence[Student]) -> None:
    trained = {tuple(p.requires_grad for p in student.parameters()) for student in group}
    if len(trained) > 1:
        raise _refusal("students of one shape with different frozen layers", "the same layers trained in all of them")


def _check(student: Student, first: Student) -> None:
    if student.value_head is not None:
        raise _refusal("a student with a value head", "students that only act")
    if student.shape.channels:
        raise _refusal("a student that reads images by convolution", "fully connected students")
    if not student.is_plain(*student.heads()):
        raise _refusal("a student whose layers are not those of its shape, or are listened to", "plain layers")
    if student.spec != first.spec or student.shape.clip_mean != first.shape.clip_mean:
        raise _refusal("students of different specs", "the same spaces and family")
    a, b = ({} if s.normaliser is None else s.normaliser.state_dict() for s in (student, first))
    if a.keys() != b.keys() or not all(torch.equal(a[k], b[k]) for k in a):
        raise _refusal("students with different normalisers", "the same one (students.adopt_scales on the same rows)")
