"""Accuracy, agreement and calibration against hand-computed numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from policykd.distributions import Categorical, DiagGaussian
from policykd.errors import DistributionError, PolicykdError, UsageError
from policykd.intervals import share_interval
from policykd.prediction import Prediction
from policykd.supervised import MISSING, calibration_error, score


def said(*probs: list[float]) -> Prediction:
    return Prediction(Categorical(torch.tensor(probs).log()))


def test_a_score_by_hand() -> None:
    found = score(
        said([0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]),
        torch.tensor([0, 1, 1, MISSING]),
        said([0.8, 0.2], [0.3, 0.7], [0.2, 0.8], [0.4, 0.6]),
    )
    assert found.rows == 3 and found.accuracy.value == pytest.approx(2 / 3)
    assert found.nll == pytest.approx(-(math.log(0.9) + math.log(0.4) + math.log(0.8)) / 3)
    assert found.agreement == pytest.approx(0.5)
    kl = [
        0.8 * math.log(0.8 / 0.9) + 0.2 * math.log(0.2 / 0.1),
        0.3 * math.log(0.3 / 0.6) + 0.7 * math.log(0.7 / 0.4),
        0.0,
        0.4 * math.log(0.4 / 0.5) + 0.6 * math.log(0.6 / 0.5),
    ]
    assert found.kd_loss == pytest.approx(sum(kl) / 4, rel=1e-5)
    # Three bins are used: 0.9 (right), 0.6 (wrong), 0.8 (right).
    assert found.ece == pytest.approx((0.1 + 0.6 + 0.2) / 3)


def test_calibration_error_by_hand() -> None:
    probs = torch.tensor([[0.95, 0.05], [0.92, 0.08], [0.55, 0.45], [0.52, 0.48]])
    label = torch.tensor([0, 1, 0, 1])
    # Bins of a tenth: (0.95 + 0.92) / 2 against 1/2, (0.55 + 0.52) / 2 against 1/2.
    assert calibration_error(probs, label, bins=10) == pytest.approx(
        0.5 * (0.935 - 0.5) + 0.5 * (0.535 - 0.5), abs=1e-6
    )
    assert calibration_error(probs, label, bins=1) == pytest.approx(0.735 - 0.5, abs=1e-6)
    assert calibration_error(torch.eye(2), torch.tensor([0, 1])) == 0
    with pytest.raises(UsageError, match=r"score\.bins"):
        calibration_error(probs, label, bins=0)


def test_wilson_against_published_numbers() -> None:
    # Newcombe 1998, table I: 81 of 263 is 0.2553 to 0.3662; 0 of 20 is 0 to 0.1611.
    found = share_interval(81, 263)
    assert (found.low, found.high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    found = share_interval(0, 20)
    assert (found.low, found.high) == (pytest.approx(0.0, abs=1e-12), pytest.approx(0.1611, abs=5e-5))
    assert share_interval(20, 20).high == pytest.approx(1.0)
    with pytest.raises(UsageError, match=r"interval\.share"):
        share_interval(3, 2)


def test_sequences_count_token_by_token() -> None:
    logits = torch.zeros(2, 3, 2)
    logits[..., 1] = 1.0
    label = torch.tensor([[1, 1, MISSING], [0, 1, MISSING]])
    found = score(Prediction(Categorical(logits)), label)
    assert found.rows == 4 and found.accuracy.value == 0.75


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: score(said([0.5, 0.5]), torch.tensor([MISSING])), "score.labels"),
        (lambda: score(said([0.5, 0.5]), torch.tensor([2])), "label.range"),
        (lambda: score(said([0.5, 0.5]), torch.tensor([0, 1])), "score.rows"),
        (lambda: score(said([0.5, 0.5]), torch.tensor([0]), said([0.5, 0.5], [0.1, 0.9])), "score.rows"),
        (lambda: score(said([0.5, 0.5]), torch.tensor([0]), said([0.5, 0.3, 0.2])), "score.classes"),
        (lambda: score(said([0.5, 0.5]), torch.tensor([-2])), "label.range"),
        (lambda: score(Prediction(DiagGaussian(torch.zeros(1, 2), torch.zeros(1, 2))), torch.tensor([0])), "score.law"),
    ],
)
def test_what_cannot_be_scored(call: Any, code: str) -> None:
    with pytest.raises(PolicykdError) as caught:
        call()
    assert caught.value.code == code
    assert isinstance(caught.value, UsageError | DistributionError)
