"""A run's folder: made or refused, checkpoints that come back bit for bit, reports, the shelf and its cards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from cartpole_agent import write_balancer

from policykd import students
from policykd.distill import distill
from policykd.errors import CheckpointError, RunError, UsageError
from policykd.learner import Learner
from policykd.load import load_student, load_teacher
from policykd.losses import forward_kl
from policykd.prediction import Batch, Spec
from policykd.run import Run, check_vacant, promote, record, shelf_table
from policykd.run.state import pack, unpack

SPEC = Spec(gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Discrete(2), "categorical")


def learner(seed: int, average: float | None = 0.9) -> Learner:
    return Learner(students.mlp(SPEC, (4,), seed=seed), forward_kl, average=average)


def batches(n: int) -> Iterator[Batch]:
    teacher, draws = students.mlp(SPEC, (5,), seed=99), torch.Generator().manual_seed(0)
    for _ in range(n):
        obs = torch.rand(8, 3, generator=draws)
        yield Batch(obs, teacher.label(obs))


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


# --- made or refused


def test_create_writes_what_was_asked(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    with Run.create(folder, config={"steps": 3, "loss": None}, command="policykd distill x") as run:
        run.scalars(0, {"train/loss": 1.0})
    assert json.loads((folder / "config.json").read_text()) == {"steps": 3, "loss": None}
    about = json.loads((folder / "run.json").read_text())
    assert (about["schema"], about["command"]) == (1, "policykd distill x")
    assert "torch" in about["versions"]
    again = Run.open(folder)
    assert (again.command, again.config) == ("policykd distill x", {"steps": 3, "loss": None})


@pytest.mark.parametrize("inside", ["run.json", "something.txt"])
def test_a_folder_with_something_in_it_is_refused(tmp_path: Path, inside: str) -> None:
    (tmp_path / inside).write_text("precious")
    with pytest.raises(RunError, match=r"choose another --out.*\[run.exists\]"):
        Run.create(tmp_path, config={}, command="")
    assert files(tmp_path) == {inside}
    assert (tmp_path / inside).read_text() == "precious"


def test_an_empty_folder_is_taken_and_a_file_is_refused(tmp_path: Path) -> None:
    check_vacant(tmp_path)
    (tmp_path / "file").touch()
    for place, code in ((tmp_path / "file", "run.exists"), (tmp_path / "file" / "below", "run.unwritable")):
        with pytest.raises(RunError) as caught:
            Run.create(place, config={}, command="")
        assert caught.value.code == code
    assert files(tmp_path) == {"file"}


def test_unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("policykd.disk.tempfile.mkstemp", refuse)  # the superuser may write anywhere
    with pytest.raises(RunError, match=r"Permission denied; expected a folder that can be written.*\[run.unwritable\]"):
        Run.create(tmp_path / "a" / "b", config={}, command="")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_before_its_first_news_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Run.create(tmp_path / "a" / "b", config={}, command=""):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), Run.create(tmp_path / "a" / "b", config={}, command="") as run:
        run.scalars(1, {"train/loss": 1.0})
        raise ZeroDivisionError
    assert "a/b/run.json" in files(tmp_path)


def test_other_peoples_folders_survive_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Run.create(tmp_path / "runs" / "a", config={}, command=""):
        (tmp_path / "runs" / "b").mkdir()
        raise ZeroDivisionError
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["b"]


def test_open_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"\[run.missing\]"):
        Run.open(tmp_path)
    with Run.create(tmp_path / "a", config={}, command="") as run:
        pass
    with pytest.raises(RunError, match=r"\[run.unfinished\]"):
        _ = run.report
    for text in ("{", "[]", "\udcff"):
        (tmp_path / "a/report.json").write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(RunError, match=r"\[run.damaged\]"):
            _ = run.report


# --- checkpoints


@pytest.mark.parametrize("average", [0.9, None])
def test_a_learner_goes_on_as_if_nothing_had_happened(tmp_path: Path, average: float | None) -> None:
    straight, cut = learner(1, average), learner(1, average)
    todo = list(batches(6))
    for batch in todo[:3]:
        straight.step(batch)
        cut.step(batch)
    with Run.create(tmp_path / "a", config={}, command="") as run:
        folder = run.checkpoint(cut, env_steps=24)
    assert {p.name for p in folder.iterdir()} == {"learner.safetensors", "learner.json"}
    other = learner(2, average)
    assert Run.open(tmp_path / "a").restore(other) == 24
    assert other.updates == 3
    for batch in todo[3:]:
        straight.step(batch)
        other.step(batch)
    for one, two in ((straight.student, other.student), (straight.averaged, other.averaged)):
        for key, value in one.state_dict().items():
            assert torch.equal(value, two.state_dict()[key]), key


def test_only_the_newest_two_checkpoints_stay(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a", config={}, command="") as run:
        for steps in (900, 1_000, 20_000):
            run.checkpoint(learner(0), steps)
    assert sorted(p.name for p in (tmp_path / "a/checkpoints").iterdir()) == ["000000001000", "000000020000"]


def test_a_damaged_checkpoint_is_an_error_of_ours(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a", config={}, command="") as run:
        with pytest.raises(RunError, match=r"\[run.no-checkpoint\]"):
            run.restore(learner(0))
        folder = run.checkpoint(learner(0), 1)
    whole = (folder / "learner.safetensors").read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"\x00" * 64):
        (folder / "learner.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"\[run.checkpoint\]"):
            run.restore(learner(0))


def test_state_keeps_tensors_numbers_and_keys() -> None:
    state = {"a": {0: torch.arange(3), 7: [1, 2.5, None, True, "x"]}, "b": [torch.ones(2, dtype=torch.float64)[::2]]}
    back = unpack(*pack(state), "here")
    assert torch.equal(back["a"][0], torch.arange(3))
    assert back["a"][7] == [1, 2.5, None, True, "x"]
    assert back["b"][0].dtype == torch.float64
    with pytest.raises(TypeError, match="Path"):
        pack({"a": Path()})


# --- the report and the shelf


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a linear student of the pole balancer; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    agent = write_balancer(folder)
    with Run.create(folder / "run", config={"hidden": "linear"}, command="policykd distill balancer") as run:
        on_tick, on_look = record(run)
        report = distill(agent, hidden=(), steps=6_000, cycles=1, on_tick=on_tick, on_look=on_look)
        run.finish(report)
    return folder / "run"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    import shutil

    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_the_finished_folder(finished: Path) -> None:
    names = {name for name in files(finished) if "tfevents" not in name and "checkpoints" not in name}
    assert names == {"run.json", "config.json", "report.json", "student/student.safetensors", "student/student.json"}
    series = {name.split("/")[0] for name in files(finished) if "tfevents" in name}
    assert series == {"student", "teacher", "random"}


def test_report_json_has_the_contracts_fields(finished: Path) -> None:
    report = Run.open(finished).report
    assert report["schema"] == 1
    assert (report["kind"], report["env_id"], report["method"]) == ("distill", "CartPole-v1", "dagger")
    assert {"source", "algo", "params", "return_mean", "return_ci", "episodes"} <= set(report["teacher"])
    assert {"params", "bytes", "return_mean", "return_ci", "episodes"} <= set(report["student"])
    assert {"return_mean", "episodes"} <= set(report["random"])
    assert {"load", "collect", "learn", "evaluate", "total"} <= set(report["seconds"])
    fields = {"seed", "stopped_by", "retention", "retention_ci", "agreement", "kl", "value_error"}
    assert fields | {"env_steps", "updates", "evaluations", "versions"} <= set(report)
    student, teacher, random = (report[name]["return_mean"] for name in ("student", "teacher", "random"))
    assert report["retention"] == pytest.approx((student - random) / (teacher - random))
    assert report["retention"] > 0.3
    assert report["student"]["params"] == 10


def test_the_saved_student_is_the_one_that_was_measured(finished: Path) -> None:
    import hashlib

    report = Run.open(finished).report
    for name, sha256 in report["files"].items():
        assert hashlib.sha256((finished / name).read_bytes()).hexdigest() == sha256
    assert load_student(finished).origin.env_id == "CartPole-v1"


def test_promote_and_its_card(finished: Path, tmp_path: Path) -> None:
    card = promote(finished, "cartpole-linear", tmp_path / "agents")
    folder = tmp_path / "agents" / "cartpole-linear"
    assert {p.name for p in folder.iterdir()} == {"card.json", "student.safetensors", "student.json"}
    assert json.loads((folder / "card.json").read_text()) == card
    report = Run.open(finished).report
    assert card["score"] == {k: report["student"][k] for k in ("return_mean", "return_ci", "episodes")}
    assert (card["retention"], card["command"]) == (report["retention"], "policykd distill balancer")
    assert (card["kind"], card["algo"], card["env_id"], card["params"], card["licence"]) == (
        "student",
        "mlp",
        "CartPole-v1",
        10,
        "MIT",
    )
    assert oct(folder.stat().st_mode & 0o777) == "0o755"
    obs = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    one, two = (load_teacher(p).predict(obs, deterministic=True)[0] for p in (finished, folder))
    np.testing.assert_array_equal(one, two)
    readme = (tmp_path / "agents/README.md").read_text()
    assert shelf_table(tmp_path / "agents") in readme
    assert "| [cartpole-linear](cartpole-linear/card.json) | CartPole-v1 | mlp student | 10 |" in readme


def test_a_shelf_entry_that_was_changed_is_refused_by_load(finished: Path, tmp_path: Path) -> None:
    promote(finished, "a", tmp_path)
    (tmp_path / "a/student.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"\[card.sha256\]"):
        load_teacher(tmp_path / "a")


def test_promote_on_trial_leaves_nothing(finished: Path, tmp_path: Path) -> None:
    card = promote(finished, "a", tmp_path / "x" / "agents", dry_run=True)
    assert card["name"] == "a"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../a", "A", "", ".a", "a/b", "a b"])
def test_names_that_are_no_folder(finished: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"\[promote.name\]"):
        promote(finished, name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken(finished: Path, tmp_path: Path) -> None:
    promote(finished, "a", tmp_path)
    before = files(tmp_path)
    with pytest.raises(RunError, match=r"\[promote.exists\]"):
        promote(finished, "a", tmp_path)
    assert files(tmp_path) == before


def test_a_student_that_was_not_measured_is_not_promoted(copied: Path, tmp_path: Path) -> None:
    students.save(students.mlp(load_student(copied).spec, (), seed=5), copied / "student")
    with pytest.raises(RunError, match=r"is not the file that was measured.*\[promote.changed\]"):
        promote(copied, "a", tmp_path / "agents")
    os.unlink(copied / "report.json")
    with pytest.raises(RunError, match=r"\[run.unfinished\]"):
        promote(copied, "a", tmp_path / "agents")
    assert not (tmp_path / "agents").exists()


def test_a_shelf_with_a_broken_card(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/card.json").write_text("{}")
    with pytest.raises(RunError, match=r"\[card.json\]"):
        shelf_table(tmp_path)
