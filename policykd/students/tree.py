"""Decision trees as students, fitted to labelled rows by scikit-learn; it refuses to be the loop that collects them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from policykd.distributions import (
    Bernoulli,
    Categorical,
    Deterministic,
    DiagGaussian,
    MultiCategorical,
    TanhGaussian,
    leading,
)
from policykd.errors import MissingExtraError, SpaceError, UsageError
from policykd.prediction import Batch, Family, Origin, Prediction, Spec
from policykd.students.nodes import EDGE, MOST_NODES, Tree, choices_of, columns_of, flat

__all__ = ["Tree", "fit", "viper_weights"]

_LOG_STD_LOW, _LOG_STD_HIGH = -20.0, 2.0  # a Student's limits

# The laws that a tree of each family can be taught by.
_LAWS: dict[Family, tuple[type, ...]] = {
    "categorical": (Categorical,),
    "multi_categorical": (MultiCategorical,),
    "bernoulli": (Bernoulli,),
    "diag_gaussian": (DiagGaussian, Deterministic),
    "tanh_gaussian": (TanhGaussian, Deterministic),
    "deterministic": (DiagGaussian, Deterministic),
    "tanh_deterministic": (TanhGaussian, Deterministic),
}


def _sklearn_tree() -> ModuleType:
    try:
        import sklearn.tree
    except ImportError as why:
        raise MissingExtraError.of("scikit-learn", "trees") from why
    return sklearn.tree


def viper_weights(target: Prediction) -> Tensor:
    """What a wrong action costs at most, ``[*b]``, 0 or more: VIPER's weight of a row.

    Bastani, Pu & Solar-Lezama 2018 (1805.08328, section 3.2): V - min Q. With action values, max Q - min Q in reward
    units; without, log pi stands for Q, as theirs does for a policy-gradient teacher: the log-probability of the best
    joint action minus that of the worst. Actions that cannot be taken do not count. 1 for continuous actions.
    """
    dist = target.dist
    if isinstance(dist, Categorical) and target.q is not None:
        q = target.q.detach()
        return _spread(torch.where(dist.logits == -torch.inf, -torch.inf, q) if q.shape == dist.logits.shape else q)
    match dist:
        case Categorical():
            return _spread(dist.log_probs.detach())
        case MultiCategorical():
            return torch.stack([_spread(f.log_probs.detach()) for f in dist.factors], -1).sum(-1)
        case Bernoulli(logits=logits):
            return torch.where(logits.isinf(), 0.0, logits.detach().abs()).sum(-1)
    return torch.ones(leading(dist))


def _spread(values: Tensor) -> Tensor:
    legal = values != -torch.inf
    return values.amax(-1) - torch.where(legal, values, torch.inf).amin(-1)


def fit(
    batches: Batch | Iterable[Batch],
    spec: Spec,
    *,
    max_leaf_nodes: int,
    weight: Callable[[Prediction], Tensor] | None = viper_weights,
    seed: int = 0,
    origin: Origin | None = None,
    max_rows: int = 50_000,
) -> Tree:
    """The tree of at most ``max_leaf_nodes`` leaves that scikit-learn grows, best split first, on the targets' modes.

    Rows are weighed where VIPER (1805.08328) draws them anew with these weights: the expectation of the draw, without
    its noise. Tests whose two sides lead to one action are dropped, so there may be fewer leaves. A leaf's
    probabilities are its weighted frequencies by Laplace's rule, (n_a + 1) / (n + K): no action is impossible. Numbers
    are the leaf's mean; a normal family's standard deviation is the one closest to the targets (KL), the same in all
    leaves.

    Args:
        batches: rows to fit, ``[*b, ...]`` each; their ``weight`` and ``mask`` count.
        spec: the teacher's.
        max_leaf_nodes: 2 or more.
        weight: of the rows, times their own; None for 1. If it is 0 for all of them, all count alike.
        seed: of scikit-learn's order of columns (which decides between equal splits) and of the choice of rows.
        origin: environment and wrappers it is meant for.
        max_rows: of more rows than these, as many are chosen at random.

    Raises:
        MissingExtraError: without scikit-learn.
        UsageError: ``tree.leaves``; ``tree.sample`` where no row counts, or for numbers or weights that are NaN or
            infinite, or a weight below 0.
        SpaceError: as for ``Tree``; ``tree.target`` for targets of other actions than the spec's.
    """
    if not 2 <= max_leaf_nodes <= MOST_NODES // 2:
        raise UsageError("tree.leaves", f"max_leaf_nodes={max_leaf_nodes}", f"2 to {MOST_NODES // 2}", "give 8, say")
    columns_of(spec)
    chosen = _chosen([batches] if isinstance(batches, Batch) else batches, max_rows, seed)
    rows = _joined([_rows(batch, spec, weight) for batch in chosen])
    grown = _classified if spec.discrete else _regressed
    return grown(rows, spec, {"max_leaf_nodes": max_leaf_nodes, "random_state": seed}, origin)


class _Rows(NamedTuple):
    """Columns ``[n, c]``, actions ``[n, k]``, a normal target's variance ``[n, k]``, own and given weight ``[n]``."""

    x: np.ndarray
    y: np.ndarray
    variance: np.ndarray
    own: np.ndarray
    weight: np.ndarray


def _no_sample(found: str) -> UsageError:
    return UsageError("tree.sample", found, "rows of finite numbers with weights of 0 or more, some above 0")


def _chosen(batches: Iterable[Batch], most: int, seed: int) -> list[Batch]:
    """The batches with one leading dimension, at most ``most`` rows of them all."""
    found: list[Batch] = []
    for batch in batches:
        d = len(leading(batch.target.dist))
        if d == 0:
            raise _no_sample("a batch without a dimension of rows")
        plain = Batch(batch.obs, Prediction(batch.target.dist, q=batch.target.q), batch.weight, batch.mask)
        found.append(plain if d == 1 else plain.map(lambda t, d=d: t.flatten(0, d - 1)))  # type: ignore[misc]
    total = sum(len(batch) for batch in found)
    if total <= most:
        return found
    rows = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
    ends = np.cumsum([len(batch) for batch in found])
    each = np.split(rows, np.searchsorted(rows, ends[:-1]))
    starts = ends - [len(batch) for batch in found]
    return [batch[torch.from_numpy(mine - start)] for batch, mine, start in zip(found, each, starts, strict=True)]


def _rows(batch: Batch, spec: Spec, weight: Callable[[Prediction], Tensor] | None) -> _Rows:
    dist = batch.target.dist
    words = next(iter(vars(dist).values()))  # logits, mean or action
    if not isinstance(dist, _LAWS[spec.family]) or words.shape[-1] != spec.action_width:
        raise SpaceError(
            "tree.target",
            f"a {type(dist).__name__} of width {words.shape[-1]}",
            f"what a {spec.family} teacher says, {spec.action_width} wide",
            "give the spec of the teacher that labelled the rows",
        )
    mode = dist.mode().unsqueeze(-1) if isinstance(dist, Categorical) else dist.mode()
    mode = torch.where(words.isnan().any(-1, keepdim=True), torch.nan, mode.double())
    normal = isinstance(dist, DiagGaussian | TanhGaussian)
    variance = (2 * dist.log_std.double()).exp() if normal else torch.zeros_like(mode)  # type: ignore[union-attr]
    own = torch.ones(len(batch), dtype=torch.float64)
    for factor in (batch.weight, batch.mask):
        own = own if factor is None else own * factor.detach().double().cpu()
    given = torch.ones_like(own) if weight is None else weight(batch.target).detach().double()
    x = flat(batch.obs, spec)
    return _Rows(*(t.detach().cpu().numpy() for t in (x, mode, variance, own, given)))


def _joined(parts: list[_Rows]) -> _Rows:
    """The rows that count, with one weight of mean 1."""
    if not parts:
        raise _no_sample("no batch")
    rows = _Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    counts = rows.own != 0
    rows = _Rows(*(column[counts] for column in rows))
    for weight in (rows.own, rows.weight):
        if not np.all(np.isfinite(weight) & (weight >= 0)):
            raise _no_sample("a weight that is negative, NaN or infinite")
    whole = rows.own * rows.weight
    whole = whole if whole.any() else rows.own
    rows = _Rows(*(column[whole > 0] for column in rows._replace(weight=whole)))
    if len(rows.x) == 0:
        raise _no_sample("no row with a weight above 0")
    if not (np.isfinite(rows.x).all() and np.isfinite(rows.y).all()):
        raise _no_sample("observations or targets that are NaN or infinite in float32")
    return rows._replace(weight=rows.weight / rows.weight.mean())


def _classified(rows: _Rows, spec: Spec, knobs: dict[str, Any], origin: Origin | None) -> Tree:
    found = _sklearn_tree().DecisionTreeClassifier(**knobs).fit(rows.x, rows.y.astype(np.int64), rows.weight)
    classes = found.classes_ if isinstance(found.classes_, list) else [found.classes_]
    share = found.tree_.value / found.tree_.value.sum(-1, keepdims=True)
    modes = np.stack([seen[share[:, f, : len(seen)].argmax(-1)] for f, seen in enumerate(classes)], -1)
    left, right = found.tree_.children_left, found.tree_.children_right
    kept, children, words = _merged(left.tolist(), right.tolist(), [tuple(m) for m in modes.tolist()])
    mass = found.tree_.weighted_n_node_samples[kept]
    logits: list[np.ndarray] = []
    for f, (seen, width) in enumerate(zip(classes, choices_of(spec), strict=True)):
        counts = np.ones((len(kept), width))
        counts[:, seen] += share[kept, f, : len(seen)] * mass[:, None]
        log_probs = np.log(counts / counts.sum(-1, keepdims=True)).astype(np.float32)
        # What is rounded must not become a tie, which another action could win.
        best, each = np.array([word[f] for word in words]), np.arange(len(kept))
        lost = log_probs.argmax(-1) != best
        log_probs[each[lost], best[lost]] = np.nextafter(log_probs.max(-1), np.float32(np.inf))[lost]
        logits.append(log_probs)
    if isinstance(spec.action_space, spaces.MultiBinary):
        logits = [(one[:, 1] - one[:, 0])[:, None] for one in logits]
    return _assembled(spec, found.tree_, kept, children, np.concatenate(logits, -1), None, origin)


def _regressed(rows: _Rows, spec: Spec, knobs: dict[str, Any], origin: Origin | None) -> Tree:
    # In units of each dimension's range (or spread), so that no dimension's unit decides where to split.
    space = spec.action_space
    span = (space.high.astype(np.float64) - space.low).reshape(-1)  # type: ignore[attr-defined]
    span = np.where(np.isfinite(span), span, rows.y.std(0))
    span = np.ones_like(span) if spec.squashed else np.where(span > 0, span, 1.0)
    found = _sklearn_tree().DecisionTreeRegressor(**knobs).fit(rows.x, rows.y / span, rows.weight)
    means = found.tree_.value[:, :, 0] * span
    means = np.clip(means, -1.0, 1.0) if spec.squashed else means
    log_std = None
    if spec.family in ("diag_gaussian", "tanh_gaussian"):
        target, said = rows.y, means[found.apply(rows.x)]
        if spec.squashed:
            target, said = (np.arctanh(np.clip(a, -EDGE, EDGE)) for a in (target, said))
        variance = np.average(rows.variance + (target - said) ** 2, 0, rows.weight)
        with np.errstate(divide="ignore"):
            log_std = np.clip(0.5 * np.log(variance), _LOG_STD_LOW, _LOG_STD_HIGH if spec.squashed else None)
    value = means.astype(np.float32)
    left, right = found.tree_.children_left, found.tree_.children_right
    kept, children, _ = _merged(left.tolist(), right.tolist(), [tuple(v) for v in value.tolist()])
    return _assembled(spec, found.tree_, kept, children, value[kept], log_std, origin)


def _assembled(
    spec: Spec,
    grown: Any,
    kept: list[int],
    children: np.ndarray,
    value: np.ndarray,
    log_std: np.ndarray | None,
    origin: Origin | None,
) -> Tree:
    inner = children[:, 0] != np.arange(len(kept))
    feature = np.where(inner, grown.feature[kept], 0)
    threshold = np.where(inner, _round_down(grown.threshold[kept]), 0)
    value = np.where(inner[:, None], 0, value)
    left, right = children.T
    return Tree(spec, feature, threshold, left, right, value, log_std, origin=origin)


def _merged(
    left: Sequence[int], right: Sequence[int], says: Sequence[tuple[Any, ...]]
) -> tuple[list[int], np.ndarray, list[tuple[Any, ...]]]:
    """The tree without tests that decide nothing: where both ways lead to leaves that say the same.

    Args:
        left, right: children, which come after their parents; those of a leaf are negative.
        says: what a node would say were it a leaf.

    Returns:
        The nodes that are left, the root first and children after their parents; the children of each as indices into
        these, ``[nodes, 2]``, a leaf's being itself; what each says.
    """
    leaf = [child < 0 for child in left]
    word = list(says)
    for i in reversed(range(len(leaf))):
        if not leaf[i] and leaf[left[i]] and leaf[right[i]] and word[left[i]] == word[right[i]]:
            leaf[i], word[i] = True, word[left[i]]
    kept: list[int] = []
    todo = [0]
    while todo:
        node = todo.pop()
        kept.append(node)
        todo += [] if leaf[node] else [right[node], left[node]]
    place = {node: i for i, node in enumerate(kept)}
    pairs = [(i, i) if leaf[n] else (place[left[n]], place[right[n]]) for i, n in enumerate(kept)]
    return kept, np.array(pairs, np.int64), [word[n] for n in kept]


def _round_down(threshold: np.ndarray) -> np.ndarray:
    """The largest float32 at or below each float64: ``x <= threshold`` stays what it was for every float32 x."""
    near = threshold.astype(np.float32)
    return np.where(near > threshold, np.nextafter(near, np.float32(-np.inf)), near)
