"""One thread acts, another learns, for a minute: whether weights are ever torn, anybody waits for ever, memory grows.

    python tests/benchmarks/threads.py [--seconds 60]

Every student that acted is kept until it has been held to the checksum of its publication, which was taken from the
learner's weights before they were copied. The control acts with the learner's own weights instead, and takes their
checksum before and after each action: that is what publishing prevents.
"""

from __future__ import annotations

import argparse
import resource
import sys
import threading
import time
from collections import deque
from pathlib import Path

import gymnasium as gym
import torch

import policykd as kd
from policykd.online import Published
from policykd.online.publish import checksum

AGENT = Path(__file__).parents[2] / "agents/lunarlander-ppo"
ENV = "LunarLander-v3"


def resident() -> float:
    """MB of this process that lie in memory; NaN where the system has no /proc."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6 if statm.exists() else float("nan")


def distiller() -> kd.OnlineDistiller:
    """As busy as can be: a step a row, a publication every five steps, a memory that is soon full."""
    teacher = kd.load_teacher(AGENT)
    student = kd.students.mlp(teacher.spec, (64, 64))
    busy = dict(rows_per_update=1, publish_every=5, batch_size=64, capacity=5_000, budget_ms=20.0)
    return kd.OnlineDistiller(student, teacher, **busy)


def live(seconds: float) -> int:
    """The table of a run, a line every few seconds; how many actions there were."""
    online, end = distiller(), time.monotonic() + seconds
    used: deque[Published] = deque()
    acts, errors = [0], []

    def acting() -> None:
        try:
            env, last = gym.make(ENV), None
            obs, _ = env.reset(seed=0)
            while time.monotonic() < end:
                before = online.published
                action = online.act(obs)
                for published in (before, online.published):  # the action was one of these two's, or of one between
                    if published is not last:
                        used.append(published)
                        last = published
                acts[0] += 1
                after, reward, terminated, truncated, _ = env.step(action)
                online.observe(obs, reward=float(reward), done=terminated or truncated)
                obs = env.reset()[0] if terminated or truncated else after
        except BaseException as error:
            errors.append(error)

    def learning() -> None:
        try:
            while time.monotonic() < end:
                if online.update() is None:
                    time.sleep(0.001)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=f, daemon=True) for f in (acting, learning)]
    print("| s | acts | updates | publications | students that acted, verified | torn | waiting rows | MB |")
    print("|---" * 8 + "|", flush=True)
    for thread in threads:
        thread.start()
    begun, verified, torn, told = time.monotonic(), 0, 0, 0.0
    while any(thread.is_alive() for thread in threads) and time.monotonic() < end + 30:
        while used:
            torn += not used.popleft().verify()
            verified += 1
        now = time.monotonic() - begun
        if now >= told:
            told += seconds / 12
            status = online.status
            print(
                f"| {now:.0f} | {acts[0]:,} | {status.updates:,} | {status.published:,} | {verified:,} | {torn} "
                f"| {status.waiting:,} | {resident():.1f} |",
                flush=True,
            )
        time.sleep(0.02)
    stuck = [thread.is_alive() for thread in threads]
    while used:
        torn += not used.popleft().verify()
        verified += 1
    status = online.status
    print(f"\nstudents that acted: {verified:,}, torn: {torn}; errors: {errors}; threads still waiting: {sum(stuck)}")
    print(f"observed {status.observed:,} = waiting + asked + overflowed: ", end="")
    print(f"{status.waiting:,} + {status.asked:,} + {status.overflowed:,}; due {status.due:,}")
    return acts[0]


def alone(steps: int) -> None:
    """What the environment's memory does without policykd."""
    env = gym.make(ENV)
    env.action_space.seed(0)
    env.reset(seed=0)
    before = resident()
    for _ in range(steps):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    print(f"the environment alone, {steps:,} steps: {resident() - before:+.1f} MB")


def control(seconds: float) -> None:
    """How often weights change under an action without publishing."""
    online, env = distiller(), gym.make(ENV)
    obs, _ = env.reset(seed=0)
    while online.learner is None:
        online.observe(obs)
        online.update()
        obs = env.step(online.act(obs))[0]
    policy, torn, acts = online.learner.averaged, 0, 0
    end = time.monotonic() + seconds

    def learning() -> None:
        while time.monotonic() < end:
            online.observe(obs)
            online.update()

    thread = threading.Thread(target=learning, daemon=True)
    thread.start()
    while time.monotonic() < end:
        before = checksum(policy)
        policy.predict(obs, deterministic=True)
        torn += checksum(policy) != before
        acts += 1
    thread.join(30)
    print(f"control, acting with the learner's own weights: they changed during {torn:,} of {acts:,} actions")


def main() -> None:
    """The minute, then the controls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sys.setswitchinterval(5e-4)  # ten times as many hand-overs as usual
    acts = live(args.seconds)
    alone(acts)
    control(args.seconds / 10)


if __name__ == "__main__":
    main()
