"""Weights over time, by performance, by agreement, and those that learn: formulas by hand, ends, and a Learner."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from toys import CARTPOLE, Balancer

from policykd import Learner, losses, students
from policykd.distributions import Categorical, DiagGaussian
from policykd.errors import UsageError
from policykd.losses import Advisor, DynamicAverage, Uncertainty, weighted, weights
from policykd.losses.weights import Schedule
from policykd.prediction import Batch, Prediction, Progress


def at(fraction: float = 0.0, env_steps: int = 0) -> Progress:
    return Progress(env_steps=env_steps, fraction=fraction)


def rows(n: int = 64, seed: int = 0, gain: float = 10.0) -> Batch:
    obs = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return Batch(obs, Balancer(gain).label(obs))


# --- over time -------------------------------------------------------------------------------------------------------

RAMPS: dict[str, Callable[..., Schedule]] = {
    "linear": weights.linear,
    "cosine": weights.cosine,
    "exponential": weights.exponential,
}


@pytest.mark.parametrize("name", RAMPS)
@pytest.mark.parametrize(("start", "end"), [(1.0, 0.1), (0.25, 4.0)])
def test_a_ramp_has_its_ends_exactly_and_never_turns(name: str, start: float, end: float) -> None:
    weight = RAMPS[name](start, end, begin=0.2, finish=0.7)
    assert weight(at(0.0)) == weight(at(0.2)) == start
    assert weight(at(0.7)) == weight(at(1.0)) == weight(at(3.0)) == end
    seen = [weight(at(i / 100)) for i in range(101)]
    assert seen == sorted(seen, reverse=start > end)


def test_ramps_by_hand() -> None:
    assert weights.linear(1.0, 0.0)(at(0.25)) == pytest.approx(0.75)
    assert weights.linear(1.0, 0.0, begin=0.5)(at(0.75)) == pytest.approx(0.5)
    assert weights.cosine(1.0, 0.0)(at(0.25)) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert weights.exponential(1.0, 0.01)(at(0.5)) == pytest.approx(0.1)
    assert weights.exponential(-1.0, -0.01)(at(0.5)) == pytest.approx(-0.1)
    assert weights.constant(0.3)(at(0.9)) == 0.3


@pytest.mark.parametrize("name", RAMPS)
def test_steps_count_environment_steps_whatever_the_fraction(name: str) -> None:
    over, share = RAMPS[name](1.0, 0.5, steps=1000), RAMPS[name](1.0, 0.5)
    for steps in (0, 300, 1000, 5000):
        assert over(at(0.9, steps)) == pytest.approx(share(at(min(steps / 1000, 1.0))))


def test_a_faded_term_is_no_longer_computed() -> None:
    objective = weighted(policy=(weights.linear(1.0, 0.0), losses.forward_kl), rest=(1.0, losses.forward_kl))
    batch = rows()
    assert list(objective.terms(batch.target, batch, at(1.0))) == ["rest"]


def test_step_is_piecewise() -> None:
    weight = weights.step(1.0, (0.25, 0.5), (0.5, 0.0))
    assert [weight(at(f)) for f in (0.0, 0.24, 0.25, 0.49, 0.5, 1.0)] == [1.0, 1.0, 0.5, 0.5, 0.0, 0.0]
    late = weights.step(1.0, (2.0, 3.0), steps=100)
    assert [late(at(0.0, n)) for n in (0, 199, 200)] == [1.0, 1.0, 3.0]
    assert weights.step(0.7)(at(0.5)) == 0.7


@pytest.mark.parametrize(
    "made",
    [
        lambda: weights.linear(1.0, math.inf),
        lambda: weights.cosine(1.0, 0.0, begin=0.5, finish=0.5),
        lambda: weights.linear(1.0, 0.0, steps=0),
        lambda: weights.exponential(1.0, 0.0),
        lambda: weights.exponential(1.0, -1.0),
        lambda: weights.step(1.0, (0.5, 0.1), (0.25, 0.2)),
        lambda: weights.step(1.0, (0.5, math.nan)),
        lambda: weights.constant(math.nan),
        lambda: weights.by_agreement(low=0.9, high=0.9),
        lambda: weights.by_performance(math.inf),
    ],
)
def test_what_cannot_be_meant_is_refused_when_it_is_made(made: Callable[[], Schedule]) -> None:
    with pytest.raises(UsageError, match=r"\[weight.schedule\]"):
        made()


# --- by what is known of the student ---------------------------------------------------------------------------------


def test_by_performance_is_qdaggers_on_normalised_scores() -> None:
    weight = weights.by_performance()
    # Returns -180, teacher -150, random -200 (Pendulum's sign): the plain ratio of 1.2 would have called it better.
    kept = (-180 + 200) / (-150 + 200)
    assert weight(Progress(retention=kept)) == pytest.approx(0.6)
    assert weight(Progress(retention=0.0)) == weight(Progress()) == 1.0
    assert weight(Progress(retention=1.0)) == weight(Progress(retention=1.3)) == 0.0
    assert weight(Progress(retention=-0.5)) == pytest.approx(1.5)
    assert weights.by_performance(0.2)(Progress(retention=0.5)) == pytest.approx(0.1)


def test_by_agreement_falls_as_agreement_grows() -> None:
    weight = weights.by_agreement(2.0, 0.5, low=0.6, high=0.8)
    assert [weight(Progress(agreement=a)) for a in (None, 0.0, 0.6)] == [2.0] * 3
    assert weight(Progress(agreement=0.7)) == pytest.approx(1.25)
    assert [weight(Progress(agreement=a)) for a in (0.8, 1.0)] == [0.5] * 2


def test_a_users_lambda_works_and_all_weights_are_in_the_update() -> None:
    student = students.mlp(CARTPOLE, hidden=(8,), value=True)
    objective = weighted(
        policy=(lambda p: 1.0 + p.fraction, losses.forward_kl),
        value=(weights.by_performance(0.5), losses.value_mse),
    )
    update = Learner(student, objective).step(rows(), Progress(fraction=0.5, retention=0.5))
    assert update.weights == {"policy": 1.5, "value": 0.25}


# --- dynamic weight averaging ----------------------------------------------------------------------------------------


def fed(dwa: DynamicAverage, *steps: dict[str, float], first: int = 0) -> list[float]:
    """The weights after each step's losses."""
    for i, found in enumerate(steps):
        now = Progress(updates=first + i + 1, losses=found)
        seen = [dwa.weight(term)(now) for term in dwa.terms]
    return seen


def test_dwa_by_hand() -> None:
    dwa = DynamicAverage(("a", "b"), temperature=2.0, window=2)
    assert fed(dwa, {"a": 4.0, "b": 1.0}, {"a": 2.0, "b": 1.0}, {"a": 1.0, "b": 1.0}) == [1.0, 1.0]
    found = fed(dwa, {"a": 2.0, "b": 1.0}, first=3)  # windows: a 3.0 -> 1.5, b 1.0 -> 1.0
    want = [2 * math.exp(r / 2) / (math.exp(0.25) + math.exp(0.5)) for r in (0.5, 1.0)]
    assert found == pytest.approx(want)
    assert sum(found) == pytest.approx(2.0)


@pytest.mark.parametrize(("temperature", "want"), [(1e9, [1.0, 1.0]), (1e-4, [0.0, 2.0])])
def test_dwa_at_the_ends_of_its_temperature(temperature: float, want: list[float]) -> None:
    dwa = DynamicAverage(("a", "b"), temperature=temperature, window=1)
    assert fed(dwa, {"a": 2.0, "b": 2.0}, {"a": 1.0, "b": 1.5}) == pytest.approx(want)


def test_dwa_counts_each_step_once_and_sums_the_terms_of_a_part() -> None:
    dwa = DynamicAverage(("a", "b"), window=1)
    now = Progress(updates=1, losses={"a/x": 1.0, "a/y": 1.0, "ab": 9.0, "b": 1.0})
    for _ in range(5):
        assert dwa.weight("a")(now) == dwa.weight("b")(now) == 1.0
    assert fed(dwa, {"a/x": 0.5, "a/y": 0.5, "b": 1.0}, first=1)[0] < 1.0
    dead = DynamicAverage(("a", "b"), window=1)
    assert fed(dead, {"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 1.0}) == [1.0, 1.0]


def test_dwa_lives_in_the_learner_and_goes_on_where_it_stopped() -> None:
    def learner() -> Learner:
        dwa = DynamicAverage(("policy", "value"), window=3)
        student = students.mlp(CARTPOLE, hidden=(8,), value=True)
        return Learner(
            student,
            weighted(
                policy=(dwa.weight("policy"), losses.forward_kl),
                value=(dwa.weight("value"), partial(losses.value_mse, scale=10.0)),
            ),
        )

    whole, cut = learner(), learner()
    for i in range(20):
        want = whole.step(rows(seed=i))
        if i == 10:
            state = cut.state_dict()
            cut = learner()
            cut.load_state_dict(state)
        have = cut.step(rows(seed=i))
        assert have.weights == want.weights
    assert want.weights["policy"] != 1.0
    assert sum(float(w) for w in want.weights.values()) == pytest.approx(2.0)


def test_dwa_refuses() -> None:
    for made in (
        lambda: DynamicAverage(()),
        lambda: DynamicAverage(("a",), temperature=0.0),
        lambda: DynamicAverage(("a",), window=0),
        lambda: DynamicAverage(("a",)).weight("b"),
    ):
        with pytest.raises(UsageError, match=r"\[weight.dynamic\]"):
            made()


# --- uncertainty -----------------------------------------------------------------------------------------------------


def fixed(value: float) -> Callable[[Prediction, Prediction], Tensor]:
    def loss(student: Prediction, target: Prediction) -> Tensor:
        return torch.full((len(student.dist.mode()),), value)

    return loss


def test_uncertainty_starts_at_the_weights_given_and_ends_at_one_half_each() -> None:
    parts = weighted(large=(1.0, fixed(40.0)), small=(0.5, fixed(0.02)))
    learner = Learner(students.mlp(CARTPOLE, hidden=(4,)), Uncertainty(parts, floor=0.0), lr=0.1, max_grad_norm=None)
    first = learner.step(rows())
    assert float(first.weights["large"]) == pytest.approx(1.0)
    assert float(first.weights["small"]) == pytest.approx(0.5)
    for _ in range(400):
        last = learner.step(rows())
    # s^2 = L (Kendall's stationary point): weight x L = 1/2, and log s = log(L) / 2.
    for name, size in (("large", 40.0), ("small", 0.02)):
        assert float(last.weights[name]) * size == pytest.approx(0.5, rel=1e-2)
        assert float(last.terms[name]) == pytest.approx(size)
    assert float(last.terms["log_sigma"]) == pytest.approx((math.log(40.0) + math.log(0.01)) / 2, abs=1e-2)


def test_uncertainty_never_passes_its_floor() -> None:
    learner = Learner(
        students.mlp(CARTPOLE, hidden=(4,)), Uncertainty(fixed(0.0), floor=0.5), lr=0.3, max_grad_norm=None
    )
    for _ in range(100):
        last = learner.step(rows())
    assert 1.9 < float(last.weights["policy"]) <= 2.0


def test_uncertaintys_gradients_are_those_of_the_formula() -> None:
    module = Uncertainty(weighted(a=(2.0, losses.forward_kl), b=(1.0, losses.value_mse)), floor=0.0).double()
    batch = rows().map(lambda t: t.double())
    said = Prediction(Categorical(torch.zeros(64, 2, dtype=torch.float64)), value=torch.zeros(64, dtype=torch.float64))
    terms = module(said, batch, Progress())
    total = sum((t.weight * t.rows.mean() for t in terms.values()), torch.zeros(()))
    total.backward()
    for name, rho in module.rho.items():
        size = terms[name.removeprefix("part_")].rows.mean() * (2.0 if name == "part_a" else 1.0)
        torch.testing.assert_close(rho.grad, (1.0 - size * torch.exp(-2 * rho)).detach())


def test_uncertainty_follows_schedules_and_leaves_out_what_is_off() -> None:
    module = Uncertainty(weighted(a=(weights.linear(1.0, 0.0), losses.forward_kl), b=(1.0, losses.forward_kl)))
    batch = rows()
    half = module(batch.target, batch, Progress(fraction=0.5))
    assert [half[name].weight.item() for name in "ab"] == pytest.approx([0.5, 1.0])
    end = module(batch.target, batch, Progress(fraction=1.0))
    assert list(end) == ["b", "log_sigma"]
    assert end["log_sigma"].rows[0].item() == pytest.approx(math.log(0.5) / 2, abs=1e-6)


def test_uncertainty_registers_what_is_parametric_inside_and_refuses_a_floor() -> None:
    class Learnt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, student: Prediction, target: Prediction) -> Tensor:
            return self.scale * losses.forward_kl(student, target)

    assert len(list(Uncertainty(Learnt()).parameters())) == 2
    for floor in (-0.1, 0.8):
        with pytest.raises(UsageError, match=r"\[weight.dynamic\]"):
            Uncertainty(losses.forward_kl, floor=floor)


# --- ADVISOR ---------------------------------------------------------------------------------------------------------


def entropy(student: Prediction, batch: Batch) -> dict[str, Tensor]:
    return {"": -student.dist.entropy()}


def advisor(alpha: float) -> Advisor:
    return Advisor(students.mlp(CARTPOLE, hidden=(4,), seed=1), entropy, alpha=alpha)


def total(terms: dict[str, losses.Term], but: str = "auxiliary") -> Tensor:
    return torch.stack([t.weight * t.rows for name, t in terms.items() if name != but]).sum(0)


def test_advisor_is_its_formula_row_by_row() -> None:
    module, batch = advisor(0.7), rows()
    said = students.mlp(CARTPOLE, hidden=(4,), seed=2)(batch.obs)
    far = losses.forward_kl(module.auxiliary(batch.obs), batch.target)
    w = torch.exp(-0.7 * far)
    want = w * losses.forward_kl(said, batch.target) - (1 - w) * said.dist.entropy()
    terms = module(said, batch, Progress())
    assert list(terms) == ["imitation", "other", "auxiliary"]
    torch.testing.assert_close(total(terms), want)
    torch.testing.assert_close(terms["imitation"].weight, w.mean())
    torch.testing.assert_close(terms["auxiliary"].rows, far)


def test_advisor_at_the_ends_of_alpha() -> None:
    batch = rows()
    said = students.mlp(CARTPOLE, hidden=(4,), seed=2)(batch.obs)
    torch.testing.assert_close(total(advisor(0.0)(said, batch, Progress())), losses.forward_kl(said, batch.target))
    torch.testing.assert_close(total(advisor(math.inf)(said, batch, Progress())), -said.dist.entropy())
    same = advisor(math.inf).weight(batch.target, batch.target)  # where nothing is left to imitate: imitation
    assert same.tolist() == [1.0] * 64
    with pytest.raises(UsageError, match=r"\[weight.dynamic\]"):
        advisor(-1.0)


def test_advisors_auxiliary_learns_from_imitation_only() -> None:
    student = students.mlp(CARTPOLE, hidden=(8,), seed=3)
    module = Advisor(students.mlp(CARTPOLE, hidden=(8,), seed=4), entropy, alpha=math.inf)
    learner = Learner(student, module, lr=0.02)
    first = learner.step(rows(gain=1.0))
    for i in range(300):
        last = learner.step(rows(seed=i, gain=1.0))
    assert float(first.weights["imitation"]) == 0.0
    assert float(last.terms["auxiliary"]) < 0.1 * float(first.terms["auxiliary"])
    # The student followed the other objective: as undecided as can be, and no nearer to the teacher for it.
    assert student.label(rows().obs).dist.entropy().mean().item() > 0.99 * math.log(2)


def test_advisor_counts_only_unmasked_rows_and_teaches_members_alike() -> None:
    batch = rows()
    mask = torch.arange(64) < 32
    module = advisor(0.5)
    said = students.mlp(CARTPOLE, hidden=(4,), seed=2)(batch.obs)
    terms = module(said, Batch(batch.obs, batch.target, mask=mask), Progress())
    w = module.weight(module.auxiliary(batch.obs), batch.target)
    torch.testing.assert_close(terms["imitation"].weight, w[:32].mean())
    cohort = students.Cohort([students.mlp(CARTPOLE, hidden=(4,), seed=s) for s in range(3)])
    update = Learner(cohort, copy.deepcopy(module)).step(batch)
    assert update.terms["imitation"].shape == update.terms["auxiliary"].shape == (3,)
    assert float(update.weights["imitation"] + update.weights["other"]) == pytest.approx(1.0)


def test_advisor_takes_continuous_actions_and_another_distance() -> None:
    obs = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    target = Prediction(DiagGaussian(obs[:, :2], torch.zeros(8, 2)))
    said = Prediction(DiagGaussian(obs[:, :2] + 1, torch.zeros(8, 2)))
    module = Advisor(students.mlp(CARTPOLE), losses.mse, imitation=losses.forward_kl, distance=losses.mse, alpha=2.0)
    torch.testing.assert_close(module.weight(said, target), torch.full((8,), math.exp(-2.0)))
