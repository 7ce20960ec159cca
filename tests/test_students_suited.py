"""The student that is built when nobody chooses one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from torch import nn

from policykd import students
from policykd.prediction import Spec

SPEC = Spec(spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(3), "categorical")
IMAGE = Spec(spaces.Box(0, 255, (3, 40, 40), np.uint8), spaces.Discrete(3), "categorical")


@pytest.mark.parametrize(("teacher", "student"), [("tanh", "tanh"), ("relu", "silu"), ("elu", "silu")])
def test_tanh_teachers_get_tanh_students_and_others_silu(teacher: str, student: str) -> None:
    built = students.suited(students.mlp(SPEC, (8,), activation=teacher), (5, 6), value=True, seed=3)
    assert built.shape.activation == student and built.shape.hidden == (5, 6) and built.value_head is not None
    assert any(isinstance(m, {"tanh": nn.Tanh, "silu": nn.SiLU}[student]) for m in built.torso)


def test_images_get_a_convolutional_student() -> None:
    teacher: Any = students.cnn(IMAGE, (8,))
    built = students.suited(teacher)
    assert built.shape.channels and built.shape.activation == "relu"
