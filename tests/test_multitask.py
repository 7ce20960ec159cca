"""A student of several tasks: what it shares and what not, by hand, by numpy, and against students that are alone."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as arrays_in
from torch import Tensor, nn
from toys import Balancer

import policykd as kd
from policykd import losses, students
from policykd.distributions import Categorical, kl
from policykd.errors import CheckpointError, SpaceError, UnknownNameError, UsageError
from policykd.losses.defaults import default_objective
from policykd.losses.tasks import by_task
from policykd.prediction import Batch, Origin, Prediction, Progress, Spec
from policykd.students import MultiTask
from policykd.students.multitask import HEADS, INPUTS


def spec(width: int, actions: int) -> Spec:
    return Spec(spaces.Box(-1, 1, (width,), np.float32), spaces.Discrete(actions), "categorical")


# CartPole's, Acrobot's and MountainCar's sizes.
THREE = {"pole": spec(4, 2), "arm": spec(6, 3), "car": spec(2, 3)}
FORMS = [(heads, inputs) for heads in HEADS for inputs in INPUTS]
forms = pytest.mark.parametrize(("heads", "inputs"), FORMS)

BOX = spaces.Box(-2, 2, (3,), np.float32)
MIXED = {
    "choice": spec(4, 2),
    "keyed": Spec(
        spaces.Dict({"a.b": BOX, "bits": spaces.MultiBinary(2)}), spaces.MultiDiscrete([2, 3]), "multi_categorical"
    ),
    "normal": Spec(BOX, spaces.Box(-1, 1, (2,), np.float32), "diag_gaussian"),
    "squashed": Spec(spaces.Discrete(5), spaces.Box(-1, 3, (4,), np.float32), "tanh_gaussian"),
    "image": Spec(spaces.Box(0, 255, (12, 12, 1), np.uint8), spaces.MultiBinary(3), "bernoulli"),
}


def sample(space: gym.Space, n: int, seed: int = 0) -> Any:
    space.seed(seed)
    rows = [space.sample() for _ in range(n)]
    if isinstance(rows[0], dict):
        return {k: torch.as_tensor(np.stack([r[k] for r in rows])) for k in rows[0]}
    return torch.as_tensor(np.stack(rows))


def scattered(student: MultiTask, seed: int = 0) -> MultiTask:
    """The student with weights far from their start, biases and standard deviations too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in student.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.5)
    return student


def labelled(student: MultiTask, name: str, n: int = 32, seed: int = 0) -> Batch:
    """A batch of a task whose labels are another student's words."""
    view = student.task(name)
    obs = sample(view.spec.observation_space, n, seed)
    return student.tag(name, Batch(obs, students.build(view.spec, (8,), seed=7).label(obs)))


def words(said: Prediction) -> list[Tensor]:
    return [t for t in vars(said.dist).values() if isinstance(t, Tensor)]


# --- what is shared


def test_parameters_by_hand() -> None:
    apart = {name: students.mlp(s, (16, 16)).acting_parameters for name, s in THREE.items()}
    assert apart == {"pole": 386, "arm": 435, "car": 371}
    middle = 16 * 16 + 16
    own_in, own_out = (4 + 6 + 2) * 16 + 3 * 16, (2 + 3 + 3) * 16 + 8
    one_in, one_out = 6 * 16 + 3 * 16, 3 * 16 + 3  # a bias each: the embedding of the task
    wanted = {
        ("own", "own"): own_in + middle + own_out,
        ("own", "padded"): one_in + middle + own_out,
        ("shared", "own"): own_in + middle + one_out,
        ("shared", "padded"): one_in + middle + one_out,
    }
    found = {(h, i): MultiTask(THREE, (16, 16), heads=h, inputs=i).acting_parameters for h, i in FORMS}
    assert found == wanted == dict(zip(FORMS, (648, 552, 563, 467), strict=True))
    assert max(found.values()) < sum(apart.values()) == 1192


@forms
def test_views_by_numpy(heads: Any, inputs: Any) -> None:
    student = scattered(MultiTask(THREE, (5, 7), heads=heads, inputs=inputs, activation="relu"))
    w = {name: t.numpy() for name, t in student.weights().items()}
    arm = student.task("arm")  # the widest observation and, with the car, the widest choice
    whole = arm.torso[0].weight.detach().numpy()  # type: ignore[union-attr]
    for i, (name, s) in enumerate(THREE.items()):
        width, actions = s.observation_space.shape[0], s.action_width  # type: ignore[index]
        obs = np.random.default_rng(i).normal(size=(9, width)).astype(np.float32)
        first = f"views.{i}.torso.0"
        if inputs == "padded":
            # Zeros where an observation ends, as a user would pad it.
            bias = student.task(name).torso[0].bias.detach().numpy()  # type: ignore[union-attr]
            x = np.pad(obs, ((0, 0), (0, 6 - width))) @ whole.T + bias
        else:
            x = obs @ w[f"{first}.weight"].T + w[f"{first}.bias"]
        x = np.maximum(np.maximum(x, 0) @ w["views.0.torso.2.weight"].T + w["views.0.torso.2.bias"], 0)
        if heads == "shared":
            head = arm.action_head
            out = (x @ head.weight.detach().numpy().T + head.bias.detach().numpy())[:, :actions]
        else:
            out = x @ w[f"views.{i}.action_head.weight"].T + w[f"views.{i}.action_head.bias"]
        mine = student.task(name)(torch.from_numpy(obs)).dist.logits  # type: ignore[attr-defined]
        np.testing.assert_allclose(mine.detach().numpy(), out, rtol=1e-5, atol=1e-5)


@forms
def test_a_step_on_one_task_moves_what_all_share_and_nothing_of_another_tasks_own(heads: Any, inputs: Any) -> None:
    student = scattered(MultiTask(THREE, (5, 7), heads=heads, inputs=inputs))
    before = copy.deepcopy(student)
    kd.Learner(student, losses.forward_kl, lr=0.1, average=None).step(labelled(student, "pole"))
    old = before.weights()
    moved = {name for name, t in student.weights().items() if not torch.equal(t, old[name])}
    assert {"views.0.torso.2.weight", "views.0.torso.2.bias"} <= moved
    own = {"views.1.torso.0.own", "views.2.torso.0.own", "views.1.action_head.weight", "views.2.action_head.weight"}
    if inputs == "own":
        own |= {"views.1.torso.0.weight", "views.2.torso.0.bias"}
    assert moved & (own if heads == "own" else {n for n in own if "action_head" not in n}) == set()
    obs = sample(THREE["arm"].observation_space, 4)
    assert not torch.equal(student.task("arm")(obs).dist.logits, before.task("arm")(obs).dist.logits)  # type: ignore[attr-defined]


@forms
def test_tasks_that_contradict_each_other_are_both_learnt(heads: Any, inputs: Any) -> None:
    # The same observations, opposite actions: only heads or the task's own bias can tell them apart.
    same = {"right": spec(4, 2), "left": spec(4, 2)}
    student = MultiTask(same, (16, 16), heads=heads, inputs=inputs)
    teachers = {"right": Balancer(spec=same["right"]), "left": Balancer(-10.0, spec=same["left"])}
    learner = kd.Learner(student, by_task(dict.fromkeys(same, losses.forward_kl)), lr=0.02)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        obs = torch.randn(128, 4, generator=generator)
        update = learner.step([student.tag(name, Batch(obs, t.label(obs))) for name, t in teachers.items()])
    assert set(update.terms) == {"right/policy", "left/policy"}
    obs = torch.randn(2000, 4, generator=generator)
    for name, teacher in teachers.items():
        agreed = learner.averaged.task(name).label(obs).dist.mode() == teacher.label(obs).dist.mode()
        assert agreed.float().mean() > 0.95, name


def test_one_task_is_a_student_like_any_other() -> None:
    several = MultiTask({"pole": THREE["pole"]}, (8, 8), seed=3)
    single = students.mlp(THREE["pole"], (8, 8), seed=3)
    learners = kd.Learner(several, by_task({"pole": losses.forward_kl})), kd.Learner(single, losses.forward_kl)
    for seed in range(20):
        batch = labelled(several, "pole", seed=seed)
        updates = [learner.step(batch) for learner in learners]
        assert torch.equal(updates[0].loss, updates[1].loss)
    mine, alone = learners[0].averaged.task("pole"), learners[1].averaged
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), alone.parameters(), strict=True))
    assert several.acting_parameters == single.acting_parameters


@forms
def test_the_gradient_is_that_of_the_sum(heads: Any, inputs: Any) -> None:
    student = scattered(MultiTask(THREE, (5, 7), heads=heads, inputs=inputs))
    batches = [labelled(student, name) for name in THREE]
    plain = copy.deepcopy(student)
    total = torch.zeros(())
    for name, batch in zip(THREE, batches, strict=True):
        total = total + kl(batch.target.dist, plain.task(name)(batch.obs).dist).mean()
    total.backward()  # type: ignore[no-untyped-call]
    objective = by_task(dict.fromkeys(THREE, losses.forward_kl))
    # Plain gradient descent of rate 1 would tell the gradient; Adam's first step tells its sign, the norm its length.
    update = kd.Learner(student, objective, average=None, max_grad_norm=None).step(batches)
    torch.testing.assert_close(update.loss, total.detach())
    length = torch.sqrt(sum(((p.grad**2).sum() for p in plain.parameters() if p.grad is not None), torch.zeros(())))
    torch.testing.assert_close(update.grad_norm, length)


@settings(deadline=None, max_examples=10)
@given(
    widths=st.lists(st.tuples(st.integers(1, 7), st.integers(2, 5)), min_size=1, max_size=4),
    hidden=st.lists(st.integers(1, 6), min_size=2, max_size=3),
    form=st.sampled_from(FORMS),
)
def test_alone_says_the_same_and_is_counted_once(
    widths: list[tuple[int, int]], hidden: list[int], form: tuple[Any, Any]
) -> None:
    specs = {f"t{i}": spec(*w) for i, w in enumerate(widths)}
    student = scattered(MultiTask(specs, hidden, heads=form[0], inputs=form[1]))
    alone = {name: student.alone(name) for name in specs}
    for name, s in specs.items():
        obs = sample(s.observation_space, 5)
        torch.testing.assert_close(student.task(name)(obs).dist.logits, alone[name](obs).dist.logits)  # type: ignore[attr-defined]
        assert alone[name].state_dict().keys() == students.mlp(s, hidden).state_dict().keys()
        assert alone[name].acting_parameters == students.mlp(s, hidden).acting_parameters
    biggest = max(a.acting_parameters for a in alone.values())
    assert biggest <= student.acting_parameters <= sum(a.acting_parameters for a in alone.values())
    assert student.acting_parameters == sum(t.numel() for t in student.weights().values())


def test_alone_goes_its_own_way() -> None:
    student = scattered(MultiTask(THREE, (4, 4), heads="shared", inputs="padded"))
    obs = sample(THREE["car"].observation_space, 6)
    alone = student.alone("car")
    said = alone.label(obs).dist.logits  # type: ignore[attr-defined]
    kd.Learner(student, losses.forward_kl, lr=0.1).step(labelled(student, "pole"))
    assert torch.equal(alone.label(obs).dist.logits, said)  # type: ignore[attr-defined]
    assert not torch.equal(student.task("car").label(obs).dist.logits, said)  # type: ignore[attr-defined]


@forms
def test_copies_share_among_themselves(heads: Any, inputs: Any) -> None:
    learner = kd.Learner(MultiTask(THREE, (4, 4), heads=heads, inputs=inputs), losses.forward_kl)
    for student in (learner.student, learner.averaged, copy.deepcopy(learner.averaged)):
        views = list(student.tasks().values())
        assert all(view.torso[2] is views[0].torso[2] for view in views)
    learner.step(labelled(learner.student, "pole"))
    kept = copy.deepcopy(learner.state_dict())
    again = kd.Learner(MultiTask(THREE, (4, 4), heads=heads, inputs=inputs, seed=9), losses.forward_kl)
    again.load_state_dict(kept)
    for one in (learner, again):
        one.step(labelled(learner.student, "car", seed=1))
    pairs = zip(learner.averaged.parameters(), again.averaged.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_suited_is_of_tanh_where_all_teachers_are() -> None:
    tanh, silu = students.mlp(THREE["pole"], activation="tanh"), students.mlp(THREE["car"])
    assert MultiTask.suited({"a": tanh, "b": tanh}).activation == "tanh"
    assert MultiTask.suited({"a": tanh, "b": silu}).activation == "silu"


# --- policies


def test_views_are_policies_everywhere() -> None:
    from stable_baselines3.common.evaluation import evaluate_policy

    real = gym.make("CartPole-v1")
    pole = Spec(real.observation_space, real.action_space, "categorical")
    student = MultiTask({"arm": THREE["arm"], "pole": pole}, (8, 8))
    view, obs = student.task("pole"), np.zeros((3, 4), np.float32)
    assert isinstance(view, kd.Policy) and view.predict(obs, deterministic=True)[0].shape == (3,)
    theirs, _ = evaluate_policy(view, gym.make("CartPole-v1"), 3, warn=False)  # type: ignore[arg-type]
    assert 1 <= float(theirs) <= 500  # type: ignore[arg-type]
    score = kd.evaluate(view, "CartPole-v1", 5, seed=2, workers=1)
    assert np.array_equal(
        score.returns, kd.evaluate(student.alone("pole"), "CartPole-v1", 5, seed=2, workers=1).returns
    )


def test_tasks_of_any_family_learn_together() -> None:
    student = MultiTask(MIXED, (8, 8), value=True)
    batches = {name: labelled(student, name) for name in MIXED}
    objectives = {}
    for name, view in student.tasks().items():
        students.fit_normaliser(view, batches[name].obs)
        objectives[name] = default_objective(view.spec, batches[name].target, with_value=False, value_weight=0)
    learner = kd.Learner(student, by_task(objectives), lr=1e-2)
    updates = [learner.step(list(batches.values())) for _ in range(25)]
    for term, first in updates[0].terms.items():
        assert updates[-1].terms[term] < first, term
    assert {m.split("/")[0] for m in updates[0].terms} == set(MIXED)


# --- which task a batch is of


def test_a_batch_holds_one_task() -> None:
    student = MultiTask({"a": spec(3, 2), "b": spec(3, 2)}, (4, 4))
    a, b = labelled(student, "a"), labelled(student, "b")
    assert torch.equal(student.read(a).dist.logits, student.task("a")(a.obs).dist.logits)  # type: ignore[attr-defined]
    assert torch.equal(student.read(b).dist.logits, student.task("b")(a.obs).dist.logits)  # type: ignore[attr-defined]
    mixed = a.with_extra(task=torch.arange(32) % 2)
    for batch, says in (
        (Batch(a.obs, a.target), "without extra"),
        (mixed, "tasks 0 to 1"),
        (a.with_extra(task=torch.full((32,), 2)), "tasks 2 to 2"),
    ):
        with pytest.raises(UsageError, match=rf"{says}.*\[batch\.task\]"):
            student.read(batch)


def test_masked_rows_count_in_no_task() -> None:
    student = MultiTask({"a": spec(3, 2), "b": spec(3, 2)}, (4, 4))
    objective = by_task(dict.fromkeys("ab", losses.forward_kl))
    batch = labelled(student, "b")
    mask = torch.arange(32) < 20
    wild = Batch(batch.obs.clone(), batch.target, mask=mask, extra=batch.extra)  # type: ignore[union-attr]
    wild.obs[~mask] = float("nan")  # type: ignore[index]
    found = [kd.Learner(copy.deepcopy(student), objective, max_grad_norm=None).step(one) for one in (batch[mask], wild)]
    torch.testing.assert_close(found[0].loss, found[1].loss)
    torch.testing.assert_close(found[0].grad_norm, found[1].grad_norm)
    assert set(found[1].terms) == {"b/policy"}
    nobody = Batch(wild.obs, batch.target, mask=torch.zeros(32, dtype=torch.bool), extra=batch.extra)
    update = kd.Learner(copy.deepcopy(student), objective).step(nobody)
    assert set(update.terms) == {"b/policy"} and update.loss == 0


def test_each_task_has_its_own_objective_schedules_and_parameters() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, student: Prediction, target: Prediction) -> Tensor:
            return losses.forward_kl(student, target) * self.scale

    def doubled(student: Prediction, batch: Batch) -> dict[str, Tensor]:
        return {"twice": 2.0 * losses.forward_kl(student, batch.target)}

    def falling(progress: Progress) -> float:
        return 1.0 - progress.fraction

    gate = Gate()
    objective = by_task({"a": losses.weighted(soft=(falling, losses.forward_kl)), "b": doubled, "c": gate})
    student = MultiTask(dict.fromkeys("abc", spec(3, 2)), (4, 4))
    learner = kd.Learner(student, objective)
    assert learner.objective.modules == [gate]
    batches = [labelled(student, name) for name in "abc"]
    update = learner.step(batches, Progress(fraction=0.75))
    assert dict(update.weights) == {"a/soft": 0.25, "b/twice": 1.0, "c/policy": 1.0}
    t = update.terms
    torch.testing.assert_close(update.loss, 0.25 * t["a/soft"] + t["b/twice"] + t["c/policy"])
    assert gate.scale != 1.0
    # A weight of 0 leaves a task's batch without a term, and the others as they are.
    assert set(learner.step(batches, Progress(fraction=1.0)).terms) == {"b/twice", "c/policy"}


def test_a_task_without_an_objective_is_refused() -> None:
    student = MultiTask(dict.fromkeys("ab", spec(3, 2)), (4, 4))
    learner = kd.Learner(student, by_task({"a": losses.forward_kl}))
    with pytest.raises(UsageError, match=r"a batch of task 1; expected one of the tasks a .*\[batch\.task\]"):
        learner.step(labelled(student, "b"))
    batch = labelled(student, "a")
    with pytest.raises(UsageError, match=r"without extra.*\[batch\.task\]"):
        by_task({"a": losses.forward_kl})(student.read(batch), Batch(batch.obs, batch.target))


# --- what cannot be meant


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (partial(MultiTask, {}), "multitask.tasks"),
        (partial(MultiTask, THREE, ()), "multitask.sharing"),
        (partial(MultiTask, THREE, (8,)), "multitask.sharing"),
        (partial(MultiTask, THREE, (), heads="shared", inputs="padded"), "multitask.sharing"),
        (partial(MultiTask, THREE, (0, 4)), "student.hidden"),
        (partial(MultiTask, THREE, heads="owned"), "name.heads"),
        (partial(MultiTask, THREE, inputs="pad"), "name.inputs"),
        (partial(MultiTask, THREE, activation="silo"), "name.activation"),
        (partial(MultiTask, {"a": Spec(spaces.Text(3), spaces.Discrete(2), "categorical")}), "space.observation"),
        (partial(MultiTask, {"a": Spec(BOX, spaces.Discrete(2), "bernoulli")}), "student.family"),
        (lambda: MultiTask(THREE).task("pool"), "name.task"),
        (lambda: MultiTask(THREE).alone("pool"), "name.task"),
    ],
)
def test_refused(make: Any, code: str) -> None:
    with pytest.raises((UsageError, SpaceError, UnknownNameError)) as error:
        make()
    assert error.value.code == code


def test_an_unknown_task_is_told_the_closest() -> None:
    with pytest.raises(UnknownNameError, match=r"task 'pool' is not known.*did you mean pole"):
        MultiTask(THREE).task("pool")


# --- files


@forms
def test_saved_and_loaded(heads: Any, inputs: Any, tmp_path: Path) -> None:
    origins = {name: Origin(env_id=f"{name}-v0", gamma=0.9) for name in MIXED}
    student = MultiTask(MIXED, (5, 7), heads=heads, inputs=inputs, value=True, origins=origins)
    scattered(student)
    for name, view in student.tasks().items():
        if name != "choice":  # one without statistics
            students.fit_normaliser(view, sample(view.spec.observation_space, 50, seed=3))
    path = students.save(student, tmp_path)
    found = students.load(tmp_path)
    assert isinstance(found, MultiTask) and found.names == student.names
    assert found.acting_parameters == student.acting_parameters
    for name, view in student.tasks().items():
        again = found.task(name)
        assert (again.spec, again.origin) == (view.spec, view.origin)
        obs = sample(view.spec.observation_space, 8, seed=4)
        mine, theirs = view.label(obs), again.label(obs)
        assert all(torch.equal(a, b) for a, b in zip(words(mine), words(theirs), strict=True))
        assert mine.value is not None and theirs.value is not None and torch.equal(mine.value, theirs.value)
        assert again.torso[2] is found.task("choice").torso[2]
        assert torch.equal(kd.load_student(tmp_path, task=name).label(obs).dist.mode(), mine.dist.mode())
    # Each number once in the file, and the loaded student can be taught.
    assert sum(a.nbytes for a in arrays_in(path.read_bytes()).values()) == student.size_bytes
    update = kd.Learner(found, losses.forward_kl).step(labelled(found, "choice"))
    assert float(update.loss) > 0


def test_a_task_alone_is_saved_as_any_student(tmp_path: Path) -> None:
    student = scattered(MultiTask(THREE, (5, 7), heads="shared", inputs="padded"))
    students.save(student.alone("car"), tmp_path)
    found, obs = kd.load_student(tmp_path), sample(THREE["car"].observation_space, 8)
    assert torch.equal(found.label(obs).dist.mode(), student.task("car").label(obs).dist.mode())
    with pytest.raises(UsageError, match=r"a student of several tasks.*\[path\.task\]"):
        kd.load_student(tmp_path, task="car")


def test_several_tasks_are_no_policy(tmp_path: Path) -> None:
    students.save(MultiTask(THREE), tmp_path)
    for load in (kd.load_teacher, kd.load_student):
        with pytest.raises(UsageError, match=r"the tasks pole, arm, car.*task='pole'.*\[path\.several\]"):
            load(tmp_path)
    with pytest.raises(UnknownNameError, match="did you mean arm"):
        kd.load_student(tmp_path, task="arms")


def _with(card: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**card, **changes}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda c: _with(c, tasks=c["tasks"][:2]), "student.mismatch"),
        (lambda c: _with(c, tasks=c["tasks"][::-1]), "student.mismatch"),
        (lambda c: _with(c, tasks=[]), "student.mismatch"),
        (lambda c: _with(c, tasks=c["tasks"] * 1000), "student.json"),
        (lambda c: _with(c, tasks={"a": 1}), "student.json"),
        (lambda c: _with(c, tasks=[{"name": "a"}]), "student.json"),
        (lambda c: _with(c, shape=_with(c["shape"], hidden=[5, 10**12])), "student.mismatch"),
        (lambda c: _with(c, shape=_with(c["shape"], hidden=[5] * 10**5)), "student.mismatch"),
        (lambda c: _with(c, shape=_with(c["shape"], hidden=[5])), "student.mismatch"),
        (lambda c: _with(c, shape=_with(c["shape"], hidden=["x", 7])), "student.mismatch"),
        (lambda c: _with(c, shape=_with(c["shape"], hidden=5)), "student.json"),
        (lambda c: _with(c, shape=_with(c["shape"], heads="shared")), "student.mismatch"),
        (lambda c: _with(c, shape=_with(c["shape"], heads=[])), "student.mismatch"),
        (lambda c: _with(c, shape=_with(c["shape"], seed=3)), "student.json"),
        (lambda c: _with(c, shape=_with(c["shape"], activation="evil")), "student.mismatch"),
        (lambda c: _with(c, kind="student"), "student.json"),
        (lambda c: _with(c, weights={"sha256": "0"}), "student.mismatch"),
    ],
)
def test_descriptions_that_do_not_fit(change: Any, code: str, tmp_path: Path) -> None:
    students.save(MultiTask(THREE, (5, 7)), tmp_path)
    file = tmp_path / "student.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(CheckpointError) as error:
        students.load(tmp_path)
    assert error.value.code == code
    assert len(str(error.value)) < 1000


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    student = MultiTask(THREE, (5, 7))
    with torch.no_grad():
        student.task("car").action_head.bias[0] = float("nan")
    students.save(student, tmp_path)
    with pytest.raises(CheckpointError, match=r"views\.2\.action_head\.bias.*\[weights\.not-finite\]"):
        students.load(tmp_path)


def test_the_words_of_a_view_are_a_distribution() -> None:
    said = MultiTask(THREE).read(labelled(MultiTask(THREE), "arm"))
    assert isinstance(said.dist, Categorical) and said.dist.logits.shape == (32, 3)
