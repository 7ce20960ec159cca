"""report.json: teacher, student and random policy side by side; it measures nothing and leaves no field out."""

from __future__ import annotations

from policykd.report.distilled import Report, Stage
from policykd.report.measured import Measured, versions
from policykd.report.several import MultiReport, geometric_mean
from policykd.report.sizes import Candidate, FrontierReport

__all__ = ["Candidate", "FrontierReport", "Measured", "MultiReport", "Report", "Stage", "geometric_mean", "versions"]
