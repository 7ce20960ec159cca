"""A student that passes its teacher: it imitates first, then learns from reward too, while the teacher fades."""

import torch

import policykd as kd

# A teacher that has seen better days: noise in the weights that it acts with.
teacher = kd.load_teacher("agents/cartpole-ppo")
noise = torch.Generator().manual_seed(0)
with torch.no_grad():
    for layer in teacher.acting_layers.linears:
        layer.weight.add_(0.4 * torch.randn(layer.weight.shape, generator=noise))

imitated = kd.distill(teacher, hidden=(16, 16), cycles=1, max_episodes=100)
print("imitation alone:", imitated)

passed = kd.distill(teacher, hidden=(16, 16), method="ppd", steps=30_000, looks=3, max_episodes=100)
print("reward too:     ", passed)

# The teacher's weight may follow anything in Progress: it falls as the student comes to earn what its teacher does.
weight = kd.losses.weights.by_performance()
passed = kd.distill(
    teacher, hidden=(16, 16), method="kickstart", teacher_weight=weight, steps=30_000, looks=3, max_episodes=100
)
print("by performance: ", passed)
