"""What acts while something else learns: a copy of a student that nobody writes to, and a proof of it; no training."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from policykd.distributions import Distribution
from policykd.fused import linear
from policykd.networks import Normaliser
from policykd.policy import Policy
from policykd.prediction import Obs, map_obs, obs_tensor
from policykd.students import ACTIVATIONS, Student
from policykd.students.network import distribution_of

__all__ = ["Published", "checksum", "publish"]


def checksum(policy: Policy) -> str:
    """Hash of every weight and buffer (BLAKE2b, 16 bytes): equal for two policies of a kind only where all bits are."""
    found = hashlib.blake2b(digest_size=16)
    for tensor in policy.state_dict().values():
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


@dataclass(frozen=True, eq=False)
class Published:
    """A student as it was at one moment.

    Attributes:
        policy: acts; its own copy of the weights, none of them trained.
        number: of publications before this one; 0 is the student before it learnt.
        updates: gradient steps that had been taken.
        checksum: of the weights that were copied, taken from the learner's before they were.
        says: the law of actions for raw observations ``[n, ...]``, as ``policy`` gives it, bit for bit.
    """

    policy: Policy
    number: int
    updates: int
    checksum: str
    says: Callable[[Obs], Distribution]

    def act(self, obs: Any, deterministic: bool | None, generator: torch.Generator) -> np.ndarray:
        """An action as the environment takes it.

        Args:
            obs: one raw observation or a batch of them, arrays or tensors (or a dict).
            deterministic: the distribution's mode, or a draw; None draws until the student has learnt anything.
            generator: of the draws.

        Raises:
            SpaceError: ``space.observation``.
        """
        spec = self.policy.spec
        batched = spec.is_batched(obs)
        x = _tensors(obs)
        if not batched:
            x = map_obs(x, _one)
        if deterministic is None:
            deterministic = self.updates > 0
        with torch.inference_mode():
            dist = self.says(x)
            action = dist.mode() if deterministic else dist.sample(generator)
        actions = spec.to_env(action)
        return actions if batched else actions[0]

    def verify(self) -> bool:
        """Whether the weights are, bit for bit, those that were published."""
        return checksum(self.policy) == self.checksum


def publish(policy: Policy, number: int, updates: int) -> Published:
    """A frozen copy of ``policy`` as it is now; call it where nothing changes the weights meanwhile."""
    told = checksum(policy)
    # Spaces and origin are values: to copy them takes as long as the weights do.
    same = (policy.spec, policy.spec.observation_space, policy.spec.action_space, policy.origin)
    known: dict[int, object] = {id(x): x for x in same}
    # torch 2.13 never frees a copied generator (3 KB each), and there are thousands of publications in an hour.
    known[id(policy._generator)] = torch.Generator().manual_seed(number)
    frozen = copy.deepcopy(policy, known).requires_grad_(False).eval()
    return Published(frozen, number, updates, told, _straight(frozen) or (lambda obs: frozen(obs, values=False).dist))


def _straight(policy: Policy) -> Callable[[Obs], Distribution] | None:
    """What a student of plain layers says of flat observations, without asking module after module: half the time."""
    if type(policy) is not Student:
        return None
    if not policy.is_plain(*policy.heads(values=False)):
        return None
    space, normaliser = policy.spec.observation_space, policy.normaliser
    if not (isinstance(space, spaces.Box) and len(space.shape) == 1):
        return None
    if not (normaliser is None or type(normaliser) is Normaliser):
        return None
    layers = [(m.weight, m.bias) for m in policy.torso if isinstance(m, nn.Linear)]
    weight, bias = policy.action_head.weight, policy.action_head.bias
    spread, spec, clip = policy.log_std, policy.spec, policy.shape.clip_mean
    normal = None if normaliser is None else normaliser.forward
    activation = ACTIVATIONS[policy.shape.activation]().forward

    def says(obs: Obs) -> Distribution:
        assert isinstance(obs, Tensor)  # is_batched has seen to it
        x = (obs if normal is None else normal(obs)).float()
        for w, b in layers:
            x = activation(linear(x, w, b))
        log_std = linear(x, spread.weight, spread.bias) if isinstance(spread, nn.Linear) else spread
        return distribution_of(spec, linear(x, weight, bias), log_std, clip)

    return says


def _one(t: Tensor) -> Tensor:
    return t.unsqueeze(0)


def _tensors(obs: Any) -> Obs:
    if isinstance(obs, Tensor):
        return obs
    if isinstance(obs, Mapping):
        return {k: v if isinstance(v, Tensor) else torch.from_numpy(np.array(v)) for k, v in obs.items()}
    return obs_tensor(np.asarray(obs))
