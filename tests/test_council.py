"""Several teachers as one for every verb: who is refused, what a Q-teacher's word becomes, and a run of it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import policykd as kd
from policykd.cli import main
from policykd.errors import SpaceError, UnknownNameError, UsageError

AGENTS = Path(__file__).parents[1] / "agents"
PPO, DQN = AGENTS / "cartpole-ppo", AGENTS / "cartpole-dqn"


def test_action_values_become_a_law_with_a_scale_of_their_own() -> None:
    together = kd.council([PPO, DQN])
    ppo, dqn = kd.load_teacher(PPO), kd.load_teacher(DQN)
    obs = kd.rollouts.play(ppo, kd.recipe.load("CartPole-v1"), range(5), keep=200).obs
    assert isinstance(obs, torch.Tensor)
    laws = [together.label(obs).dist.probs, ppo.label(obs).dist.probs]  # type: ignore[union-attr]
    q_law = 2 * laws[0] - laws[1]  # what the other half of the mean must be
    said = dqn.label(obs).q
    assert said is not None
    # softmax(Q / unit) for one unit: the log-odds are the gaps of Q over it, wherever it is not saturated.
    inner = ((q_law > 1e-3) & (q_law < 1 - 1e-3)).all(-1)
    gaps, odds = (said[:, 1] - said[:, 0])[inner], (q_law[:, 1] / q_law[:, 0])[inner].log()
    unit = gaps / odds
    assert inner.sum() > 15
    torch.testing.assert_close(unit, unit.median().expand_as(unit), rtol=2e-2, atol=0.0)


def test_alone_a_teacher_is_what_it_was() -> None:
    obs = torch.randn(50, 4)
    torch.testing.assert_close(
        kd.council([PPO]).label(obs).dist.probs,  # type: ignore[union-attr]
        kd.load_teacher(PPO).label(obs).dist.probs,  # type: ignore[union-attr]
    )


def test_the_same_call_gives_the_same_teacher() -> None:
    obs = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    first, second = (kd.council([PPO, DQN]).label(torch.from_numpy(obs)).dist for _ in range(2))
    assert torch.equal(first.probs, second.probs)  # type: ignore[union-attr]


def test_a_function_of_the_users_combines_as_well() -> None:
    obs = torch.randn(9, 4)
    first = kd.council([PPO, PPO], lambda said: said[0]).label(obs).dist
    torch.testing.assert_close(first.probs, kd.load_teacher(PPO).label(obs).dist.probs)  # type: ignore[union-attr]


def test_weights_are_a_partial_of_the_mean() -> None:
    obs = torch.randn(30, 4)
    ppo, dqn, both = (
        kd.council(paths, how).label(obs).dist.probs  # type: ignore[union-attr]
        for paths, how in (
            ([PPO, DQN], partial(kd.losses.combine.mean, weights=(1.0, 0.0))),
            ([PPO, DQN], partial(kd.losses.combine.mean, weights=(0.0, 1.0))),
            ([PPO, DQN], partial(kd.losses.combine.mean, weights=(0.7, 0.3))),
        )
    )
    torch.testing.assert_close(ppo, kd.load_teacher(PPO).label(obs).dist.probs)  # type: ignore[union-attr]
    assert not torch.allclose(ppo, dqn)
    torch.testing.assert_close(both, 0.7 * ppo + 0.3 * dqn)


def test_who_does_not_fit_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="meen"):
        kd.council([PPO], "meen")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"ensemble\.empty"):
        kd.council([])
    with pytest.raises(SpaceError, match="teacher 1"):
        kd.council([PPO, AGENTS / "acrobot-a2c"])


def test_the_shell_distils_two_teachers_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    how = ["--steps", "3000", "--cycles", "1", "--episodes", "100", "--max-episodes", "100", "--workers", "1"]
    command = ["distill", str(PPO), "--also", str(DQN), "--hidden", "8", "--out", str(run), "--json", *how]
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["teacher"]["algo"] == "ppo + dqn"
    assert said["teacher"]["return_mean"] > 450 and said["retention"] > 0.9
    assert json.loads((run / "config.json").read_text())["also"] == [str(DQN)]
