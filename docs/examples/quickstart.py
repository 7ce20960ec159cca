"""Three lines: a trained agent in, a student of 58 parameters out, measured."""

import policykd as kd

teacher = kd.load_teacher("agents/cartpole-ppo")  # or an SB3 .zip, or a zoo folder
student = kd.students.mlp(teacher.spec, hidden=(8,))
report = kd.distill(teacher, student, env="CartPole-v1")

print(report)
print(report.retention)
kd.students.save(student, "runs/quickstart")  # safetensors and JSON; kd.load_student("runs/quickstart") reads them
