"""A world that changes: the student learns, rests, sees that its teacher disagrees, forgets and learns anew.

The teacher sees how long the pole is, how heavy the world and which way the motor pulls; the student sees none of it.
"""

import copy
import runpy
from functools import cache
from pathlib import Path

import policykd as kd
from policykd.online import OnlineDistiller, Watch

WORLD = Path(__file__).parents[2] / "envs/drifting_cartpole.py"
CHANGE, STEPS = 5_000, 9_000
HOW = {"capacity": 10_000, "rows_per_update": 5, "learning_rate": 1e-2, "warm_up": 200, "publish_every": 10}

world = runpy.run_path(str(WORLD))
teacher = kd.load_teacher("agents/drifting-cartpole-ppo")
env = world["make"](privileged=False, physics=world["BEFORE"], then=world["AFTER"], change=CHANGE)
spec = kd.Spec(env.observation_space, env.action_space, teacher.spec.family)
watch = Watch(low=0.02, patience=30)  # while it rests, one label in two is enough to see a divergence
online = OnlineDistiller(kd.students.mlp(spec, hidden=(16, 16)), teacher, watch=watch, rest_every=2, **HOW)
students = {}

obs, info = env.reset(seed=0)
for step in range(STEPS):
    was = online.status
    online.observe(obs, teacher_obs=info["teacher_obs"])
    online.update()
    now = online.status
    if now.alarms > was.alarms:
        print(f"step {step:,}: divergence {now.divergence:.3f}: the world has changed")
    elif was.learning > now.learning:
        print(f"step {step:,}: divergence {now.divergence:.3f}: learnt, from now on watching")
    if step + 1 in (CHANGE, CHANGE + 1_000, STEPS):
        students[step + 1] = copy.deepcopy(online.published.policy)
    obs, _, terminated, truncated, info = env.step(online.act(obs))
    if terminated or truncated:
        obs, info = env.reset()
print(f"{now.asked:,} labels for {now.observed:,} steps")


@cache
def bounds(physics: str) -> tuple[float, float]:
    """What the teacher, and the random policy, earn in one world: measured there, never quoted."""
    seen = kd.recipe.load(WORLD, env_kwargs={"physics": world[physics]})
    return kd.evaluate(teacher, seen, 10).mean, kd.evaluate(None, seen, 10).mean


def kept(student: kd.Policy, physics: str) -> str:
    """A student's return, and its share of the teacher's."""
    seen = kd.recipe.load(WORLD, env_kwargs={"physics": world[physics], "privileged": False})
    score, (best, random) = kd.evaluate(student, seen, 10).mean, bounds(physics)
    return f"{score:5.1f} of {best:5.1f} ({(score - random) / (best - random):5.2f})"


print(f"{'':24}{'frozen':24}online")
for when, physics in ((CHANGE, "BEFORE"), (CHANGE + 1_000, "AFTER"), (STEPS, "AFTER")):
    cells = [kept(student, physics) for student in (students[CHANGE], students[when])]
    print(f"{f'{when - CHANGE:,} steps after':24}{cells[0]:24}{cells[1]}")
