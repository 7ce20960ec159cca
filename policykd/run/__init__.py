"""A run's folder: what was asked, how it went (TensorBoard), what came out; it refuses to train and to measure.

Layout of ``runs/<name>/``, every file whole or absent::

    run.json, config.json       the command and its versions; the resolved configuration, which ``--config`` takes back
    student/                    student.safetensors and student.json, and the student's TensorBoard events
    via/<n>-<size>/             an assistant, and its events; its numbers are in report.json
    teacher/, random/           events only: their returns as constant lines in the student's charts
    students/<size>/seed-<n>/   of a frontier: every student; the events of a size lie beside them
    frontier/, target/          of a frontier: events; frontier.png where matplotlib is installed
    checkpoints/<env steps>/    learner.safetensors and learner.json, the newest two
    report.json                 written last: a folder without one holds an unfinished run
"""

from __future__ import annotations

from policykd.run.folder import Run
from policykd.run.place import check_vacant
from policykd.run.record import record, record_frontier
from policykd.run.shelf import promote, shelf_page, shelf_table

__all__ = ["Run", "check_vacant", "promote", "record", "record_frontier", "shelf_page", "shelf_table"]
