"""Returns with intervals, and what a student kept of its teacher's; it never quotes a number it did not measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from policykd.distributions import kl, masked
from policykd.errors import DistributionError, UsageError
from policykd.prediction import Obs, Policy
from policykd.recipe import Recipe, load
from policykd.rollouts.episodes import play
from policykd.rollouts.vector import native

__all__ = ["BLOCK", "Interval", "Kept", "Score", "compare_on", "evaluate", "extend", "retention", "student_t_interval"]

BLOCK = 100
"""Episodes come in blocks of this many seeds, so that the same block means the same episodes for every policy."""

_RESAMPLES = 4000


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; ``low`` and ``high`` are None, with a ``reason``, where none can be given."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    @property
    def half_width(self) -> float:
        """Half the interval's width, infinite where there is none."""
        return float("inf") if self.low is None or self.high is None else (self.high - self.low) / 2

    def __str__(self) -> str:
        if self.value is None:
            return f"n/a ({self.reason})"
        if self.low is None or self.high is None:
            return f"{self.value:.3f} ({self.reason})"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, eq=False)
class Score:
    """Per-episode returns of one policy, in the order of the seeds; never a bare mean.

    ``obs`` are observations that it visited, as many as were asked for; ``masks`` what the environment allowed there.
    """

    returns: np.ndarray
    lengths: np.ndarray
    seed: int
    seconds: float = 0.0
    obs: Obs | None = field(default=None, repr=False)
    masks: Tensor | None = field(default=None, repr=False)

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def mean_length(self) -> float:
        """Mean episode length in environment steps."""
        return float(self.lengths.mean())

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.returns)

    def ci(self, resamples: int = _RESAMPLES) -> tuple[float, float]:
        """95 % percentile bootstrap interval of the mean, over episodes."""
        rng = np.random.default_rng(0)
        draws = self.returns[rng.integers(0, self.episodes, (resamples, self.episodes))].mean(1)
        low, high = np.percentile(draws, [2.5, 97.5])
        return float(low), float(high)


def evaluate(
    policy: Policy | None,
    env: str | Path | Recipe | Callable[..., gym.Env],
    episodes: int = BLOCK,
    *,
    seed: int = 0,
    deterministic: bool = True,
    keep: int = 0,
) -> Score:
    """Play ``episodes`` whole episodes on fixed seeds.

    Args:
        policy: teacher or student; None for the uniformly random policy.
        env: Gymnasium id, path of a recipe, or a Recipe. The wrappers named by the policy's origin are applied.
        seed: episode i has seed ``seed + i`` (native vector implementations: block number k, of 100 episodes, has
            seed ``seed + 100 k``).
        keep: visited observations to hold in ``Score.obs``.
    """
    if episodes < 1:
        raise UsageError("evaluate.episodes", f"{episodes} episodes", "at least 1")
    recipe = env if isinstance(env, Recipe) else load(env, wrappers=policy.origin.wrappers if policy else ())
    return extend(None, policy, recipe, episodes, seed=seed, deterministic=deterministic, keep=keep)


def extend(
    score: Score | None,
    policy: Policy | None,
    recipe: Recipe,
    episodes: int,
    *,
    seed: int = 0,
    deterministic: bool = True,
    keep: int = 0,
) -> Score:
    """``score`` grown to ``episodes`` episodes by playing only the missing ones, in whole blocks but for the last."""
    began = time.perf_counter()
    done = score.episodes if score else 0
    if score is not None and done >= episodes:
        return score
    if native(recipe) or not deterministic:
        done -= done % BLOCK  # episodes of a vector, and draws, depend on its width: a block cut short is played again
    parts = [(score.returns[:done], score.lengths[:done])] if score else []
    obs, masks = (score.obs, score.masks) if score else (None, None)
    while done < episodes:
        count = min(BLOCK, episodes - done)
        played = play(policy, recipe, range(seed + done, seed + done + count), deterministic=deterministic, keep=keep)
        parts.append((played.returns, played.lengths))
        obs, masks = (played.obs, played.masks) if obs is None else (obs, masks)
        done += count
    returns, lengths = (np.concatenate(column) for column in zip(*parts, strict=True))
    spent = (score.seconds if score else 0.0) + time.perf_counter() - began
    return Score(returns, lengths, seed, spent, obs, masks)


def retention(student: Score, teacher: Score, random: Score, *, min_episodes: int = 100) -> Interval:
    """(student - random) / (teacher - random) of mean returns, with a 95 % bootstrap interval over episodes.

    Student and teacher are resampled together where they were played on the same seeds. One pseudo-episode at the
    random policy's mean joins the student's sample (and one at the teacher's mean the teacher's), so that a sample
    without a failure is not certified as perfect; it moves the interval, not the estimate.

    Returns:
        An Interval without bounds, and a reason, when there are fewer than ``min_episodes`` episodes or when the
        teacher's interval overlaps the random policy's: then there is nothing to retain.
    """
    r, t, s = random.returns, teacher.returns, student.returns
    gap = t.mean() - r.mean()
    (r_low, r_high), (t_low, t_high) = random.ci(), teacher.ci()
    if t_low <= r_high and r_low <= t_high:
        return Interval(None, reason="the teacher is not distinguishable from random actions")
    value = float((s.mean() - r.mean()) / gap)
    if min(len(r), len(t), len(s)) < min_episodes:
        return Interval(value, reason=f"fewer than {min_episodes} episodes")
    rng = np.random.default_rng(0)
    s_more, t_more = np.append(s, r.mean()), np.append(t, t.mean())
    rows = rng.integers(0, len(s_more), (_RESAMPLES, len(s_more)))
    paired = student.seed == teacher.seed and len(s) == len(t)
    t_rows = rows if paired else rng.integers(0, len(t_more), (_RESAMPLES, len(t_more)))
    r_rows = rng.integers(0, len(r), (_RESAMPLES, len(r)))
    s_draw, t_draw, r_draw = s_more[rows].mean(1), t_more[t_rows].mean(1), r[r_rows].mean(1)
    low, high = np.percentile((s_draw - r_draw) / (t_draw - r_draw), [2.5, 97.5])
    return Interval(value, float(min(low, value)), float(max(high, value)))


@dataclass(frozen=True)
class Kept:
    """How close a student's word is to its teacher's on given observations; None where a quantity does not exist."""

    agreement: float
    """Share of observations with equal modes (discrete), or within 5 % of the action range in every dimension."""
    kl: float | None
    """Mean KL(teacher || student) in nats."""
    value_error: float | None
    """Root mean square error of the value estimate over the standard deviation of the teacher's values."""


def _same_action(policy: Policy, a: Tensor, b: Tensor) -> Tensor:
    if policy.spec.discrete:
        same = a == b
    else:
        space = policy.spec.action_space
        a_env, b_env = (torch.as_tensor(policy.spec.to_env(x)).flatten(1).double() for x in (a, b))
        low, high = (torch.as_tensor(x).flatten().double() for x in (space.low, space.high))  # type: ignore[attr-defined]
        span = torch.where(torch.isfinite(high - low), high - low, (b_env.amax(0) - b_env.amin(0)).clamp_min(1e-8))
        same = (a_env - b_env).abs() <= 0.05 * span
    return same.flatten(1).all(1) if same.dim() > 1 else same


def compare_on(obs: Obs, student: Policy, teacher: Policy, masks: Tensor | None = None) -> Kept:
    """Agreement, KL and value error of ``student`` against ``teacher`` on ``obs``, among the actions that are allowed.

    Args:
        masks: allowed actions, ``[n, a]`` bool; None for all.
    """
    said, target = student.label(obs), teacher.label(obs)
    mine, theirs = said.dist, target.dist
    if masks is not None:
        mine, theirs = masked(mine, masks), masked(theirs, masks)
    same = _same_action(student, mine.mode(), theirs.mode())
    try:
        divergence: float | None = float(kl(theirs, mine).mean())
    except DistributionError:
        divergence = None
    error = None
    if said.value is not None and target.value is not None:
        spread = target.value.std().clamp_min(1e-8)
        error = float((said.value - target.value).square().mean().sqrt() / spread)
    return Kept(float(same.double().mean()), divergence, error)


def student_t_interval(means: Sequence[float]) -> Interval:
    """Mean over training seeds with a 95 % Student-t interval on the per-seed means."""
    x = np.asarray(means, float)
    if len(x) < 2:
        return Interval(float(x.mean()), reason="one seed")
    # 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
    table = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131]
    table += [2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042]
    freedom, z = len(x) - 1, 1.959964
    # Beyond, the first terms of its expansion around the normal's (Abramowitz & Stegun 1964, 26.7.5): right to 1e-4.
    far = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    half = (table[freedom - 1] if freedom <= 30 else far) * x.std(ddof=1) / np.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half))
