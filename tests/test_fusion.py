"""Fusion of several teachers: the mean before it is fitted, right where the mean is not, frozen to students."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policykd.classifiers import Classifier
from policykd.distributions import Categorical, DiagGaussian
from policykd.errors import DistributionError, SpaceError, UsageError
from policykd.learner import Learner
from policykd.losses import Fusion, combine, forward_kl
from policykd.prediction import Prediction
from policykd.supervised import MISSING, Rows, epochs, views


def experts(n: int, seed: int = 0) -> tuple[list[Prediction], Tensor]:
    """Teacher 0 is right where x > 0, teacher 1 elsewhere; each is as sure of its nonsense. What they see is x."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=g)
    label = torch.randint(0, 3, (n,), generator=g)
    other = (label + 1 + torch.randint(0, 2, (n,), generator=g)) % 3
    first = x[:, 0] > 0
    heard = [torch.where(first, label, other), torch.where(first, other, label)]
    shown = [3.0 * torch.nn.functional.one_hot(h, 3).float() for h in heard]
    maps = [torch.cat([x, z], -1)[..., None, None].expand(n, 5, 2, 2) for z in shown]
    seen = [{"hidden": torch.cat([x, shown[0]], -1), "map": maps[0]}, {"hidden": x, "map": maps[1]}]
    said = [Prediction(Categorical(z), features=f) for z, f in zip(shown, seen, strict=True)]
    return said, label


def right(word: Prediction, label: Tensor) -> float:
    return float((word.dist.mode() == label).float().mean())


def test_unfitted_it_is_the_mean() -> None:
    said, _ = experts(50)
    fusion = Fusion(said, feature="hidden", heads=3, width=4)
    assert torch.equal(fusion.gates(said), torch.full((50, 3, 2), 0.5))
    word = fusion(said)
    torch.testing.assert_close(word.dist.log_probs, combine.mean(said).dist.log_probs)
    assert word.features["fused"].shape == (50, 12) and set(word.features) == {"fused"}


@pytest.mark.parametrize("feature", ["hidden", "map"])
def test_fitted_it_listens_to_who_is_right(feature: str) -> None:
    said, label = experts(600)
    fresh, truth = experts(300, seed=1)
    fusion = Fusion(said, feature=feature)
    course = fusion.fit(said, label, epochs=30)
    assert course[-1] < course[0]
    assert right(combine.mean(fresh), truth) < 0.7 and right(fusion(fresh), truth) > 0.93
    gates = fusion.gates(fresh).mean(-2)
    torch.testing.assert_close(gates.sum(-1), torch.ones(300))
    sure = fresh[1].features["hidden"][:, 0] > 0.5
    assert bool((gates[sure, 0] > 0.7).all())


def test_with_probabilities_alone() -> None:
    """Teacher 0 never says 2, and is right whenever it says 1: its own word tells how far to trust it."""
    g = torch.Generator().manual_seed(0)
    label = torch.randint(0, 3, (600,), generator=g)
    first, second = label.clone(), (label + 1) % 3
    wrong = label == 2
    first[wrong], second[wrong] = 0, 2
    said = [Prediction(Categorical(4.0 * torch.nn.functional.one_hot(h, 3).float())) for h in (first, second)]
    fusion = Fusion(said, heads=1, width=3)
    fusion.fit(said, label)
    assert right(fusion(said), label) > max(right(combine.mean(said), label), right(said[0], label))


def test_formula_by_hand() -> None:
    said, _ = experts(7)
    fusion = Fusion(said, feature="hidden", heads=2, width=3, hidden=0)
    with torch.no_grad():
        fusion.gate.weight.normal_(generator=torch.Generator().manual_seed(1))
    both = torch.cat([p.features["hidden"] for p in said], -1)
    z = ((both - fusion.centre) / fusion.spread).clamp(-5, 5)
    for row in range(7):
        parts = []
        for h in range(2):
            odds = [float(fusion.gate.weight[2 * h + k].detach() @ z[row]) for k in range(2)]
            g = [math.exp(o) / sum(math.exp(x) for x in odds) for o in odds]
            torch.testing.assert_close(fusion.gates(said)[row, h], torch.tensor(g))
            own = (z[row, :5], z[row, 5:])
            mapped = [fusion.maps[k].weight.detach()[3 * h : 3 * h + 3] @ own[k] for k in range(2)]
            parts.append(g[0] * mapped[0] + g[1] * mapped[1])
        torch.testing.assert_close(fusion(said).features["fused"][row], torch.cat(parts))
    shares = fusion.gates(said).mean(-2)
    law = (shares[:, :1] * said[0].dist.probs + shares[:, 1:] * said[1].dist.probs).log()
    torch.testing.assert_close(fusion(said).dist.log_probs, law)


class Half(nn.Module):
    """Right on one side of x = 0; on the other it takes every class for the next, and is as sure of it."""

    def __init__(self, side: bool) -> None:
        super().__init__()
        self.side = side
        generator = torch.Generator().manual_seed(3)
        self.hidden, self.weight = nn.Identity(), nn.Parameter(4.0 * torch.randn(4, 3, generator=generator))

    def truth(self, x: Tensor) -> Tensor:
        return x @ self.weight

    def forward(self, x: Tensor) -> Tensor:
        z = self.truth(self.hidden(x))
        return torch.where((x[:, :1] > 0) == self.side, z, z.roll(1, -1))


class Council:
    """Several classifiers as the one teacher that a loop asks."""

    def __init__(self, teachers: list[Classifier], how: Any) -> None:
        self.teachers, self.how = teachers, how

    def label(self, inputs: Any, /) -> Prediction:
        said: Prediction = self.how([teacher.label(inputs) for teacher in self.teachers])
        return said


def test_a_student_of_two_teachers_each_right_on_one_side() -> None:
    x = torch.randn(600, 4, generator=torch.Generator().manual_seed(0))
    fresh = torch.randn(300, 4, generator=torch.Generator().manual_seed(1))
    teachers = [Classifier(Half(side), 3, taps=("hidden",)) for side in (True, False)]
    truth = Half(True).truth
    said = [teacher.label(x) for teacher in teachers]
    fusion = Fusion(said, feature="hidden")
    few = torch.where(torch.arange(600) < 200, truth(x).detach().argmax(-1), MISSING)
    fusion.fit(said, few, epochs=60, rows=64)
    found = {}
    for name, how in (("mean", combine.mean), ("fused", fusion)):
        student = Classifier(nn.utils.skip_init(nn.Linear, 4, 3), 3)
        for p in student.parameters():
            nn.init.zeros_(p)
        learner = Learner(student, forward_kl, lr=0.05)
        unlabelled = Rows(x, torch.full((600,), MISSING), batch_size=100)
        list(epochs(learner, unlabelled, 30, teacher=Council(teachers, how), view=views.noise(0.1)))
        found[name] = right(learner.averaged.label(fresh), truth(fresh).argmax(-1))
    assert found["mean"] < 0.75 and found["fused"] > 0.9


def test_no_distillation_loss_reaches_it() -> None:
    said, label = experts(20)
    fusion = Fusion(said, feature="hidden")
    logits = torch.zeros(20, 3, requires_grad=True)
    word = fusion(said)
    loss = forward_kl(Prediction(Categorical(logits)), word).sum() + (word.features["fused"] * logits[:, :1]).sum()
    loss.backward()
    assert logits.grad is not None and all(p.grad is None for p in fusion.parameters())
    fusion.label_loss(said, label).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fusion.parameters())


def test_teachers_get_no_gradient() -> None:
    said, label = experts(20)
    for p in said:
        p.dist.logits.requires_grad_()
    Fusion(said).label_loss(said, label).sum().backward()
    assert all(p.dist.logits.grad is None for p in said)


def test_label_loss_by_hand_and_missing_labels() -> None:
    said, label = experts(4)
    fusion = Fusion(said, feature="hidden")
    label[1] = -1
    found = fusion.label_loss(said, label).detach()
    read = fusion.head(fusion(said).features["fused"]).log_softmax(-1)
    want = -fusion(said).dist.log_prob(label.clamp(min=0)) - read.gather(-1, label.clamp(min=0)[:, None])[:, 0]
    want[1] = 0.0
    torch.testing.assert_close(found, want.detach())
    nobody = [Prediction(Categorical(torch.tensor([[0.0, -math.inf]]))), Prediction(Categorical(torch.zeros(1, 2)))]
    nobody[1] = nobody[0]
    loss = Fusion(nobody).label_loss(nobody, torch.tensor([1]))
    loss.sum().backward()
    assert loss.isfinite().all()


def test_tokens_and_same_seed_same_result() -> None:
    said, label = experts(24)
    words = [p.map(lambda t: t.reshape(4, 6, *t.shape[1:])) for p in said]
    states = []
    before = torch.random.get_rng_state()
    for seed in (0, 0, 1):
        fusion = Fusion(said, feature="hidden", seed=seed)
        fusion.fit(said, label, epochs=3, rows=7, seed=seed)
        states.append(torch.cat([p.detach().reshape(-1) for p in fusion.parameters()]))
        word = fusion(words)
        assert word.dist.logits.shape == (4, 6, 3) and word.features["fused"].shape == (4, 6, 64)
        torch.testing.assert_close(word.dist.logits.flatten(0, 1), fusion(said).dist.logits)
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
    assert torch.equal(before, torch.random.get_rng_state())


def test_it_is_saved_and_loaded() -> None:
    said, label = experts(40)
    fusion, other = Fusion(said, feature="hidden"), Fusion([p[:9] for p in said], feature="hidden", seed=4)
    fusion.fit(said, label, epochs=2)
    other.load_state_dict(fusion.state_dict())
    assert torch.equal(fusion(said).dist.logits, other(said).dist.logits)


@pytest.mark.parametrize(
    ("how", "code"), [({"heads": 0}, "fusion.size"), ({"width": 0}, "fusion.size"), ({"hidden": -1}, "fusion.size")]
)
def test_sizes_out_of_range(how: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError, match=rf"\[{code}\]"):
        Fusion(experts(5)[0], **how)


def test_what_cannot_be_fused() -> None:
    said, label = experts(5)
    fusion = Fusion(said, feature="hidden")
    with pytest.raises(UsageError, match=r"\[fusion.teachers\]"):
        Fusion(said[:1])
    with pytest.raises(UsageError, match=r"\[fusion.teachers\]"):
        fusion([*said, said[0]])
    with pytest.raises(UsageError, match=r"\[loss.feature\]"):
        Fusion(said, feature="none")
    with pytest.raises(SpaceError, match=r"\[fusion.width\]"):
        fusion(said[::-1])
    law = Prediction(DiagGaussian(torch.zeros(5, 3), torch.zeros(5, 3)))
    with pytest.raises(DistributionError, match=r"\[fusion.family\]"):
        Fusion([law, law])
    wide = replace(said[1], dist=Categorical(torch.zeros(5, 4)))
    with pytest.raises(DistributionError, match=r"\[combine.family\]"):
        Fusion([said[0], wide])
    with pytest.raises(UsageError, match=r"\[label.range\]"):
        fusion.label_loss(said, label + 1)
    with pytest.raises(UsageError, match=r"\[label.shape\]"):
        fusion.label_loss(said, label[:, None])
    for labels in (torch.full((5,), -1), label[:, None]):
        with pytest.raises(UsageError, match=r"\[fusion.labels\]"):
            fusion.fit(said, labels)
