"""Students: small policies that are built, scaled, saved and loaded; this room trains nothing and unpickles nothing.

Students as SB3 zips are in ``policykd.students.sb3``, the one file here that imports stable_baselines3; decision trees
are fitted in ``policykd.students.tree``, the one that imports scikit-learn.
"""

from __future__ import annotations

from policykd.students import tree
from policykd.students.cohort import Cohort
from policykd.students.files import load, save
from policykd.students.kinds import build, cnn, mlp, size_bytes, suited, widest
from policykd.students.multitask import MultiTask
from policykd.students.network import Student
from policykd.students.normaliser import adopt_scales, copy_normaliser, fit_normaliser, fit_value_units
from policykd.students.shape import ACTIVATIONS, Shape, parse_budget, parse_hidden
from policykd.students.transfer import from_teacher
from policykd.students.tree import Tree

__all__ = [
    "ACTIVATIONS",
    "Cohort",
    "MultiTask",
    "Shape",
    "Student",
    "Tree",
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
    "tree",
    "widest",
]
