"""The smallest student that can be trusted: several sizes taught from one stream of steps, a tree of rules among them.

The tree needs scikit-learn: pip install 'policykd[trees]'.
"""

import policykd as kd

report = kd.frontier("agents/cartpole-ppo", sizes=("linear", "tree:4", "8"), steps=4_000, cycles=1)
print(report)  # every size with its interval, and the smallest whose lower bound is at 0.95

for candidate in report.candidates:
    if isinstance(candidate.policy, kd.students.Tree):
        print(candidate.policy.rules(names=["place", "speed", "angle", "spin"], digits=2))

kd.students.save(report.policy, "runs/smallest")
