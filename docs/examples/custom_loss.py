"""A loss of your own is a function: two predictions in, one number a row out; the Learner weighs and reduces."""

import torch

import policykd as kd


def confident_kl(student: kd.Prediction, target: kd.Prediction) -> torch.Tensor:
    """Forward KL, weighted by how sure the teacher is."""
    sure = target.dist.probs.amax(-1)
    return sure * kd.losses.forward_kl(student, target)


loss = kd.losses.weighted(
    policy=(1.0, confident_kl),
    value=(lambda progress: 0.5 * (1 - progress.fraction), kd.losses.value_mse),
)
teacher = kd.load_teacher("agents/cartpole-ppo")
student = kd.students.mlp(teacher.spec, hidden=(8,), value=True)
report = kd.distill(teacher, student, loss=loss, steps=10_000)
print(report)

# From a shell that stands beside the file: policykd distill agents/cartpole-ppo --loss custom_loss:confident_kl
