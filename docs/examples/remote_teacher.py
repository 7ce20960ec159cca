"""A teacher behind HTTP, a robot that never waits for it, and asyncio: acting, learning and asking side by side.

The server is in this file to have one; yours runs elsewhere and holds the large model. It is slow, it drops a
question now and then, and for a while it is down.
"""

import asyncio
import contextlib
import http.client
import http.server
import json
import threading
import time
import warnings

import gymnasium as gym
import numpy as np
import torch

import policykd as kd
from policykd.distributions import Categorical
from policykd.online import TeacherSilent, Threaded

torch.set_num_threads(1)
teacher = kd.load_teacher("agents/cartpole-ppo")


class Handler(http.server.BaseHTTPRequestHandler):
    """POST observations as JSON, get logits and the teacher's version."""

    questions = 0
    down = False

    def do_POST(self) -> None:
        obs = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Handler.questions += 1
        time.sleep(0.005)
        if Handler.down or Handler.questions % 10 == 0:
            return self.send_error(503)
        said = teacher.label(torch.tensor(obs, dtype=torch.float32))
        body = json.dumps({"logits": said.dist.logits.tolist(), "version": 1}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def answer_over(port: int, obs: torch.Tensor) -> tuple[kd.Prediction, int]:
    """One blocking request; where it raises, its questions are given up, and twice in a row is an outage."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("POST", "/", json.dumps(obs.tolist()))
        with connection.getresponse() as reply:
            if reply.status != 200:
                raise ConnectionError(f"status {reply.status}")
            said = json.load(reply)
    return kd.Prediction(Categorical(torch.tensor(said["logits"]))), said["version"]


async def robot(online: kd.OnlineDistiller, steps: int) -> None:
    """Act and be told what was seen; nothing here waits for the teacher, nor for an update."""
    env = gym.make("CartPole-v1")
    obs, _ = env.reset(seed=0)
    for step in range(steps):
        action = online.act(obs)
        after, reward, terminated, truncated, _ = env.step(action)
        online.observe(obs, reward=reward, done=terminated or truncated)
        obs = env.reset()[0] if terminated or truncated else after
        Handler.down = steps // 2 < step < steps // 2 + 400
        await asyncio.sleep(0.0002)


async def learning(online: kd.OnlineDistiller) -> None:
    """A few milliseconds of learning at a time, in a thread of its own."""
    while True:
        await asyncio.to_thread(online.update)
        await asyncio.sleep(0.001)


async def main() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    student = kd.students.mlp(teacher.spec, hidden=(8,))
    with Threaded(lambda obs: answer_over(server.server_port, obs), workers=2) as remote, warnings.catch_warnings():
        warnings.simplefilter("ignore", TeacherSilent)  # we know
        online = kd.OnlineDistiller(student, remote, ask_rows=32, warm_up=300, open_rows=1_000, budget_ms=5)
        learner = asyncio.create_task(learning(online))
        await robot(online, 3_000)
        while online.status.due:
            await asyncio.sleep(0.01)
        learner.cancel()
        await asyncio.wait([learner])
    server.shutdown()
    server.server_close()
    status = online.status
    print(f"asked {status.asked}, answered {status.answered}, outages {status.outages}, updates {status.updates}")
    returns = [episode(online, seed) for seed in range(10)]
    print(f"return {np.mean(returns):.1f}")


def episode(online: kd.OnlineDistiller, seed: int) -> float:
    """The return of one episode of what was published last."""
    env, total, done = gym.make("CartPole-v1"), 0.0, False
    obs, _ = env.reset(seed=1_000 + seed)
    while not done:
        obs, reward, terminated, truncated, _ = env.step(online.act(obs, deterministic=True))
        total, done = total + float(reward), terminated or truncated
    return total


if __name__ == "__main__":
    asyncio.run(main())
