"""``policykd frontier`` as it is typed, on the shelf's CartPole agent, tiny: what it says, writes and refuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from frontier_by_hand import made
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from policykd.cli import main
from policykd.evaluation import Interval, evaluate
from policykd.load import load_student, load_teacher
from policykd.report import FrontierReport

pytestmark = pytest.mark.usefixtures("own_threads")
AGENT = Path(__file__).parent.parent / "agents" / "cartpole-ppo"
TINY = ["--steps", "2000", "--cycles", "1", "--sizes", "linear", "4", "--seeds", "2", "--screen", "8"]
TINY += ["--workers", "1", "--max-episodes", "100"]


@pytest.fixture(scope="module")
def spoken(verb: Callable[..., tuple[Path, str, str]]) -> tuple[Path, str, str]:
    """A finished run with its stdout and stderr; not to be changed."""
    return verb("frontier", str(AGENT), *TINY)


@pytest.fixture(scope="module")
def folder(spoken: tuple[Path, str, str]) -> Path:
    return spoken[0]


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def answered(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> dict[str, Any]:
    assert main([*map(str, argv), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found: dict[str, Any] = json.loads(out)
    return found


def test_a_row_a_size_and_a_sentence(spoken: tuple[Path, str, str]) -> None:
    folder, out, err = spoken
    report = report_of(folder)
    lines = [line.split() for line in out.splitlines()]
    at = [next(i for i, words in enumerate(lines) if words[:1] == [name]) for name in ("linear", "4", "teacher")]
    assert at == sorted(at)
    for it in report["candidates"]:
        row = next(line for line in out.splitlines() if line.split()[:1] == [it["name"]])
        assert f"{it['retention']:.3f} [{it['retention_ci'][0]:.3f}, {it['retention_ci'][1]:.3f}]" in row
        assert (f"{it['name']} *" in row) == (it["name"] == report["chosen"])
        assert {"linear": " 0.22% ", "4": " 0.65% "}[it["name"]] in row
    last = out.splitlines()[-1]
    it = next(c for c in report["candidates"] if c["name"] == report["chosen"] or c is report["candidates"][-1])
    assert ("smallest at 0.95" in last) if report["chosen"] else ("none reaches 0.95" in last and "--sizes" in last)
    assert str(folder / "students") in last
    assert "stopped by" in err and f"tensorboard --logdir {folder}" in err and "best retention of each size" in err
    assert f"{folder}/frontier.png" in err or "policykd[plots]" in err


def test_json_is_report_json_and_a_config_makes_the_same_run(folder: Path, tmp_path: Path, capsys: Any) -> None:
    said = answered(capsys, "frontier", "--config", folder / "config.json", "--out", tmp_path / "r")
    written = report_of(tmp_path / "r")
    assert said == {**written, "run": str(tmp_path / "r")}
    fields = {"name", "path", "params", "bytes", "retention", "retention_ci", "episodes", "latency_us"}
    assert {"target", "chosen", "candidates", "teacher", "random", "env_steps", "seconds"} <= set(said)
    assert all(fields <= set(it) for it in said["candidates"])
    assert [(it["name"], it["params"]) for it in said["candidates"]] == [("linear", 10), ("4", 30)]
    phases = [said["seconds"][name] for name in ("load", "collect", "learn", "evaluate")]
    assert sum(phases) <= said["seconds"]["total"] + 0.01
    first = report_of(folder)
    for name in ("teacher", "student", "random", "retention", "retention_ci", "chosen", "files", "history"):
        assert said[name] == first[name], name
    assert (tmp_path / "r/config.json").read_text() == (folder / "config.json").read_text()


def test_every_path_loads_and_the_reported_return_is_measured_again(folder: Path) -> None:
    report = report_of(folder)
    for it in report["candidates"]:
        paths = [one["path"] for one in it["seeds"]]
        assert len(paths) == 2 and it["path"] in paths
        assert all(load_student(path).acting_parameters == it["params"] for path in paths)
    it = report["candidates"][0]
    again = evaluate(load_student(it["path"]), "CartPole-v1", it["episodes"], seed=500_000_000)
    assert again.mean == it["return_mean"]
    assert load_teacher(folder).acting_parameters == report["student"]["params"]


def test_the_charts(folder: Path) -> None:
    report = report_of(folder)

    def read(series: str) -> EventAccumulator:
        return EventAccumulator(str(folder / series), size_guidance={"scalars": 0}).Reload()

    for it in report["candidates"]:
        seen = read(f"students/{it['name']}")
        looks = [look for look in report["history"] if look["size"] == it["name"]]
        best = max(looks, key=lambda look: look["retention"])
        point = seen.Scalars("eval/retention")[-1]
        assert (point.step, point.value) == (best["env_steps"], pytest.approx(best["retention"]))
        worst = min(look["retention"] for look in looks)
        assert seen.Scalars("eval/retention_worst_seed")[-1].value == pytest.approx(worst)
        losses = [e.value for e in seen.Scalars("train/loss")]
        assert losses[-1] < losses[0]
        assert {"eval/mean_reward", "eval/mean_ep_length", "final/retention"} <= set(seen.Tags()["scalars"])
    common = read("frontier")
    assert {"time/fps", "train/learning_rate", "frontier/latency_us"} <= set(common.Tags()["scalars"])
    curve = [(e.step, e.value) for e in common.Scalars("frontier/retention")]
    assert curve == [(it["params"], pytest.approx(it["retention"])) for it in report["candidates"]]
    assert read("teacher").Scalars("eval/mean_reward")[-1].value == 500.0


def test_other_verbs_read_it(folder: Path, capsys: Any) -> None:
    rows = answered(capsys, "compare", folder)["rows"]
    assert [(row["size"], row["kind"]) for row in rows] == [("linear", "mlp student"), ("4", "mlp student")]
    assert [row["size"] for row in answered(capsys, "inspect", folder)["candidates"]] == ["linear", "4"]
    found = answered(capsys, "evaluate", AGENT, folder, "--episodes", "10")
    assert len(found["policies"]) == 2
    assert answered(capsys, "promote", folder, "x", "--size", "4", "--dry-run")["card"]["params"] == 30


def test_dry_run_shows_the_ladder_and_writes_nothing(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    found = answered(capsys, "frontier", AGENT, "--sizes", "8", "linear", "tree:3", "--dry-run")
    hand = [("linear", 4 * 2 + 2), ("tree:3", 2 * 2 + 3 * 2), ("8", 4 * 8 + 8 + 8 * 2 + 2)]
    assert [(it["name"], it["params"], it["share"]) for it in found["sizes"]] == [(n, p, p / 4610) for n, p in hand]
    out = Path(found["out"]).name.split("-")
    assert out[2:] == ["cartpole", "v1", "frontier"]
    assert main(["frontier", str(AGENT), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "64,64" in out and "128,128" not in out, "nobody is larger than the teacher"
    assert "nothing was written" in err
    assert list(tmp_path.iterdir()) == []


def test_a_chosen_tree_prints_its_rules(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("sklearn")
    flags = ["--sizes", "tree:8", "--target", "0.3", "--steps", "3000", "--cycles", "1", "--screen", "8"]
    assert main(["frontier", str(AGENT), *flags, "--workers", "1", "--out", str(tmp_path / "r")]) == 0
    out, _ = capsys.readouterr()
    assert report_of(tmp_path / "r")["chosen"] == "tree:8"
    assert "if obs[" in out and "else:" in out and "action = 1" in out
    assert "smallest at 0.3: tree:8" in out.splitlines()[-1]
    assert load_student(tmp_path / "r").rules() in out  # type: ignore[union-attr]


def test_without_matplotlib_there_is_a_hint(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["frontier", str(AGENT), *TINY, "--seeds", "1", "--out", str(tmp_path / "r")]) == 0
    assert capsys.readouterr().err.count("pip install 'policykd[plots]'") == 1
    assert not (tmp_path / "r/frontier.png").exists()


def test_ctrl_c_keeps_what_was_learnt(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    command = [sys.executable, "-m", "policykd", "frontier", str(AGENT), "--sizes", "4", "linear", "--seeds", "2"]
    process = subprocess.Popen(
        [*command, "--steps", "100000000", "--out", str(folder)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 300  # a guard, not a measurement
    while not list(folder.glob("students/4/events*")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1].endswith(f"{folder}/students [interrupted]")
    assert "Traceback" not in err
    assert load_student(folder / "students/linear/so-far-1").acting_parameters == 10
    assert not (folder / "report.json").exists()


@pytest.mark.parametrize(
    ("flags", "exit_code", "parts"),
    [
        (["--sizes", "4", "big"], 2, ["'big'", "linear", "[student.hidden]"]),
        (["--seeds", "0"], 2, ["--seeds 0", "at least 1", "[config.zero]"]),
        (["--target", "2"], 2, ["a target of 2.0", "[frontier.target]"]),
        (["--out", "full"], 1, ["full already holds a run", "choose another --out", "[run.exists]"]),
        (["--out", "full", "--dry-run"], 1, ["full already holds a run", "[run.exists]"]),
        (["--env", "Acrobot-v1"], 2, ["Acrobot-v1", "[space.observation]"]),
    ],
)
def test_bad_input(
    flags: list[str], exit_code: int, parts: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/run.json").touch()
    before = sorted(tmp_path.rglob("*"))
    assert main(["frontier", str(AGENT), *TINY, "--out", "runs/r", *flags]) == exit_code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert all(part in err for part in parts), err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_tree_without_scikit_learn(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.tree", None)
    for more in ([], ["--dry-run"]):
        assert main(["frontier", str(AGENT), *TINY, "--sizes", "tree:8", "4", "--out", "runs/r", *more]) == 1
        err = capsys.readouterr().err
        assert "pip install 'policykd[trees]'" in err and err.endswith("[extra.missing]\n") and err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []
    found = answered(capsys, "frontier", AGENT, "--dry-run")
    assert [it["name"] for it in found["sizes"]][:2] == ["linear", "4"], "the default ladder has no tree then"


def test_a_teacher_that_looks_at_images(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    from policykd import students
    from policykd.prediction import Origin, Spec

    class Screen(gym.Env):
        observation_space = gym.spaces.Box(0, 255, (36, 36, 1), np.uint8)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return self.observation_space.sample(), {}

    gym.register("PolicykdScreen-v0", lambda **kw: Screen())
    try:
        spec = Spec(Screen.observation_space, Screen.action_space, "categorical")
        teacher = students.mlp(spec, (4,))
        teacher.origin = Origin(algo="mlp", env_id="PolicykdScreen-v0")
        students.save(teacher, tmp_path / "teacher")
        monkeypatch.chdir(tmp_path)
        assert main(["frontier", "teacher", "--out", "runs/r"]) == 2
        err = capsys.readouterr().err
        assert "images" in err and err.endswith("[frontier.images]\n") and err.count("\n") == 1
        assert not (tmp_path / "runs").exists()
    finally:
        del gym.registry["PolicykdScreen-v0"]


@pytest.mark.parametrize(
    ("report", "answer", "keep"),
    [
        (
            made(None, linear=Interval(0.9, 0.85, 0.97), wide=Interval(0.93, 0.86, 0.97)),
            "none reaches 0.95 with its lower bound; the best is 16,16, retention 0.930 [0.860, 0.970]: "
            "r/students/16x16/seed-2; try sizes beyond 16,16 (--sizes), or --cycles 3",
            "NAME --size 16,16",
        ),
        (
            made(None, **dict.fromkeys(("tree", "linear", "wide"), Interval(None, reason="it is as random actions"))),
            "no answer: it is as random actions",
            "NAME --size tree:2",
        ),
        (
            made("linear"),
            "smallest at 0.95: linear (10 parameters, 0.22% of the teacher's): r/students/linear/seed-1",
            "NAME",
        ),
    ],
)
def test_the_answer_in_a_sentence(
    report: FrontierReport, answer: str, keep: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("policykd.cli.verbs.frontier.frontier", lambda *args, **kw: report)
    assert main(["frontier", str(AGENT), "--cycles", "2", "--out", "r"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == answer
    assert err.splitlines()[-1] == f"keep it   policykd promote r {keep}"
    assert load_student("r/students/16x16/seed-2").acting_parameters == 386
