"""The drifting CartPole: gymnasium's own at standard physics, Florian's equations elsewhere, two views of one world."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from policykd import recipe
from policykd.teachers import train

FILE = Path(__file__).parents[1] / "envs/drifting_cartpole.py"
WORLD = runpy.run_path(str(FILE))
make, STANDARD, BEFORE, AFTER = (WORLD[name] for name in ("make", "STANDARD", "BEFORE", "AFTER"))


def shown(info: dict[str, Any]) -> np.ndarray:
    """The physics in the teacher's view, in their units."""
    return info["teacher_obs"][4:].astype(float) * STANDARD


def test_at_standard_physics_it_is_gymnasiums_cartpole() -> None:
    ours, theirs = make(physics=STANDARD, privileged=False), gym.make("CartPole-v1")
    assert ours.observation_space == theirs.observation_space
    for seed in range(5):
        a, b = ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0]
        ours.action_space.seed(seed)
        over = False
        while not over:
            np.testing.assert_array_equal(a, b)
            action = ours.action_space.sample()
            (a, *ended, info), (b, *also, _) = ours.step(action), theirs.step(action)
            assert ended == also
            assert (info["teacher_obs"][4:] == 1).all()
            over = ended[1] or ended[2]


@pytest.mark.parametrize("physics", [BEFORE, AFTER, (1.0, 3.7, 7.0)])
def test_elsewhere_it_obeys_florians_equations(physics: tuple[float, float, float]) -> None:
    """Florian 2007, "Correct equations for the dynamics of the cart-pole system", without friction: (23) and (24)."""
    length, gravity, force = physics
    env = make(physics=physics, privileged=False)
    env.reset(seed=0, options={"low": -0.1, "high": 0.1})
    for action in (1, 0, 0, 1):
        x, v, theta, omega = env.unwrapped.state
        push = force if action == 1 else -force
        pull = (push + 0.1 * length * omega**2 * math.sin(theta)) / 1.1
        turn = (gravity * math.sin(theta) - math.cos(theta) * pull) / (
            length * (4 / 3 - 0.1 * math.cos(theta) ** 2 / 1.1)
        )
        slide = pull - 0.1 * length * turn * math.cos(theta) / 1.1
        expected = [x + 0.02 * v, v + 0.02 * slide, theta + 0.02 * omega, omega + 0.02 * turn]
        np.testing.assert_allclose(env.step(action)[0], expected, rtol=1e-5, atol=1e-7)


def test_both_views_are_of_one_world() -> None:
    student, teacher = make(privileged=False), make()
    assert (student.observation_space.shape, teacher.observation_space.shape) == ((4,), (7,))
    for seed in range(10):
        (four, info), (seven, _) = student.reset(seed=seed), teacher.reset(seed=seed)
        for action in (0, 1, 1, 0):
            assert teacher.observation_space.contains(seven)
            assert student.observation_space.contains(four)
            np.testing.assert_array_equal(four, seven[:4])
            np.testing.assert_array_equal(info["teacher_obs"], seven)
            (four, *_, info), (seven, *_) = student.step(action), teacher.step(action)


def test_training_draws_each_number_log_uniformly_for_each_episode() -> None:
    env = make()
    drawn = np.array([shown(env.reset(seed=seed)[1]) for seed in range(400)])
    low, high = np.log(WORLD["LOW"]), np.log(WORLD["HIGH"])
    share = (np.log(np.abs(drawn)) - low) / (high - low)
    assert share.min() > -1e-6
    assert share.max() < 1 + 1e-6
    for column in share.T:  # Kolmogorov's distance to uniform, 0.1 % point
        assert np.abs(np.sort(column) - (np.arange(400) + 0.5) / 400).max() < 1.95 / math.sqrt(400)
    assert (drawn[:, :2] > 0).all()
    assert abs((drawn[:, 2] < 0).mean() - 0.5) < 3.3 * 0.5 / math.sqrt(400)
    _, info = env.reset(seed=0)
    held = shown(info)
    for _ in range(5):
        np.testing.assert_allclose(shown(env.step(0)[4]), held)
    assert not np.allclose(shown(env.reset()[1]), held)


def lives(env: gym.Env, steps: int) -> np.ndarray:
    """The physics that each of the first steps happens in."""
    seen, info = [], env.reset(seed=0)[1]
    for i in range(steps):
        seen.append(shown(info))
        assert env.unwrapped.length == pytest.approx(seen[-1][0], rel=1e-6)
        *_, terminated, truncated, info = env.step(i % 2)
        if terminated or truncated:
            info = env.reset()[1]
    return np.array(seen)


def test_an_abrupt_change_comes_at_its_step_whatever_the_episode() -> None:
    seen = lives(make(physics=BEFORE, then=AFTER, change=70), 90)
    np.testing.assert_allclose(seen[:70], np.tile(BEFORE, (70, 1)), rtol=1e-6)
    np.testing.assert_allclose(seen[70:], np.tile(AFTER, (20, 1)), rtol=1e-6)


def test_a_gradual_change_is_a_straight_line_but_for_the_sign() -> None:
    seen = lives(make(physics=BEFORE, then=AFTER, change=20, until=60), 80)
    share = np.clip((np.arange(80) - 20) / 40, 0, 1)[:, None]
    sizes = (1 - share) * np.abs(BEFORE) + share * np.abs(AFTER)
    np.testing.assert_allclose(np.abs(seen), sizes, rtol=1e-6)
    assert (BEFORE[2] > 0 > AFTER[2], (seen[:40] > 0).all(), (seen[40:, 2] < 0).all()) == (True, True, True)


def test_both_worlds_lie_within_what_the_teacher_trains_on() -> None:
    for physics in (BEFORE, AFTER):
        assert all(np.multiply(1.2, WORLD["LOW"]) <= np.abs(physics))
        assert all(np.abs(physics) <= np.array(WORLD["HIGH"]) / 1.2)


def test_the_recipe_is_the_teachers_view() -> None:
    found = recipe.load(FILE)
    env = found.make()
    assert env.observation_space.shape == (7,)
    assert found.threshold is not None
    assert train.construct(found, "ppo", seed=0).num_timesteps == 0
    student = recipe.load(FILE, env_kwargs={"privileged": False, "physics": AFTER}).make()
    assert student.observation_space.shape == (4,)
    np.testing.assert_allclose(shown(student.reset(seed=0)[1]), AFTER, rtol=1e-6)
