"""One call from a teacher and an environment to a measured student; written only with public rooms below it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from policykd import students
from policykd.clock import Clock
from policykd.config import DistillConfig
from policykd.datasets import Ring
from policykd.datasets import read as read_dataset
from policykd.errors import SpaceError, UsageError
from policykd.evaluation import BLOCK, Kept, Score, compare_on, extend, retention
from policykd.learner import Learner
from policykd.load import load_teacher
from policykd.losses import Objective, PairLoss, Weighted
from policykd.losses.defaults import default_objective
from policykd.networks import flat_width
from policykd.news import Look, Tick
from policykd.prediction import Batch, Policy, Spec, Update
from policykd.recipe import Recipe
from policykd.recipe import load as load_recipe
from policykd.report import Measured, Report
from policykd.rollouts import Collector, make, native
from policykd.supervised import cosine, interact, mixture, replay

__all__ = ["Look", "Tick", "distill", "recipe_for"]

_WARM_UP = 2048
"""Rows that set the scales (normaliser, values, Q) before the first gradient step."""

_FEW = 20
"""Episodes that spare a hopeless student a whole selection."""

_FIRST_LOOK = 1024
"""Environment steps learnt from before a student is first measured against ``until_retention``."""

_REPORT, _SELECT, _CONFIRM = 500_000_000, 1_000_000_000, 1_500_000_000
"""First seeds of the reported, selecting and confirming episodes: they never meet each other or training's."""

_SEEDS = 10_000
"""Seeds that a run keeps to itself in each of these ranges."""

_STEPS_A_NUMBER = 3_000
"""Environment steps of the first cycle for each number in an observation and in an action."""

_AS_GOOD = 0.99
"""Retention on the selection episodes from which no further cycle is begun."""

_KEEP = 5_000
"""Visited observations on which agreement, KL and value error are measured."""


def _check_spaces(teacher: Policy, env: gym.Env, recipe: Recipe) -> None:
    seen = Spec(env.observation_space, env.action_space, teacher.spec.family)
    for name, (found, wanted) in seen.differences(teacher.spec).items():
        raise SpaceError(
            f"space.{name}",
            f"{recipe.env_id} has {name} space {found}",
            f"the teacher's, {wanted}",
            "name the environment that the teacher was trained in (--env), with its wrappers",
        )


def _first_steps(config: DistillConfig, spec: Spec) -> int:
    if config.steps is not None:
        return config.steps
    # The wider the map that is to be learnt, the more of it there is to see. An image counts as a hundred numbers.
    return _STEPS_A_NUMBER * (min(flat_width(spec.observation_space), 100) + spec.action_width)


def _width(config: DistillConfig, recipe: Recipe) -> int:
    if config.method == "dataset":
        return 1
    if config.num_envs is not None:
        return config.num_envs
    return 64 if config.vector == "auto" and native(recipe) else 16


class _Scores:
    """Scores of one policy each on selection or reported seeds, grown on demand and never measured twice."""

    def __init__(self, recipe: Recipe, clock: Clock) -> None:
        self.recipe, self.clock, self.played = recipe, clock, 0
        self._known: dict[tuple[str, int], Score] = {}

    def __call__(self, name: str, policy: Policy | None, episodes: int, seed: int, keep: int = 0) -> Score:
        known = self._known.get((name, seed))
        if known is None or known.episodes < episodes:
            with self.clock.phase("evaluate"):
                self.played += episodes - (known.episodes if known else 0)
                known = extend(known, policy, self.recipe, episodes, seed=seed, keep=keep)
            self._known[name, seed] = known
        return known

    def fresh(self, policy: Policy, episodes: int, seed: int, known: Score | None = None) -> Score:
        """A score of a policy that will have changed by the next time, or ``known`` grown to more episodes."""
        self.played += episodes - (known.episodes if known else 0)
        with self.clock.phase("evaluate"):
            return extend(known, policy, self.recipe, episodes, seed=seed)


def distill(
    teacher: Policy | str | Path,
    student: Policy | None = None,
    env: str | Path | Recipe | Callable[..., gym.Env] | None = None,
    *,
    config: DistillConfig | None = None,
    loss: Weighted | Objective | PairLoss | None = None,
    hidden: str | tuple[int, ...] = (64, 64),
    on_tick: Callable[[Tick], None] | None = None,
    on_look: Callable[[Look], None] | None = None,
    **changes: Any,
) -> Report:
    """Teach ``student`` what ``teacher`` does in ``env``, and measure what it kept.

    Args:
        teacher: a Policy, or a path that ``load_teacher`` reads.
        student: the student to teach, in place; None builds ``students.suited(teacher, hidden)``.
        env: Gymnasium id, path of a recipe, Recipe, or a function that makes an environment; None takes the teacher's.
        config: how; ``changes`` are fields of it, ``distill(..., steps=50_000, seed=1)``.
        loss: objective or pair loss; None takes the family's default (``losses.defaults``).
        hidden: widths of the student that is built.
        on_tick, on_look: called after each round, and after each selection.

    Returns:
        The Report; its ``policy`` is the student with the best weights by selection.

    Raises:
        SpaceError: ``space.*`` when teacher, student and environment do not fit together.
        UsageError: ``config.*`` for budgets that cannot be meant.
    """
    clock = Clock()
    with clock.phase("load"):
        config = replace(config or DistillConfig(), **changes)
        teacher = teacher if isinstance(teacher, Policy) else load_teacher(teacher)
        recipe = recipe_for(teacher, env)
        if student is None:
            student = students.suited(teacher, hidden, seed=config.seed)
        _check_student(student.spec, teacher.spec)
        student.origin = replace(
            student.origin,
            env_id=recipe.env_id,
            env_kwargs=recipe.env_kwargs,
            wrappers=recipe.wrappers,
            gamma=teacher.origin.gamma,
        )
    training = _Training(teacher, student, recipe, config, clock, loss, on_tick, on_look)
    stopped_by = training.run()
    return training.report(stopped_by)


def recipe_for(teacher: Policy, env: str | Path | Recipe | Callable[..., gym.Env] | None = None) -> Recipe:
    """The environment that ``teacher`` lives in, or ``env`` with the teacher's wrappers; its spaces are the teacher's.

    Raises:
        UsageError: ``env.missing`` where neither says.
        SpaceError: ``space.observation``, ``space.action``.
    """
    if env is None and teacher.origin.env_id is None:
        raise UsageError(
            "env.missing",
            "a teacher that does not say where it lives",
            "an environment",
            "name it: --env LunarLander-v3",
        )
    kwargs = teacher.origin.env_kwargs if env is None else None
    recipe = load_recipe(env or teacher.origin.env_id or "", env_kwargs=kwargs, wrappers=teacher.origin.wrappers)
    probe = recipe.make()
    _check_spaces(teacher, probe, recipe)
    probe.close()
    return recipe


def _check_student(student: Spec, teacher: Spec) -> None:
    for name, (found, wanted) in student.differences(teacher).items():
        raise SpaceError(
            f"space.{name}",
            f"a student for the {name} {found}",
            f"the teacher's, {wanted}",
            "build it with students.mlp(teacher.spec)",
        )


class _Training:
    """One student's way from the first observation to the report."""

    def __init__(
        self,
        teacher: Policy,
        student: Policy,
        recipe: Recipe,
        config: DistillConfig,
        clock: Clock,
        loss: Weighted | Objective | PairLoss | None,
        on_tick: Callable[[Tick], None] | None,
        on_look: Callable[[Look], None] | None,
    ) -> None:
        self.teacher, self.recipe, self.config, self.clock = teacher, recipe, config, clock
        self.on_tick, self.on_look = on_tick, on_look
        self.scores = _Scores(recipe, clock)
        self.history: list[dict[str, float]] = []
        self.best: tuple[float, dict[str, Any]] | None = None
        self.next_look: float = _FIRST_LOOK
        with_value = (
            config.value_weight > 0 and isinstance(student, students.Student) and student.value_head is not None
        )
        with clock.phase("collect"):
            self.steps = _first_steps(config, teacher.spec)
            envs = make(recipe, _width(config, recipe), config.vector)
            self.collector = Collector(
                envs, teacher, seed=_SEEDS * config.seed, explore=config.explore, values=with_value
            )
            self.memory = Ring(config.memory, seed=config.seed)
            self.env_steps = 0
            first = self._first(student)
            with_value = with_value and first.target.value is not None
        with clock.phase("learn"):
            if isinstance(student, students.Student):
                students.adopt_scales(student, teacher, first)
            objective = loss or default_objective(
                student.spec, first.target, with_value=with_value, value_weight=config.value_weight
            )
            self.learner = Learner(student, objective, lr=cosine(config.learning_rate), average=config.average or None)

    def _first(self, student: Policy) -> Batch:
        """Rows that set the scales, once the memory holds them, or all of a dataset."""
        if self.config.dataset is not None:
            data = read_dataset(self.config.dataset)
            data.check_student(student.spec)
            for batch in data:
                self.memory.add(batch)
            spread = torch.linspace(0, len(self.memory) - 1, min(len(self.memory), _WARM_UP)).long()
            return self.memory.all()[spread]
        vector_steps = -(-min(_WARM_UP, self.steps) // self.collector.envs.num_envs)
        acting = (student, 0.0) if self.config.method == "student" else (None, 1.0)
        rollout = self.collector.collect(vector_steps, *acting)
        self.memory.add(rollout.batch)
        self.env_steps = rollout.steps
        return rollout.batch

    @property
    def _reported(self) -> int:
        return _REPORT + _SEEDS * self.config.seed

    def run(self) -> str:
        """Cycles until the student is as good as its teacher, the target is met, or the budget or time is spent."""
        target = self.config.until_retention
        for cycle in range(self.config.cycles):
            for _ in self._cycle(cycle):
                if self.config.max_seconds is not None and self.clock.elapsed > self.config.max_seconds:
                    self._look()
                    return "time"
                if target is not None and self._time_to_look() and self._reached(target):
                    return "target"
            if target is not None and self._reached(target):
                return "target"
            if target is None and self._look() >= _AS_GOOD:
                return "converged"
        return "budget"

    def _cycle(self, cycle: int) -> Iterator[Update]:
        seen = self.env_steps
        done, steps = (2**cycle - 1) * self.steps, 2**cycle * self.steps
        beta = mixture(self.config, cycle)
        learner, memory, config, clock = self.learner, self.memory, self.config, self.clock
        if config.method == "dataset":
            updates = replay(learner, memory, config, steps=steps, done=done, clock=clock)
        else:
            updates = interact(
                learner, self.collector, memory, config, steps=steps, beta=beta, done=done, taken=seen, clock=clock
            )
        for update in updates:
            if self.on_tick is not None and update.progress.env_steps != self.env_steps:
                total = self.steps * (2**self.config.cycles - 1)
                self.on_tick(Tick(update, self.learner, self.collector, self.memory, total))
            self.env_steps = update.progress.env_steps
            yield update

    def _time_to_look(self) -> bool:
        # Looks are a factor of sqrt(2) apart in steps learnt from: late ones cost no more, relative to what was before.
        if self.learner.updates * self.config.rows_per_update < self.next_look:
            return False
        self.next_look *= 2**0.5
        return True

    def _look(self) -> float:
        """Measure the student on the selection episodes and keep it if it is the best so far; its retention there."""
        student, seed = self.learner.averaged, _SELECT + _SEEDS * self.config.seed
        random = self.scores("random", None, BLOCK, self._reported)
        episodes = self.config.select_episodes
        score = self.scores.fresh(student, episodes, seed)
        while True:
            teacher = self.scores("teacher", self.teacher, episodes, seed)
            kept = retention(score, teacher, random)
            # More episodes only where they decide something: below the mark, but not surely so.
            unsure = kept.value is not None and kept.high is not None and kept.value < _AS_GOOD < kept.high
            if not unsure or episodes >= 3 * self.config.select_episodes:
                break
            episodes += self.config.select_episodes
            score = self.scores.fresh(student, episodes, seed, score)
        self.history.append(
            {
                "env_steps": self.env_steps,
                "updates": self.learner.updates,
                "return_mean": score.mean,
                "length_mean": score.mean_length,
                "retention": kept.value if kept.value is not None else float("nan"),
            }
        )
        if self.best is None or score.mean > self.best[0]:
            self.best = (score.mean, copy.deepcopy(student.state_dict()))
        if self.on_look is not None:
            self.on_look(Look(self.env_steps, self.learner.updates, self.learner, score, teacher, random, kept))
        # Without a gap between teacher and random policy there is no retention: nothing is reached, the budget spent.
        return float("-inf") if kept.value is None else kept.value

    def _hopeless(self, target: float) -> bool:
        """Whether a few episodes already say, by three standard errors, that the target is not met."""
        student, seed = self.learner.averaged, _SELECT + _SEEDS * self.config.seed
        few = min(_FEW, self.config.select_episodes)
        s = self.scores.fresh(student, few, seed).returns
        t = self.scores("few of teacher", self.teacher, few, seed).returns
        gap = t.mean() - self.scores("random", None, BLOCK, self._reported).mean
        short = s - t - (target - 1.0) * gap
        return bool(np.sign(gap) * short.mean() + 3.0 * short.std() / len(short) ** 0.5 < 0)

    def _reached(self, target: float) -> bool:
        if self._hopeless(target) or self._look() < target:
            return False
        seed = _CONFIRM + _SEEDS * self.config.seed + len(self.history) * BLOCK
        student = self.scores.fresh(self.learner.averaged, BLOCK, seed)
        teacher = self.scores("teacher", self.teacher, BLOCK, seed)
        confirmed = retention(student, teacher, self.scores("random", None, BLOCK, self._reported))
        if confirmed.value is None or confirmed.value < target:
            return False
        self.best = (float("inf"), copy.deepcopy(self.learner.averaged.state_dict()))
        return True

    def report(self, stopped_by: str) -> Report:
        """The student with the best weights, measured beside its teacher on episodes that chose nothing."""
        config, student = self.config, self.learner.student
        if self.best is not None:
            student.load_state_dict(self.best[1])
        self.collector.envs.close()
        played = self.scores.played
        seed, episodes = self._reported, config.episodes
        random = self.scores("random", None, max(BLOCK, episodes), seed)
        while True:
            mine = self.scores("student", student, episodes, seed, keep=_KEEP)
            theirs = self.scores("teacher", self.teacher, episodes, seed)
            kept = retention(mine, theirs, random)
            if kept.half_width <= config.precision or kept.low is None or episodes >= config.max_episodes:
                break
            episodes = min(episodes + BLOCK, config.max_episodes)
        with self.clock.phase("evaluate"):
            closeness = (
                compare_on(mine.obs, student, self.teacher, mine.masks)
                if mine.obs is not None
                else Kept(float("nan"), None, None)
            )
        seconds = {**self.clock.wall, "total": self.clock.elapsed}
        size = students.size_bytes(student) if isinstance(student, students.Student) else None
        return Report(
            kind="distill",
            env_id=self.recipe.env_id,
            method=config.method,
            seed=config.seed,
            stopped_by=stopped_by,
            teacher=Measured.of(theirs, self.teacher),
            student=Measured.of(mine, student, size),
            random=Measured.of(random),
            retention=kept,
            kept=closeness,
            env_steps=self.env_steps if config.method != "dataset" else 0,
            updates=self.learner.updates,
            evaluations=played,
            seconds=seconds,
            cpu_seconds=dict(self.clock.cpu),
            config=asdict(config),
            history=tuple(self.history),
            policy=student,
        )
