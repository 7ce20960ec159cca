"""One student of two agents, each in its own environment; all its layers but the first and the last are shared."""

import policykd as kd

report = kd.multitask(
    {"pole": "agents/cartpole-ppo", "arm": "agents/acrobot-a2c"},
    loss={"pole": kd.losses.reverse_kl},  # the arm's is its family's default
    hidden=(8, 8),
    steps=2_000,
    cycles=1,
    select_episodes=10,
)
print(report)  # each task with its interval, and the geometric mean

pole = report.policy.task("pole")  # a policy like any other: predict, kd.evaluate, SB3's evaluate_policy
print(kd.evaluate(pole, "CartPole-v1", episodes=10).mean)

kd.students.save(report.policy, "runs/both")  # kd.load_student("runs/both", task="pole") reads a task's part
kd.students.save(report.policy.alone("pole"), "runs/pole")  # one task's, with weights of its own
