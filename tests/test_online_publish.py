"""What acts is the student, bit for bit, whatever somebody has put between its layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from policykd import students
from policykd.online.publish import publish
from policykd.prediction import Spec

SPEC = Spec(spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Discrete(2), "categorical")


def normed(student: students.Student) -> None:
    student.torso.append(nn.LayerNorm(5))


def swapped(student: students.Student) -> None:
    student.torso[1] = nn.ReLU()


def listened(student: students.Student) -> None:
    student.action_head.register_forward_hook(lambda module, args, out: out + 1.0)


@pytest.mark.parametrize("change", [None, normed, swapped, listened])
def test_what_acts_says_what_the_student_says(change: Callable[[students.Student], None] | None) -> None:
    student = students.mlp(SPEC, (8, 5))
    if change is not None:
        change(student)
    obs = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        said = publish(student, 1, 1).says(obs)
        assert torch.equal(said.logits, student(obs, values=False).dist.logits)  # type: ignore[union-attr]
