"""One student of several tasks: layers that all share, and what each needs of its own; by itself it is no Policy."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Literal, cast, final, get_args

import torch
from torch import Tensor, nn

from policykd.errors import UnknownNameError, UsageError
from policykd.policy import Policy, Tasks
from policykd.prediction import Origin, Spec
from policykd.students.kinds import build
from policykd.students.network import Student
from policykd.students.shape import parse_hidden

__all__ = ["HEADS", "INPUTS", "Heads", "Inputs", "MultiTask"]

Heads = Literal["own", "shared"]
Inputs = Literal["own", "padded"]
HEADS: tuple[Heads, ...] = get_args(Heads)
INPUTS: tuple[Inputs, ...] = get_args(Inputs)


@final
class _Corner(nn.Linear):
    """The first rows and columns of another layer, with that layer's bias or one of its own.

    An input that ends early is one padded with zeros: the columns beyond it count nothing.
    """

    def __init__(self, whole: nn.Linear, like: nn.Linear, *, own_bias: bool) -> None:
        nn.Module.__init__(self)  # a Linear's own would make weights
        self.in_features, self.out_features = like.in_features, like.out_features
        self.whole = whole
        self.own = like.bias if own_bias else None

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self.whole.weight[: self.out_features, : self.in_features]

    @property
    def bias(self) -> Tensor:  # type: ignore[override]
        return self.whole.bias[: self.out_features] if self.own is None else self.own


@final
class MultiTask(Tasks):
    """One student for several tasks, of any spaces and families (Rusu et al. 2015, 1511.06295, section 3.3).

    A task's view is a ``Student`` with a spec, an origin and a normaliser of its own, and layers that are the others'
    too: whatever acts, measures or collects takes it. All layers after the first are shared. The first has a bias of
    its own in every task, which is what a learnt embedding of the task beside the observation comes to.

    Args:
        specs: spaces and family by the task's name; the order numbers the tasks.
        hidden: widths of the layers, the first one's among them.
        heads: ``own`` gives each task the last layer for itself, ``shared`` gives all one of the widest task's width,
            of which a task reads the first rows (the standard deviation of normal families stays each task's own).
        inputs: ``own`` gives each task the first layer for itself, ``padded`` gives all one of the widest observation's
            width, of which a task uses the first columns.
        activation: a key of ``ACTIVATIONS``.
        value: whether a value head sits on the last layer, one a task.
        seed: of the first weights.
        origins: by the task's name, where they are known.

    Attributes:
        names: the tasks' names, in the order of their numbers.
        hidden, heads, inputs, activation, value: as given.

    Raises:
        UsageError: ``multitask.tasks`` for no task at all; ``multitask.sharing`` for shapes that share no layer;
            ``student.hidden``, ``name.activation``, ``name.heads``, ``name.inputs``.
        SpaceError: ``student.family``, ``space.observation``.
    """

    def __init__(
        self,
        specs: Mapping[str, Spec],
        hidden: str | Sequence[int] = (16, 16),
        *,
        heads: Heads = "own",
        inputs: Inputs = "own",
        activation: str = "silu",
        value: bool = False,
        seed: int = 0,
        origins: Mapping[str, Origin] | None = None,
    ) -> None:
        super().__init__()
        self.names, self.hidden = tuple(specs), parse_hidden(hidden)
        self.heads, self.inputs, self.activation, self.value = heads, inputs, activation, value
        _check(self.names, self.hidden, heads, inputs)
        found = origins or {}
        views = [
            build(spec, self.hidden, activation=activation, value=value, seed=seed + i, origin=found.get(name))
            for i, (name, spec) in enumerate(specs.items())
        ]
        _share(views, heads, inputs)
        self.views = nn.ModuleList(views)

    @classmethod
    def suited(
        cls,
        teachers: Mapping[str, Policy],
        hidden: str | Sequence[int] = (16, 16),
        *,
        heads: Heads = "own",
        inputs: Inputs = "own",
        value: bool = False,
        seed: int = 0,
    ) -> MultiTask:
        """The student that ``multitask`` builds: of tanh where all teachers are, as ``students.suited`` has it."""
        layers = [teacher.acting_layers for teacher in teachers.values()]
        tanh = all(found is not None and found.activation is nn.Tanh for found in layers)
        specs = {name: teacher.spec for name, teacher in teachers.items()}
        activation = "tanh" if tanh else "silu"
        return cls(specs, hidden, heads=heads, inputs=inputs, activation=activation, value=value, seed=seed)

    def task(self, name: str) -> Student:
        """The view of a task: what is learnt there is learnt here, and the other way round.

        Raises:
            UnknownNameError: ``name.task``.
        """
        return cast(Student, self.views[self.number(name)])

    def tasks(self) -> dict[str, Student]:
        """All views by name."""
        return {name: self.task(name) for name in self.names}

    def alone(self, name: str) -> Student:
        """A task's student with weights of its own, as one that was never taught anything else: to save, to export.

        Raises:
            UnknownNameError: ``name.task``.
        """
        view = copy.deepcopy(self.task(name))
        for i, layer in enumerate(view.torso):
            if isinstance(layer, _Corner):
                view.torso[i] = _whole(layer)
        if isinstance(view.action_head, _Corner):
            view.action_head = _whole(view.action_head)
        return view

    @property
    def acting_parameters(self) -> int:
        """Numbers in all the layers that act in any task, each counted once."""
        acting = [m for view in self.tasks().values() for m in (view.encoders, view.torso, view.action_head)]
        return sum(p.numel() for p in {id(p): p for module in acting for p in module.parameters()}.values())

    def weights(self) -> dict[str, Tensor]:
        """Parameters and buffers, each once, under the first of its names in the state dict."""
        seen: dict[int, str] = {}
        for name, t in self.state_dict(keep_vars=True).items():
            seen.setdefault(id(t), name)
        kept = set(seen.values())
        return {name: t.detach() for name, t in self.state_dict().items() if name in kept}

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights as they are saved: heads, standard deviations and normalisers included."""
        return sum(t.numel() * t.element_size() for t in self.weights().values())


def _check(names: Sequence[str], hidden: Sequence[int], heads: str, inputs: str) -> None:
    if not names:
        raise UsageError(
            "multitask.tasks", "a student of no task", "one task or more", "give a spec by each task's name"
        )
    for kind, name, known in (("heads", heads, HEADS), ("inputs", inputs, INPUTS)):
        if name not in known:
            raise UnknownNameError.of(kind, name, known)
    # Own first and last layers around nothing are students of their own.
    least = 2 - (heads == "shared") - (inputs == "padded")
    if len(hidden) < least or not hidden:
        raise UsageError(
            "multitask.sharing",
            f"hidden={tuple(hidden)} with {inputs} inputs and {heads} heads, which shares no layer",
            f"{max(least, 1)} hidden layers or more",
            "give hidden=(16, 16), say",
        )


def _share(views: Sequence[Student], heads: Heads, inputs: Inputs) -> None:
    """Put the layers that are everybody's into every view."""
    for view in views[1:]:
        for i, layer in enumerate(views[0].torso):
            if i > 0 and isinstance(layer, nn.Linear):
                view.torso[i] = layer
    if inputs == "padded":
        firsts = [cast(nn.Linear, view.torso[0]) for view in views]
        widest = max(firsts, key=lambda layer: layer.in_features)
        for view, first in zip(views, firsts, strict=True):
            if first is not widest:
                view.torso[0] = _Corner(widest, first, own_bias=True)
    if heads == "shared":
        lasts = [view.action_head for view in views]
        widest = max(lasts, key=lambda layer: layer.out_features)
        for view, last in zip(views, lasts, strict=True):
            if last is not widest:
                view.action_head = _Corner(widest, last, own_bias=False)


def _whole(corner: _Corner) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(corner.in_features, corner.out_features)
    layer.weight, layer.bias = (nn.Parameter(t.detach().clone()) for t in (corner.weight, corner.bias))
    return layer
