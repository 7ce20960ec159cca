"""Trained agents as frozen policies, read from files or wrapped live; it refuses to train them or to run their code."""

from __future__ import annotations

from policykd.teachers.ensemble import Ensemble
from policykd.teachers.inspection import Inspection, inspect
from policykd.teachers.loading import load
from policykd.teachers.sb3 import from_sb3
from policykd.teachers.teacher import Teacher

__all__ = ["Ensemble", "Inspection", "Teacher", "from_sb3", "inspect", "load"]
