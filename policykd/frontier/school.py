"""Students of many sizes taught from one stream of steps, and the best of each measured; it chooses no sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from policykd import students
from policykd.clock import Clock
from policykd.config import FrontierConfig
from policykd.datasets import Ring
from policykd.evaluation import Kept, compare_on
from policykd.frontier.ladder import Rung
from policykd.frontier.pupil import Pupil, best, cull, latency
from policykd.home import WARM_UP, first_steps, width
from policykd.learner import Learner
from policykd.losses.defaults import default_objective
from policykd.news import FrontierLook, FrontierTick
from policykd.policy import Policy
from policykd.prediction import Origin, Progress, Update
from policykd.race import Race, Runner, Standing, first
from policykd.recipe import Recipe
from policykd.report import Candidate, FrontierReport, Measured, Report
from policykd.rollouts import Collector, Panel, make
from policykd.selection import REPORT, SEEDS, SELECT
from policykd.students import Cohort, Student, tree
from policykd.supervised import ROUND, cosine, interact, mixture

__all__ = ["School"]

_REFITS = 4
"""Times that a tree is fitted anew in a cycle, so that it too sees where its own mistakes lead."""

_KEEP = 2_000
"""Visited observations on which agreement, KL and value error are measured."""


class School:
    """All students' way from the first observation to the report."""

    def __init__(
        self,
        teacher: Policy,
        recipe: Recipe,
        config: FrontierConfig,
        rungs: Sequence[Rung],
        clock: Clock,
        on_tick: Callable[[FrontierTick], None] | None,
        on_look: Callable[[FrontierLook], None] | None,
    ) -> None:
        self.teacher, self.recipe, self.config, self.rungs, self.clock = teacher, recipe, config, rungs, clock
        self.on_tick, self.on_look = on_tick, on_look
        self.race = Race(teacher, recipe, config, clock)
        self.history: list[dict[str, Any]] = []
        nets = [i for i, r in enumerate(rungs) if r.leaves is None]
        # Students of one size side by side: they share products.
        self.nets = [Pupil(i, k) for i in nets for k in range(config.seeds)]
        self.trees = [Pupil(i, 0) for i, r in enumerate(rungs) if r.leaves is not None]
        with clock.phase("collect"):
            self.steps = first_steps(config, teacher.spec)
            envs = make(recipe, width(config, recipe, usual=32), config.vector)
            self.collector = Collector(
                envs, teacher, seed=SEEDS * config.seed, explore=config.explore, values=bool(self.trees)
            )
            self.memory = Ring(config.memory, seed=config.seed, extra=False)
            made = [self._student(p) for p in self.nets]
            who = (Panel([Cohort(made)]), 0.0) if made and config.method == "student" else (None, 1.0)
            warm_up = self.collector.collect(-(-min(WARM_UP, self.steps) // envs.num_envs), *who)
            self.memory.add(warm_up.batch)
            self.env_steps = warm_up.steps
        self.learner: Learner | None = None
        with clock.phase("learn"):
            if self.nets:
                objective = default_objective(teacher.spec, warm_up.batch.target, with_value=False, value_weight=0.0)
                for student in made:
                    students.adopt_scales(student, teacher, warm_up.batch)
                self.learner = Learner(
                    Cohort(made), objective, lr=cosine(config.learning_rate), average=config.average or None
                )

    def _student(self, pupil: Pupil) -> Student:
        hidden = self.rungs[pupil.rung].hidden
        assert hidden is not None
        student = students.suited(self.teacher, hidden, seed=1000 * self.config.seed + pupil.seed)
        student.origin = self._origin(student)
        return student

    def _origin(self, policy: Policy) -> Origin:
        return replace(
            policy.origin,
            env_id=self.recipe.env_id,
            env_kwargs=self.recipe.env_kwargs,
            wrappers=self.recipe.wrappers,
            gamma=self.teacher.origin.gamma,
        )

    def run(self) -> str:
        """Cycles of teaching and screening, until no size needs another or the budget or time is spent."""
        for cycle in range(self.config.cycles):
            in_time = self._teach(cycle)
            self._screen(cycle)
            if not in_time:
                return "time"
            if cycle + 1 < self.config.cycles and not self._drop():
                return "converged"
        return "budget"

    def _live(self, pupils: Sequence[Pupil]) -> list[Pupil]:
        return [p for p in pupils if p.live]

    def students(self) -> list[tuple[str, int, Policy]]:
        """Size, seed and policy of everybody as they are now."""
        cohort = None if self.learner is None else self.learner.averaged
        live = self._live(self.nets) if isinstance(cohort, Cohort) else []
        learning = {id(p): cohort.member(i) for i, p in enumerate(live) if isinstance(cohort, Cohort)}
        everybody = ((p, learning.get(id(p)) or p.policy or p.best) for p in (*self.nets, *self.trees))
        return [(self.rungs[p.rung].name, p.seed, policy) for p, policy in everybody if policy is not None]

    def _actor(self) -> Panel:
        """Those who still learn, as they act."""
        nets = [self.learner.averaged] if self.learner is not None else []
        return Panel([*nets, *(p.policy for p in self._live(self.trees) if p.policy is not None)])

    def _fit(self) -> None:
        with self.clock.phase("learn"):
            for pupil in self._live(self.trees):
                leaves = self.rungs[pupil.rung].leaves
                assert leaves is not None
                grown = tree.fit(self.memory.all(), self.teacher.spec, max_leaf_nodes=leaves, seed=self.config.seed)
                grown.origin = self._origin(grown)
                pupil.policy = grown

    def _teach(self, cycle: int) -> bool:
        """One cycle; whether it came to its end in time."""
        done, steps = (2**cycle - 1) * self.steps, 2**cycle * self.steps
        beta = mixture(self.config, cycle)
        total = self.steps * (2**self.config.cycles - 1)
        refits = [done + steps * (i + 1) / _REFITS for i in range(_REFITS)]
        self._fit()
        for update in self._updates(steps, done, beta):
            if update.progress.env_steps != self.env_steps:
                self.env_steps = update.progress.env_steps
                if self.on_tick is not None:
                    self.on_tick(FrontierTick(update, self.learner, self.collector, self.memory, total, self.students))
                if refits and self.env_steps >= refits[0]:
                    refits = [at for at in refits if at > self.env_steps]
                    self._fit()
                if self.config.max_seconds is not None and self.clock.elapsed > self.config.max_seconds:
                    return False
        self._fit()
        return True

    def _updates(self, steps: int, done: int, beta: Callable[[Progress], float]) -> Iterator[Update]:
        if self.learner is not None:
            yield from interact(
                self.learner,
                self.collector,
                self.memory,
                self.config,
                steps=steps,
                beta=beta,
                actor=self._actor,
                done=done,
                taken=self.env_steps,
                clock=self.clock,
            )
            return
        taken = self.env_steps
        while taken < done + steps:  # trees alone: there is nothing to update between rounds
            progress = Progress(taken, 0, (taken - done) / steps)
            with self.clock.phase("collect"):
                rounds = max(1, ROUND // self.collector.envs.num_envs)
                rollout = self.collector.collect(rounds, self._actor(), beta(progress))
                self.memory.add(rollout.batch)
            taken += rollout.steps
            yield Update(0, torch.zeros(()), progress=replace(progress, env_steps=taken))

    def _screen(self, cycle: int) -> None:
        nets, trees = self._live(self.nets), self._live(self.trees)
        cohort = None if self.learner is None else self.learner.averaged
        runners = [Runner(p.rung, cohort, i) for i, p in enumerate(nets)] if isinstance(cohort, Cohort) else []
        runners += [Runner(p.rung, p.policy) for p in trees if p.policy is not None]
        measured = []
        for i, (pupil, standing) in enumerate(zip([*nets, *trees], self.race.screen(runners), strict=True)):
            pupil.cycles = cycle + 1
            if standing is not None:
                measured.append((pupil, standing))
            if standing is None or pupil.standing is None or (standing.kept.value or 0.0) >= pupil.value:
                if isinstance(cohort, Cohort) and i < len(nets):
                    pupil.policy = cohort.member(i)
                pupil.best = pupil.policy
                # Whose turn did not come has learnt more since it was last measured, and is ranked by that.
                pupil.standing = standing or pupil.standing
        updates = 0 if self.learner is None else self.learner.updates
        self.history += [
            {
                "env_steps": self.env_steps,
                "updates": updates,
                "size": self.rungs[pupil.rung].name,
                "seed": pupil.seed,
                "return_mean": standing.score.mean,
                "length_mean": standing.score.mean_length,
                "retention": standing.kept.value,
                "episodes": standing.score.episodes,
            }
            for pupil, standing in measured
        ]
        if self.on_look is not None:
            rows = [(self.rungs[p.rung].name, p.seed, s.score, s.kept) for p, s in measured]
            teacher, random = self.race.references(SELECT)
            self.on_look(FrontierLook(self.env_steps, updates, tuple(rows), teacher, random))

    def _drop(self) -> bool:
        """Let those go who cannot win any more; whether anybody stays."""
        pupils = [*self.nets, *self.trees]
        cull(pupils, self.config.target, self.race.enough)
        if self.learner is not None:
            assert isinstance(self.learner.student, Cohort)
            were = [p for p in self.nets if p.cycles == max(q.cycles for q in self.nets)]
            stay = [i for i, p in enumerate(were) if p.live]
            self.learner = self.learner.kept(stay) if stay else None
        return any(p.live for p in pupils)

    def report(self, stopped_by: str) -> FrontierReport:
        """Every size's best student, measured beside its teacher on episodes that chose nothing."""
        self.collector.envs.close()
        pupils = [p for p in (*self.nets, *self.trees) if p.best is not None]
        chosen = [best([p for p in pupils if p.rung == i]) for i in {p.rung for p in pupils}]
        chosen.sort(key=lambda p: p.at_best.acting_parameters)
        standings, proven = self.race.decide([Runner(i, p.at_best) for i, p in enumerate(chosen)], keep=_KEEP)
        with self.clock.phase("evaluate"):
            candidates = [
                self._candidate(p, s, [q for q in pupils if q.rung == p.rung])
                for p, s in zip(chosen, standings, strict=True)
            ]
            lows = [float("-inf") if s.kept.low is None else s.kept.low for s in standings]
            top = int(np.argmax(lows)) if proven is None else proven
            score, policy = standings[top].score, chosen[top].at_best
            kept = Kept(float("nan"), None, None)
            if score.obs is not None:
                kept = compare_on(score.obs, policy, self.teacher, score.masks)
        teacher, random = self.race.references(REPORT)
        report = Report(
            kind="frontier",
            env_id=self.recipe.env_id,
            method=self.config.method,
            seed=self.config.seed,
            stopped_by=stopped_by,
            teacher=Measured.of(first(teacher, score.episodes), self.teacher),
            student=Measured.of(score, policy, students.size_bytes(policy)),
            random=Measured.of(random),
            retention=standings[top].kept,
            kept=kept,
            env_steps=self.env_steps,
            updates=max((int(look["updates"]) for look in self.history), default=0),
            evaluations=self.race.played,
            seconds={**self.clock.wall, "total": self.clock.elapsed},
            cpu_seconds=dict(self.clock.cpu),
            config=asdict(self.config),
            history=tuple(self.history),
            policy=policy,
        )
        name = None if proven is None else candidates[proven].name
        return FrontierReport(report, self.config.target, name, tuple(candidates), self.race.level)

    def _candidate(self, pupil: Pupil, standing: Standing, siblings: Sequence[Pupil]) -> Candidate:
        policy = pupil.at_best
        return Candidate(
            self.rungs[pupil.rung].name,
            policy,
            pupil.seed,
            standing.kept,
            standing.score,
            students.size_bytes(policy),
            latency(policy, standing.score.obs),
            pupil.cycles,
            tuple(
                (
                    p.seed,
                    p.at_best,
                    None if p.standing is None else p.standing.kept.value,
                    0 if p.standing is None else p.standing.score.episodes,
                )
                for p in siblings
            ),
        )
