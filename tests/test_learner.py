"""The one mutable object: what a step changes, what it leaves alone, and that the only reduction is right."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from policykd import losses, students
from policykd.distributions import Categorical, DiagGaussian
from policykd.errors import UsageError
from policykd.learner import Learner
from policykd.losses import weighted
from policykd.prediction import Batch, Prediction, Progress, Spec
from policykd.reduction import reduce_rows

SPEC = Spec(spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Discrete(4), "categorical")
ARM = Spec(spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32), "diag_gaussian")


def batch(n: int = 64, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    obs = torch.randn(n, 3, generator=g)
    matrix = torch.randn(3, 4, generator=torch.Generator().manual_seed(99))
    return Batch(obs, Prediction(Categorical(obs @ matrix), value=obs.sum(-1)))


def learner(loss: Any = losses.policy.forward_kl, seed: int = 0, value: bool = False, **how: Any) -> Learner:
    return Learner(students.mlp(SPEC, (8,), seed=seed, value=value), loss, **how)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def digest(state: Any) -> bytes:
    if isinstance(state, Tensor):
        return state.detach().numpy().tobytes()
    if isinstance(state, dict):
        return b"".join(str(k).encode() + digest(v) for k, v in state.items())
    if isinstance(state, list | tuple):
        return b"".join(digest(v) for v in state)
    return repr(state).encode()


# The reduction


def test_reduction_by_hand() -> None:
    rows = torch.tensor([1.0, 2.0, 3.0, 4.0])
    weight, mask = torch.tensor([1.0, 0.0, 2.0, 5.0]), torch.tensor([True, True, True, False])
    assert reduce_rows(rows, None, None) == 2.5
    assert reduce_rows(rows, weight, None) == (1 + 0 + 6 + 20) / 4
    assert reduce_rows(rows, None, mask) == (1 + 2 + 3) / 3
    assert reduce_rows(rows, weight, mask) == (1 + 0 + 6) / 3
    assert reduce_rows(rows.reshape(2, 2), weight.reshape(2, 2), mask.reshape(2, 2)) == 7 / 3


def test_reduction_of_nothing_is_zero_with_a_zero_gradient() -> None:
    rows = torch.tensor([1.0, math.nan], requires_grad=True)
    loss = reduce_rows(rows, None, torch.zeros(2, dtype=torch.bool))
    assert loss == 0
    loss.backward()
    assert rows.grad is not None and rows.grad.tolist() == [0.0, 0.0]


def test_a_masked_row_or_weight_may_hold_nan() -> None:
    rows, mask = torch.tensor([1.0, math.nan, math.inf]), torch.tensor([True, False, False])
    assert reduce_rows(rows, None, mask) == 1
    assert reduce_rows(rows, torch.tensor([3.0, 1.0, math.nan]), mask) == 3


def test_a_nan_that_counts_stays_one() -> None:
    assert math.isnan(reduce_rows(torch.tensor([1.0, math.nan]), None, torch.tensor([True, True])))


def test_eight_times_eight_rows_accumulate_to_sixty_four() -> None:
    student, data = students.mlp(SPEC, (8,)), batch(64)

    def gradient(parts: list[Batch]) -> tuple[float, Tensor]:
        student.zero_grad()
        total = 0.0
        for part in parts:
            loss = reduce_rows(losses.policy.forward_kl(student(part.obs), part.target), None, None) / len(parts)
            loss.backward()
            total += float(loss.detach())
        return total, torch.cat([p.grad.reshape(-1) for p in student.parameters() if p.grad is not None])

    whole, parts = gradient([data]), gradient([data[8 * i : 8 * i + 8] for i in range(8)])
    assert parts[0] == pytest.approx(whole[0], rel=1e-6)
    torch.testing.assert_close(parts[1], whole[1])


# A step


def test_the_loss_falls_to_nothing_where_the_student_can_say_it() -> None:
    it = Learner(students.mlp(SPEC, "linear"), losses.policy.forward_kl, lr=0.05)
    first = float(it.step(batch(seed=0)).loss)
    for i in range(300):
        update = it.step(batch(seed=i % 10))
    assert first > 0.3 and float(update.loss) < 1e-3


def test_update_says_what_was_done() -> None:
    objective = weighted(policy=(2.0, losses.policy.forward_kl), value=(lambda p: 0.5 * p.fraction, losses.value.mse))
    it = learner(objective, value=True, lr=lambda p: 0.1 * (1 - p.fraction))
    student = copy.deepcopy(it.student)
    data = batch()
    progress = Progress(env_steps=640, updates=0, fraction=0.5)
    update = it.step(data, progress)
    said = student(data.obs)
    kl = losses.policy.forward_kl(said, data.target).mean()
    mse = losses.value.mse(said, data.target).mean()
    assert update.step == it.updates == 1 and update.progress is progress
    assert update.lr == 0.05 and update.weights == {"policy": 2.0, "value": 0.25}
    torch.testing.assert_close(update.terms["policy"], kl.detach())
    torch.testing.assert_close(update.terms["value"], mse.detach())
    torch.testing.assert_close(update.loss, (2 * kl + 0.25 * mse).detach())
    assert not update.loss.requires_grad and not update.terms["policy"].requires_grad
    (2 * kl + 0.25 * mse).backward()
    by_hand = torch.cat([p.grad.reshape(-1) for p in student.parameters() if p.grad is not None])
    torch.testing.assert_close(update.grad_norm, by_hand.norm())


@pytest.mark.parametrize("limit", [None, 0.01, 1e9])
def test_steps_are_those_of_torchs_adam(limit: float | None) -> None:
    """The flat vector of parameters is an economy, not another optimizer."""
    it = learner(lr=0.01, max_grad_norm=limit)
    twin = copy.deepcopy(it.student)
    adam = torch.optim.Adam(twin.parameters(), lr=0.01)
    for i in range(5):
        it.step(batch(seed=i))
        data = batch(seed=i)
        adam.zero_grad()
        losses.policy.forward_kl(twin(data.obs), data.target).mean().backward()
        if limit is not None:
            nn.utils.clip_grad_norm_(twin.parameters(), limit)
        adam.step()
    torch.testing.assert_close(weights(it.student), weights(twin), rtol=1e-5, atol=1e-7)


def test_terms_that_come_late_and_layers_that_thaw_step_as_with_torchs_adam() -> None:
    weights_of = [0.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    it = learner(losses.weighted(policy=(lambda p: weights_of[p.updates], losses.forward_kl)), lr=0.01)
    twin = copy.deepcopy(it.student)
    adam = torch.optim.Adam(twin.parameters(), lr=0.01)
    for i, weight in enumerate(weights_of):
        data = batch(seed=i)
        for student in (it.student, twin):
            student.torso[0].requires_grad_(i != 3)  # type: ignore[union-attr,index]
        it.step(data)
        adam.zero_grad()
        if weight:
            losses.policy.forward_kl(twin(data.obs), data.target).mean().backward()
            nn.utils.clip_grad_norm_([p for p in twin.parameters() if p.grad is not None], 1.0)
        adam.step()
        torch.testing.assert_close(weights(it.student), weights(twin), rtol=1e-5, atol=1e-7)
    again = learner(lr=0.01)
    again.load_state_dict(it.state_dict())
    again.objective, again._shortcut = it.objective, it._shortcut
    assert again._optimizer._counts is not None and torch.equal(again._optimizer._counts, it._optimizer._counts)  # type: ignore[arg-type]


def test_only_the_student_changes() -> None:
    teacher, student = students.mlp(SPEC, (8,), seed=1), students.mlp(SPEC, (8,), seed=2)
    students.fit_normaliser(student, torch.randn(100, 3))
    obs = torch.randn(32, 3)
    data = Batch(obs, teacher.label(obs), weight=torch.ones(32), extra={"reward": torch.ones(32)})
    before = digest(teacher.state_dict()), digest([data.obs, data.target.dist.logits, data.weight])
    normaliser = digest(student.normaliser.state_dict()) if student.normaliser is not None else b""
    mine = weights(student)
    it = Learner(student, losses.policy.forward_kl)
    for _ in range(3):
        it.step(data)
    assert (digest(teacher.state_dict()), digest([data.obs, data.target.dist.logits, data.weight])) == before
    assert all(p.grad is None for p in teacher.parameters())
    assert normaliser and digest(student.normaliser.state_dict()) == normaliser, "statistics never train"
    assert not torch.equal(weights(student), mine)


def test_frozen_parameters_stay() -> None:
    student = students.mlp(SPEC, (8,))
    student.torso.requires_grad_(False)
    frozen, head = weights(student.torso), weights(student.action_head)
    Learner(student, losses.policy.forward_kl).step(batch())
    assert torch.equal(weights(student.torso), frozen) and not torch.equal(weights(student.action_head), head)


def test_rows_that_are_masked_out_leave_no_trace() -> None:
    clean = batch(16)
    spoilt = Batch(
        torch.cat([clean.obs, torch.full((4, 3), math.nan)]),
        Prediction(Categorical(torch.cat([clean.target.dist.logits, torch.full((4, 4), math.nan)]))),
        weight=torch.cat([torch.ones(16), torch.full((4,), math.inf)]),
        mask=torch.arange(20) < 16,
    )
    a, b = learner(), learner()
    ua, ub = a.step(Batch(clean.obs, Prediction(clean.target.dist))), b.step(spoilt)
    torch.testing.assert_close(ua.loss, ub.loss)
    torch.testing.assert_close(weights(a.student), weights(b.student))


def test_weights_of_rows_count() -> None:
    """A row of weight 3 is worth three rows; the denominator counts rows, not weights."""
    data = batch(2)
    heavy = Batch(data.obs, data.target, weight=torch.tensor([3.0, 1.0]))
    copies = data[torch.tensor([0, 0, 0, 1])]
    a, b = learner(max_grad_norm=None), learner(max_grad_norm=None)
    assert float(a.step(heavy).loss) == pytest.approx(float(b.step(copies).loss) * 4 / 2, rel=1e-5)


def test_every_row_masked_changes_nothing_on_a_fresh_learner() -> None:
    it = learner()
    before = weights(it.student)
    update = it.step(Batch(batch().obs, batch().target, mask=torch.zeros(64, dtype=torch.bool)))
    assert float(update.loss) == 0 and float(update.grad_norm) == 0
    assert torch.equal(weights(it.student), before)


def test_a_term_of_weight_zero_is_not_there() -> None:
    it = learner(weighted(policy=(0.0, losses.policy.forward_kl)))
    before = weights(it.student)
    update = it.step(batch())
    assert float(update.loss) == 0 and update.terms == {}
    assert torch.equal(weights(it.student), before)


@pytest.mark.parametrize(
    "loss",
    [
        losses.policy.forward_kl,
        lambda student, target: (student.dist.logits - target.dist.logits).square().sum(-1),
        lambda student, batch: {"mine": -student.dist.log_prob(batch.extra["label"])},
    ],
    ids=["ours", "a user's pair loss", "a user's objective"],
)
def test_any_loss(loss: Callable[..., Any]) -> None:
    it = learner(loss)
    data = batch().with_extra(label=torch.randint(0, 4, (64,), generator=torch.Generator().manual_seed(0)))
    first = float(it.step(data).loss)
    for _ in range(100):
        update = it.step(data)
    assert float(update.loss) < first


def test_a_users_loss_that_reduces_is_told_so() -> None:
    with pytest.raises(UsageError, match=r"\[loss.rows\]"):
        learner(lambda student, target: student.dist.logits.mean()).step(batch())


def test_continuous_actions() -> None:
    obs = torch.randn(256, 3, generator=torch.Generator().manual_seed(0))
    target = Prediction(DiagGaussian(obs[:, :2], torch.full((256, 2), -1.0)))
    it = Learner(students.mlp(ARM, "linear"), losses.policy.forward_kl, lr=0.05)
    for _ in range(300):
        update = it.step(Batch(obs, target))
    assert float(update.loss) < 1e-3


# The moving average


def test_average_by_hand() -> None:
    it = learner(average=0.2, lr=0.05)
    follower = weights(it.student)
    for n in range(1, 8):
        it.step(batch(seed=n))
        decay = min(0.2, n / (n + 10.0))
        follower = decay * follower + (1 - decay) * weights(it.student)
        torch.testing.assert_close(weights(it.averaged), follower)
    assert it.averaged is not it.student


def test_no_average_is_the_student_itself() -> None:
    it = learner(average=None)
    assert it.averaged is it.student
    it.step(batch())
    it.restart_average()


def test_restart_takes_the_student_as_it_is_buffers_too() -> None:
    it = learner(value=True)
    for _ in range(3):
        it.step(batch())
    students.fit_value_units(it.student, torch.tensor([10.0, 30.0]))
    it.restart_average()
    assert digest(it.averaged.state_dict()) == digest(it.student.state_dict())


def test_the_average_acts_like_a_student() -> None:
    it = learner()
    it.step(batch())
    action, _ = it.averaged.predict(np.zeros(3, np.float32))
    assert SPEC.action_space.contains(action)


# Going on


class Gate(nn.Module):
    """A pair loss with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, student: Prediction, target: Prediction) -> Tensor:
        return losses.policy.forward_kl(student, target) * self.scale.square()


@pytest.mark.parametrize("average", [None, 0.9])
def test_a_round_trip_goes_on_bit_for_bit(average: float | None, tmp_path: Path) -> None:
    def made() -> Learner:
        return learner(weighted(policy=(1.0, Gate())), average=average, lr=lambda p: 0.01 / (1 + p.updates))

    first = made()
    for i in range(10):
        first.step(batch(seed=i))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    in_memory = first.state_dict()
    kept = digest(in_memory)
    later = [float(first.step(batch(seed=i)).loss) for i in range(10, 15)]
    assert digest(in_memory) == kept, "a state that was taken does not go on training"
    for state in (in_memory, torch.load(tmp_path / "state.pt", weights_only=True), in_memory):
        second = made()
        second.load_state_dict(state)
        assert second.updates == 10
        assert [float(second.step(batch(seed=i)).loss) for i in range(10, 15)] == later
        assert digest(second.state_dict()) == digest(first.state_dict())
    assert digest(in_memory) == kept


def test_a_loss_of_its_own_trains_along_and_the_average_does_not_follow_it() -> None:
    gate = Gate()
    it = learner(gate)
    it.step(batch())
    assert float(gate.scale.detach()) != 2.0
    assert weights(it.averaged).shape == weights(it.student).shape


def test_same_seed_same_result_and_another_seed_another() -> None:
    def trained(seed: int) -> bytes:
        it = learner(seed=seed)
        for i in range(20):
            it.step(batch(seed=i))
        return digest(it.state_dict())

    assert trained(0) == trained(0) != trained(1)


def test_what_others_do_to_the_parameters_is_followed() -> None:
    """zero_grad, numbers put in a parameter's place, a second Learner: the first one goes on from what it finds."""
    it, twin = learner(average=None), learner(average=None)
    it.step(batch())
    twin.step(batch())
    it.student.zero_grad()
    for p in it.student.parameters():
        p.data = p.data.clone()
    Learner(it.student, losses.policy.forward_kl)
    it.step(batch(seed=1))
    twin.step(batch(seed=1))
    assert torch.equal(weights(it.student), weights(twin.student))


def test_a_student_in_training_can_be_saved(tmp_path: Path) -> None:
    it = learner(value=True)
    it.step(batch())
    for policy in (it.student, it.averaged):
        students.save(policy, tmp_path)
        loaded = students.load(tmp_path)
        assert digest(loaded.state_dict()) == digest(policy.state_dict())
