"""What acts while something else learns: a copy of a student that nobody writes to, and a proof of it; no training."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass

import torch

from policykd.policy import Policy

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
    """

    policy: Policy
    number: int
    updates: int
    checksum: str

    def verify(self) -> bool:
        """Whether the weights are, bit for bit, those that were published."""
        return checksum(self.policy) == self.checksum


def publish(policy: Policy, number: int, updates: int) -> Published:
    """A frozen copy of ``policy`` as it is now; call it where nothing changes the weights meanwhile."""
    told = checksum(policy)
    # Spaces and origin are values: sharing them is most of the time that a copy of a small student takes.
    same = (policy.spec, policy.spec.observation_space, policy.spec.action_space, policy.origin)
    frozen = copy.deepcopy(policy, {id(x): x for x in same}).requires_grad_(False).eval()
    return Published(frozen, number, updates, told)
