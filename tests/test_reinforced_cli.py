"""``policykd distill --method ppd``: the same run folder, report and charts as of any other method, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cartpole_agent import write_balancer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import policykd as kd
from policykd.cli import main
from policykd.config import RewardConfig
from policykd.errors import PolicykdError


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = write_balancer(tmp_path, sharpness=3.0)
    reward = "--imitate 1024 --rollout 128 --critic-first 1 --looks 1 --teacher-until 0"
    measure = "--select-episodes 4 --episodes 20 --hidden 6 --json"
    flags = ["--method", "ppd", "--steps", "2000", *reward.split(), *measure.split(), "--out", str(tmp_path / "r")]
    assert main(["distill", str(agent), *flags]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["method"] == "ppd" and said["stopped_by"] == "budget" and said["config"]["rollout"] == 128
    written = json.loads((tmp_path / "r/config.json").read_text())
    assert written["method"] == "ppd" and written["teacher_until"] == 0
    assert kd.load_student(tmp_path / "r" / "student").acting_parameters == 4 * 6 + 6 + 6 * 2 + 2
    events = EventAccumulator(str(tmp_path / "r/student"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= {"distill/weight/teacher/policy", "train/loss", "rollout/ep_rew_mean", "eval/mean_reward"}
    assert main(["distill", str(agent), "--method", "ppd", "--value"]) == 2
    assert "leave --value out [reinforced.actor]" in capsys.readouterr().err
    assert main(["distill", str(agent), "--method", "pdd"]) == 2
    assert "ppd" in capsys.readouterr().err
    with pytest.raises(PolicykdError):
        kd.distill(agent, method="kickstart", reward=RewardConfig(), steps=0)
