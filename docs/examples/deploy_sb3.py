"""A student for those who have stable-baselines3 but no policykd: a zip and its normaliser, in the zoo's layout."""

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import policykd as kd
from policykd.students.sb3 import to_sb3

teacher = kd.load_teacher("agents/cartpole-ppo")
report = kd.distill(teacher, hidden=(8,), steps=10_000)
to_sb3(report.policy, "runs/deployed/CartPole-v1.zip", gym.make("CartPole-v1"))

# From here on nothing of policykd is needed, and model.learn() goes on training.
envs = VecNormalize.load("runs/deployed/CartPole-v1/vecnormalize.pkl", make_vec_env("CartPole-v1"))
model = PPO.load("runs/deployed/CartPole-v1.zip", envs)

states = np.random.default_rng(0).uniform(-1, 1, (1000, 4)).astype(np.float32)
theirs, _ = model.predict(envs.normalize_obs(states), deterministic=True)
ours, _ = report.policy.predict(states, deterministic=True)
print(f"the same action in {(theirs == ours).mean():.1%} of {len(states)} states")
