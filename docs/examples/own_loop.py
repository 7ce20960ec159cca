"""A student that learns inside a loop of your own: your environment, your memory, your schedule."""

import gymnasium as gym
import torch

import policykd as kd

teacher = kd.load_teacher("agents/cartpole-ppo")
learner = kd.Learner(kd.students.mlp(teacher.spec, hidden=(8,)), kd.losses.forward_kl, lr=1e-2)

env = gym.make("CartPole-v1")
obs, _ = env.reset(seed=0)
seen: list[torch.Tensor] = []
for step in range(10_000):
    seen.append(torch.as_tensor(obs))
    action, _ = learner.student.predict(obs)
    obs, _, terminated, truncated, _ = env.step(action)
    if terminated or truncated:
        obs, _ = env.reset()
    if step % 10 == 9:
        rows = torch.randint(len(seen), (64,)).tolist()
        states = torch.stack([seen[i] for i in rows])
        update = learner.step(kd.Batch(states, teacher.label(states)))

score = kd.evaluate(learner.averaged, "CartPole-v1", episodes=20)
print(f"{update.step} updates, loss {float(update.loss):.4f}, return {score.mean:.1f}")
