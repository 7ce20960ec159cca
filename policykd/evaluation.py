"""Returns with intervals, and what a student kept of its teacher's; it never quotes a number it did not measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from policykd.distributions import kl, masked
from policykd.errors import DistributionError, UsageError
from policykd.intervals import Interval, check_level, mean_interval, ratio_interval, student_t_interval
from policykd.policy import Policy
from policykd.prediction import Obs
from policykd.recipe import Recipe, load
from policykd.rollouts.episodes import play_panel
from policykd.rollouts.panel import RANDOM, Panel
from policykd.rollouts.vector import native
from policykd.rollouts.workers import Ahead

__all__ = [
    "BLOCK",
    "Interval",
    "Kept",
    "Score",
    "compare_on",
    "evaluate",
    "extend",
    "extend_all",
    "retention",
    "student_t_interval",
]

BLOCK = 100
"""Episodes come in blocks of this many seeds, so that the same block means the same episodes for every policy."""


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

    def ci(self, level: float = 0.95) -> tuple[float, float]:
        """Bootstrap interval of the mean, over episodes: `intervals.mean_interval`."""
        return mean_interval(self.returns, level)


def evaluate(
    policy: Policy | None,
    env: str | Path | Recipe | Callable[..., gym.Env],
    episodes: int = BLOCK,
    *,
    seed: int = 0,
    deterministic: bool = True,
    keep: int = 0,
    workers: int | None = None,
) -> Score:
    """Play ``episodes`` whole episodes on fixed seeds.

    Args:
        policy: teacher or student; None for the uniformly random policy.
        env: Gymnasium id, path of a recipe, or a Recipe. The wrappers named by the policy's origin are applied.
        seed: episode i has seed ``seed + i`` (native vector implementations: block number k, of 100 episodes, has
            seed ``seed + 100 k``).
        keep: visited observations to hold in ``Score.obs``.
        workers: processes that play, None for one a core; the result does not depend on it.
    """
    if episodes < 1:
        raise UsageError("evaluate.episodes", f"{episodes} episodes", "at least 1")
    recipe = env if isinstance(env, Recipe) else load(env, wrappers=policy.origin.wrappers if policy else ())
    return extend(None, policy, recipe, episodes, seed=seed, deterministic=deterministic, keep=keep, workers=workers)


def extend(
    score: Score | None,
    policy: Policy | None,
    recipe: Recipe,
    episodes: int,
    *,
    seed: int = 0,
    deterministic: bool = True,
    keep: int = 0,
    workers: int | None = None,
) -> Score:
    """``score`` grown to ``episodes`` episodes by playing only the missing ones, in whole blocks but for the last."""
    member, panel = (RANDOM, Panel(())) if policy is None else (0, Panel((policy,)))
    return extend_all(
        {member: score},
        panel,
        recipe,
        {member: episodes},
        seed=seed,
        deterministic=deterministic,
        keep=keep,
        workers=workers,
    )[member]


def extend_all(
    scores: Mapping[int, Score | None],
    panel: Panel,
    recipe: Recipe,
    episodes: Mapping[int, int],
    *,
    seed: int = 0,
    deterministic: bool = True,
    keep: int = 0,
    workers: int | None = None,
) -> dict[int, Score]:
    """The scores of members of a panel, each grown to its own number of episodes, all in one pass.

    Args:
        scores: what is known of a member, on the same seeds; None, or nothing, where it has not played.
        episodes: how many a member shall have; whoever has as many keeps its score as it is.
        keep: visited observations of those who have none in their score.

    Returns:
        One score for each member of ``episodes``. The seconds of the pass are shared out by environment steps.
    """
    began = time.perf_counter()
    known = {member: scores.get(member) for member in episodes}
    done = {m: score.episodes if score else 0 for m, score in known.items()}
    short = [m for m in episodes if known[m] is None or done[m] < episodes[m]]
    if native(recipe) or not deterministic:
        # Episodes of a vector, and draws, depend on its width: a block cut short is played again.
        done = {m: count - count % BLOCK for m, count in done.items()}
    played = play_panel(
        panel,
        recipe,
        [(m, seed + i) for m in short for i in range(done[m], episodes[m])],
        deterministic=deterministic,
        keep=keep,
        block=BLOCK,
        workers=workers,
    )
    spent, steps = time.perf_counter() - began, max(1, int(played.lengths.sum()))
    grown = {m: score for m, score in known.items() if score is not None}
    for m in short:
        score, own = known[m], played.of(m)
        returns, lengths = own.returns, own.lengths
        obs, masks, seconds = own.obs, own.masks, spent * own.steps / steps
        if score is not None:
            returns = np.concatenate([score.returns[: done[m]], returns])
            lengths = np.concatenate([score.lengths[: done[m]], lengths])
            obs, masks = (obs, masks) if score.obs is None else (score.obs, score.masks)
            seconds += score.seconds
        grown[m] = Score(returns, lengths, seed, seconds, obs, masks)
    return grown


def retention(
    student: Score, teacher: Score, random: Score, *, min_episodes: int = 100, level: float = 0.95
) -> Interval:
    """(student - random) / (teacher - random) of mean returns, with a bootstrap interval over episodes.

    Student and teacher are resampled together where they were played on the same seeds. One pseudo-episode, at the
    random policy's mean for the lower bound and at the teacher's for the upper, joins the student's sample, so that a
    sample without a failure is not certified as perfect, nor one without a success as hopeless; it moves the interval,
    not the estimate: `intervals.ratio_interval`.

    Args:
        min_episodes: bounds that are stated take 100. Decisions may take 8: those bounds are wide, and cover too.
        level: two-sided confidence, at most 0.999. Whoever looks k times takes 1 - 0.05 / k.

    Returns:
        An Interval without bounds, and a reason, when there are fewer than ``min_episodes`` episodes (or 2) or when
        the teacher's 95 % interval overlaps the random policy's: then there is nothing to retain.
    """
    check_level(level)
    r, t, s = random.returns, teacher.returns, student.returns
    (r_low, r_high), (t_low, t_high) = random.ci(), teacher.ci()
    if t_low <= r_high and r_low <= t_high:
        return Interval(None, reason="the teacher is not distinguishable from random actions")
    value = float((s.mean() - r.mean()) / (t.mean() - r.mean()))
    needed = max(min_episodes, 2)
    if min(len(r), len(t), len(s)) < needed:
        return Interval(value, reason=f"fewer than {needed} episodes")
    paired = student.seed == teacher.seed and len(s) == len(t)
    low, high = ratio_interval(s, t, r, paired=paired, level=level)
    return Interval(value, min(low, value), max(high, value))


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
        with torch.no_grad():
            divergence: float | None = float(kl(theirs, mine).mean())
    except DistributionError:
        divergence = None
    error = None
    if said.value is not None and target.value is not None:
        spread = target.value.std().clamp_min(1e-8)
        error = float((said.value - target.value).square().mean().sqrt() / spread)
    return Kept(float(same.double().mean()), divergence, error)


class References:
    """Scores that no training changes, the teacher's and the random policy's, played while something else learns.

    A process of its own plays them where there is another core, and no native vector that is quicker than a process.

    Args:
        teacher, recipe: who plays where.
        wanted: episodes by (whether it is the teacher, first seed).
        workers: as for ``evaluate``; 1 plays when the scores are asked for.
    """

    def __init__(
        self, teacher: Policy, recipe: Recipe, wanted: Mapping[tuple[bool, int], int], workers: int | None = None
    ) -> None:
        def play() -> dict[tuple[bool, int], Score]:
            return {
                (taught, seed): extend(None, teacher if taught else None, recipe, episodes, seed=seed, workers=1)
                for (taught, seed), episodes in wanted.items()
            }

        self._wanted = frozenset(wanted)
        self._ahead = None if native(recipe) else Ahead(play, workers)

    def get(self, taught: bool, seed: int) -> Score | None:
        """The score if it was wanted; waits for it."""
        if self._ahead is None or (taught, seed) not in self._wanted:
            return None
        return self._ahead.result()[taught, seed]
