"""A decision tree as a policy: arrays of nodes, and the columns they test; it refuses arrays that are no tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from policykd.distributions import (
    Bernoulli,
    Categorical,
    Deterministic,
    DiagGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
)
from policykd.errors import SpaceError, UsageError
from policykd.networks import flat_width, preprocess
from policykd.policy import Policy
from policykd.prediction import Obs, Origin, Prediction, Spec
from policykd.students.network import empty, observed
from policykd.students.rules import conditions, nested, number
from policykd.students.shape import Shape

__all__ = ["EDGE", "MOST_NODES", "Tree", "choices_of", "columns_of", "flat"]

MOST_NODES = 2**16  # a file must not ask for hours of walking
_FEW_LEAVES = 64
_MOST_COLUMNS = 2**22  # nor for all memory, with a choice of 10^12
EDGE = 1.0 - torch.finfo(torch.float32).eps  # atanh is finite up to here


@final
class Tree(Policy):
    """A frozen tree of tests "column <= threshold" on the raw observation, flattened as an MLP student reads it.

    Choices are one column each (1 where taken), the keys of a Dict stand side by side, images keep their bytes.
    A NaN goes right. Nothing is trained: a better tree is another tree (``fit``).

    Args:
        spec: spaces and family.
        feature, threshold: the test of each node, ``[nodes]``; of no account at a leaf.
        left, right: where a node sends rows that pass its test and those that do not, ``[nodes]``. The root is node 0,
            children come after their parents, and a leaf is a node whose children are itself.
        value: what a leaf says, ``[nodes, spec.action_width]``: logits of discrete families, the action of
            the others (within [-1, 1] where the family squashes); of no account at inner nodes.
        log_std: of the two normal families, ``[d]`` (tanh_gaussian: before tanh); None of others.
        origin: environment and wrappers it is meant for.

    Raises:
        UsageError: ``tree.structure`` for arrays that are no tree.
        SpaceError: ``student.family``, ``space.observation``, ``space.action``, ``tree.columns`` for spaces and
            families that no tree has.
    """

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    log_std: Tensor | None
    tests: Tensor
    ends: Tensor
    tested: Tensor
    limits: Tensor
    paths: Tensor
    needed: Tensor
    _depth: int

    def __init__(
        self,
        spec: Spec,
        feature: Any,
        threshold: Any,
        left: Any,
        right: Any,
        value: Any,
        log_std: Any = None,
        *,
        origin: Origin | None = None,
    ) -> None:
        super().__init__(spec, origin or Origin(algo="tree"))
        columns = columns_of(spec)
        whole = [np.array(x, np.int64) for x in (feature, left, right)]
        parts = [np.array(x, np.float32) for x in (threshold, value, () if log_std is None else log_std)]
        _check(spec, columns, *whole, *parts)
        names = ("feature", "left", "right", "threshold", "value", "log_std")
        for name, array in zip(names, [*whole, *parts], strict=True):
            missing = name == "log_std" and log_std is None
            self.register_buffer(name, None if missing else torch.from_numpy(array))
        self.register_load_state_dict_post_hook(Tree._derive)
        Tree._derive(self)

    @staticmethod
    def _derive(module: Any, _: object = None) -> None:
        """The depth, and the paths to the leaves: which tests must fail on the way (+1) and which must hold (-1)."""
        left, right = module.left.tolist(), module.right.tolist()
        inner = [i for i, child in enumerate(left) if child != i]
        leaves = [i for i, child in enumerate(left) if child == i]
        depth = [0] * len(left)
        for i in inner:
            depth[left[i]] = depth[right[i]] = depth[i] + 1
        module._depth = max(depth)
        few = len(leaves) <= _FEW_LEAVES
        paths = torch.zeros(len(left), len(inner) if few else 0)
        for column, i in enumerate(inner if few else ()):
            paths[left[i]], paths[right[i]] = paths[i], paths[i]
            paths[left[i], column], paths[right[i], column] = -1.0, 1.0
        derived = {"tests": torch.tensor(inner, dtype=torch.long), "ends": torch.tensor(leaves, dtype=torch.long)}
        derived |= {"tested": module.feature[derived["tests"]], "limits": module.threshold[derived["tests"]]}
        derived["paths"] = paths[leaves].T.contiguous()
        derived["needed"] = (derived["paths"] < 0).sum(0).float()
        for name, tensor in derived.items():
            module.register_buffer(name, tensor.to(module.left.device), persistent=False)

    @property
    def leaves(self) -> int:
        """Number of leaves."""
        return len(self.ends)

    @property
    def inner_nodes(self) -> int:
        """Number of tests."""
        return len(self.tests)

    @property
    def depth(self) -> int:
        """Tests on the longest way from the root to a leaf; 0 for a tree that is one leaf."""
        return self._depth

    @property
    def acting_parameters(self) -> int:
        """2 x inner nodes (column, threshold) + leaves x outputs."""
        return 2 * self.inner_nodes + self.leaves * self.spec.action_width

    def leaf_of(self, obs: Obs) -> Tensor:
        """The leaf of each raw observation, ``[*b]``: an index into the nodes."""
        x = flat(obs, self.spec)
        rows = x.reshape(-1, x.shape[-1])
        if self.leaves <= _FEW_LEAVES:
            # All tests at once take a fifth of the time of a walk: a row's leaf is the one with no test against it.
            passes = rows.index_select(1, self.tested) <= self.limits
            against = torch.addmm(self.needed, passes.to(self.paths.dtype), self.paths)
            return self.ends[against.argmin(1)].reshape(x.shape[:-1])
        node = torch.zeros(len(rows), dtype=torch.long, device=x.device)
        for _ in range(self._depth):
            passes = rows.gather(1, self.feature[node].unsqueeze(1)).squeeze(1) <= self.threshold[node]
            node = torch.where(passes, self.left[node], self.right[node])
        return node.reshape(x.shape[:-1])

    def forward(self, obs: Obs, state: Any = None, start: Tensor | None = None, *, values: bool = True) -> Prediction:
        """Prediction for raw observations ``[*b, ...]``: the law of the leaf that each falls into."""
        return Prediction(self._distribution(self.value[self.leaf_of(obs)]))

    def _distribution(self, said: Tensor) -> Distribution:
        match self.spec.family:
            case "categorical":
                return Categorical(said)
            case "multi_categorical":
                return MultiCategorical(said, choices_of(self.spec))
            case "bernoulli":
                return Bernoulli(said)
            case "diag_gaussian":
                return DiagGaussian(said, self.log_std.expand_as(said))  # type: ignore[union-attr]
            case "tanh_gaussian":
                return TanhGaussian(torch.atanh(said.clamp(-EDGE, EDGE)), self.log_std.expand_as(said))  # type: ignore[union-attr]
        return Deterministic(said)

    def rules(self, names: Sequence[str] | None = None, digits: int | None = 3) -> str:
        """The tree as nested if / else, in the units of the environment; it runs as Python where ``obs`` is known.

        Args:
            names: of the columns of the flattened observation, instead of ``obs[3]``.
            digits: significant digits; None writes every number to its last bit, and the text acts as the tree does.

        Raises:
            UsageError: ``tree.names``, ``tree.digits``.
        """
        written = conditions(self.spec.observation_space, names, digits)
        feature, threshold = self.feature.tolist(), self.threshold.tolist()
        actions = self.spec.to_env(self._distribution(self.value).mode())
        return nested(
            self.left.tolist(),
            self.right.tolist(),
            lambda node: written(feature[node], threshold[node]),
            lambda node: number(actions[node].tolist(), digits),
        )

    def __str__(self) -> str:
        return self.rules()


def choices_of(spec: Spec) -> tuple[int, ...]:
    """Numbers of choices: of a MultiDiscrete's factors, of one Discrete, two of each coin; () for numbers."""
    match spec.action_space:
        case spaces.MultiDiscrete(nvec=nvec):
            return tuple(int(n) for n in nvec.reshape(-1))
        case spaces.Discrete(n=n):
            return (int(n),)
        case spaces.MultiBinary():
            return (2,) * spec.action_width
    return ()


def columns_of(spec: Spec) -> int:
    """Width of the flattened observation, once the spaces and the family are known to be a student's."""
    columns = sum(flat_width(part) for _, part in observed(spec.observation_space))
    if max(columns, spec.action_width) > _MOST_COLUMNS:
        raise SpaceError(
            "tree.columns",
            f"{columns} columns of observations, {spec.action_width} of actions",
            f"at most {_MOST_COLUMNS}",
            "reduce them in an environment wrapper",
        )
    empty(spec, Shape(()))  # its refusals of spaces and families are a tree's too
    return columns


def flat(obs: Obs, spec: Spec) -> Tensor:
    """Raw observations ``[*b, ...]`` as float32 columns ``[*b, c]``."""
    found: list[Tensor] = []
    for key, space in observed(spec.observation_space):
        x = preprocess(obs if key is None else obs[key], space, scale_images=False)  # type: ignore[arg-type, index]
        axes = len(space.shape or ()) if isinstance(space, spaces.Box | spaces.MultiBinary) else 1
        found.append(x.unsqueeze(-1) if axes == 0 else x.flatten(-axes))
    return torch.cat(found, -1) if len(found) > 1 else found[0]


def _check(
    spec: Spec,
    columns: int,
    feature: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    threshold: np.ndarray,
    value: np.ndarray,
    log_std: np.ndarray,
) -> None:
    """Refuse arrays that are no tree."""

    def wrong(found: str, expected: str) -> UsageError:
        return UsageError("tree.structure", found, expected, "take an undamaged tree, or fit one (students.tree.fit)")

    n, width = left.size, spec.action_width
    if not 1 <= n <= MOST_NODES:
        raise wrong(f"{n} nodes", f"1 to {MOST_NODES}")
    shapes = [x.shape for x in (feature, left, right, threshold, value, log_std)]
    d = width if spec.family in ("diag_gaussian", "tanh_gaussian") else 0
    if shapes != [(n,), (n,), (n,), (n,), (n, width), (d,)]:
        raise wrong(f"arrays of shapes {shapes}", f"[{n}] nodes, values [{n}, {width}], log_std [{d}]")
    if not (np.isfinite(threshold).all() and np.isfinite(value).all() and np.isfinite(log_std).all()):
        raise wrong("NaN or infinite numbers", "finite thresholds, values and log_std")
    if spec.squashed and np.abs(value).max() > 1:
        raise wrong(f"an action of {np.abs(value).max():g}", "actions within [-1, 1]")
    if feature.min() < 0 or feature.max() >= columns:
        raise wrong(f"a test of column {feature.min()} to {feature.max()}", f"columns 0 to {columns - 1}")
    node = np.arange(n)
    inner = (left != node) | (right != node)
    children = np.concatenate([left[inner], right[inner]])
    if np.any(children >= n) or np.any(children <= np.tile(node[inner], 2)):
        raise wrong("a child that is none of the later nodes", f"children after their parents, before {n}")
    if np.any(np.bincount(children, minlength=n) != (node > 0)):
        raise wrong("a node with no parent, or with two", "one parent for every node but the root, node 0")
