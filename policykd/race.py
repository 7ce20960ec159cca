"""Many students measured against one teacher, episodes spent where they decide something; it teaches nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from policykd.clock import Clock
from policykd.config import FrontierConfig
from policykd.evaluation import BLOCK, Interval, References, Score, extend_all, retention
from policykd.policy import Many, Policy
from policykd.recipe import Recipe
from policykd.rollouts import RANDOM, Panel, native
from policykd.selection import REPORT, SEEDS, SELECT

__all__ = ["Race", "Runner", "Standing", "first"]

_FEW = (8, 16)  # episodes from which an interval may drop a student; a stated one takes 100
_WAVE = 3
_TEACHER = 0


@dataclass(frozen=True, eq=False)
class Standing:
    """How a student did: its returns, the teacher's on the same episodes, and what it kept."""

    score: Score
    kept: Interval


@dataclass(frozen=True, eq=False)
class Runner:
    """Who runs for what: a student (or member of several) of a size.

    Attributes:
        size: position on the ladder, smallest first.
        policy: a policy, or several in one; runners of one ``Many`` follow each other in the order of its members.
        member: which of them.
    """

    size: int
    policy: Policy
    member: int = 0


def first(score: Score, episodes: int) -> Score:
    """The first episodes of a score."""
    return replace(score, returns=score.returns[:episodes], lengths=score.lengths[:episodes])


class Race:
    """Plays many students, their teacher and the random policy on the same episodes, all of them in one pass.

    Args:
        teacher, recipe: who is to be matched, and where.
        config: target, episodes and seed.
        clock: gets the phase ``evaluate``.

    Attributes:
        looks: reported episodes at which a student may be decided on.
        level: confidence of the interval of each look; all of them hold together with 95 %.
    """

    def __init__(self, teacher: Policy, recipe: Recipe, config: FrontierConfig, clock: Clock) -> None:
        self.teacher, self.recipe, self.config, self.clock = teacher, recipe, config, clock
        self._played = 0
        # Reported episodes at which a student may be decided on.
        self.looks = [BLOCK]
        while 2 * self.looks[-1] <= config.max_episodes:
            self.looks.append(2 * self.looks[-1])
        # Bonferroni's level of each look, so that the intervals of all looks hold together with 95 %.
        self.level = 1.0 - 0.05 / len(self.looks)
        self._known: dict[tuple[int, int], Score] = {}
        select, report = self._seed(SELECT), self._seed(REPORT)
        wanted = {(True, select): config.screen, (True, report): BLOCK, (False, select): BLOCK, (False, report): BLOCK}
        self._references = References(teacher, recipe, wanted, config.workers)

    def screen(self, runners: Sequence[Runner]) -> list[Standing | None]:
        """Compare students on episodes that are never reported, as few as tell what is asked.

        Sizes come in waves, smallest first, until one of them has come half-way from the target to the teacher: larger
        ones cannot be the smallest. In a wave everybody plays 8 episodes; those play 16, and then all, who may be the
        best of their size (no sibling's interval lies wholly above theirs) and whose interval includes the target.

        Returns:
            A standing each, None for those whose turn did not come.
        """
        standings: list[Standing | None] = [None] * len(runners)
        sizes = sorted({r.size for r in runners})
        for i in range(0, len(sizes), _WAVE):
            wave = [k for k, r in enumerate(runners) if r.size in sizes[i : i + _WAVE]]
            for k, standing in self._wave([runners[k] for k in wave]).items():
                standings[wave[k]] = standing
            if any(s is not None and self.enough(s) for s in standings):
                break
        self._played += sum(s.score.episodes for s in standings if s is not None)
        return standings

    def enough(self, standing: Standing) -> bool:
        """Whether a student has come half-way from the target to its teacher: it need not learn more."""
        return standing.kept.value is not None and standing.kept.value >= (self.config.target + 1.0) / 2

    def _wave(self, runners: Sequence[Runner]) -> dict[int, Standing]:
        scores: dict[int, Score] = {}
        standings: dict[int, Standing] = {}
        playing = list(range(len(runners)))
        # Episodes of a native vector depend on how many they are: one look, so that all play the same ones.
        few = () if native(self.recipe) else _FEW
        for episodes in [n for n in few if n < self.config.screen] + [self.config.screen]:
            scores |= self._play(runners, scores, dict.fromkeys(playing, episodes), self._seed(SELECT))
            for i in playing:
                standings[i] = self._standing(scores[i], self._seed(SELECT), _FEW[0], 0.95)
            best: dict[int, float] = {}
            for i, s in standings.items():
                best[runners[i].size] = max(best.get(runners[i].size, float("-inf")), _low(s.kept))
            playing = [
                i
                for i in playing
                if _low(standings[i].kept) < self.config.target <= _high(standings[i].kept)
                and _high(standings[i].kept) >= best[runners[i].size]
            ]
            if not playing:
                break
        return standings

    def decide(self, runners: Sequence[Runner], keep: int = 0) -> tuple[list[Standing], int | None]:
        """Measure one student of each size on fresh episodes, and find the smallest that can be trusted.

        Everybody plays 100 episodes. Those play twice as many, again and again up to ``config.max_episodes``, that are
        smaller than the smallest proven one and stand at the target or above, but not surely so (who stands below it
        would have to rise by more than half its interval's half-width while that halves: one in ten does from the
        target itself). The intervals of these looks hold together with 95 %.

        Args:
            runners: one a size, smallest first.
            keep: visited observations to hold in each score.

        Returns:
            A standing each, and who is the smallest whose lower bound is at the target or above, None for nobody.
        """
        scores: dict[int, Score] = {}
        playing = list(range(len(runners)))
        standings: dict[int, Standing] = {}
        proven: int | None = None
        seed = self._seed(REPORT)
        for episodes in self.looks:
            if not playing:
                break
            scores |= self._play(runners, scores, dict.fromkeys(playing, episodes), seed, keep)
            for i in playing:
                standings[i] = self._standing(scores[i], seed, BLOCK, self.level)
            sure = [i for i, s in standings.items() if _low(s.kept) >= self.config.target]
            proven = min(sure, default=None)
            playing = [
                i
                for i, s in standings.items()
                if (proven is None or i < proven) and _low(s.kept) < self.config.target <= (s.kept.value or 0.0)
            ]
        return [standings[i] for i in range(len(runners))], proven

    @property
    def played(self) -> int:
        """Episodes played so far, over all policies, those that are reported not counted."""
        seed = self._seed(SELECT)
        return self._played + sum(score.episodes for (_, at), score in self._known.items() if at == seed)

    def references(self, purpose: int) -> tuple[Score, Score]:
        """Teacher and random policy on the selecting (SELECT) or the reported episodes (REPORT), as far as played."""
        return self._known[_TEACHER, self._seed(purpose)], self._known[RANDOM, self._seed(purpose)]

    def _seed(self, purpose: int) -> int:
        return purpose + SEEDS * self.config.seed

    def _play(
        self,
        runners: Sequence[Runner],
        scores: Mapping[int, Score],
        episodes: Mapping[int, int],
        seed: int,
        keep: int = 0,
    ) -> dict[int, Score]:
        """The runners' scores grown to so many episodes, and the teacher's and random policy's beside them."""
        policies: list[Policy] = [self.teacher]
        seats: dict[int, int] = {}
        place = 1
        for i, runner in enumerate(runners):
            if runner.policy is not policies[-1]:
                policies.append(runner.policy)
                size = runner.policy.members if isinstance(runner.policy, Many) else 1
                start, place = place, place + size
            seats[start + runner.member] = i
        wanted = {seat: episodes[i] for seat, i in seats.items() if i in episodes}
        known = {seat: scores[i] for seat, i in seats.items() if i in scores}
        for member, count in ((_TEACHER, max(episodes.values())), (RANDOM, BLOCK)):
            if (member, seed) not in self._known:
                with self.clock.phase("evaluate"):
                    played = self._references.get(member == _TEACHER, seed)
                if played is not None:
                    self._known[member, seed] = played
            if (old := self._known.get((member, seed))) is not None:
                known[member] = old
            wanted[member] = count
        with self.clock.phase("evaluate"):
            found = extend_all(
                known, Panel(policies), self.recipe, wanted, seed=seed, keep=keep, workers=self.config.workers
            )
        for member in (_TEACHER, RANDOM):
            self._known[member, seed] = found[member]
        return {i: found[seat] for seat, i in seats.items() if seat in found}

    def _standing(self, score: Score, seed: int, min_episodes: int, level: float) -> Standing:
        teacher, random = first(self._known[_TEACHER, seed], score.episodes), self._known[RANDOM, seed]
        return Standing(score, retention(score, teacher, random, min_episodes=min_episodes, level=level))


def _low(kept: Interval) -> float:
    return float("-inf") if kept.low is None else kept.low


def _high(kept: Interval) -> float:
    return float("inf") if kept.high is None else kept.high
