"""The smallest student that can be trusted: several sizes taught from one stream of steps, a tree of rules among them.

The tree needs scikit-learn: pip install 'policykd[trees]'.
"""

import time

import policykd as kd
from policykd.run import Run

report = kd.frontier("agents/cartpole-ppo", sizes=("linear", "tree:4", "8"), steps=4_000, cycles=1)
print(report)  # every size with its interval, and the smallest whose lower bound is at 0.95

for candidate in report.candidates:
    if isinstance(candidate.policy, kd.students.Tree):
        print(candidate.policy.rules(names=["place", "speed", "angle", "spin"], digits=2))

# The folder that `policykd frontier` leaves: report.json, the picture, every student where its size and seed say.
# run.record_frontier(run) makes the on_tick and on_look that draw TensorBoard's charts meanwhile.
with Run.create(time.strftime("runs/%Y%m%d-%H%M%S-sizes"), config={}, command="docs/examples/frontier.py") as run:
    run.finish(report)
