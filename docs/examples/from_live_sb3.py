"""A Stable-Baselines3 model that is still in memory, with its VecNormalize, as a teacher; the model stays as it was."""

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import policykd as kd

envs = VecNormalize(make_vec_env("CartPole-v1", n_envs=8, seed=0))
model = PPO("MlpPolicy", envs, n_steps=64, batch_size=256, learning_rate=3e-3, seed=0, device="cpu").learn(10_000)

teacher = kd.teachers.from_sb3(model, envs)  # raw observations in, its own copy of weights and statistics
report = kd.distill(teacher, hidden=(8,), steps=10_000)
print(report)
