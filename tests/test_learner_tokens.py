"""Token by token: leading dimensions (b, t) with a mask (b, t); what does not count is context, and does no harm."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policykd import losses
from policykd.distributions import Categorical
from policykd.learner import Learner
from policykd.losses import Discriminator, forward_kl, hard_and_soft, label_nll, weighted
from policykd.policy import Taught
from policykd.prediction import Batch, Obs, Prediction
from policykd.reduction import blanked

WORDS, WIDTH = 6, 16


class Labeller(Taught):
    """Words ``[b, t]`` to two classes a word, by a recurrent net that reads from left to right."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.embedding, self.gru = nn.Embedding(WORDS, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 2)
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(0.3 * torch.randn(p.shape, generator=g))

    def read(self, batch: Batch) -> Prediction:
        words = batch.obs["words"] if isinstance(batch.obs, dict) else batch.obs
        states, _ = self.gru(self.embedding(words))
        return Prediction(Categorical(self.head(states)), features={"states": states})


def sentences(n: int, seed: int, *, spoilt: bool = False) -> Batch:
    """The class of every word is whether the first one is below 3; the first is masked out, as is some padding."""
    g = torch.Generator().manual_seed(seed)
    words = torch.randint(0, WORDS, (n, 5), generator=g)
    label = (words[:, :1] < 3).long().expand(n, 5).clone()
    mask = torch.arange(5).expand(n, 5) > 0
    mask = mask & (torch.arange(5) < torch.randint(3, 6, (n, 1), generator=g))
    logits = 4.0 * torch.nn.functional.one_hot(label, 2).float()
    states = torch.randn(n, 5, 7, generator=g)
    weight = torch.ones(n, 5)
    if spoilt:
        logits[~mask], states[~mask], weight[~mask] = math.nan, math.nan, math.inf
        label[~mask] = -1
    return Batch(words, Prediction(Categorical(logits), features={"states": states}), weight, mask, {"label": label})


def numbers(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def accuracy(student: Taught, test: Batch) -> float:
    assert test.mask is not None
    with torch.no_grad():
        right = student.read(test).dist.mode() == test.extra["label"]
    return float(right[test.mask].float().mean())


@pytest.mark.parametrize("loss", [forward_kl, label_nll, hard_and_soft(alpha=0.5, temperature=2.0)])
def test_a_word_that_does_not_count_is_context(loss: Any) -> None:
    it = Learner(Labeller(), loss, lr=0.02, average=None)
    for i in range(80):
        it.step(sentences(64, seed=i))
    assert accuracy(it.student, sentences(200, seed=999)) > 0.98


@pytest.mark.parametrize("loss", [forward_kl, label_nll, hard_and_soft(), weighted(a=(1.0, Discriminator(2)))])
def test_words_that_do_not_count_leave_no_trace(loss: Any) -> None:
    def trained(spoilt: bool) -> tuple[Tensor, list[float]]:
        for module in losses.as_objective(loss).modules:
            for p in module.parameters():
                p.data.fill_(0.1)
        it = Learner(Labeller(), loss, average=None)
        found = [float(it.step(sentences(16, seed=i, spoilt=spoilt)).loss) for i in range(3)]
        return numbers(it.student), found

    clean, spoilt = trained(False), trained(True)
    assert torch.equal(clean[0], spoilt[0]) and clean[1] == spoilt[1] and all(map(math.isfinite, clean[1]))


def test_the_loss_is_a_mean_over_words_that_count() -> None:
    data = sentences(16, seed=0)
    assert data.mask is not None
    it = Learner(Labeller(), forward_kl, average=None)
    rows = forward_kl(it.student.read(data), data.target).detach()
    torch.testing.assert_close(it.step(data).loss, rows[data.mask].mean())


def test_every_word_masked_changes_nothing() -> None:
    it = Learner(Labeller(), hard_and_soft(), average=None)
    before, data = numbers(it.student), sentences(8, seed=0, spoilt=True)
    nothing = Batch(data.obs, data.target.map(lambda t: t * math.nan), mask=torch.zeros(8, 5).bool(), extra=data.extra)
    update = it.step(nothing)
    assert float(update.loss) == 0 and update.grad_norm == 0
    assert torch.equal(numbers(it.student), before)


# What is blanked, and what is not

MASK = torch.tensor([[True, False, True], [False, False, False]])


def seen(obs: Obs, **how: Any) -> Batch:
    batch = Batch(obs, Prediction(Categorical(torch.ones(2, 3, 2)), **how), mask=MASK)
    return blanked(batch, MASK)


def test_words_stay_but_for_rows_that_are_out_altogether() -> None:
    words, length = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([3, 3])
    found = seen({"words": words, "length": length, "present": torch.ones(2, 3, dtype=torch.bool)}).obs
    assert isinstance(found, dict)
    assert found["words"].tolist() == [[1, 2, 3], [0, 0, 0]] and found["length"].tolist() == [3, 0]
    assert found["present"].all()  # which words there are is no number: attention over nothing would be NaN


def test_numbers_of_a_context_stay_where_they_are_numbers() -> None:
    obs = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [math.nan], [6.0]]])
    obs[0, 1] = math.inf
    assert seen(obs).obs.tolist() == [[[1.0], [0.0], [3.0]], [[0.0], [0.0], [0.0]]]  # type: ignore[union-attr]
    obs[0, 1] = 7.0
    assert seen(obs).obs.tolist() == [[[1.0], [7.0], [3.0]], [[0.0], [0.0], [0.0]]]  # type: ignore[union-attr]
    obs[0, 0] = math.nan
    assert math.isnan(seen(obs).obs[0, 0])  # type: ignore[index]  # one that counts stays one


def test_observations_of_another_shape() -> None:
    assert seen(torch.ones(2, 5)).obs.tolist() == [[1.0] * 5, [0.0] * 5]  # type: ignore[union-attr]


def test_targets_and_features() -> None:
    nan = torch.full((2, 3, 4), math.nan)
    found = seen(
        torch.ones(2, 3), value=nan[..., 0], features={"states": nan, "whole": torch.ones(2, 3), "map": nan[:, None]}
    ).target
    assert found.value is not None and found.value.isnan().tolist() == MASK.tolist()
    assert found.features["states"][..., 0].isnan().tolist() == MASK.tolist()
    assert found.features["whole"].tolist() == [[1.0] * 3, [0.0] * 3]  # one a sentence, as wide as it is long
    assert found.features["map"][:, 0, 0, 0].isnan().tolist() == [True, False]


def test_extra_columns_a_word_and_a_sentence() -> None:
    column = {"label": torch.ones(2, 3), "author": torch.ones(2), "soft": torch.ones(2, 3, 2), "task": torch.ones(2)}
    found = blanked(
        Batch(torch.ones(2, 3), Prediction(Categorical(torch.ones(2, 3, 2))), mask=MASK, extra=column), MASK
    )
    assert found.extra["label"].tolist() == MASK.float().tolist() and found.extra["author"].tolist() == [1.0, 0.0]
    assert found.extra["soft"][..., 0].tolist() == MASK.float().tolist()
    assert found.extra["task"].tolist() == [1.0, 1.0]
