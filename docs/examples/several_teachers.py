"""Several teachers of one task, of whatever algorithms, as one that knows whom to hear; weights that follow the run."""

import policykd as kd
from policykd.losses import calibrated, combine, weights

teachers = [kd.load_teacher(f"agents/{name}") for name in ("cartpole-ppo", "cartpole-dqn")]

# A DQN's action values are no law yet: each gets a temperature from states that the teachers visit.
states = kd.evaluate(teachers[0], "CartPole-v1", episodes=4, keep=1000).obs
team = kd.teachers.Ensemble(teachers, calibrated(combine.mean, teachers, states))

# Shares for each state, learnt from return and from nothing else: briefly here, the default is 300,000 steps.
gated = kd.reinforced.train_gate(team, steps=10_000)
shares = gated.gate(states, gated.ask(states)).detach()
print("listens to ppo: {:.2f}, to dqn: {:.2f}".format(*shares.mean(1)))

loss = kd.losses.weighted(
    policy=(weights.by_agreement(1.0, 0.2), kd.losses.forward_kl),
    greedy=(weights.linear(0.0, 0.3), kd.losses.hard_nll),
)
report = kd.distill(gated, loss=loss, hidden=(8,), steps=10_000)
print(report)
