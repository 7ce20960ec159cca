"""Many policies in one pass, on several processes: the same episodes as one by one in one, and no child left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from toys import Balancer, Diary, Gates, Lottery, Told

from policykd import evaluation, recipe
from policykd.distributions import Categorical, DiagGaussian
from policykd.errors import DistributionError, EnvError, PolicykdError, SpaceError, UsageError
from policykd.evaluation import Score, extend, extend_all
from policykd.policy import Many, Policy
from policykd.prediction import Obs, Prediction, Spec
from policykd.recipe import Recipe
from policykd.rollouts import RANDOM, Episodes, Panel, Played, play, play_panel, workers
from policykd.rollouts.visited import Sampled, spread
from policykd.rollouts.workers import crew, each

DIARY, CARTPOLE = recipe.load(Diary), recipe.load("CartPole-v1")
PENDULUM = Recipe("Pendulum-v1", {"max_episode_steps": 40})

forks = pytest.mark.skipif(crew(2) < 2, reason="no forked processes on this system")


@pytest.fixture(autouse=True)
def nobody_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # not even a zombie


def after(step: float) -> Told:
    """In a Diary, acts (and earns 100) from this step on."""
    return Told(Diary.spec_of, lambda obs: torch.stack([step - obs[..., 2] - 0.5, obs[..., 2] + 0.5 - step], -1))


class Members(Many):
    """What only training asks for is left out."""

    acting_parameters = 0

    def forward(self, obs: Obs, state: Any = None, start: Any = None, *, values: bool = True) -> Prediction:
        raise AssertionError("a panel asks for rows, not for the whole")

    def blocks(self) -> Any:
        raise NotImplementedError

    def kept(self, members: Any) -> Many:
        raise NotImplementedError


class Trio(Members):
    """Three members for a Diary: member m acts as ``after(m)`` does."""

    members = 3

    def __init__(self, spec: Spec = Diary.spec_of) -> None:
        super().__init__(spec)
        self.asked: list[list[int]] = []

    def answer(self, obs: Obs, who: Tensor) -> Prediction:
        assert isinstance(obs, Tensor) and who.dtype == torch.int64
        self.asked.append(who.tolist())
        lean = obs[..., 2] + 0.5 - who
        return Prediction(Categorical(torch.stack([-lean, lean], -1)))


def earned(step: float, seed: int) -> float:
    """By hand: the return of ``after(step)`` on a Diary's first episode."""
    last = Diary.length(seed, 0)
    return last * (last + 1) / 2 + 100.0 * max(0, last - max(0, step))


def rows(obs: Any) -> list[tuple[float, ...]]:
    return [tuple(row) for row in np.asarray(obs).tolist()]


def same(a: Played | Episodes, b: Played | Episodes) -> bool:
    return a.returns.tolist() == b.returns.tolist() and a.lengths.tolist() == b.lengths.tolist()


# Who is asked


def test_each_policy_is_asked_once_about_its_own_rows() -> None:
    policies = [after(0), after(1), Trio(), after(9)]
    panel = Panel(policies)
    assert panel.members == 6
    who = np.array([3, 0, 5, 2, 1, 1, 4] * 8)
    obs = np.stack([np.arange(56), np.zeros(56), np.arange(56) % 3], 1).astype(float)
    acts_from = {0: 0, 1: 1, 2: 0, 3: 1, 4: 2, 5: 9}
    assert panel.answer(obs, who).tolist() == [int(t >= acts_from[m]) for m, t in zip(who, obs[:, 2], strict=True)]
    for policy, member in ((policies[0], 0), (policies[1], 1), (policies[3], 5)):
        assert len(policy.seen) == 1 and rows(policy.seen[0]) == rows(obs[who == member])
    assert policies[2].asked == [(who[(who >= 2) & (who <= 4)] - 2).tolist()]


def test_a_policy_is_asked_about_multiples_of_eight_rows_the_last_one_repeated() -> None:
    """Rows over after the last full tile are added up in another order: an action would depend on its neighbours."""
    told, trio = after(1), Trio()
    obs = np.array([[7.0, 0, 0], [8.0, 0, 1], [9.0, 0, 2]])
    assert Panel([told]).answer(obs, np.zeros(3, int)).tolist() == [0, 1, 1]
    assert rows(told.seen[0]) == [*rows(obs), *[(9.0, 0.0, 2.0)] * 5]
    assert Panel([trio]).answer(obs, np.array([0, 2, 1])).tolist() == [1, 0, 1]
    assert trio.asked == [[0, 2, 1, 1, 1, 1, 1, 1]]


def test_panels_of_two_spaces_and_members_that_are_not_there_are_refused() -> None:
    with pytest.raises(SpaceError, match=r"action space .*\[panel.spaces\]"):
        Panel([Told(Gates.spec_of, None), Told(Spec(Gates.observation_space, spaces.Discrete(2), "categorical"), None)])
    for member in (-2, 1):
        with pytest.raises(UsageError, match=r"-1 \(at random\) to 0 \[panel.member\]"):
            play_panel(Panel([after(0)]), DIARY, [(0, 1), (member, 1)])
    nobody = play_panel(Panel([]), DIARY, [])
    assert len(nobody.returns) == 0 and play(after(0), CARTPOLE, []).steps == 0


def test_families_may_differ_on_one_panel() -> None:
    env = PENDULUM.make()

    class Says(Policy):
        acting_parameters = 0

        def forward(self, obs: Any, state: Any = None, start: Any = None, *, values: bool = True) -> Prediction:
            mean = torch.full_like(obs[..., :1], 0.5)
            return Prediction(DiagGaussian(mean, mean))

    panel = Panel([Says(Spec(env.observation_space, env.action_space, f)) for f in ("diag_gaussian", "tanh_gaussian")])
    found = panel.answer(np.zeros((3, 3), np.float32), np.array([0, 1, 0]))
    assert found.tolist() == [[0.5], [1.0], [0.5]], "the second's word is a share of the action space's bounds"


# One pass


@pytest.mark.parametrize("crowd", [1, 2, 3])
def test_every_pair_is_played_once_and_stands_in_its_place(crowd: int) -> None:
    """60 pairs of each of four members and the random one, shuffled: by hand."""
    pairs = [(member, seed) for seed in range(100, 160) for member in (0, 1, 2, 3, RANDOM)]
    pairs = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))]
    found = play_panel(Panel([Trio(), after(0)]), DIARY, pairs, workers=crowd)
    assert found.members.tolist() == [m for m, _ in pairs]
    assert found.lengths.tolist() == [Diary.length(seed, 0) for _, seed in pairs]
    steps = {0: 0, 1: 1, 2: 2, 3: 0}
    for (member, seed), value in zip(pairs, found.returns.tolist(), strict=True):
        if member != RANDOM:
            assert value == earned(steps[member], seed)
    assert len(set(found.of(RANDOM).returns.tolist())) > 5
    assert found.of(RANDOM).returns.tolist() == play(None, DIARY, [s for m, s in pairs if m == RANDOM]).returns.tolist()


def together(panel: Panel, where: Recipe, seeds: range, **how: Any) -> Played:
    members = range(-1, panel.members)
    return play_panel(panel, where, [(m, s) for s in seeds for m in members], **how)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("where", [CARTPOLE, recipe.load(lambda: gym.make("CartPole-v1")), PENDULUM])
def test_a_panel_gives_what_its_policies_give_alone(where: Recipe, deterministic: bool) -> None:
    env = where.make()
    torch.manual_seed(0)
    width = 2 if isinstance(env.action_space, spaces.Discrete) else 1
    spec = Spec(env.observation_space, env.action_space, "categorical" if width == 2 else "diag_gaussian")

    class Net(Policy):
        acting_parameters = 0

        def __init__(self, seed: int) -> None:
            super().__init__(spec)
            rng = np.random.default_rng(seed)
            self.w = [torch.from_numpy(rng.normal(size=s)).float() for s in ((env.observation_space.shape[0], 32),)]
            self.w.append(torch.from_numpy(rng.normal(size=(32, width))).float())

        def forward(self, obs: Any, state: Any = None, start: Any = None, *, values: bool = True) -> Prediction:
            out = torch.tanh(obs.float() @ self.w[0]) @ self.w[1]
            return Prediction(Categorical(out) if width == 2 else DiagGaussian(out, torch.zeros_like(out)))

    policies, seeds = [Net(0), Net(1)], range(40, 70)
    found = together(Panel(policies), where, seeds, deterministic=deterministic, keep=50)
    for member, policy in ((0, policies[0]), (1, policies[1]), (RANDOM, None)):
        alone = play(policy, where, seeds, deterministic=deterministic, keep=50, workers=1)
        assert same(found.of(member), alone)
        if policy is not None:
            assert rows(found.of(member).obs) == rows(alone.obs) and len(rows(alone.obs)) == 50
    assert found.of(RANDOM).obs is None
    assert found.of(0).returns.tolist() != found.of(1).returns.tolist()
    assert same(found, together(Panel(policies), where, seeds, deterministic=deterministic, workers=3))


def test_an_episode_does_not_depend_on_how_many_are_played_beside_it() -> None:
    """Pendulum answers to the last bit of every action: its steps would show any difference."""
    env = PENDULUM.make()

    class Wide(Policy):
        acting_parameters = 0
        w = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 64))).float()
        v = torch.from_numpy(np.random.default_rng(1).normal(size=(64, 1))).float()

        def forward(self, obs: Any, state: Any = None, start: Any = None, *, values: bool = True) -> Prediction:
            mean = torch.tanh(obs @ self.w) @ self.v
            return Prediction(DiagGaussian(mean, torch.zeros_like(mean)))

    policy = Wide(Spec(env.observation_space, env.action_space, "diag_gaussian"))
    at_once = play(policy, PENDULUM, range(30), workers=1).returns
    for few in (1, 2, 3, 5, 26):
        assert play(policy, PENDULUM, range(few), workers=1).returns.tolist() == at_once[:few].tolist()
    assert play(policy, PENDULUM, range(30), slots=2, workers=1).returns.tolist() == at_once.tolist()


def test_native_vectors_mean_the_same_block_for_every_member() -> None:
    """Two members act alike: on the same blocks they earn the same; each block is a vector of its own."""
    panel = Panel([Balancer(-3.0), Balancer(-3.0), Balancer(0.1)])
    found = together(panel, CARTPOLE, range(500, 530), block=20)
    assert same(found.of(0), found.of(1)) and not same(found.of(0), found.of(2))
    for first, n in ((500, 20), (520, 10)):
        alone = play(Balancer(-3.0), CARTPOLE, range(first, first + n))
        assert found.of(0).returns[first - 500 :][:n].tolist() == alone.returns.tolist()


def test_members_of_a_many_share_one_call_over_their_native_vectors() -> None:
    class Pair(Members):
        members = 2
        rows: list[int]

        def answer(self, obs: Any, who: Tensor) -> Prediction:
            self.rows.append(len(obs))
            lean = Balancer(-1.0)(obs).dist.logits
            return Prediction(Categorical(torch.where(who[:, None] == 1, -lean, lean)))

    pair = Pair(Balancer().spec)
    pair.rows = []
    found = together(Panel([pair]), CARTPOLE, range(20), keep=30)
    assert same(found.of(0), play(Balancer(-1.0), CARTPOLE, range(20)))
    assert same(found.of(1), play(Balancer(1.0), CARTPOLE, range(20)))
    assert pair.rows[0] == 40 and pair.rows[-1] == 24, "a vector that has ended is not asked about"
    assert len(pair.rows) == max(found.lengths[found.members != RANDOM])
    assert len(found.of(0).obs) == len(found.of(1).obs) == 30


def test_dict_observations_and_masks() -> None:
    class Room(Gates):
        observation_space = spaces.Dict({"t": Gates.observation_space, "late": spaces.Discrete(2)})

        def reset(self, **how: Any) -> Any:
            return {"t": super().reset(**how)[0], "late": 0}, {}

        def step(self, action: Any) -> Any:
            obs, *rest = super().step(action)
            return {"t": obs, "late": int(obs[0] > 2)}, *rest

    class Reader(Policy):
        """Prefers the forbidden action 0, then ``first``; in the end, the other."""

        acting_parameters = 0

        def __init__(self, first: int) -> None:
            super().__init__(Spec(Room.observation_space, Room.action_space, "categorical"))
            self.first = first

        def forward(self, obs: Any, state: Any = None, start: Any = None, *, values: bool = True) -> Prediction:
            assert obs["t"].shape[1:] == (1,) and obs["late"].dtype == torch.int64
            wish = torch.where(obs["late"] == 1, 3 - self.first, self.first)
            return Prediction(Categorical(torch.nn.functional.one_hot(wish, 3) + torch.tensor([9.0, 0, 0])))

    pairs = [(m, s) for m in (0, 1, RANDOM) for s in range(30)]
    for crowd in (1, 2):
        found = play_panel(Panel([Reader(1), Reader(2)]), recipe.load(Room), pairs, keep=200, workers=crowd)
        assert set(found.of(0).returns.tolist()) == {2.0 + 1 + 1 + 2} and set(found.of(1).returns.tolist()) == {6.0}
        obs, masks = found.of(1).obs, found.of(1).masks
        assert isinstance(obs, dict) and masks is not None and len(obs["late"]) == len(masks) == 120
        assert masks.tolist() == [Gates.allowed(int(t)).tolist() for t in obs["t"][:, 0]]
        assert obs["late"].tolist() == (obs["t"][:, 0] > 2).long().tolist()


# What was visited


@pytest.mark.parametrize("vectors", [1, 7, 50, 1000])
def test_sampled_rows_are_spread_evenly(vectors: int) -> None:
    sampled = Sampled(40)
    for t in range(vectors):
        sampled.add(np.full((3, 1), t), None, np.array([True, t % 2 == 0, False]))
    found = sampled.visited()
    assert found is not None and found.seen == vectors + (vectors + 1) // 2
    assert len(found.obs) == min(found.seen, 40)
    assert found.obs.mean() == pytest.approx((vectors - 1) / 2, rel=0.05, abs=0.2)


def test_stretches_count_by_what_they_saw() -> None:
    def stretch(value: float, seen: int, limit: int) -> Any:
        sampled = Sampled(limit)
        for _ in range(seen):
            sampled.add(np.full((1, 2), value), np.array([[value > 1, True]]))
        return sampled.visited()

    obs, masks = spread([stretch(1, 900, 100), stretch(2, 100, 100)], 100)
    assert isinstance(obs, Tensor) and masks is not None and obs.shape == (100, 2)
    assert (obs[:, 0] == 1).sum() == pytest.approx(90, abs=1) and torch.equal(masks[:, 0], obs[:, 0] == 2)
    few, _ = spread([stretch(1, 900, 20), stretch(2, 100, 100)], 100)
    assert isinstance(few, Tensor) and (few[:, 0] == 1).sum() == 20, "what a stretch has not kept it cannot give"
    assert spread([], 5) == (None, None)


@pytest.mark.parametrize("crowd", [1, 3])
def test_kept_observations_are_the_members_own_and_from_all_of_its_play(crowd: int) -> None:
    found = play_panel(Panel([Trio()]), DIARY, [(m, 1000 * m + s) for m in range(3) for s in range(90)], keep=60)
    again = play_panel(
        Panel([Trio()]), DIARY, [(m, 1000 * m + s) for m in range(3) for s in range(90)], keep=60, workers=crowd
    )
    for member in range(3):
        obs = found.of(member).obs
        assert isinstance(obs, Tensor) and len(set(rows(obs))) == len(obs) == 60
        seeds = obs[:, 0] - 1000 * member
        assert seeds.min() >= 0 and seeds.max() < 90 and seeds.mean() == pytest.approx(44.5, abs=6)
        assert rows(obs) == rows(again.of(member).obs)


# Processes


@forks
def test_results_come_in_order_from_several_processes() -> None:
    def where(i: int) -> tuple[int, int, int]:
        time.sleep(0.02 if i == 0 else 0.002)
        return i, os.getpid(), torch.get_num_threads()

    found, seconds = each(where, 12, 3)
    assert [i for i, _, _ in found] == list(range(12)) and {n for _, _, n in found} == {1}
    pids = {pid for _, pid, _ in found}
    assert len(pids) == 3 and os.getpid() not in pids and seconds > 0
    before = torch.get_num_threads()
    assert each(where, 1, 3) == ([(0, os.getpid(), 1)], 0.0) and torch.get_num_threads() == before
    assert each(where, 0, 3) == ([], 0.0)


@forks
def test_processor_time_of_the_children_is_told() -> None:
    def work(i: int) -> None:
        began = time.process_time()
        while time.process_time() - began < 0.05:
            pass

    assert each(work, 4, 2)[1] >= 4 * 0.05


@forks
def test_work_that_is_small_stays_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    forked: list[int] = []
    monkeypatch.setattr(
        workers, "_forked", lambda task, count, n: (forked.append(n), ([task(i) for i in range(count)], 0.0))[1]
    )
    play(Balancer(-1.0), CARTPOLE, range(20), workers=8)
    play_panel(Panel([Balancer(-1.0)]), CARTPOLE, [(0, s) for s in range(140)], block=20, workers=8)
    play(after(1), DIARY, range(20), workers=8)
    play(after(1), DIARY, range(200), workers=1)
    assert forked == []
    play(after(1), DIARY, range(30), workers=8)
    play(after(1), DIARY, range(100), workers=3)
    play_panel(Panel([Balancer(-1.0)]), CARTPOLE, [(0, s) for s in range(160)], block=20, workers=8)
    assert forked == [2, 3, 8]


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.sys, "platform", "linux")
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda pid: set(range(30)), raising=False)
    assert (crew(None), crew(1), crew(12)) == (8, 1, 12)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert crew(5) == 1
    monkeypatch.undo()
    monkeypatch.setattr(workers.sys, "platform", "darwin")
    assert crew(5) == 1
    with pytest.raises(UsageError, match=r"\[rollouts.workers\]"):
        crew(0)


class Faulty(Lottery):
    """Does something at the first step of the episode of seed 77."""

    def __init__(self, fault: Callable[[], None]) -> None:
        self.fault = fault

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.seed = seed
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        if self.seed == 77:
            self.fault()
        return super().step(action)


class Picky(Exception):
    """Cannot be pickled: its constructor wants two arguments and hands on one."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def faulty(fault: Callable[[], None], crowd: int | None, seeds: int = 100) -> Played:
    told = Told(Lottery.spec_of, lambda obs: torch.zeros(len(obs), 2))
    return play_panel(Panel([told]), recipe.load(lambda: Faulty(fault)), [(0, s) for s in range(seeds)], workers=crowd)


def throw(error: BaseException) -> Callable[[], None]:
    def fault() -> None:
        raise error

    return fault


@pytest.mark.parametrize("crowd", [1, pytest.param(2, marks=forks)])
@pytest.mark.parametrize(
    "error",
    [
        EnvError("toy.code", "found", "expected", "fix"),
        DistributionError("dist.toy", "x"),
        ValueError("no"),
        SystemExit(3),
    ],
)
def test_an_exception_arrives_as_it_is(error: BaseException, crowd: int) -> None:
    with pytest.raises(type(error)) as caught:
        faulty(throw(error), crowd)
    assert str(caught.value) == str(error)
    if isinstance(error, PolicykdError):
        assert (caught.value.code, caught.value.fix) == (error.code, error.fix)
    if crowd > 1:
        assert "self.fault()" in "".join(caught.value.__notes__), "where it happened"
    assert faulty(lambda: None, crowd).returns.tolist() == faulty(lambda: None, 1).returns.tolist()


@forks
def test_an_exception_that_cannot_leave_its_process_arrives_as_its_words() -> None:
    with pytest.raises(EnvError, match=r"Picky: ab; .*\[env.failed\]"):
        faulty(throw(Picky("a", "b")), 2)


@forks
@pytest.mark.parametrize(
    ("fault", "how"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed by SIGKILL"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "was killed by SIGTERM"),
        (lambda: os._exit(7), "ended itself with exit code 7"),
    ],
)
def test_a_child_that_dies_is_an_error_and_no_wait(fault: Callable[[], None], how: str) -> None:
    with pytest.raises(EnvError, match=rf"{how}; .*\[env.worker\]"):
        faulty(fault, 2)


@forks
def test_an_interrupt_ends_parent_and_children() -> None:
    """Ctrl-C as a terminal sends it, to the whole group; here to a parent whose children wait for ever."""
    context = multiprocessing.get_context("fork")
    line, theirs = context.Pipe()

    def session() -> None:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)

        def task(i: int) -> None:
            theirs.send(os.getpid())
            time.sleep(60)

        try:
            each(task, 2, 2)
        except KeyboardInterrupt:
            theirs.send("interrupted")

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        parent = context.Process(target=session)
        parent.start()
    pids = [line.recv(), line.recv()]
    assert parent.pid is not None
    os.killpg(parent.pid, signal.SIGINT)
    assert line.poll(20) and line.recv() == "interrupted"
    parent.join(20)
    assert parent.exitcode == 0
    parent.close()
    line.close()
    theirs.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@forks
def test_children_leave_when_their_parent_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    line, theirs = context.Pipe(duplex=False)

    def session() -> None:
        def task(i: int) -> None:
            theirs.send(os.getpid())
            time.sleep(0.3 if i < 2 else 60)

        each(task, 2, 2)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        parent = context.Process(target=session)
        parent.start()
    theirs.close()
    for _ in range(2):
        line.recv()
    parent.kill()
    parent.join()
    parent.close()
    # Every holder of the other end is gone when it closes.
    assert line.poll(20)
    with pytest.raises(EOFError):
        line.recv()
    line.close()


@forks
def test_forking_beside_other_threads_is_silent_and_works() -> None:
    """As beside TensorBoard's writer; Python 3.12 would warn, and warnings are errors here."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        a = torch.randn(300, 300)
        (a @ a).sum()  # torch's own threads, where there are several
        found = faulty(lambda: None, 2)
    finally:
        stop.set()
        thread.join()
    assert same(found, faulty(lambda: None, 1)) and found.cpu_seconds > 0


@forks
def test_a_daemon_plays_in_its_own_process() -> None:
    context = multiprocessing.get_context("fork")
    line, theirs = context.Pipe(duplex=False)

    def session() -> None:
        theirs.send(faulty(lambda: None, 2).returns.tolist())

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        daemon = context.Process(target=session, daemon=True)
        daemon.start()
    assert line.poll(20) and line.recv() == faulty(lambda: None, 1).returns.tolist()
    daemon.join()
    daemon.close()
    line.close()
    theirs.close()


@pytest.mark.parametrize("crowd", [1, pytest.param(2, marks=forks)])
def test_environments_are_closed_also_when_one_fails(crowd: int, tmp_path: Path) -> None:
    class Closing(Faulty):
        def close(self) -> None:
            (tmp_path / f"{os.getpid()}-{id(self)}-{time.monotonic_ns()}").touch()

    told = Told(Lottery.spec_of, lambda obs: torch.zeros(len(obs), 2))
    made = recipe.load(lambda: Closing(throw(ValueError("no"))))
    with pytest.raises(ValueError, match="no"):
        play(told, made, range(75, 80), workers=crowd)
    assert len(list(tmp_path.iterdir())) == 5


# Scores


@pytest.mark.parametrize("where", [CARTPOLE, PENDULUM, DIARY])
def test_scores_grow_together_as_they_do_alone(where: Recipe) -> None:
    env = where.make()
    width = 2 if isinstance(env.action_space, spaces.Discrete) else 1
    spec = Spec(env.observation_space, env.action_space, "categorical" if width == 2 else "diag_gaussian")

    class Leaning(Policy):
        acting_parameters = 0

        def __init__(self, gain: float) -> None:
            super().__init__(spec)
            self.gain = gain

        def forward(self, obs: Any, state: Any = None, start: Any = None, *, values: bool = True) -> Prediction:
            lean = self.gain * (obs.float() @ torch.tensor([0.3, -0.2, 1.0, 0.5][: obs.shape[-1]])).unsqueeze(-1)
            return Prediction(Categorical(torch.cat([-lean, lean], -1)) if width == 2 else DiagGaussian(lean, lean))

    policies = [Leaning(-1.0), Leaning(0.3), Leaning(-0.2)]
    panel, wishes = Panel(policies), [{0: 20, 1: 30}, {2: 130, 0: 20, RANDOM: 30}, {0: 140, 1: 25, 2: 131, RANDOM: 30}]
    known: dict[int, Score] = {}
    for wish in wishes:
        grown = extend_all(known, panel, where, wish, seed=9, keep=40)
        assert set(grown) == set(wish)
        for member, score in grown.items():
            assert (score is known.get(member)) == (member in known and known[member].episodes >= wish[member])
        known |= grown
    assert {m: s.episodes for m, s in known.items()} == {0: 140, 1: 30, 2: 131, RANDOM: 30}
    for member, score in known.items():
        alone = extend(None, None if member == RANDOM else policies[member], where, score.episodes, seed=9, workers=1)
        assert score.returns.tolist() == alone.returns.tolist() and score.lengths.tolist() == alone.lengths.tolist()
        assert score.seed == 9 and score.seconds > 0
        assert (score.obs is None) == (member == RANDOM)


def test_only_what_is_missing_is_played(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[tuple[int, int]]] = []
    real = evaluation.play_panel
    monkeypatch.setattr(
        evaluation,
        "play_panel",
        lambda panel, where, pairs, **how: (asked.append(pairs), real(panel, where, pairs, **how))[1],
    )
    panel = Panel([Trio()])
    known = extend_all({}, panel, DIARY, {0: 3, 2: 1}, seed=5)
    extend_all(known, panel, DIARY, {0: 4, 1: 1, 2: 1}, seed=5)
    assert asked == [[(0, 5), (0, 6), (0, 7), (2, 5)], [(0, 8), (1, 5)]]
    panel = Panel([Balancer(-1.0), Balancer(-2.0)])
    known = extend_all({}, panel, CARTPOLE, {0: 110, 1: 90})
    extend_all(known, panel, CARTPOLE, {0: 120, 1: 101})
    assert asked[3] == [(0, s) for s in range(100, 120)] + [(1, s) for s in range(101)], "a block cut short, again"
