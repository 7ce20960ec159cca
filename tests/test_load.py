"""Any path to a policy: files, folders, shelf entries and runs, and what is said where there is none."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import policykd as kd
from policykd import students
from policykd.errors import CheckpointError, UsageError
from policykd.load import load_student, load_teacher
from policykd.prediction import EnvWrapper, Spec
from policykd.students import Student
from policykd.students.sb3 import to_sb3
from policykd.teachers import Teacher

OBS = np.random.default_rng(0).normal(0, 2, (300, 4)).astype(np.float32)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A zoo folder that SB3 itself wrote, and its actions on OBS with and without the normaliser."""
    folder = tmp_path_factory.mktemp("logs") / "ppo" / "CartPole-v1_1"
    venv = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    venv.seed(0)
    model = PPO("MlpPolicy", venv, n_steps=64, seed=0, device="cpu")
    model.learn(64)
    with torch.no_grad():
        model.policy.action_net.weight.mul_(50)  # type: ignore[operator, union-attr]
    (folder / "CartPole-v1").mkdir(parents=True)
    model.save(folder / "CartPole-v1.zip")
    venv.save(str(folder / "CartPole-v1" / "vecnormalize.pkl"))
    own, _ = model.predict(venv.normalize_obs(OBS), deterministic=True)  # type: ignore[arg-type]
    plain, _ = model.predict(OBS, deterministic=True)
    assert not np.array_equal(own, plain)
    return folder, own, plain


@pytest.fixture
def student() -> Student:
    spec = Spec(spaces.Box(-np.inf, np.inf, (4,)), spaces.Discrete(2), "categorical")
    made = students.mlp(spec, (8,), value=True, seed=1)
    students.fit_normaliser(made, torch.from_numpy(OBS))
    with torch.no_grad():
        made.action_head.weight.mul_(50)
    return made


def actions(policy: kd.Policy) -> np.ndarray:
    return policy.predict(OBS, deterministic=True)[0]


def shelf(folder: Path, card: dict[str, Any], *sources: Path) -> Path:
    """A shelf entry of copies of ``sources``."""
    folder.mkdir()
    for source in sources:
        name = "model.zip" if source.suffix == ".zip" else source.name
        shutil.copy(source, folder / name)
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def test_sb3_paths(zoo: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    folder, own, plain = zoo
    for path in (
        folder,
        folder / "CartPole-v1.zip",
        str(folder),
        folder.parent / "CartPole-v1_1" / ".." / "CartPole-v1_1",
    ):
        assert np.array_equal(actions(load_teacher(path)), own), path
    without_suffix = tmp_path / "agent"
    shutil.copy(folder / "CartPole-v1.zip", tmp_path / "agent.zip")
    assert np.array_equal(actions(load_teacher(without_suffix, normalizer=None)), plain)
    named = load_teacher(without_suffix, normalizer=folder / "CartPole-v1" / "vecnormalize.pkl")
    assert np.array_equal(actions(named), own)
    assert np.array_equal(actions(load_teacher(folder, normalizer=None)), plain)
    assert kd.load_teacher is load_teacher


def test_student_paths(student: Student, tmp_path: Path) -> None:
    run = tmp_path / "run"
    students.save(student, run / "student")
    (run / "report.json").write_text("{}")
    flat = tmp_path / "flat"
    students.save(student, flat)
    (flat / "report.json").write_text("{}")
    for path in (run, run / "student", run / "student" / "student.safetensors", flat, flat / "student.safetensors"):
        for found in (load_teacher(path), load_student(path)):
            assert isinstance(found, Student) and np.array_equal(actions(found), actions(student))
    with pytest.raises(UsageError, match=r"path\.normalizer"):
        load_teacher(flat, normalizer="vecnormalize.pkl")


def test_a_shelf_entry_of_a_teacher(zoo: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    folder, own, plain = zoo
    parts = (folder / "CartPole-v1.zip", folder / "CartPole-v1" / "vecnormalize.pkl")
    card = {"env_id": "CartPole-v1", "env_kwargs": {"sutton_barto_reward": True}, "wrappers": [{"name": "TimeFeature"}]}
    entry = shelf(tmp_path / "cartpole-ppo", {**card, "sha256": sha256(parts[0])}, *parts)
    policy = load_teacher(entry)
    assert isinstance(policy, Teacher) and np.array_equal(actions(policy), own)
    assert policy.origin.env_id == "CartPole-v1" and policy.origin.env_kwargs == {"sutton_barto_reward": True}
    assert policy.origin.wrappers == (EnvWrapper("TimeFeature"),)
    assert np.array_equal(actions(load_teacher(entry, normalizer=None)), plain)

    table = {"model.zip": sha256(parts[0]), "vecnormalize.pkl": sha256(parts[1])}
    entry = shelf(tmp_path / "both", {**card, "sha256": table}, *parts)
    assert np.array_equal(actions(load_teacher(entry)), own)


def test_a_shelf_entry_of_a_student(student: Student, tmp_path: Path) -> None:
    path = students.save(student, tmp_path / "made")
    entry = shelf(tmp_path / "shelf", {"sha256": sha256(path)}, path, path.with_suffix(".json"))
    assert np.array_equal(actions(load_student(entry)), actions(student))
    entry = shelf(tmp_path / "no-hash", {"env_id": "CartPole-v1"}, path, path.with_suffix(".json"))
    assert load_student(entry).origin.env_id == "CartPole-v1"


def test_a_shelf_entry_that_is_not_what_its_card_says(student: Student, tmp_path: Path) -> None:
    path = students.save(student, tmp_path / "made")
    both = (path, path.with_suffix(".json"))
    wrong: list[Any] = [
        "0" * 64,
        {"student.safetensors": "0" * 64},
        {"student.safetensors": sha256(path), "student.json": "0" * 64},
        {"missing.pkl": "0" * 64},
        {"../made/student.safetensors": sha256(path)},
    ]
    for i, said in enumerate(wrong):
        with pytest.raises(CheckpointError, match=r"card\.sha256"):
            load_teacher(shelf(tmp_path / str(i), {"sha256": said}, *both))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"sha256": 3}', '{"env_id": "X-v0", "wrappers": [3]}', '{"env_id": "X-v0", "env_kwargs": 3}'],
)
def test_a_card_that_is_none(text: str, student: Student, tmp_path: Path) -> None:
    path = students.save(student, tmp_path / "made")
    entry = shelf(tmp_path / "entry", {}, path, path.with_suffix(".json"))
    (entry / "card.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"card\.json"):
        load_teacher(entry)


def test_a_zip_of_a_student_comes_back_as_a_student(student: Student, tmp_path: Path) -> None:
    path = to_sb3(student, tmp_path / "logs" / "CartPole-v1")
    found = load_student(path)
    assert np.array_equal(actions(found), actions(student)) and found.shape.hidden == (8,)
    assert torch.equal(found(torch.from_numpy(OBS)).dist.logits, student(torch.from_numpy(OBS)).dist.logits)
    assert isinstance(load_teacher(path), Teacher)
    # The teacher's value network reads the student's values, in the environment's reward units.
    value, mine = load_teacher(path).label(torch.from_numpy(OBS)).value, student.label(torch.from_numpy(OBS)).value
    assert value is not None and mine is not None and torch.allclose(value, mine, atol=1e-5)


def test_any_mlp_teacher_becomes_a_student(zoo: tuple[Path, np.ndarray, np.ndarray]) -> None:
    folder, own, _ = zoo
    found = load_student(folder)
    assert found.shape.hidden == (64, 64) and np.array_equal(actions(found), own)


def test_missing_paths_name_their_neighbours(tmp_path: Path) -> None:
    (tmp_path / "agents" / "lunarlander-ppo").mkdir(parents=True)
    with pytest.raises(CheckpointError) as caught:
        load_teacher(tmp_path / "agents" / "lunarlander-pp")
    assert caught.value.code == "path.missing"
    assert f"did you mean {tmp_path / 'agents' / 'lunarlander-ppo'}?" in str(caught.value)
    with pytest.raises(CheckpointError, match=r"did you mean .*agents\?.*path\.missing"):
        load_teacher(tmp_path / "agent" / "lunarlander-ppo" / "model.zip")
    with pytest.raises(CheckpointError, match=r"look in .*path\.missing"):
        load_teacher(tmp_path / "zzz")


def test_folders_without_a_policy_say_what_they_hold(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"it is empty.*student\.safetensors.*model\.zip.*path\.nothing"):
        load_teacher(tmp_path)
    for i in range(12):
        (tmp_path / f"file{i:02}.txt").write_text("")
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "sub").mkdir()
    with pytest.raises(CheckpointError, match=r"file00\.txt.*and 6 more.*path\.nothing"):
        load_teacher(tmp_path)


def test_files_that_are_no_policy(tmp_path: Path) -> None:
    for name, content in (("a.zip", b"no zip"), ("a.txt", b"text"), ("a.safetensors", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError):
            load_teacher(tmp_path / name)


def test_paths_that_the_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"path\.unreadable") as caught:
        load_teacher(tmp_path / ("x" * 5000))
    assert len(str(caught.value)) < 400
    with pytest.raises(CheckpointError, match=r"path\.missing"):
        load_teacher(str(tmp_path / "a\0b"))

    def closed(self: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(CheckpointError, match=r"Permission denied.*path\.unreadable"):
        load_teacher(tmp_path)
