"""The mistakes that people make, through the command line: one line with a code, an exit code, nothing left behind."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cartpole_agent import write_balancer
from hostile_zips import fields_of, pickled, rewrite, saved, weights_of

from policykd.cli import main

RUN = ["--steps", "2000", "--cycles", "1", "--episodes", "10", "--select-episodes", "10", "--out", "runs/r"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_balancer(tmp_path_factory.mktemp("good")) / "CartPole-v1.zip"


def weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path, Path], Any]:
    """Write the good agent with another ``action_net.weight``."""

    def write(good: Path, bad: Path) -> None:
        tensors = weights_of(good)
        tensors["action_net.weight"] = change(tensors["action_net.weight"])
        rewrite(good, bad, {"policy.pth": saved(tensors)})

    return write


def fields(**changes: Any) -> Callable[[Path, Path], Any]:
    """Write the good agent with other fields."""

    def write(good: Path, bad: Path) -> None:
        rewrite(good, bad, {"data": json.dumps({**fields_of(good), **changes}).encode()})

    return write


def half(good: Path, bad: Path) -> None:
    whole = good.read_bytes()
    bad.write_bytes(whole[len(whole) // 2 :])


def sb2(good: Path, bad: Path) -> None:
    """What stable-baselines 2 wrote: parameters as a list and an array."""
    rewrite(good, bad, {"policy.pth": None, "parameters": b"x", "parameter_list": b"[]"})


def put(content: bytes) -> Callable[[Path, Path], Any]:
    return lambda good, bad: bad.write_bytes(content)


class Policy:
    """Of a class that only its maker has."""


FILES: list[tuple[str, Callable[[Path, Path], Any] | None, str]] = [
    ("missing", None, "path.missing"),
    ("empty", put(b""), "zip.not-a-zip"),
    ("not a zip", put(b"hello" * 50), "zip.not-a-zip"),
    ("the second half", half, "zip.truncated"),
    ("the first half", lambda g, b: b.write_bytes(g.read_bytes()[: g.stat().st_size // 2]), "zip.truncated"),
    ("LFS pointer", put(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"), "sb3.missing-member"),
    ("SB2", sb2, "sb3.missing-member"),
    ("wrong shapes", weights(lambda t: torch.zeros(2, 7)), "weights.shape"),
    ("NaN", weights(lambda t: torch.full_like(t, float("nan"))), "weights.not-finite"),
    ("infinite", weights(lambda t: torch.full_like(t, float("inf"))), "weights.not-finite"),
    ("complex", weights(lambda t: t.to(torch.complex64)), "weights.dtype"),
    ("custom policy class", fields(policy_class=pickled(Policy)), "policy."),
]
VERBS = {
    "distill": RUN,
    "evaluate": [],
    "label": ["--out", "data"],
    "inspect": [],
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("what", "write", "code"), FILES, ids=[what for what, _, _ in FILES])
def test_files(
    verb: str, what: str, write: Any, code: str, good: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    if write is not None:
        write(good, tmp_path / "bad.zip")
    before = sorted(p.name for p in tmp_path.iterdir())
    exit_code = main([verb, "bad.zip", *VERBS[verb]])
    out, err = capsys.readouterr()
    if verb == "inspect" and exit_code == 0:
        assert f"[{code}" in out.rpartition("does not load: ")[2], "inspect describes what load refuses"
        return
    assert (exit_code, out) == (1, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert f"[{code}" in err or (verb, what) == ("inspect", "missing")
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("flags", "exit_code", "parts"),
    [
        (["--env", "CartPol-v1"], 1, ["'CartPol-v1' is not known", "did you mean CartPole-v1", "[env.unknown]"]),
        (["--env", "envs/no.py"], 1, ["no file envs/no.py", "[env.recipe]"]),
        (["--env", "Acrobot-v1"], 2, ["Acrobot-v1", "(6,)", "(4,)", "--env", "[space.observation]"]),
        (["--gym-packages", "no_such_package"], 2, ["no_such_package", "[env.package]"]),
        (["--env", "no_such_package:Env-v0"], 1, ["no_such_package", "[env."]),
        (["--normalizer", "no.pkl"], 1, ["no.pkl", "[file.missing]"]),
        (["--loss", "no_such_module:f"], 2, ["no_such_module", "[loss.import]"]),
        (["--loss", "wasserstein2"], 1, ["Categorical", "["]),
        (["--max-params", "5"], 2, ["5 parameters", "[student.budget]"]),
        (["--max-params", "1%"], 2, ["1%", "[student.budget]"]),
        (["--steps", "0"], 2, ["--steps 0", "[config.zero]"]),
        (["--episodes", "0"], 2, ["--episodes 0", "[config.zero]"]),
        (["--method", "dataset"], 2, ["dataset", "["]),
        (["--method", "dataset", "--dataset", "no"], 1, ["no", "[dataset.missing]"]),
        (["--out", "full"], 1, ["full is not empty", "choose another --out", "[run.exists]"]),
        (["--out", "full", "--dry-run"], 1, ["full is not empty", "[run.exists]"]),
        (["--out", "file/below"], 1, ["file/below", "a folder that can be written", "[run.unwritable]"]),
        (["--out", "/proc/nobody/writes/here"], 1, ["/proc/nobody", "[run.unwritable]"]),
    ],
)
def test_distill(
    flags: list[str], exit_code: int, parts: list[str], good: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/precious").touch()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    for more in ([], ["--json"]):
        assert main(["distill", str(good.parent), *RUN, *flags, *more]) == exit_code
        out, err = capsys.readouterr()
        assert err.startswith("error: ") and err.count("\n") == 1
        assert all(part in err for part in parts), err
        assert (json.loads(out)["error"]["code"] in err) if more else out == ""
        assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_extra_is_named(good: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    assert main(["distill", str(good), *RUN, "--env", "Hopper-v4"]) == 1
    assert "pip install 'policykd[mujoco]'" in capsys.readouterr().err
    assert main(["train", "Hopper-v4", "--out", "runs/r", "--steps", "10"]) == 1
    err = capsys.readouterr().err
    assert "pip install 'policykd[mujoco]'" in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_that_does_not_say_where_it_lives(good: Path, tmp_path: Path, capsys: Any) -> None:
    alone = tmp_path / "model.zip"
    shutil.copyfile(good, alone)
    assert main(["distill", str(alone), *RUN]) == 2
    err = capsys.readouterr().err
    assert "--env" in err and err.endswith("[env.missing]\n") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "exit_code", "code"),
    [
        (["train", "CartPol-v1"], 1, "env.unknown"),
        (["train", "CartPole-v1", "--algo", "sac"], 2, "space.action"),
        (["train", "CartPole-v1", "--out", "full"], 1, "run.exists"),
        (["train", "CartPole-v1", "--out", "file/below"], 1, "run.unwritable"),
        (["promote", "full", "name"], 1, "run.missing"),
        (["promote", "no", "name"], 1, "run.missing"),
        (["compare", "full"], 1, "compare.nothing"),
        (["compare", "no"], 1, "compare.nothing"),
        (["evaluate", "full"], 1, "path.nothing"),
        (["inspect", "full"], 1, "teacher.folder"),
    ],
)
def test_other_verbs(argv: list[str], exit_code: int, code: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/precious").touch()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    assert main(argv) == exit_code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert err.endswith(f"[{code}]\n")
    assert sorted(tmp_path.rglob("*")) == before
