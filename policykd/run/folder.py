"""The folder itself: made, written to, finished, opened again; it refuses a place that holds something already."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from policykd import classifiers, students
from policykd.classifiers import Classifier
from policykd.disk import write_whole
from policykd.errors import MissingExtraError, RunError
from policykd.learner import Learner
from policykd.policy import Policy
from policykd.report import FrontierReport, MultiReport, Report, versions
from policykd.run import picture
from policykd.run.charts import Charts
from policykd.run.place import check_vacant, file_hash, read_json, to_json
from policykd.run.sizes import save_sizes, save_unmeasured
from policykd.run.state import pack, unpack
from policykd.run.tasks import conclude_tasks, save_tasks
from policykd.run.via import conclude_via
from policykd.students import MultiTask, Student, Tree

__all__ = ["Run"]

Taught: TypeAlias = Literal["policy", "classifier"]

_SCHEMA = 1
_KEEP_CHECKPOINTS = 2


class Run:
    """One run's folder. As a context manager it closes its charts, and vanishes if it fails before its first news.

    Attributes:
        folder: where it is.
        command: what a person typed to make it.
        config: the resolved configuration, as ``config.json`` holds it.
        latest: the newest number of every tag, of the student or the assistant that learns.
    """

    def __init__(self, folder: Path, command: str, config: Mapping[str, Any], taught: Taught = "policy") -> None:
        self.folder, self.command, self.config = folder, command, config
        self.latest: dict[str, float | None] = {}
        self._charts = Charts(folder, taught)
        self._made: list[Path] = []
        self._news = False

    @classmethod
    def create(cls, folder: str | Path, *, config: Mapping[str, Any], command: str, taught: Taught = "policy") -> Self:
        """Make the folder and write down what was asked.

        Args:
            folder: new or empty; its parents are made too.
            config: plain data, written to ``config.json``.
            command: as a shell takes it, written to ``run.json``.
            taught: which charts the page Custom Scalars shows.

        Raises:
            RunError: ``run.exists``; ``run.unwritable``.
        """
        folder = Path(folder)
        run = cls(folder, command, dict(config), taught)
        try:
            check_vacant(folder)
            run._made = [p for p in (folder, *folder.parents) if not p.exists()]
            about = {
                "schema": _SCHEMA,
                "command": command,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "versions": versions(),
            }
            write_whole(folder, {"config.json": to_json(config), "run.json": to_json(about)}, code="run.unwritable")
        except OSError as why:  # a parent that may not be looked into
            raise RunError(
                "run.unwritable", f"{folder}: {why.strerror}", "a folder that can be written", "choose another"
            ) from None
        except RunError:
            run._remove_made()
            raise
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """A run that is there already.

        Raises:
            RunError: ``run.missing`` where there is none; ``run.damaged`` for files that are not a run's.
        """
        folder = Path(folder)
        if not (folder / "run.json").is_file():
            raise RunError("run.missing", f"{folder} holds no run.json", "a folder made by policykd", "look in runs/")
        about, config = read_json(folder / "run.json"), read_json(folder / "config.json")
        return cls(folder, str(about.get("command", "")), config)

    @property
    def report(self) -> dict[str, Any]:
        """The fields of ``report.json``.

        Raises:
            RunError: ``run.unfinished`` where it has not been written; ``run.damaged``.
        """
        if not (self.folder / "report.json").is_file():
            raise RunError(
                "run.unfinished", f"{self.folder} holds no report.json", "a run that came to its end", "run it again"
            )
        return read_json(self.folder / "report.json")

    def scalars(self, step: int, values: Mapping[str, float | None], series: str = "student") -> None:
        """Points of TensorBoard charts.

        Args:
            step: environment steps so far.
            values: number by tag; None and NaN are left out.
            series: sub-run: the same tag in several of them is one chart with several lines.
        """
        self._news = True
        if series == "student" or series.startswith("via/"):
            self.latest |= values
        self._charts.scalars(step, values, series)

    def reference(self, step: int, values: Mapping[str, float], series: str) -> None:
        """A horizontal line at each of ``values`` (by tag) from 0 to ``step``; a later call makes it longer."""
        self._news = True
        self._charts.reference(step, values, series)

    def checkpoint(self, learner: Learner, env_steps: int) -> Path:
        """Write everything that ``learner.step`` changes, whole or not at all; the newest two are kept.

        Returns:
            Its folder.

        Raises:
            RunError: ``run.unwritable``.
        """
        self._news = True
        place = self.folder / "checkpoints"
        weights, tree = pack({"env_steps": env_steps, "learner": learner.state_dict()})
        made = place / f"{env_steps:012}"
        write_whole(made, {"learner.safetensors": weights, "learner.json": tree}, code="run.unwritable")
        for old in sorted(place.iterdir())[:-_KEEP_CHECKPOINTS]:
            shutil.rmtree(old)
        return made

    def restore(self, learner: Learner) -> int:
        """Put ``learner`` into the state of the newest checkpoint; nothing is unpickled.

        Returns:
            The environment steps at which it was written.

        Raises:
            RunError: ``run.no-checkpoint``.
            CheckpointError: ``run.checkpoint`` for damaged files.
        """
        whole = sorted(p.parent for p in self.folder.glob("checkpoints/*/learner.json"))
        if not whole:
            raise RunError("run.no-checkpoint", f"{self.folder} holds no checkpoint", "", "run it again")
        weights, tree = ((whole[-1] / name).read_bytes() for name in ("learner.safetensors", "learner.json"))
        state = unpack(weights, tree, str(whole[-1]))
        learner.load_state_dict(state["learner"])
        return int(state["env_steps"])

    def save_student(self, student: Student | Tree | MultiTask) -> Path:
        """Write the student into ``student/`` (one of several tasks into ``tasks/`` too); returns that folder."""
        self._news = True
        if isinstance(student, MultiTask):
            return save_tasks(student, self.folder)[0]
        students.save(student, self.folder / "student")
        return self.folder / "student"

    def save_unmeasured(self, found: Iterable[tuple[str, int, Policy]]) -> Path:
        """Write students (size, seed, policy) of a frontier that was stopped into ``students/<size>/so-far-<seed>/``.

        Returns:
            ``students/``.
        """
        self._news = True
        save_unmeasured(found, self.folder)
        return self.folder / "students"

    def finish(
        self, report: Report | FrontierReport | MultiReport, student: Student | Tree | None = None
    ) -> dict[str, Any]:
        """Save the student, draw the last points, write ``report.json``.

        Of a frontier every student is saved, the chosen (or best) one in ``student/`` too; ``frontier.png`` is drawn
        where matplotlib is installed. Of several tasks the whole student is saved, and each task's alone in ``tasks/``.
        Assistants are in ``via/``.

        Args:
            report: what was measured.
            student: None takes the report's own, if it is a student of this project (another policy is not saved).

        Returns:
            The fields of ``report.json``: the report's, in ``files`` the sha256 of the files that were measured, and
            of a frontier's students, of tasks and of assistants the ``path`` that ``load_student`` takes, which begins
            with the folder as given.
        """
        fields = report.to_dict()
        several = isinstance(report, FrontierReport)
        saved = save_sizes(report, fields, self.folder) if isinstance(report, FrontierReport) else []
        if isinstance(report, MultiReport):
            saved = conclude_tasks(report, fields, self.folder, self._charts)
        if isinstance(report, Report):
            saved = conclude_via(report.via, fields, self.folder, self._charts)
        student = student or (report.policy if isinstance(report.policy, Student | Tree) else None)
        if student is not None:
            saved.insert(0, self.save_student(student))
        if saved:
            names = [(p / f"student.{end}").relative_to(self.folder) for p in saved for end in ("safetensors", "json")]
            fields["files"] = {name.as_posix(): file_hash(self.folder / name) for name in names}
        if several:
            self._charts.conclude_frontier(fields, self.config, self._picture(fields))
        elif isinstance(report, Report):
            self._charts.conclude(fields, self.config)
        self.write_report(fields)
        return fields

    def save_classifier(self, name: str, classifier: Classifier) -> Path | None:
        """Write a classifier into a folder of its own; one that was not built here is not saved (None)."""
        self._news = True
        if classifier.shape is None:
            return None
        return classifiers.save(classifier, self.folder / name)

    def finish_classes(self, fields: dict[str, Any], found: Mapping[str, Classifier]) -> None:
        """Save classifiers by name, draw the last points, write ``report.json``.

        Args:
            fields: of ``report.json``; a classifier that is saved gets the ``path`` that ``classifiers.load`` takes.
            found: ``teacher``, ``alone``, ``via-1`` and so on, ``student``.
        """
        for name, classifier in found.items():
            place = fields["via"][int(name.removeprefix("via-")) - 1] if name.startswith("via-") else fields[name]
            if self.save_classifier(name, classifier) is not None:
                place["path"] = str(self.folder / name)
        self._charts.conclude_classes(fields, self.config)
        self.write_report(fields)

    def _picture(self, fields: Mapping[str, Any]) -> bytes | None:
        try:
            png = picture.draw(fields)
        except MissingExtraError:
            return None
        write_whole(self.folder, {"frontier.png": png}, code="run.unwritable")
        return png

    def write_report(self, fields: Mapping[str, Any]) -> None:
        """Write ``report.json`` and close the charts; for runs that are no distillation."""
        self.close()
        write_whole(self.folder, {"report.json": to_json(fields)}, code="run.unwritable")

    def close(self) -> None:
        """Close the charts; a later call of ``scalars`` opens new ones."""
        self._charts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is not None and not self._news:
            for name in ("run.json", "config.json"):
                (self.folder / name).unlink(missing_ok=True)
            self._remove_made()

    def _remove_made(self) -> None:
        """Remove the folders that this run made, as far as nobody else has put anything there."""
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:
                return
