"""Weights of many small tensors in one long one, and Adam on it; it refuses to know what they are for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from policykd.policy import Blocks

__all__ = ["Adam", "Flat"]


def _keep_memory() -> None:
    # A step of several students frees a megabyte. The C library would give it back to the system and fetch it again at
    # the next, page by page (400 faults, 0.8 of 2.9 ms), until it has seen one larger block come and go.
    torch.empty(2_000_000)


class Flat:
    """Parameters and gradients of many small tensors in two long ones, so that a step is a handful of calls.

    The tensors stay what they are to everyone else: their data become views. Nets of a few thousand numbers otherwise
    spend more time on being updated than on being evaluated.

    Args:
        blocks: parameters with the number of members that their first dimension counts (one student: 1, and any
            shapes). The numbers of one member of a block lie side by side.

    Attributes:
        data, gradient: all blocks, one after the other.
        gradients: the blocks of ``gradient``, ``[members, width]`` each.
        still: where the numbers lie that the last backward pass did not reach (their parameters are frozen, or no term
            asks for them), None where there are none.
    """

    def __init__(self, blocks: Blocks) -> None:
        _keep_memory()
        self._sizes = [(members, sum(p.numel() for p in block)) for members, block in blocks]
        total = sum(size for _, size in self._sizes)
        self.data, self.gradient = torch.zeros(total), torch.zeros(total)
        self.gradients = self.blocks_of(self.gradient)
        self._blocks: list[list[tuple[nn.Parameter, Tensor]]] = []
        for (members, block), data in zip(blocks, self.blocks_of(self.data), strict=True):
            columns = data.split([p.numel() // members for p in block], 1)
            self._blocks.append([(p, own.view(p.shape)) for p, own in zip(block, columns, strict=True)])
        self.still: Tensor | None = None
        self._unreached: tuple[bool, ...] = ()
        self.follow()

    def blocks_of(self, flat: Tensor) -> list[Tensor]:
        """The blocks of a vector as long as ``data``, as views ``[members, width]``."""
        parts = flat.split([size for _, size in self._sizes])
        return [part.view(members, -1) for part, (members, _) in zip(parts, self._sizes, strict=True)]

    def follow(self) -> None:
        """Take over what others put in a parameter's place (another Learner, a file), and forget old gradients."""
        for block in self._blocks:
            for p, data in block:
                p.grad = None
                if p.data_ptr() != data.data_ptr():
                    data.copy_(p.data)
                    p.data = data

    def gather(self) -> None:
        """Bring the gradients of a backward pass side by side; one that was not reached is 0, and stays where it is."""
        unreached = tuple(p.grad is None for block in self._blocks for p, _ in block)
        if unreached != self._unreached:
            self._unreached, self.still = unreached, self._places(unreached)
        for block, rows in zip(self._blocks, self.gradients, strict=True):
            found = [torch.zeros_like(p) if p.grad is None else p.grad for p, _ in block]
            torch.cat([g.reshape(len(rows), -1) for g in found], 1, out=rows)

    def _places(self, chosen: tuple[bool, ...]) -> Tensor | None:
        """Where the numbers of some parameters lie."""
        if not any(chosen):
            return None
        marks, at = torch.zeros(len(self.data), dtype=torch.bool), iter(chosen)
        for block, rows in zip(self._blocks, self.blocks_of(marks), strict=True):
            columns = rows.split([p.numel() // len(rows) for p, _ in block], 1)
            for own in columns:
                own.fill_(next(at))
        return marks.nonzero().squeeze(1)


class Adam:
    """Adam (Kingma & Ba 2014, 1412.6980, algorithm 1) on one long vector.

    What a gradient did not reach is left alone, moments too, and has its own count of steps, as with ``torch.optim``;
    whose first optimizer imports torch's compiler: a second of CPU, more than many students take.
    """

    def __init__(self, flat: Flat, decay: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8) -> None:
        self.flat, self.decay, self.epsilon = flat, decay, epsilon
        self.mean, self.square = torch.zeros_like(flat.gradient), torch.zeros_like(flat.gradient)
        self.steps = 0
        self._count = torch.zeros(())
        self._counts: Tensor | None = None  # steps of each number, once they differ

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One step of this learning rate down the flat gradient."""
        if self.flat.still is not None and self._counts is None:
            self._counts = torch.full_like(self.mean, self.steps)
        self.steps += 1
        if self._counts is not None:
            self._step_apart(lr, self._counts)
            return
        # One pass over all numbers: what torch.optim.Adam(fused=True) ends in.
        torch._fused_adam_(
            [self.flat.data],
            [self.flat.gradient],
            [self.mean],
            [self.square],
            [],
            [self._count.fill_(self.steps)],
            lr=lr,
            beta1=self.decay[0],
            beta2=self.decay[1],
            weight_decay=0.0,
            eps=self.epsilon,
            amsgrad=False,
            maximize=False,
        )

    def _step_apart(self, lr: float, counts: Tensor) -> None:
        """The same where numbers have taken different steps: some are not reached now, or have not been."""
        still, moved = self.flat.still, (self.mean, self.square, self.flat.data, counts)
        before = None if still is None else [t[still] for t in moved]
        first, second = self.decay
        gradient = self.flat.gradient
        counts.add_(1)
        self.mean.lerp_(gradient, 1.0 - first)
        self.square.mul_(second).addcmul_(gradient, gradient, value=1.0 - second)
        scale = (self.square / (1.0 - second**counts)).sqrt_().add_(self.epsilon)
        self.flat.data.addcdiv_(self.mean / (1.0 - first**counts), scale, value=-lr)
        if still is not None and before is not None:
            for t, old in zip(moved, before, strict=True):
                t[still] = old

    def take(self, other: Adam, chosen: Tensor) -> None:
        """Go on from some of the numbers of another's."""
        self.mean.copy_(other.mean[chosen])
        self.square.copy_(other.square[chosen])
        self.steps = other.steps
        self._counts = None if other._counts is None else other._counts[chosen]

    def state_dict(self) -> dict[str, Any]:
        """Moments and the number of steps; not copied."""
        state = {"mean": self.mean, "square": self.square, "steps": self.steps}
        return state if self._counts is None else {**state, "counts": self._counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()``."""
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
        self.steps = int(state["steps"])
        counts = state.get("counts")
        self._counts = None if counts is None else counts.clone()
