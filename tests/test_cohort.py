"""A cohort's members learn and act exactly as each would alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from toys import every_family

from policykd import losses, students
from policykd.distributions import Categorical, kl
from policykd.errors import UsageError
from policykd.fused import categorical_kl, network
from policykd.learner import Learner
from policykd.prediction import Batch, Prediction, Spec
from policykd.reduction import reduce_rows
from policykd.students import Cohort, Student

BOX = spaces.Box(-np.inf, np.inf, (5,), np.float32)
TWO = spaces.Box(-1.0, 2.0, (2,), np.float32)
SPECS = every_family(BOX, TWO)
HIDDEN = [(), (), (4,), (8, 6), (8, 6), (8, 6)]


def made(spec: Spec, activation: str = "tanh") -> list[Student]:
    found = [students.mlp(spec, h, activation=activation, seed=i) for i, h in enumerate(HIDDEN)]
    for s in found:
        students.fit_normaliser(s, 3 * torch.randn(50, 5, generator=torch.Generator().manual_seed(1)) + 1)
    return found


def batches(spec: Spec, count: int, rows: int = 16) -> list[Batch]:
    teacher = students.mlp(spec, (7,), seed=99)
    generator = torch.Generator().manual_seed(0)
    for p in teacher.action_head.parameters():
        p.data.mul_(50.0)
    obs = [3 * torch.randn(rows, 5, generator=generator) for _ in range(count)]
    return [Batch(o, teacher.label(o)) for o in obs]


def tensors(said: Prediction) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    said.map(lambda t: found.append(t) or t)  # type: ignore[func-returns-value]
    return found


def loss_of(spec: Spec) -> Any:
    return losses.wasserstein2 if spec.family in ("diag_gaussian", "tanh_gaussian") else losses.mse


@pytest.mark.parametrize("family", SPECS)
def test_members_say_what_they_say_alone(family: str) -> None:
    spec, obs = SPECS[family], torch.randn(9, 5)
    alone = made(spec)
    cohort = Cohort(alone)
    assert cohort.members == 6 and cohort.acting_parameters == sum(s.acting_parameters for s in alone)
    together = tensors(cohort(obs))
    for i, student in enumerate(alone):
        for ours, theirs in zip(together, tensors(student(obs, values=False)), strict=True):
            torch.testing.assert_close(ours[i], theirs)
    who = torch.tensor([5, 0, 2, 2, 1, 3, 5, 0, 4])
    answers = tensors(cohort.answer(obs, who))
    for row, i in enumerate(who.tolist()):
        for ours, theirs in zip(answers, tensors(alone[i](obs, values=False)), strict=True):
            torch.testing.assert_close(ours[row], theirs[row])


# Activations and families are independent: every family with one activation, every activation with two families.
_EACH = [(f, "tanh") for f in SPECS] + [
    (f, a) for f in ("categorical", "tanh_gaussian") for a in ("silu", "relu", "gelu")
]


@pytest.mark.parametrize(("family", "activation"), _EACH)
def test_members_learn_what_they_learn_alone(family: str, activation: str) -> None:
    spec = SPECS[family]
    alone, data = made(spec, activation), batches(spec, 30)
    loss = losses.forward_kl if spec.discrete else loss_of(spec)
    together = Learner(Cohort(alone), loss, lr=0.02, average=0.9)
    singles = [Learner(s, loss, lr=0.02, average=0.9) for s in alone]
    for batch in data:
        update = together.step(batch)
        each = [single.step(batch) for single in singles]
        torch.testing.assert_close(update.loss, torch.stack([u.loss for u in each]), rtol=2e-3, atol=1e-5)
        norms = torch.stack([u.grad_norm for u in each])  # type: ignore[misc]
        torch.testing.assert_close(update.grad_norm, norms, rtol=2e-3, atol=1e-5)
    cohort, averaged = together.student, together.averaged
    assert isinstance(cohort, Cohort) and isinstance(averaged, Cohort)
    for i, single in enumerate(singles):
        for who, mine in ((cohort, single.student), (averaged, single.averaged)):
            for name, p in mine.state_dict().items():
                torch.testing.assert_close(who.member(i).state_dict()[name], p, rtol=5e-3, atol=5e-4)


def test_those_who_stay_go_on_as_if_the_others_had_never_been_there() -> None:
    spec = SPECS["tanh_gaussian"]
    data = batches(spec, 20)
    together, fewer = (Learner(Cohort(made(spec)), losses.wasserstein2, lr=0.02, average=0.9) for _ in range(2))
    for batch in data[:10]:
        together.step(batch)
        fewer.step(batch)
    keep = [0, 3, 5]
    fewer = fewer.kept(keep)
    for batch in data[10:]:
        theirs = together.step(batch).loss[keep]
        torch.testing.assert_close(fewer.step(batch).loss, theirs, rtol=1e-4, atol=1e-6)
    assert fewer.updates == 20 and isinstance(fewer.student, Cohort) and fewer.student.members == 3
    with pytest.raises(UsageError, match=r"learner\.members"):
        Learner(made(spec)[0], losses.wasserstein2).kept([0])


def test_a_parametric_loss_stays_when_members_go() -> None:
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(2.0))

        def forward(self, student: Prediction, target: Prediction) -> torch.Tensor:
            return losses.forward_kl(student, target) * self.scale

    spec = SPECS["categorical"]
    learner = Learner(Cohort(made(spec)), Scaled(), lr=0.02)
    data = batches(spec, 2)
    learner.step(data[0])
    first = learner._optimizer.mean[-1].clone()
    less = learner.kept([1, 4])
    assert less._optimizer.mean[-1] == first != 0
    less.step(data[1])


def test_masks_and_weights_count_for_every_member() -> None:
    rows = torch.arange(6.0).reshape(2, 3)
    assert reduce_rows(rows, None, None, members=True).tolist() == [1.0, 4.0]
    mask, weight = torch.tensor([True, False, True]), torch.tensor([1.0, 5.0, 2.0])
    assert reduce_rows(rows, weight, mask, members=True).tolist() == [2.0, (3 + 10) / 2]
    assert reduce_rows(rows, None, torch.zeros(3, dtype=torch.bool), members=True).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "change",
    [
        lambda s: students.mlp(s.spec, (4,), value=True),
        lambda s: students.mlp(SPECS["bernoulli"], (4,)),
        lambda s: students.mlp(s.spec, (4,)),  # without the normaliser
    ],
)
def test_who_does_not_fit_is_refused(change: Any) -> None:
    student = made(SPECS["categorical"])[0]
    with pytest.raises(UsageError, match=r"cohort\.students"):
        Cohort([student, change(student)])
    with pytest.raises(UsageError, match="nobody"):
        Cohort([])


def _row(bias: torch.Tensor, members: int) -> torch.Tensor:
    return bias.unsqueeze(1) if members else bias


@pytest.mark.parametrize("activation", [torch.nn.Tanh, torch.nn.SiLU, torch.nn.ReLU])
@pytest.mark.parametrize("members", [0, 3])
def test_written_gradients_are_those_of_the_plain_layers(activation: type[torch.nn.Module], members: int) -> None:
    torch.manual_seed(0)
    lead = (members,) if members else ()
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn(*lead, o, i).double() for o, i in ((4, 5), (6, 4), (3, 6))]
    biases = [torch.randn(*lead, o).double() for o in (4, 6, 3)]
    given = [x, *(t.requires_grad_() for t in weights + biases)]

    def plain(x: torch.Tensor, *layers: torch.Tensor) -> torch.Tensor:
        pre = [torch.matmul(x, layers[0].mT) + _row(layers[3], members)]
        pre.append(torch.matmul(activation()(pre[0]), layers[1].mT) + _row(layers[4], members))
        torso = activation()(pre[1])
        return torch.cat([torso, torch.matmul(torso, layers[2].mT) + _row(layers[5], members)], -1)

    def fast(x: torch.Tensor, *layers: torch.Tensor) -> torch.Tensor:
        inner = [(layers[0], layers[3]), (layers[1], layers[4])]
        torso, out = network(x, inner, activation, [(layers[2], layers[5])])
        return torch.cat([torso, out], -1)

    said = fast(*given)
    torch.testing.assert_close(said, plain(*given), rtol=1e-6, atol=1e-6)
    noise = torch.randn_like(said)
    ours = torch.autograd.grad((said * noise).sum(), given)
    theirs = torch.autograd.grad((plain(*given) * noise).sum(), given)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    # A head that nobody asks gets no gradient, and the others theirs.
    (alone,) = torch.autograd.grad(fast(*given)[..., :6].sum(), given[1:2])
    torch.testing.assert_close(alone, torch.autograd.grad(plain(*given)[..., :6].sum(), given[1:2])[0])


def test_a_second_derivative_is_refused() -> None:
    student = made(SPECS["categorical"])[3]
    obs = torch.randn(4, 5)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        loss = losses.mse(student(obs), Prediction(Categorical(torch.zeros(4, 3)))).sum()
        (first,) = torch.autograd.grad(loss, [student.torso[0].weight], create_graph=True)
        first.sum().backward()


def test_whoever_listens_to_a_layer_hears_it() -> None:
    student = made(SPECS["categorical"])[3]
    heard = []
    student.torso[1].register_forward_hook(lambda module, args, out: heard.append(out))
    student(torch.randn(4, 5))
    assert len(heard) == 1 and heard[0].shape == (4, 8)


@pytest.mark.parametrize("lead", [(), (3,)])
def test_the_kl_of_a_taught_categorical_is_the_plain_one(lead: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    p = 3 * torch.randn(6, 4, dtype=torch.float64)
    p[0, 1] = p[3, :3] = -torch.inf
    q = torch.randn(*lead, 6, 4, dtype=torch.float64, requires_grad=True)
    fast = kl(Categorical(p), Categorical(q))
    # A teacher that asks for a gradient gets the plain formula, node by node.
    plain = kl(Categorical(p.clone().requires_grad_()), Categorical(q))
    assert type(fast.grad_fn).__name__ == "_CategoricalKLBackward" != type(plain.grad_fn).__name__
    torch.testing.assert_close(fast, plain)
    noise = torch.rand_like(fast)
    (ours,), (theirs,) = (torch.autograd.grad((x * noise).sum(), q) for x in (fast, plain))
    torch.testing.assert_close(ours, theirs)
    assert torch.isfinite(ours).all()
    assert categorical_kl(p, p.clone().requires_grad_()).abs().max() == 0


def test_a_nan_stays_one() -> None:
    q = torch.tensor([[0.0, torch.nan]], requires_grad=True)
    assert torch.isnan(kl(Categorical(torch.zeros(1, 2)), Categorical(q))).all()


_ON_LAWS, _ON_ACTIONS = ("forward_kl", "reverse_kl", "jensen_shannon", "hard_nll"), ("mse", "huber")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        (name, family)
        for family in SPECS
        for name in (*_ON_ACTIONS, *(() if family.endswith("deterministic") else _ON_LAWS))
    ],
)
def test_every_loss_takes_many_students_and_one_teacher(name: str, family: str) -> None:
    loss, spec = getattr(losses, name), SPECS[family]
    batch = batches(spec, 1)[0]
    alone = made(spec)
    together = loss(Cohort(alone)(batch.obs), batch.target)
    for i, student in enumerate(alone):
        torch.testing.assert_close(together[i], loss(student(batch.obs), batch.target), rtol=1e-4, atol=1e-5)


def test_a_cohort_is_copied_not_shared() -> None:
    alone = made(SPECS["categorical"])
    before = copy.deepcopy(alone[3].state_dict())
    learner = Learner(Cohort(alone), losses.forward_kl)
    learner.step(batches(SPECS["categorical"], 1)[0])
    assert all(torch.equal(before[k], v) for k, v in alone[3].state_dict().items())
    taken = learner.student.member(3)  # type: ignore[union-attr, operator]
    after = copy.deepcopy(taken.state_dict())
    learner.step(batches(SPECS["categorical"], 1)[0])
    assert all(torch.equal(after[k], v) for k, v in taken.state_dict().items())
    assert isinstance(taken, Student)


def test_frozen_layers_stay_and_are_computed_with() -> None:
    def half(seed: int) -> Student:
        student = students.mlp(SPECS["categorical"], (8, 8), seed=seed)
        student.torso[2].requires_grad_(False)
        return student

    alone = [half(0), half(1)]
    learner = Learner(Cohort(alone), losses.forward_kl, average=None)
    x = torch.randn(32, 5, generator=torch.Generator().manual_seed(0))
    one = Batch(x, Prediction(Categorical(torch.randn(32, 3, generator=torch.Generator().manual_seed(1)))))
    for k, student in enumerate(alone):
        said = learner.student(x).dist
        assert isinstance(said, Categorical)
        torch.testing.assert_close(said.logits[k], student(x).dist.logits)  # type: ignore[union-attr]
    for _ in range(3):
        learner.step(one)
    for k, before in enumerate(alone):
        after = learner.kept([k]).student.member(0)  # type: ignore[attr-defined]
        assert torch.equal(after.torso[2].weight, before.torso[2].weight) and not after.torso[2].weight.requires_grad  # type: ignore[arg-type]
        assert not torch.equal(after.torso[0].weight, before.torso[0].weight)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"frozen layers.*cohort\.students"):
        Cohort([half(0), students.mlp(SPECS["categorical"], (8, 8))])


def test_a_student_of_other_layers_than_its_shapes_is_refused() -> None:
    plain, own = (students.mlp(SPECS["categorical"], (8, 8), seed=seed) for seed in (0, 1))
    own.torso[1] = torch.nn.ReLU()
    with pytest.raises(UsageError, match=r"not those of its shape.*cohort\.students"):
        Cohort([plain, own])
