"""A student that learns while it acts, in a loop of your own: three lines more than the loop without it."""

import gymnasium as gym

import policykd as kd

teacher = kd.load_teacher("agents/cartpole-ppo")
student = kd.students.mlp(teacher.spec, hidden=(8,))
online = kd.OnlineDistiller(student, teacher)

env = gym.make("CartPole-v1")
obs, _ = env.reset(seed=0)
for _ in range(6_000):
    action = online.act(obs)
    after, reward, terminated, truncated, _ = env.step(action)
    online.observe(obs, reward=reward, done=terminated or truncated)
    online.update()
    obs = env.reset()[0] if terminated or truncated else after

status = online.status
print(f"{status.updates} updates from {status.answered} labels in {status.episodes} episodes")
score = kd.evaluate(online.published.policy, "CartPole-v1", episodes=20)
print(f"return {score.mean:.1f}")
