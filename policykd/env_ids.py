"""Which environment an old id means today; it refuses to make environments.

Checkpoints outlive environments: agents that were trained on ids that gymnasium no longer runs act unchanged on the
successor with the same observations, actions and rewards. MuJoCo's v2 and v3 continue as **v4**, not v5 (v5 changed
rewards and observations).
"""

from __future__ import annotations

__all__ = ["current_id"]

_MUJOCO = (
    "Ant",
    "HalfCheetah",
    "Hopper",
    "Humanoid",
    "HumanoidStandup",
    "InvertedDoublePendulum",
    "InvertedPendulum",
    "Pusher",
    "Reacher",
    "Swimmer",
    "Walker2d",
)

_SUCCESSORS = {
    "BipedalWalker-v2": "BipedalWalker-v3",
    "BipedalWalkerHardcore-v2": "BipedalWalkerHardcore-v3",
    "CarRacing-v2": "CarRacing-v3",
    "CliffWalking-v0": "CliffWalking-v1",
    "LunarLander-v2": "LunarLander-v3",
    "LunarLanderContinuous-v2": "LunarLanderContinuous-v3",
    "Pendulum-v0": "Pendulum-v1",
    "Taxi-v3": "Taxi-v4",
    **{f"{name}-{old}": f"{name}-v4" for name in _MUJOCO for old in ("v2", "v3")},
}


def current_id(env_id: str) -> str:
    """The id that runs today: the successor of an old one, or ``env_id`` itself (known or not)."""
    return _SUCCESSORS.get(env_id, env_id)
