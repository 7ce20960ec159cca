"""Every verb through the real ``main``, on CartPole and tiny budgets: what it prints, writes and returns."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cartpole_agent import write_balancer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from policykd import datasets
from policykd.cli import main
from policykd.evaluation import evaluate
from policykd.load import load_student, load_teacher

pytestmark = pytest.mark.usefixtures("own_threads")
TINY = ["--hidden", "6", "--steps", "4000", "--cycles", "1", "--rows-per-update", "16", "--batch-size", "128"]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_balancer(tmp_path_factory.mktemp("agent"), sharpness=3.0)


@pytest.fixture(scope="module")
def run(agent: Path) -> Path:
    """A finished distillation; not to be changed."""
    folder = agent.parent / "a-run"
    assert main(["distill", str(agent), *TINY, "--quiet", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training; not to be changed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    flags = ["--algo", "a2c", "--steps", "600", "--episodes", "100", "--quiet"]
    assert main(["train", "CartPole-v1", *flags, "--out", str(folder)]) == 0
    return folder


def spoken(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> dict[str, Any]:
    """The one object on stdout; nothing may be on stderr."""
    assert main([*map(str, argv), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found: dict[str, Any] = json.loads(out)
    return found


def tree(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


# --- distill


def test_distill_prints_a_comparison_and_where_to_look(agent: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["distill", str(agent), *TINY, "--out", str(tmp_path / "r")]) == 0
    out, err = capsys.readouterr()
    report = json.loads((tmp_path / "r/report.json").read_text())
    for name in ("teacher", "student", "random"):
        row = next(line for line in out.splitlines() if line.split()[:1] == [name])
        assert f"{report[name]['return_mean']:,.1f}" in row
    assert f"{report['retention']:.3f}" in out
    assert f"tensorboard --logdir {tmp_path / 'r'}" in err
    assert "retention" in err and "stopped by" in err


def test_distill_quiet_says_the_result_only(agent: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["distill", str(agent), *TINY, "--quiet", "--out", str(tmp_path / "r")]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "student" in out


def test_distill_json_is_report_json_and_the_same_seed_gives_the_same(
    agent: Path, run: Path, tmp_path: Path, capsys: Any
) -> None:
    said = spoken(capsys, "distill", agent, *TINY, "--out", tmp_path / "r")
    written = json.loads((tmp_path / "r/report.json").read_text())
    assert said == {**written, "run": str(tmp_path / "r")}
    other = json.loads((run / "report.json").read_text())
    for name in ("student", "teacher", "random", "retention", "retention_ci", "agreement", "kl", "files", "history"):
        assert said[name] == other[name], name
    assert sum(said["seconds"][k] for k in ("load", "collect", "learn", "evaluate")) <= said["seconds"]["total"] + 0.01


def test_a_config_of_a_run_makes_the_same_run(run: Path, tmp_path: Path, capsys: Any) -> None:
    said = spoken(capsys, "distill", "--config", run / "config.json", "--out", tmp_path / "r")
    assert said["files"] == json.loads((run / "report.json").read_text())["files"]
    assert (tmp_path / "r/config.json").read_text() == (run / "config.json").read_text()


def test_distill_dry_run_writes_nothing(agent: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    found = spoken(capsys, "distill", agent, "--hidden", "8", "--dry-run")
    assert found["student"] == {"hidden": [8], "params": 4 * 8 + 8 + 8 * 2 + 2, "share": 5.8}
    assert found["teacher"]["algo"] == "ppo" and found["teacher"]["params"] == 10
    assert found["env_id"] == "CartPole-v1" and found["config"]["hidden"] == "8"
    assert main(["distill", str(agent), "--max-params", "2000", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "40,40" in out and "1,922 (" in out  # 40 * 40 + 8 * 40 + 2
    assert "nothing was written" in err
    assert tree(tmp_path) == set()


def test_max_params_is_a_share_of_the_teachers(agent: Path, tmp_path: Path, capsys: Any) -> None:
    found = spoken(capsys, "distill", agent, "--max-params", "300%", "--dry-run", "--out", tmp_path / "r")
    assert found["student"]["hidden"] == [2, 2]
    assert found["student"]["params"] == 22


def test_the_default_folder_names_time_environment_and_student(
    agent: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    first = spoken(capsys, "distill", agent, *TINY, "--episodes", "10", "--select-episodes", "10")
    name = Path(first["run"])
    assert name.parent == Path("runs") and name.is_dir()
    stamp, clock, *rest = name.name.split("-")
    assert (len(stamp), len(clock), rest) == (8, 6, ["cartpole", "v1", "6"])


def test_a_loss_by_name_and_a_value_head(agent: Path, tmp_path: Path, capsys: Any) -> None:
    flags = [*TINY, "--episodes", "10", "--select-episodes", "10", "--loss", "jensen-shannon", "--value"]
    said = spoken(capsys, "distill", agent, *flags, "--out", tmp_path / "r")
    assert said["value_error"] is not None
    assert load_student(tmp_path / "r").value_head is not None


def test_a_users_loss_and_package(agent: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    (tmp_path / "shouting_loss.py").write_text(
        "from policykd.losses import forward_kl\nprint('imported')\n"
        "def shout(student, target):\n    print('called')\n    return 2 * forward_kl(student, target)\n"
    )
    (tmp_path / "my_env_package.py").write_text(
        "import gymnasium\ngymnasium.register('MyPole-v0', 'gymnasium.envs.classic_control:CartPoleEnv', "
        "max_episode_steps=50)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    flags = [*TINY, "--episodes", "10", "--select-episodes", "10", "--loss", "shouting_loss:shout"]
    flags += ["--env", "MyPole-v0", "--gym-packages", "my_env_package", "--out", "r"]
    assert main(["distill", str(agent), *flags, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["env_id"] == "MyPole-v0", "stdout holds the object alone"
    assert json.loads(out)["teacher"]["return_mean"] <= 50
    assert "imported" in err and "called" in err


def test_a_loss_that_breaks_its_contract_leaves_no_folder(
    agent: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    (tmp_path / "reduced_loss.py").write_text("def mean(student, target):\n    return student.dist.logits.mean()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["distill", str(agent), *TINY, "--loss", "reduced_loss:mean", "--out", "runs/r"]) == 2
    err = capsys.readouterr().err
    assert err.endswith("[loss.rows]\n") and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_keeps_what_was_learnt(agent: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    command = [sys.executable, "-m", "policykd", "distill", str(agent), "--hidden", "6", "--steps", "100000000"]
    command += ["--out", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 300  # a guard, not a measurement
    while not list(folder.glob("student/events*")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1].endswith(f"policykd evaluate {folder} [interrupted]")
    assert "Traceback" not in err
    assert load_student(folder).origin.env_id == "CartPole-v1"
    assert len(list(folder.glob("checkpoints/*/learner.safetensors"))) == 1
    assert not (folder / "report.json").exists()


# --- the other verbs


def test_train_makes_a_run_that_every_verb_reads(trained: Path, tmp_path: Path, capsys: Any) -> None:
    report = json.loads((trained / "report.json").read_text())
    assert (report["kind"], report["method"], report["env_id"]) == ("train", "a2c", "CartPole-v1")
    assert report["env_steps"] == 600
    phases = {"load", "learn", "evaluate"}
    assert set(report["seconds"]) == phases | {"total"} and set(report["cpu_seconds"]) == phases
    assert sum(report["seconds"][name] for name in phases) <= report["seconds"]["total"]
    assert all(spent > 0 for spent in (*report["seconds"].values(), report["cpu_seconds"]["learn"]))
    assert report["teacher"]["episodes"] == report["random"]["episodes"] == 100
    teacher = load_teacher(trained)
    again = evaluate(teacher, "CartPole-v1", 100, seed=500_000_000)
    assert again.mean == report["teacher"]["return_mean"]
    assert set(report["files"]) == {"CartPole-v1.zip"}
    card = spoken(capsys, "promote", trained, "cartpole-a2c", "--out", tmp_path / "agents")["card"]
    assert (card["kind"], card["algo"], card["params"]) == ("teacher", "a2c", 4 * 64 + 64 + 64 * 64 + 64 + 64 * 2 + 2)
    assert card["command"].startswith("policykd train CartPole-v1 --algo a2c")
    shelved = load_teacher(tmp_path / "agents/cartpole-a2c")
    obs = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    one, two = (policy.predict(obs, deterministic=True)[0] for policy in (teacher, shelved))
    np.testing.assert_array_equal(one, two)
    assert shelved.origin.env_id == "CartPole-v1"
    found = spoken(capsys, "distill", tmp_path / "agents/cartpole-a2c", "--dry-run", "--out", tmp_path / "r")
    assert found["env_id"] == "CartPole-v1"


def test_train_dry_run(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    recipe = tmp_path / "pole.py"
    recipe.write_text(
        "from policykd.recipe import Recipe\n"
        "PPO = dict(n_envs=2, learning_rate='lin_1e-3')\n"
        "RECIPE = Recipe('CartPole-v1', reward_threshold=7.0, hyperparams={'ppo': PPO})\n"
    )
    monkeypatch.chdir(tmp_path)
    found = spoken(capsys, "train", "pole.py", "--dry-run")
    assert (found["threshold"], found["algo"]) == (7.0, "ppo")
    assert found["hyperparams"] == {"n_envs": "2", "learning_rate": "lin_1e-3"}
    assert found["out"].startswith("runs/") and found["out"].endswith("-cartpole-v1-ppo")
    assert tree(tmp_path) == {"pole.py"}


def test_evaluate_side_by_side(agent: Path, run: Path, capsys: Any) -> None:
    found = spoken(capsys, "evaluate", agent, run, "--episodes", "100", "--seed", "5")
    teacher, student = found["policies"]
    assert teacher["return_mean"] == 500.0 and "retention" not in teacher
    alone = evaluate(load_student(run), "CartPole-v1", 100, seed=5)
    assert student["return_mean"] == alone.mean and student["return_ci"] == list(alone.ci())
    random = found["random"]["CartPole-v1"]["return_mean"]
    assert student["retention"] == pytest.approx((alone.mean - random) / (500.0 - random))
    assert main(["evaluate", str(agent), "--episodes", "20", "--stochastic"]) == 0
    out, err = capsys.readouterr()
    assert "500.0 [500.0, 500.0]" not in out and "random" in out and "playing 20 episodes" in err


def test_compare_reads_runs_and_agents_and_plays_nothing(
    run: Path, trained: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    spoken(capsys, "promote", run, "cartpole-6", "--out", tmp_path / "agents")
    shutil.copytree(run, tmp_path / "runs" / "one")
    shutil.copytree(trained, tmp_path / "runs" / "two")
    (tmp_path / "runs" / "unfinished").mkdir()
    monkeypatch.chdir(tmp_path)
    rows = spoken(capsys, "compare", "agents", "runs")["rows"]
    assert [(r["path"], r["kind"]) for r in rows] == [
        ("agents/cartpole-6", "mlp student"),
        ("runs/one", "mlp student"),
        ("runs/two", "a2c teacher"),
    ]
    report = json.loads((run / "report.json").read_text())
    for row in rows[:2]:
        assert row["return_mean"] == report["student"]["return_mean"]
        assert (row["retention"], row["bytes"]) == (report["retention"], report["student"]["bytes"])
    assert main(["compare", "agents", "runs/two"]) == 0
    out, _ = capsys.readouterr()
    assert "agents/cartpole-6" in out and "runs/two" in out
    assert main(["compare", "runs/unfinished"]) == 1
    assert capsys.readouterr().err.endswith("[compare.nothing]\n")


def test_inspect_a_teacher_and_a_student(agent: Path, run: Path, capsys: Any) -> None:
    found = spoken(capsys, "inspect", agent)
    assert (found["kind"], found["algo"], found["acting_parameters"], found["problem"]) == ("teacher", "ppo", 10, None)
    assert found["env_id"] == "CartPole-v1"
    assert main(["inspect", str(agent)]) == 0
    out, _ = capsys.readouterr()
    assert "action_net.weight" in out and "code:" in out
    student = spoken(capsys, "inspect", run)
    assert (student["kind"], student["hidden"], student["acting_parameters"]) == ("student", [6], 4 * 6 + 6 + 6 * 2 + 2)


def test_inspect_shows_hostile_code_and_does_not_run_it(tmp_path: Path, capsys: Any) -> None:
    import base64
    import io
    import pickle
    import zipfile

    class Hostile:
        def __reduce__(self) -> Any:
            return (exec, (f"open({str(tmp_path / 'owned')!r}, 'w')",))

    source = write_balancer(tmp_path) / "CartPole-v1.zip"
    with zipfile.ZipFile(source) as old:
        members = {name: old.read(name) for name in old.namelist()}
    data = json.loads(members["data"])
    data["lr_schedule"] = {":type:": "x", ":serialized:": base64.b64encode(pickle.dumps(Hostile())).decode()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as new:
        for name, content in members.items():
            new.writestr(name, json.dumps(data) if name == "data" else content)
    source.write_bytes(buffer.getvalue())
    assert main(["inspect", str(source)]) == 0
    out, _ = capsys.readouterr()
    assert "dangerous" in out and "builtins.exec" in out and "DANGEROUS" in out
    assert not (tmp_path / "owned").exists()


def test_label_and_learn_from_it(agent: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "data"
    planned = spoken(capsys, "label", agent, "--out", out, "--steps", "3000", "--dry-run")
    assert planned["steps"] == 3000 and not out.exists()
    found = spoken(capsys, "label", agent, "--out", out, "--steps", "3000", "--num-envs", "5", "--seed", "1")
    assert found["steps"] == 3000 and found["return_mean"] == 500.0
    data = datasets.read(out)
    assert data.manifest.steps == 3000
    assert data.manifest.about["command"].startswith("policykd label")
    batch = next(iter(data))
    teacher = load_teacher(agent)
    assert torch.equal(teacher.label(batch.obs).dist.mode(), batch.target.dist.mode())
    assert main(["label", str(agent), "--out", str(out)]) == 1
    assert capsys.readouterr().err.endswith("[dataset.exists]\n")
    flags = [*TINY, "--method", "dataset", "--dataset", out, "--episodes", "10", "--select-episodes", "10"]
    said = spoken(capsys, "distill", agent, *flags, "--out", tmp_path / "r")
    assert said["method"] == "dataset" and said["updates"] > 0 and said["env_steps"] == 0
    points = EventAccumulator(str(tmp_path / "r" / "student")).Reload().Scalars("final/retention")
    assert [p.step for p in points] == [said["history"][-1]["env_steps"]], "not at the beginning of the curves"


def test_doctor_knows_what_is_missing(monkeypatch: Any, capsys: Any) -> None:
    from importlib import metadata

    real = metadata.version

    def version(name: str) -> str:
        if name == "mujoco":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr("policykd.cli.verbs.doctor.metadata.version", version)
    found = spoken(capsys, "doctor")
    assert found["core"]["torch"] == torch.__version__
    assert found["extras"]["mujoco"]["mujoco"] is None
    assert {"python", "torch threads", "MUJOCO_GL", "disk free"} <= set(found["machine"])
    assert main(["doctor"]) == 0
    out, _ = capsys.readouterr()
    assert "pip install 'policykd[mujoco]'" in out and "all of the core is here" in out


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("envs", "CartPole-v1"),
        ("losses", "forward-kl"),
        ("methods", "dagger"),
        ("students", "linear"),
    ],
)
def test_list(what: str, name: str, capsys: Any) -> None:
    found = spoken(capsys, "list", what)
    assert name in [next(iter(row.values())) for row in found[what]]
    assert main(["list", what]) == 0
    assert name in capsys.readouterr().out


def test_list_what_a_folder_holds(run: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "good.py").write_text("from policykd.recipe import Recipe\nRECIPE = Recipe('CartPole-v1')\n")
    (tmp_path / "bad.py").write_text("")
    found = spoken(capsys, "list", "envs", "--folder", tmp_path)["envs"]
    assert (found[1]["env"], found[1]["id"]) == (str(tmp_path / "good.py"), "CartPole-v1")
    assert "[env.recipe]" in found[0]["id"]
    assert [row["path"] for row in spoken(capsys, "list", "runs", "--folder", run.parent)["runs"]] == [str(run)]
    assert spoken(capsys, "list", "agents", "--folder", tmp_path)["agents"] == []


def test_threads_are_set_by_the_command_line_alone(agent: Path, tmp_path: Path, capsys: Any) -> None:
    torch.set_num_threads(2)
    spoken(capsys, "distill", agent, "--dry-run", "--out", tmp_path / "r")
    assert torch.get_num_threads() == 1
    spoken(capsys, "distill", agent, "--dry-run", "--threads", "2", "--out", tmp_path / "r")
    assert torch.get_num_threads() == 2
