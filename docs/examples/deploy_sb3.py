"""A student for a place that has stable-baselines3 but no policykd: an SB3 zip and its normaliser, in the zoo's layout."""

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO

import policykd as kd
from policykd.students.sb3 import to_sb3

teacher = kd.load_teacher("agents/cartpole-ppo")
report = kd.distill(teacher, hidden=(8,), steps=10_000)
path = to_sb3(report.policy, "runs/deployed/CartPole-v1.zip", gym.make("CartPole-v1"))

# From here on, nothing of policykd is needed. A student that normalises its observations has a file for it beside the zip:
# VecNormalize.load("runs/deployed/CartPole-v1/vecnormalize.pkl", envs).
model = PPO.load(path)
states = np.random.default_rng(0).uniform(-1, 1, (1000, 4)).astype(np.float32)
same = model.predict(states, deterministic=True)[0] == report.policy.predict(states, deterministic=True)[0]
print(f"the same action in {same.mean():.1%} of {len(states)} states")
