"""``policykd multitask`` as it is typed, on two of the shelf's CartPole agents, tiny: what it says, writes, refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import policykd as kd
from policykd import students
from policykd.cli import main
from policykd.cli.arguments.multitask import Arguments
from policykd.cli.flags import parse
from policykd.students import MultiTask

pytestmark = pytest.mark.usefixtures("own_threads")
AGENTS = Path(__file__).parent.parent / "agents"
TYPED = [str(AGENTS / "cartpole-ppo"), str(AGENTS / "cartpole-dqn"), "--hidden", "6", "6", "--steps", "2000"]
TYPED += ["--cycles", "1", "--select-episodes", "8", "--max-episodes", "100", "--workers", "1"]
TYPED += ["--num-envs", "2"]
NAMES = ["CartPole-v1", "CartPole-v1-2"]


@pytest.fixture(scope="module")
def spoken(verb: Callable[..., tuple[Path, str, str]]) -> tuple[Path, str, str]:
    """A finished run with its stdout and stderr; not to be changed."""
    return verb("multitask", *TYPED)


def test_the_table_and_the_mean(spoken: tuple[Path, str, str]) -> None:
    folder, out, err = spoken
    report = json.loads((folder / "report.json").read_text())
    for name in NAMES:
        task = report["tasks"][name]
        assert name in out and f"{task['retention']:.3f} [{task['retention_ci'][0]:.3f}" in out
    last = out.splitlines()[-1]
    assert f"geometric mean of retention: {report['retention_geometric_mean']:.3f} [" in last
    assert f"in {report['student']['params']:,} parameters" in last
    assert f"policykd evaluate {folder}/tasks/CartPole-v1" in err


def test_the_reports_fields(spoken: tuple[Path, str, str]) -> None:
    report = json.loads((spoken[0] / "report.json").read_text())
    assert (report["schema"], report["kind"]) == (1, "multitask")
    assert list(report["tasks"]) == NAMES
    contract = {
        "schema", "kind", "env_id", "method", "seed", "stopped_by", "teacher", "student", "random", "retention",
        "retention_ci", "agreement", "kl", "value_error", "env_steps", "updates", "evaluations", "seconds", "versions",
    }  # fmt: skip
    for fields in (report, *report["tasks"].values()):
        assert contract <= set(fields)
    assert report["retention_geometric_mean"] == report["retention"]
    values = [task["retention"] for task in report["tasks"].values()]
    assert report["retention"] == pytest.approx(math.sqrt(math.prod(values)))
    assert report["env_steps"] == sum(task["env_steps"] for task in report["tasks"].values())


def test_students_of_a_run(spoken: tuple[Path, str, str]) -> None:
    folder = spoken[0]
    report = json.loads((folder / "report.json").read_text())
    whole = students.load(folder / "student")
    assert isinstance(whole, MultiTask) and list(whole.names) == NAMES
    assert whole.acting_parameters == report["student"]["params"]
    assert whole.size_bytes == report["student"]["bytes"]
    obs = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    for name in NAMES:
        path = report["tasks"][name]["path"]
        found = kd.load_teacher(path)
        assert found.origin.env_id == "CartPole-v1"
        assert found.acting_parameters == report["tasks"][name]["student"]["params"]
        assert torch.equal(found.label(obs).dist.mode(), whole.task(name).label(obs).dist.mode())
        assert torch.equal(kd.load_student(folder, task=name).label(obs).dist.mode(), found.label(obs).dist.mode())
    assert len(report["files"]) == 6 and all((folder / name).is_file() for name in report["files"])


def test_other_verbs_read_the_run(spoken: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(spoken[0])
    assert main(["compare", folder, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["env_id"] == "CartPole-v1 + CartPole-v1" and row["retention"] is not None and row["return_mean"] is None
    assert main(["compare", folder]) == 0
    assert main(["evaluate", f"{folder}/tasks/CartPole-v1", "--episodes", "2"]) == 0
    capsys.readouterr()
    for verb in ("evaluate", "inspect"):
        assert main([verb, folder]) == 2
        assert "[path.several]" in capsys.readouterr().err


def test_a_series_a_task(spoken: tuple[Path, str, str]) -> None:
    folder = spoken[0]

    def tags(series: str) -> set[str]:
        events = EventAccumulator(str(folder / series))
        events.Reload()
        return set(events.Tags()["scalars"])

    for name in NAMES:
        own = tags(f"tasks/{name}")
        assert {"eval/mean_reward", "eval/retention", "rollout/ep_rew_mean", "distill/kl", "distill/agreement"} <= own
        assert {"distill/loss/policy", "final/retention", "final/params"} <= own
        assert {"eval/mean_reward", "eval/retention"} <= tags(f"tasks/{name}/teacher") & tags(f"tasks/{name}/random")
        assert "distill/weight/policy" in own
    assert {"train/loss", "train/learning_rate", "time/fps", "eval/retention", "final/retention"} <= tags("student")
    assert list(folder.glob("checkpoints/*/learner.safetensors"))


def test_config_is_taken_back(spoken: tuple[Path, str, str]) -> None:
    found = parse(Arguments, "multitask", ["--config", str(spoken[0] / "config.json")])
    assert found is not None and replace(found, config=None) == parse(Arguments, "multitask", TYPED)
    assert (found.hidden, found.how.steps, len(found.teachers)) == ("6,6", 2000, 2)


def test_dry_run_counts_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "multitask",
        *TYPED[:2],
        "--heads",
        "shared",
        "--inputs",
        "padded",
        "--out",
        str(tmp_path / "r"),
        "--dry-run",
    ]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["student"] == {"hidden": [16, 16], "params": 4 * 16 + 32 + 272 + 34, "apart": 2 * 386}
    assert list(found["tasks"]) == NAMES
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "one student of all: 402 parameters; one of each: 772" in out
    assert not (tmp_path / "r").exists()


def test_another_loss_and_values_beside_it(verb: Callable[..., tuple[Path, str, str]]) -> None:
    folder, _, _ = verb("multitask", *TYPED, "--loss", "reverse-kl", "--value")
    events = EventAccumulator(str(folder / "tasks" / NAMES[0]))  # a DQN has no value that could be taught
    events.Reload()
    assert {e.value for e in events.Scalars("distill/weight/policy")} == {1.0}
    assert {e.value for e in events.Scalars("distill/weight/value")} == {0.5}
    assert json.loads((folder / "config.json").read_text())["loss"] == "reverse-kl"
    whole = students.load(folder / "student")
    assert isinstance(whole, MultiTask) and whole.value


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["a"], ["1 teacher;", "policykd distill TEACHER", "[multitask.teachers]"]),
        (["a", "b", "--hidden", "x"], ["'x'", "[student.hidden]"]),
        (["a", "b", "--method", "dataset", "--dataset", "d"], ["--method dataset", "[multitask.method]"]),
        (["a", "b", "--heads", "sharde"], ["--heads sharde", "did you mean shared?", "[cli.arguments]"]),
        (["a", "b", "--loss", "forward-lk"], ["did you mean forward-kl", "[name.loss]"]),
        (["a", "b", "--threads", "0"], ["--threads 0", "[config.zero]"]),
        (["a", "b", "--normalizer", "x.pkl"], ["--normalizer x.pkl", "[multitask.normalizer]"]),
        (["a", "b", "--hiden", "8"], ["did you mean --hidden", "[name.option]"]),
    ],
)
def test_typed_wrongly(argv: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["multitask", *argv]) == 2
    err = capsys.readouterr().err
    assert all(part in err for part in parts), err


def test_ctrl_c_keeps_what_was_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from policykd.run.lessons import record_tasks

    def impatient(run: Any, names: Any) -> Any:
        on_tick, on_look = record_tasks(run, names)

        def then_stop(name: str, tick: Any) -> None:
            on_tick(name, tick)
            if name == NAMES[-1]:
                raise KeyboardInterrupt

        return then_stop, on_look

    monkeypatch.setattr("policykd.cli.verbs.multitask.record_tasks", impatient)
    assert main(["multitask", *TYPED, "--out", str(tmp_path / "r")]) == 130
    assert "the student so far, unmeasured" in capsys.readouterr().err
    whole = students.load(tmp_path / "r/student")
    assert isinstance(whole, MultiTask) and list(whole.names) == NAMES
    assert not (tmp_path / "r/report.json").exists()
