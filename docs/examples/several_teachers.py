"""Several teachers of one task, of whatever algorithms, as one; weights that follow the run."""

import policykd as kd
from policykd.losses import calibrated, combine, weights

teachers = [kd.load_teacher(f"agents/{name}") for name in ("cartpole-ppo", "cartpole-dqn")]

# A DQN's action values are no law yet: each gets a temperature from states that the teachers visit.
states = kd.evaluate(teachers[0], "CartPole-v1", episodes=4, keep=1000).obs
team = kd.teachers.Ensemble(teachers, calibrated(combine.mean, teachers, states))

loss = kd.losses.weighted(
    policy=(weights.by_agreement(1.0, 0.2), kd.losses.forward_kl),
    greedy=(weights.linear(0.0, 0.3), kd.losses.hard_nll),
)
report = kd.distill(team, loss=loss, hidden=(8,), steps=10_000)
print(report)
