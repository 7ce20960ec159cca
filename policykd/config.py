"""What a person can choose, as frozen records with a sentence a field; no torch, no defaults hidden elsewhere."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal

from policykd.errors import UnknownNameError, UsageError
from policykd.sizes import parse_hidden, parse_size

__all__ = [
    "COMBINATIONS",
    "METHODS",
    "REWARDED",
    "Combination",
    "DistillConfig",
    "FrontierConfig",
    "Method",
    "RewardConfig",
    "Teaching",
    "parse_via",
]

Method = Literal["teacher", "student", "dagger", "dataset", "ppd", "kickstart"]
METHODS: tuple[Method, ...] = ("teacher", "student", "dagger", "dataset")
"""Whose states are imitated on."""

REWARDED: tuple[Method, ...] = ("ppd", "kickstart")
"""Methods that learn from reward too."""

Combination = Literal["mean", "product", "confident"]
COMBINATIONS: tuple[Combination, ...] = ("mean", "product", "confident")
"""How several teachers become one."""

_AT_LEAST_ONE = (
    "rollout",
    "epochs",
    "minibatch",
    "looks",
    "steps",
    "cycles",
    "rows_per_update",
    "batch_size",
    "memory",
    "num_envs",
    "select_episodes",
    "episodes",
    "seeds",
)


def _check_counts(config: object) -> None:
    for name in _AT_LEAST_ONE:
        value = vars(config).get(name)
        if value is not None and value < 1:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError("config.zero", f"{flag} {value}", "at least 1", f"leave {flag} out for the default")


@dataclass(frozen=True)
class Teaching:
    """How students are taught. Budgets count environment steps and updates, never seconds."""

    method: Method = "dagger"
    """Imitate on the states of: the teacher, the student, both (dagger), a dataset; ppd, kickstart: on reward too."""
    steps: int | None = None
    """Environment steps of the first cycle; None: 1,500 a number in the spaces. ppd, kickstart: of all (300,000)."""
    cycles: int = 4
    """Cycles at most, each twice as long as the last; another begins only while the student is short of its teacher."""
    rows_per_update: int = 10
    """Environment steps for each gradient step."""
    batch_size: int = 512
    """Rows in one gradient step, drawn uniformly from the memory."""
    learning_rate: float = 0.02
    """Adam's learning rate at the start of a cycle; it falls along a cosine to a fiftieth of that."""
    average: float = 0.999
    """Decay of the moving average of the weights that acts, is measured and is saved; 0 keeps none."""
    mixture: float = 0.5
    """dagger: share of the first cycle by whose end the teacher has stopped acting."""
    explore: bool = False
    """Draw actions from the distributions while collecting, instead of taking their modes."""
    memory: int = 1_000_000
    """Labelled rows held at most, oldest out first."""
    num_envs: int | None = None
    """Environments stepped side by side; None: 16 (32 for a frontier), or 64 where a native vector steps them."""
    vector: Literal["auto", "sync", "async"] = "auto"
    """Native vector environments where there are any, else one by one; async gives each a process."""
    seed: int = 0
    """Seeds first weights, environments and draws; the reported episodes depend on it too."""
    max_seconds: float | None = None
    """A guard, not a budget: training stops after this many seconds and the report says so."""
    workers: int | None = None
    """Processes that play evaluation episodes; None: one a core. Results do not depend on it."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant: ``name.method``, ``config.zero``."""
        if self.method not in METHODS + REWARDED:
            raise UnknownNameError.of("method", self.method, METHODS + REWARDED)
        _check_counts(self)


@dataclass(frozen=True)
class DistillConfig(Teaching):
    """How one student is taught and how it is measured."""

    dataset: str | None = None
    """Folder of a dataset (``policykd label``), for the method of that name: no environment is stepped for training."""
    value_weight: float = 0.5
    """Weight of the value loss, where both student and teacher have a value."""
    until_retention: float | None = None
    """Stop as soon as this retention is reached on selection episodes and confirmed at once on 100 fresh ones."""
    select_episodes: int = 50
    """Episodes of each selection (up to three times as many where it is close); their seeds are never reported."""
    episodes: int = 100
    """Reported episodes of teacher, student and random policy, at least."""
    max_episodes: int = 400
    """Reported episodes of teacher and student at most, where more are needed for the precision."""
    precision: float = 0.05
    """Half-width of the retention's interval that is enough."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant: ``name.method``, ``config.dataset``, ``config.zero``."""
        super().__post_init__()
        if (self.method == "dataset") != (self.dataset is not None):
            raise UsageError(
                "config.dataset",
                f"the method {self.method} and the dataset {self.dataset}",
                "a dataset with the method dataset, and only there",
                "--method dataset --dataset FOLDER",
            )
        if self.dataset is not None:
            object.__setattr__(self, "dataset", os.fspath(self.dataset))  # a Path is not JSON


@dataclass(frozen=True)
class RewardConfig:
    """How a student learns from reward beside its teacher (``ppd``, ``kickstart``); nothing else reads it."""

    imitate: int = 10_000
    """On reward: environment steps of plain imitation before there is reward; they count in --steps."""
    critic_first: int = 4
    """On reward: rollouts in which only the critic learns, before the student does."""
    teacher_weight: float = 1.0
    """On reward: weight of the teacher's term when reward begins; 0 is PPO."""
    teacher_until: float = 0.3
    """On reward: share of the steps with reward at which that weight has fallen to 0 along a line; 0: never."""
    value_gate: bool = False
    """On reward: learn from the teacher only where it values a state more than the student does."""
    gamma: float | None = None
    """On reward: discount; None takes the teacher's, or 0.99 where it does not say."""
    gae_lambda: float = 0.95
    """On reward: how far advantages look ahead, from 0 (one step) to 1 (to the end)."""
    rollout: int = 2_048
    """On reward: environment steps between two rounds of learning, over all environments."""
    epochs: int = 8
    """On reward: times that each rollout is learnt from."""
    minibatch: int = 1_024
    """On reward: rows in one gradient step on reward."""
    reward_rate: float = 1e-3
    """On reward: Adam's learning rate when reward begins; it falls along a cosine to a fiftieth of that."""
    clip: float = 0.2
    """On reward: how far the ratio of new to old probabilities may move before PPO stops pushing it."""
    entropy: float = 0.0
    """On reward: weight of the entropy, which keeps the student trying."""
    normalise_reward: bool = True
    """On reward: let the critic's unit follow the spread of the returns, as VecNormalize does."""
    reward_average: float = 0.0
    """On reward: decay of the moving average of the weights that is measured; it never acts while learning."""
    looks: int = 6
    """On reward: selections of the student, evenly spaced; the best one is reported."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant: ``config.zero``, ``config.range``."""
        _check_counts(self)
        ranges = {
            "imitate": (0, None),
            "critic_first": (0, None),
            "teacher_weight": (0, None),
            "teacher_until": (0, 1),
            "gamma": (0, 1),
            "gae_lambda": (0, 1),
            "clip": (0, None),
            "entropy": (0, None),
            "reward_average": (0, 1),
        }
        for name, (low, high) in ranges.items():
            value = vars(self)[name]
            if value is None:
                continue
            if name == "teacher_weight" and callable(value):
                raise UsageError(
                    "config.range",
                    "a teacher_weight that is a function in a RewardConfig, which holds plain data",
                    "a number 0 or more",
                    "give it to the call: distill(..., teacher_weight=weight)",
                )
            number = isinstance(value, Real)
            if not (number and low <= value and value < math.inf and (high is None or value <= high)):
                flag = f"--{name.replace('_', '-')}"
                wanted = f"from {low} to {high}" if high is not None else f"{low} or more"
                raise UsageError("config.range", f"{flag} {value}", f"a number {wanted}", f"leave {flag} out")
        if not 0 < self.reward_rate < math.inf:
            raise UsageError("config.range", f"--reward-rate {self.reward_rate}", "a number above 0", "try 1e-3")


@dataclass(frozen=True)
class FrontierConfig(Teaching):
    """How students of many sizes are taught together, and how the smallest that can be trusted is found."""

    cycles: int = 2
    """Cycles at most, each twice as long as the last; only sizes that may still win are taught in another."""
    sizes: tuple[str, ...] = ()
    """Sizes to try: linear, 8, 16,16, tree:8; none for a ladder from linear up to the teacher's size, or 128,128."""
    seeds: int = 3
    """Students of each size, with first weights of their own."""
    target: float = 0.95
    """Retention whose lower 95 % bound a student must reach to be trusted."""
    screen: int = 24
    """Episodes at most on which students are compared between cycles; their seeds are never reported."""
    max_episodes: int = 400
    """Reported episodes of a student at most, where fewer do not decide: 400 can show 0.988 at best, 1,600 0.997."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant: ``name.method``, ``config.zero``, ``frontier.target``, ``student.hidden``."""
        super().__post_init__()
        if self.method == "dataset":
            raise UsageError("config.dataset", "a frontier with the method dataset", "teacher, student or dagger")
        if self.method in REWARDED:
            raise UsageError(
                "config.rewarded",
                f"a frontier with the method {self.method}",
                "teacher, student or dagger",
                f"find the size first, then policykd distill --method {self.method} --hidden SIZE",
            )
        if not 0 < self.target <= 1:
            raise UsageError("frontier.target", f"a target of {self.target}", "a retention above 0, at most 1")
        if self.screen < 8:
            raise UsageError("frontier.screen", f"--screen {self.screen}", "8 episodes or more")
        if self.max_episodes < 100:
            raise UsageError("frontier.episodes", f"--max-episodes {self.max_episodes}", "100 or more")
        for size in self.sizes:
            parse_size(size)


def parse_via(
    via: str | Sequence[str | Sequence[int]], how: DistillConfig, reward: RewardConfig
) -> tuple[tuple[int, ...] | str, ...]:
    """Widths of the assistants between teacher and student, from the first to the last; ``"same"`` stays a word.

    Args:
        via: ``["256,256", (64, 64), "same"]``; a single text is a single assistant.
        how, reward: what they are taught with.

    Raises:
        UsageError: ``distill.via`` for anything else, and for settings under which an assistant cannot hand on what it
            has learnt.
    """
    sizes = [via] if isinstance(via, str) else list(via)
    if any(isinstance(size, int) for size in sizes):
        raise UsageError("distill.via", f"via={via!r}", "a list of sizes, one for each assistant", f"via=[{via!r}]")
    if sizes and how.method == "dataset":
        raise UsageError(
            "distill.via",
            "assistants with the method dataset",
            "teacher, student, dagger, ppd or kickstart: what a dataset holds is the teacher's word, and stays it",
            "leave --via out, or --method",
        )
    if sizes and reward.value_gate and how.method in REWARDED:
        raise UsageError(
            "distill.via",
            "assistants with --value-gate",
            "one of them: an assistant that learnt from reward has no values to compare",
            "leave --value-gate out",
        )
    try:
        return tuple("same" if size == "same" else parse_hidden(size) for size in sizes)
    except UsageError as why:
        raise UsageError(
            "distill.via",
            f"an assistant with {why.found}",
            f"{why.expected}, or 'same'",
            "type --via 256,256 --via 64,64 for two assistants of two layers",
        ) from None
