"""Decision trees as students: scikit-learn's answers bit for bit, numbers by hand, rules run as Python, bad files."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file, save_file
from toys import CARTPOLE, Balancer

import policykd as kd
from policykd import rollouts, students
from policykd.distributions import (
    Bernoulli,
    Categorical,
    Deterministic,
    DiagGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
    kl,
)
from policykd.errors import CheckpointError, MissingExtraError, SpaceError, UsageError
from policykd.evaluation import evaluate
from policykd.prediction import FAMILIES, Batch, EnvWrapper, Family, Origin, Prediction, Spec, obs_tensor
from policykd.recipe import load as recipe
from policykd.students import Tree, tree

sklearn_tree = pytest.importorskip("sklearn.tree")

BOX = spaces.Box(-np.inf, np.inf, (4,), np.float32)
ACTIONS: dict[str, spaces.Space] = {
    "categorical": spaces.Discrete(4, start=-1),
    "multi_categorical": spaces.MultiDiscrete([3, 2]),
    "bernoulli": spaces.MultiBinary(3),
}
BOX_ACTION = spaces.Box(np.float32([-2, 0]), np.float32([2, 0.1]))
OBSERVATIONS: dict[str, spaces.Space] = {
    "box": BOX,
    "table": spaces.Box(-9, 9, (2, 3), np.float64),
    "scalar": spaces.Box(-9, 9, (), np.float32),
    "choice": spaces.Discrete(5, start=-2),
    "choices": spaces.MultiDiscrete([3, 4]),
    "bits": spaces.MultiBinary(6),
    "image": spaces.Box(0, 255, (4, 5, 1), np.uint8),
    "dict": spaces.Dict(OrderedDict(z=BOX, a=spaces.Discrete(3, start=-1), see=spaces.MultiDiscrete([2, 3]))),
}


def spec_of(family: str, space: spaces.Space = BOX) -> Spec:
    return Spec(space, ACTIONS.get(family, BOX_ACTION), family)  # type: ignore[arg-type]


def law(family: str, out: torch.Tensor) -> Distribution:
    match family:
        case "categorical":
            return Categorical(out)
        case "multi_categorical":
            return MultiCategorical(out, (3, 2))
        case "bernoulli":
            return Bernoulli(out)
        case "diag_gaussian":
            return DiagGaussian(out, torch.full_like(out, -1.0))
        case "tanh_gaussian":
            return TanhGaussian(out, torch.full_like(out, -1.0))
    return Deterministic(torch.tanh(out) if family == "tanh_deterministic" else out)


def sample(space: spaces.Space, n: int, seed: int = 0) -> Any:
    space.seed(seed)
    drawn = [space.sample() for _ in range(n)]
    if isinstance(drawn[0], dict):
        return obs_tensor({k: np.stack([d[k] for d in drawn]) for k in drawn[0]})
    return obs_tensor(np.stack(drawn))


def columns(obs: Any, space: spaces.Space) -> torch.Tensor:
    """By gymnasium: the observation flattened, choices one-hot."""
    rows = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)

    def one(i: int) -> Any:
        return {k: v[i].numpy() for k, v in obs.items()} if isinstance(obs, dict) else obs[i].numpy()

    return torch.from_numpy(np.stack([spaces.flatten(space, one(i)) for i in range(rows)])).float()


def labelled(family: str, name: str = "box", n: int = 400, seed: int = 0) -> tuple[Spec, Batch]:
    """Rows whose labels are a smooth function of the observation."""
    spec = spec_of(family, OBSERVATIONS[name])
    obs = sample(spec.observation_space, n, seed)
    x = columns(obs, spec.observation_space)
    mix = torch.empty(x.shape[1], spec.action_width).normal_(generator=torch.Generator().manual_seed(1))
    out = (x / x.abs().amax(0).clamp_min(1)) @ mix
    return spec, Batch(obs, Prediction(law(family, 2 * (out - out.mean(0)))))


def grids(n: int, c: int = 6) -> np.ndarray:
    """Rows of few distinct values, ties and thresholds on both sides of float32's rounding."""
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(0, 1, (n // 2, c)), np.round(rng.normal(0, 1, (n - n // 2, c)), 1)])
    return (x + 1e3 * (np.arange(c) == c - 1)).astype(np.float32)


# --- scikit-learn's own answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaves", [5, 64, 65, 300])
def test_actions_are_those_of_sklearn_to_the_last_row(leaves: int) -> None:
    """More leaves than 64 are found by walking, fewer by asking all tests at once."""
    x = grids(4000)
    y = ((x[:, 0] + 0.3 * x[:, 1] * x[:, 2] > 0).astype(int) + 2 * (x[:, 3] > x[:, 5] - 1e3)) % 3
    spec = Spec(spaces.Box(-np.inf, np.inf, (6,)), spaces.Discrete(3), "categorical")
    w = np.random.default_rng(0).random(len(x)).astype(np.float32)
    batch = Batch(torch.from_numpy(x), Prediction(Categorical(torch.eye(3)[y] * 9)), weight=torch.from_numpy(w))
    mine = tree.fit(batch, spec, max_leaf_nodes=leaves, weight=None, seed=7)
    exact = w.astype(np.float64)
    theirs = sklearn_tree.DecisionTreeClassifier(max_leaf_nodes=leaves, random_state=7)
    theirs.fit(x, y, exact / exact.mean())

    rng = np.random.default_rng(1)
    rows = x[rng.integers(0, len(x), 10_000)] + rng.normal(0, 0.1, (10_000, 6)).astype(np.float32)
    cuts = theirs.tree_.threshold[theirs.tree_.feature >= 0]
    for i, (column, cut) in enumerate(zip(theirs.tree_.feature[theirs.tree_.feature >= 0], cuts, strict=True)):
        near = np.float32(cut)  # the threshold itself, and its neighbours among float32
        for j, value in enumerate((near, np.nextafter(near, np.float32(-9e9)), np.nextafter(near, np.float32(9e9)))):
            rows[(3 * i + j) % len(rows), column] = value
    said = mine.predict(rows, deterministic=True)[0]
    assert np.array_equal(said, theirs.predict(rows)) and len(np.unique(said)) == 3
    assert mine.leaves <= theirs.get_n_leaves() == leaves and mine.depth <= theirs.get_depth()
    assert torch.equal(
        mine.label(torch.from_numpy(rows).reshape(100, 100, 6)).dist.mode().flatten(), torch.tensor(said)
    )


def test_thresholds_are_rounded_down_because_that_alone_keeps_every_answer() -> None:
    cuts = np.array([0.1, -0.1, 1e-46, -1e-46, 16777217.0, 1e30, 0.5])
    down = tree._round_down(cuts)
    assert down.dtype == np.float32 and np.all(down.astype(np.float64) <= cuts)
    assert np.all(np.nextafter(down, np.float32(np.inf)).astype(np.float64) > cuts)


def test_several_choices_at_once_are_those_of_sklearn() -> None:
    for family in ("multi_categorical", "bernoulli"):
        spec, batch = labelled(family, n=2000)
        y = batch.target.dist.mode().numpy().astype(int)
        theirs = sklearn_tree.DecisionTreeClassifier(max_leaf_nodes=20, random_state=0).fit(batch.obs.numpy(), y)
        mine = tree.fit(batch, spec, max_leaf_nodes=20, weight=None)
        rows = sample(BOX, 3000, seed=5).numpy()
        assert np.array_equal(mine.predict(rows, deterministic=True)[0], theirs.predict(rows))


@pytest.mark.parametrize("family", ["deterministic", "tanh_deterministic", "diag_gaussian", "tanh_gaussian"])
def test_numbers_are_the_means_of_sklearn(family: str) -> None:
    spec, batch = labelled(family, n=2000)
    y = batch.target.dist.mode().numpy().astype(np.float64)
    unit = np.array([1.0, 1.0]) if spec.squashed else np.array([4.0, np.float64(np.float32(0.1))])
    theirs = sklearn_tree.DecisionTreeRegressor(max_leaf_nodes=20, random_state=0).fit(batch.obs.numpy(), y / unit)
    mine = tree.fit(batch, spec, max_leaf_nodes=20)
    rows = sample(BOX, 3000, seed=5)
    assert torch.allclose(mine.label(rows).dist.mode().double(), torch.tensor(theirs.predict(rows) * unit), atol=1e-6)
    assert type(mine.label(rows).dist) is type(law(family, torch.zeros(1, 2)))
    if family in ("diag_gaussian", "tanh_gaussian"):
        # No other standard deviation is closer to the targets.
        def far(shift: float) -> float:
            said = mine.label(batch.obs).dist
            return float(kl(batch.target.dist, type(said)(said.mean, said.log_std + shift)).mean())

        assert far(0.0) < min(far(0.02), far(-0.02))


# --- by hand ----------------------------------------------------------------------------------------------------------


def stump(value: Any = ((0, 0), (0, 1), (1, 0)), spec: Spec = CARTPOLE, **changes: Any) -> Tree:
    """obs[2] <= 0.5 -> 1, else 0."""
    arrays: dict[str, Any] = {"feature": [2, 0, 0], "threshold": [0.5, 0, 0], "left": [1, 1, 2], "right": [2, 1, 2]}
    return Tree(spec, **{**arrays, "value": value, **changes})


def test_a_tree_of_three_nodes_by_hand() -> None:
    found = stump()
    assert (found.inner_nodes, found.leaves, found.depth) == (1, 2, 1)
    assert found.acting_parameters == 2 * 1 + 2 * 2 == 6
    obs = np.float32([[0, 0, 0.5, 0], [0, 0, 0.50000006, 0], [0, 0, np.nan, 0], [0, 0, -np.inf, 0]])
    assert found.predict(obs, deterministic=True)[0].tolist() == [1, 0, 0, 1]
    assert torch.allclose(found.label(torch.from_numpy(obs)).dist.probs[0], torch.softmax(torch.tensor([0.0, 1.0]), 0))
    assert found.rules() == str(found) == "if obs[2] <= 0.5:\n    action = 1\nelse:\n    action = 0"
    assert found.rules(["x", "v", "lean", "spin"]).startswith("if lean <= 0.5:")
    assert found.acting_layers is None and list(found.parameters()) == []
    assert found.origin.algo == "tree"


def test_predict_has_the_signature_of_sb3() -> None:
    found = stump()
    one, state = found.predict(np.zeros(4, np.float32), None, np.ones(1, bool), True)
    assert one == 1 and one.shape == () and state is None
    many, _ = found.predict(np.zeros((3, 4), np.float32), deterministic=True)
    assert many.tolist() == [1, 1, 1]
    masked, _ = found.predict(np.zeros(4, np.float32), deterministic=True, action_masks=np.array([True, False]))
    assert masked == 0
    found.seed(3)
    drawn, _ = found.predict(np.zeros((4000, 4), np.float32))
    assert abs(drawn.mean() - 1 / (1 + math.exp(-1))) < 0.03


def test_another_tree_of_the_same_size_can_be_loaded_into_one() -> None:
    found = stump()
    found.load_state_dict(stump(((0, 0), (5, 0), (0, 5)), feature=[1, 0, 0]).state_dict())
    assert found.predict(np.float32([0, 9, 0, 0]), deterministic=True)[0] == 1


def test_a_leafs_probabilities_are_laplaces() -> None:
    x = torch.tensor([[0.0], [0.0], [0.0], [1.0], [1.0]]).expand(-1, 4)
    batch = Batch(x, Prediction(Categorical(torch.eye(3)[[0, 0, 1, 2, 2]])))
    spec = Spec(BOX, spaces.Discrete(3), "categorical")
    found = tree.fit(batch, spec, max_leaf_nodes=2, weight=None)
    wanted = torch.tensor([[3 / 6, 2 / 6, 1 / 6], [1 / 5, 1 / 5, 3 / 5]])
    assert torch.allclose(found.label(x[[0, 4]]).dist.probs, wanted)
    found = tree.fit(
        Batch(x, batch.target, weight=torch.tensor([2.0, 0, 2, 3, 3])), spec, max_leaf_nodes=2, weight=None
    )
    w = [0.8, 0.8, 1.2, 1.2]  # mean 1 over the rows that count
    wanted = torch.tensor([[1 + w[0], 1 + w[1], 1], [1, 1, 1 + w[2] + w[3]]])
    assert torch.allclose(found.label(x[[0, 4]]).dist.probs, wanted / wanted.sum(-1, keepdim=True))


def test_the_standard_deviation_of_a_normal_family_by_hand() -> None:
    x = torch.tensor([[0.0], [0.0], [1.0], [1.0]]).expand(-1, 4)
    mean = torch.tensor([[0.0, 0.01], [1.0, 0.01], [-1.0, 0.09], [-1.0, 0.09]])
    log_std = torch.log(torch.tensor([0.5, 0.02])).expand(4, 2)
    found = tree.fit(Batch(x, Prediction(DiagGaussian(mean, log_std))), spec_of("diag_gaussian"), max_leaf_nodes=2)
    said = found.label(x).dist
    assert torch.allclose(said.mean, torch.tensor([[0.5, 0.01], [0.5, 0.01], [-1.0, 0.09], [-1.0, 0.09]]))
    wanted = torch.tensor([math.sqrt(0.25 + (0.25 + 0.25 + 0 + 0) / 4), 0.02])
    assert torch.allclose(said.log_std.exp(), wanted.expand(4, 2))


def test_tests_that_decide_nothing_are_dropped() -> None:
    """Pure on the right, 60:40 on the left in two degrees: scikit-learn splits on, and both ways say 0."""
    x = torch.arange(30.0).unsqueeze(1).expand(-1, 4)
    y = torch.tensor([0] * 10 + [0, 1, 0] * 3 + [0] + [1] * 10)
    batch = Batch(x, Prediction(Categorical(torch.eye(2)[y])))
    theirs = sklearn_tree.DecisionTreeClassifier(max_leaf_nodes=3, random_state=0).fit(x.numpy(), y.numpy())
    found = tree.fit(batch, CARTPOLE, max_leaf_nodes=3, weight=None)
    assert theirs.get_n_leaves() == 3 and found.leaves == 2
    rows = np.random.default_rng(0).uniform(-5, 35, (1000, 1)).astype(np.float32).repeat(4, 1)
    assert np.array_equal(found.predict(rows, deterministic=True)[0], theirs.predict(rows))


# --- weights of VIPER -------------------------------------------------------------------------------------------------


def test_viper_weights_by_hand() -> None:
    q = torch.tensor([[1.0, 3.0, -2.0], [4.0, 4.0, 4.0]])
    assert tree.viper_weights(Prediction(Categorical(q), q=q)).tolist() == [5.0, 0.0]
    barred = torch.tensor([[0.0, 0.0, -torch.inf], [0.0, -torch.inf, -torch.inf]])
    assert tree.viper_weights(Prediction(Categorical(barred), q=q)).tolist() == [2.0, 0.0]
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]])) + 5
    found = tree.viper_weights(Prediction(Categorical(logits)))
    assert torch.allclose(found, torch.tensor([math.log(7), 0.0]), atol=1e-6)
    two = MultiCategorical(torch.tensor([[0.0, 1.0, 5.0, 2.0]]), (2, 2))
    assert tree.viper_weights(Prediction(two)).tolist() == pytest.approx([4.0])
    assert tree.viper_weights(Prediction(Bernoulli(torch.tensor([[2.0, -3.0, torch.inf]])))).tolist() == [5.0]
    assert tree.viper_weights(Prediction(Deterministic(torch.ones(3, 2)))).tolist() == [1.0] * 3


def test_the_rows_where_a_mistake_costs_most_decide() -> None:
    """One cut for two wishes: most rows care little about column 0, a few care much about column 1."""
    x = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
    x = torch.cat([x, x], 1).repeat(10, 1)
    costly = (x[:, 0] == 0).float()
    y = torch.where(costly > 0, (x[:, 1] > 1.5).long(), (x[:, 0] > 1.5).long())
    q = torch.nn.functional.one_hot(y, 2) * (0.1 + 100 * costly).unsqueeze(1)
    batch = Batch(x, Prediction(Categorical(q), q=q))
    light = tree.fit(batch, CARTPOLE, max_leaf_nodes=2, weight=None)
    heavy = tree.fit(batch, CARTPOLE, max_leaf_nodes=2)
    assert int(light.feature[0]) % 2 == 0 and int(heavy.feature[0]) % 2 == 1

    def lost(found: Tree) -> float:
        return float((q.amax(1) - q.gather(1, found.label(x).dist.mode().unsqueeze(1)).squeeze(1)).sum())

    assert lost(heavy) < 0.1 * lost(light)


def test_a_weight_is_as_good_as_that_many_rows() -> None:
    spec, batch = labelled("categorical", n=300)
    times = torch.randint(0, 4, (300,), generator=torch.Generator().manual_seed(0))
    repeated = tree.fit(batch[torch.arange(300).repeat_interleave(times)], spec, max_leaf_nodes=8, weight=None)
    weighted = tree.fit(Batch(batch.obs, batch.target, weight=times), spec, max_leaf_nodes=8, weight=None)
    assert torch.equal(repeated.feature, weighted.feature) and torch.equal(repeated.threshold, weighted.threshold)
    called = tree.fit(batch, spec, max_leaf_nodes=8, weight=lambda _: times.float())
    assert torch.equal(called.threshold, weighted.threshold) and torch.equal(called.value, weighted.value)


# --- ends of the knobs ------------------------------------------------------------------------------------------------


def test_one_class_or_one_row_is_a_tree_of_one_leaf(tmp_path: Path) -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    one_class = Batch(x, Prediction(Categorical(torch.tensor([0.0, 3.0]).expand(50, 2))))
    for batch in (one_class, one_class[:1]):
        found = tree.fit(batch, CARTPOLE, max_leaf_nodes=8)
        assert (found.depth, found.leaves, found.inner_nodes, found.acting_parameters) == (0, 1, 0, 2)
        assert found.rules() == "action = 1" and found.predict(x.numpy(), deterministic=True)[0].tolist() == [1] * 50
    students.save(found, tmp_path)
    assert students.load(tmp_path).rules() == "action = 1"
    spec, batch = labelled("diag_gaussian")
    found = tree.fit(batch[:1], spec, max_leaf_nodes=2)
    assert found.leaves == 1 and torch.allclose(found.label(batch.obs[:1]).dist.mean, batch.target.dist.mean[:1])


def test_two_leaves_are_the_fewest() -> None:
    spec, batch = labelled("categorical")
    assert tree.fit(batch, spec, max_leaf_nodes=2).leaves == 2
    for leaves in (1, 0, -3, 10**9):
        with pytest.raises(UsageError, match=r"tree\.leaves"):
            tree.fit(batch, spec, max_leaf_nodes=leaves)


def test_more_leaves_than_rows() -> None:
    spec, batch = labelled("deterministic", n=20)
    found = tree.fit(batch, spec, max_leaf_nodes=1000)
    assert found.leaves <= 20
    assert torch.allclose(found.label(batch.obs).dist.mode(), batch.target.dist.mode(), atol=1e-6)


def test_weights_of_zero() -> None:
    """Where no action matters anywhere all rows count alike; where the caller says that no row counts, none does."""
    spec, batch = labelled("categorical")
    equal = Batch(batch.obs, Prediction(batch.target.dist, q=torch.zeros(400, 4)))
    assert torch.equal(
        tree.fit(equal, spec, max_leaf_nodes=8).threshold,
        tree.fit(batch, spec, max_leaf_nodes=8, weight=None).threshold,
    )
    for nothing in ({"weight": torch.zeros(400)}, {"mask": torch.zeros(400, dtype=torch.bool)}):
        with pytest.raises(UsageError, match=r"tree\.sample"):
            tree.fit(Batch(batch.obs, batch.target, **nothing), spec, max_leaf_nodes=8)
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match=r"tree\.sample"):
            tree.fit(Batch(batch.obs, batch.target, torch.full((400,), wrong)), spec, max_leaf_nodes=8)


def test_samples_that_cannot_be_meant() -> None:
    spec, batch = labelled("categorical")
    broken = batch.obs.clone()
    broken[3, 1] = math.nan
    with pytest.raises(UsageError, match=r"tree\.sample"):
        tree.fit(Batch(broken, batch.target), spec, max_leaf_nodes=8)
    tree.fit(Batch(broken, batch.target, mask=torch.arange(400) != 3), spec, max_leaf_nodes=8)
    with pytest.raises(UsageError, match=r"tree\.sample"):
        tree.fit(Batch(batch.obs, Prediction(Categorical(torch.full((400, 4), math.nan)))), spec, max_leaf_nodes=8)
    with pytest.raises(UsageError, match=r"tree\.sample"):
        tree.fit([], spec, max_leaf_nodes=8)
    with pytest.raises(UsageError, match=r"tree\.sample"):
        tree.fit(Batch(batch.obs[0], batch.target[0]), spec, max_leaf_nodes=8)
    with pytest.raises(SpaceError, match=r"tree\.target"):
        tree.fit(labelled("diag_gaussian")[1], spec, max_leaf_nodes=8)
    with pytest.raises(SpaceError, match=r"tree\.target"):
        tree.fit(batch, CARTPOLE, max_leaf_nodes=8)


def test_batches_of_any_shape_and_a_bound_on_rows() -> None:
    spec, batch = labelled("categorical", n=600)
    whole = tree.fit(batch, spec, max_leaf_nodes=8)
    folded = batch[:400].map(lambda t: t.reshape(4, 100, *t.shape[1:]))
    again = tree.fit([folded, batch[400:]], spec, max_leaf_nodes=8)
    assert torch.equal(again.threshold, whole.threshold) and torch.equal(again.value, whole.value)
    few = [tree.fit([batch[:250], batch[250:]], spec, max_leaf_nodes=8, max_rows=100, seed=s) for s in (0, 0, 1)]
    assert torch.equal(few[0].threshold, few[1].threshold) and torch.equal(few[0].value, few[1].value)
    assert not torch.equal(few[0].threshold, few[2].threshold) and not torch.equal(few[0].threshold, whole.threshold)
    rows = np.sort(np.random.default_rng(0).choice(600, 100, replace=False))
    same = tree.fit(batch[torch.from_numpy(rows)], spec, max_leaf_nodes=8)
    assert torch.equal(same.threshold, few[0].threshold)


def test_nothing_touches_a_global_generator_or_what_it_is_given() -> None:
    spec, batch = labelled("categorical")
    before, numpys, obs = torch.get_rng_state(), np.random.get_state()[1].copy(), batch.obs.clone()
    tree.fit(batch, spec, max_leaf_nodes=8, max_rows=50)
    assert torch.equal(torch.get_rng_state(), before) and np.array_equal(np.random.get_state()[1], numpys)
    assert torch.equal(batch.obs, obs)


def test_a_missing_sklearn_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, batch = labelled("categorical")
    monkeypatch.setitem(sys.modules, "sklearn.tree", None)
    with pytest.raises(MissingExtraError, match=r"policykd\[trees\]"):
        tree.fit(batch, spec, max_leaf_nodes=8)
    stump().predict(np.zeros(4, np.float32))  # a tree that is there acts without it


# --- a world ----------------------------------------------------------------------------------------------------------


def test_four_leaves_balance_a_pole() -> None:
    """One more round of the tree's own states, labelled by the teacher, and the best of the trees: VIPER's loop."""
    teacher = Balancer(gain=1.0)
    collector = rollouts.Collector(rollouts.make(recipe("CartPole-v1"), 16), teacher, seed=0)
    memory = [collector.collect(100).batch]
    trees: list[Tree] = []
    for _ in range(7):
        trees.append(tree.fit(memory, CARTPOLE, max_leaf_nodes=4, weight=None))
        memory.append(collector.collect(100, trees[-1], beta=0.0).batch)
    best = max(trees, key=lambda found: evaluate(found, "CartPole-v1", 20, seed=1).mean)
    assert best.leaves <= 4 and best.acting_parameters <= 2 * 3 + 4 * 2
    assert evaluate(best, "CartPole-v1", 50, seed=1000).mean > 475


# --- rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBSERVATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_rules_run_as_python_act_as_the_tree(family: Family, name: str) -> None:
    spec, batch = labelled(family, name)
    found = tree.fit(batch, spec, max_leaf_nodes=12, weight=None)
    assert found.depth > 0
    code = compile(found.rules(digits=None), "rules", "exec")
    obs = sample(spec.observation_space, 300, seed=9)
    said = found.predict(
        {k: v.numpy() for k, v in obs.items()} if isinstance(obs, dict) else obs.numpy(), None, None, True
    )
    for i, wanted in enumerate(said[0]):
        one: Any = {k: v[i].numpy() for k, v in obs.items()} if isinstance(obs, dict) else obs[i].numpy()
        if name == "table":
            one = one.astype(np.float32)  # a tree reads float32
        scope: dict[str, Any] = {"obs": one}
        exec(code, scope)
        # tanh of a batch differs from tanh of a row in the last bit.
        assert np.allclose(np.asarray(scope["action"], wanted.dtype), wanted, rtol=0, atol=1e-6 * spec.squashed)


def test_rules_read_well() -> None:
    spec, batch = labelled("categorical", "dict", n=600)
    text = tree.fit(batch, spec, max_leaf_nodes=30, weight=None).rules()
    assert "if obs['z'][" in text and "obs['a'] != " in text and "obs['see'][" in text and "elif " in text
    assert {line.split(" = ")[1] for line in text.splitlines() if "action" in line} <= {"-1", "0", "1", "2"}
    spec, batch = labelled("tanh_gaussian")
    assert "action = [" in tree.fit(batch, spec, max_leaf_nodes=4).rules()
    short = stump(threshold=[1234.5678, 0, 0]).rules(digits=2)
    assert "obs[2] <= 1200.0:" in short
    for wrong in ({"names": ["x"]}, {"digits": 0}):
        with pytest.raises(UsageError, match=r"tree\.(names|digits)"):
            stump().rules(**wrong)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["box", "dict"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_comes_back_to_the_last_bit(family: str, name: str, tmp_path: Path) -> None:
    spec, batch = labelled(family, name)
    origin = Origin(algo="tree", env_id="X-v1", wrappers=(EnvWrapper("TimeFeature", {"max_steps": 9}),), gamma=0.9)
    made = tree.fit(batch, spec, max_leaf_nodes=9, origin=origin)
    path = students.save(made, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["student.json", "student.safetensors"]
    for found in (students.load(tmp_path), kd.load_student(tmp_path), kd.load_teacher(path)):
        assert type(found) is Tree and found.spec == spec and found.origin == origin
        assert (found.depth, found.leaves, found.inner_nodes) == (made.depth, made.leaves, made.inner_nodes)
        for key, tensor in made.state_dict().items():
            assert torch.equal(found.state_dict()[key], tensor)
        assert torch.equal(found.label(batch.obs).dist.mode(), made.label(batch.obs).dist.mode())
    card = json.loads((tmp_path / "student.json").read_text())
    assert card["kind"] == "tree" and card["params"] == made.acting_parameters
    assert card["shape"] == {"inner_nodes": made.inner_nodes, "leaves": made.leaves, "depth": made.depth}
    with pytest.raises(UsageError, match=r"student\.transfer"):
        students.from_teacher(found)


def saved(folder: Path, family: str = "categorical") -> Path:
    """A tree of two tests on disk: left is the leaf 1, right the test 2 with leaves 3 and 4."""
    value = np.zeros((5, spec_of(family).action_width), np.float32)
    links = {"left": [2, 1, 3, 3, 4], "right": [1, 1, 4, 3, 4]}
    log_std = {"log_std": [0.0, 0.0]} if "gaussian" in family else {}
    made = Tree(spec_of(family), feature=[1, 0, 3, 0, 0], threshold=[0.5, 0, 2, 0, 0], value=value, **links, **log_std)
    return students.save(made, folder)


def rewrite(path: Path, changes: dict[str, torch.Tensor | None]) -> None:
    tensors = {k: v for k, v in {**load_file(path), **changes}.items() if v is not None}
    save_file(tensors, path)
    about = path.with_suffix(".json")
    card = json.loads(about.read_text())
    card["weights"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    about.write_text(json.dumps(card))


HOSTILE: dict[str, dict[str, torch.Tensor | None]] = {
    "a cycle": {"left": torch.tensor([2, 1, 0, 3, 4])},
    "a cycle of two": {"left": torch.tensor([2, 1, 2, 3, 4])},
    "a child beyond the end": {"left": torch.tensor([2, 1, 5, 3, 4])},
    "a child far beyond the end": {"left": torch.tensor([2, 1, 2**62, 3, 4])},
    "a negative child": {"left": torch.tensor([-1, 1, 3, 3, 4])},
    "a child of two": {"left": torch.tensor([2, 1, 4, 3, 4])},
    "half a leaf": {"left": torch.tensor([2, 3, 3, 3, 4])},
    "an orphan": {"left": torch.tensor([0, 1, 3, 3, 4]), "right": torch.tensor([0, 1, 4, 3, 4])},
    "a column beyond the end": {"feature": torch.tensor([4, 0, 3, 0, 0])},
    "a column beyond the end at a leaf": {"feature": torch.tensor([1, 9, 3, 0, 0])},
    "a negative column": {"feature": torch.tensor([-1, 0, 3, 0, 0])},
    "a threshold of NaN": {"threshold": torch.tensor([0.5, 0, math.nan, 0, 0])},
    "an infinite threshold": {"threshold": torch.tensor([0.5, 0, math.inf, 0, 0])},
    "thresholds too few": {"threshold": torch.zeros(4)},
    "a value of NaN": {"value": torch.full((5, 4), math.nan)},
    "values too wide": {"value": torch.zeros(5, 5)},
    "values too few": {"value": torch.zeros(4, 4)},
    "values of one axis": {"value": torch.zeros(20)},
    "values of doubles": {"value": torch.zeros(5, 4).double()},
    "children of floats": {"left": torch.tensor([2.0, 1, 3, 3, 4])},
    "no thresholds": {"threshold": None},
    "a surprise": {"surprise": torch.zeros(1)},
    "a standard deviation of choices": {"log_std": torch.zeros(4)},
    "nothing": {k: torch.zeros(0, dtype=torch.int64) for k in ("feature", "left", "right")}
    | {"threshold": torch.zeros(0), "value": torch.zeros(0, 4)},
    "too much": {k: torch.arange(2**17) for k in ("left", "right")}
    | {"feature": torch.zeros(2**17, dtype=torch.int64), "threshold": torch.zeros(2**17)}
    | {"value": torch.zeros(2**17, 4)},
    "another tree": {"left": torch.tensor([1, 1, 3, 3, 4]), "right": torch.tensor([2, 1, 4, 3, 4])}
    | {"left": torch.arange(1), "right": torch.arange(1), "feature": torch.zeros(1, dtype=torch.int64)}
    | {"threshold": torch.zeros(1), "value": torch.zeros(1, 4)},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_arrays(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    rewrite(path, {})
    students.load(path)
    rewrite(path, HOSTILE[name])
    with pytest.raises(CheckpointError, match=r"student\.tree") as caught:
        kd.load_student(path)
    assert len(str(caught.value)) < 900


def test_hostile_arrays_of_numbers(tmp_path: Path) -> None:
    path = saved(tmp_path / "a", "tanh_gaussian")
    students.load(path)
    for changes in ({"log_std": None}, {"log_std": torch.tensor([0.0, math.nan])}, {"value": torch.full((5, 2), 1.5)}):
        path = saved(tmp_path / "a", "tanh_gaussian")
        rewrite(path, changes)
        with pytest.raises(CheckpointError, match=r"student\.tree"):
            students.load(path)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("kind",), "forest"),
        (("schema",), 2),
        (("shape",), None),
        (("shape",), []),
        (("shape", "depth"), 10**9),
        (("shape", "surprise"), 1),
        (("kind",), "student"),
        (("spec", "family"), "diag_gaussian"),
        (("spec", "action_space", "n"), 3),
        (("spec", "action_space", "n"), 10**15),
        (("spec", "observation_space"), {"type": "Discrete", "n": 10**12, "start": 0, "dtype": "int64"}),
        (("spec", "observation_space", "shape"), [2]),
        (("weights", "sha256"), "0" * 64),
    ],
)
def test_descriptions_that_lie(keys: tuple[str, ...], value: Any, tmp_path: Path) -> None:
    path = saved(tmp_path)
    about = path.with_suffix(".json")
    card = json.loads(about.read_text())
    place = card
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    about.write_text(json.dumps(card))
    with pytest.raises(CheckpointError) as caught:
        students.load(path)
    assert caught.value.code in ("student.json", "student.mismatch", "student.tree") and len(str(caught.value)) < 900


def test_spaces_and_families_that_no_tree_has() -> None:
    with pytest.raises(SpaceError, match=r"student\.family"):
        stump(spec=Spec(BOX, spaces.Discrete(2), "bernoulli"))
    with pytest.raises(SpaceError, match=r"space\.observation"):
        stump(spec=Spec(spaces.Text(3), spaces.Discrete(2), "categorical"))
    with pytest.raises(SpaceError, match=r"tree\.columns"):
        stump(spec=Spec(spaces.Discrete(10**12), spaces.Discrete(2), "categorical"))
    with pytest.raises(UsageError, match=r"tree\.structure"):
        stump(left=[1, 1, 1])
