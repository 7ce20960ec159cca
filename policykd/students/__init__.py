"""Students: small policies that are built, scaled, saved and loaded; this room trains nothing and unpickles nothing.

Students as SB3 zips are in ``policykd.students.sb3``, the one file here that imports stable_baselines3.
"""

from __future__ import annotations

from policykd.students.files import load, save
from policykd.students.kinds import build, cnn, mlp, size_bytes, suited, widest
from policykd.students.network import Student
from policykd.students.normaliser import adopt_scales, copy_normaliser, fit_normaliser, fit_value_units
from policykd.students.shape import ACTIVATIONS, Shape, parse_budget, parse_hidden
from policykd.students.transfer import from_teacher

__all__ = [
    "ACTIVATIONS",
    "Shape",
    "Student",
    "adopt_scales",
    "build",
    "cnn",
    "copy_normaliser",
    "fit_normaliser",
    "fit_value_units",
    "from_teacher",
    "load",
    "mlp",
    "parse_budget",
    "parse_hidden",
    "save",
    "size_bytes",
    "suited",
    "widest",
]
