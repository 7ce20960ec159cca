"""Assistants between teacher and student: who teaches whom, in whose scale, what is added up, kept and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from toys import CARTPOLE, Balancer

import policykd as kd
from policykd import losses, students
from policykd.cli import main
from policykd.config import DistillConfig, RewardConfig, parse_via
from policykd.errors import UsageError
from policykd.evaluation import compare_on
from policykd.load import load_student
from policykd.news import Look, Tick
from policykd.policy import Policy
from policykd.prediction import Prediction
from policykd.report import Report, Stage

pytestmark = pytest.mark.usefixtures("own_threads")

SHORT = kd.Recipe("CartPole-v1", env_kwargs={"max_episode_steps": 60})
AGENTS = Path(__file__).parent.parent / "agents"
FAST: dict[str, Any] = {
    "steps": 2048,
    "cycles": 1,
    "rows_per_update": 8,
    "batch_size": 64,
    "num_envs": 8,
    "average": 0.95,
    "select_episodes": 20,
    "max_episodes": 100,
    "workers": 1,
}
HARD: dict[str, Any] = {**FAST, "steps": 256, "rows_per_update": 64, "learning_rate": 1e-4}
"""A budget that teaches little."""


def distilled(teacher: Policy | None = None, **changes: Any) -> Report:
    return kd.distill(teacher or Balancer(), changes.pop("student", None), SHORT, **{"hidden": (4,), **FAST, **changes})


# Who teaches whom, and what is added up


class Watched:
    """A run whose news were written down."""

    def __init__(self, **how: Any) -> None:
        self.ticks: list[Tick] = []
        self.looks: list[Look] = []
        self.stages: list[Stage] = []
        self.taught: list[tuple[Policy, Policy]] = []
        self.report = distilled(on_tick=self._tick, on_look=self.looks.append, on_stage=self.stages.append, **how)

    def _tick(self, tick: Tick) -> None:
        self.ticks.append(tick)
        pair = tick.collector.teacher, tick.learner.student
        if not self.taught or self.taught[-1][1] is not pair[1]:
            self.taught.append(pair)


@pytest.fixture(scope="module")
def chain() -> Watched:
    return Watched(via=[(16, 16), "8"])


def test_each_learns_from_the_one_before(chain: Watched) -> None:
    first, second = (it.policy for it in chain.report.via)
    assert isinstance(first, students.Student) and isinstance(second, students.Student)
    assert (first.shape.hidden, second.shape.hidden) == ((16, 16), (8,))
    assert [type(by).__name__ for by, _ in chain.taught] == ["Balancer", "Student", "Student"]
    assert chain.taught[1][0] is chain.taught[0][1] is first
    assert chain.taught[2][0] is chain.taught[1][1] is second
    assert chain.taught[2][1] is chain.report.policy
    assert first.origin.env_id == "CartPole-v1" and first.origin.gamma == 0.99
    assert dict(first.origin.env_kwargs) == dict(SHORT.env_kwargs)


def test_steps_updates_and_episodes_are_of_all_stages(chain: Watched) -> None:
    report, (one, two) = chain.report, chain.report.via
    last = report.env_steps - one.env_steps - two.env_steps
    assert all(2048 <= steps < 2048 + 8 for steps in (one.env_steps, two.env_steps, last))
    assert one.updates == two.updates == 256 and report.updates == 3 * 256
    assert report.evaluations > one.evaluations + two.evaluations
    for phase in ("collect", "learn", "total"):
        parts = [it.seconds[phase] for it in (one, two)]
        assert min(parts) > 0 and sum(parts) < report.seconds[phase]
    assert [(it["env_steps"], it["updates"]) for it in report.history] == [(report.env_steps, 3 * 256)]
    assert [it["env_steps"] for it in two.history] == [two.env_steps], "an assistant's are its own"


def test_news_count_from_the_beginning_of_the_chain(chain: Watched) -> None:
    ends = [one := chain.report.via[0].env_steps, one + chain.report.via[1].env_steps, chain.report.env_steps]
    steps = [tick.update.progress.env_steps for tick in chain.ticks]
    assert steps == sorted(set(steps)) and len(steps) > 6 and steps[0] < ends[0] < ends[1] < steps[-1] <= ends[2]
    updates = [tick.update.step for tick in chain.ticks]
    assert updates == sorted(updates) and 2 * 256 < updates[-1] <= 3 * 256
    assert [tick.update.progress.updates for tick in chain.ticks] == [n - 1 for n in updates]
    left = {tick.total_steps - done for tick in chain.ticks for done in (0, *ends[:2])}
    assert {3 * 2048, 2 * 2048, 2048} <= left
    assert [(look.env_steps, look.updates) for look in chain.looks] == list(zip(ends, (256, 512, 768), strict=True))
    told = [(stage.number, stage.of, stage.report is not None) for stage in chain.stages]
    assert told == [(n, 3, after) for n in (1, 2, 3) for after in (False, True)]
    assert chain.stages[1].report is chain.report.via[0] and chain.stages[5].report is chain.report
    assert [stage.student for stage in chain.stages[::2]] == [pupil for _, pupil in chain.taught]


def test_what_the_report_says_of_an_assistant(chain: Watched) -> None:
    said = chain.report.to_dict()
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    one = said["via"][0]
    assert one["hidden"] == [16, 16] and one["params"] == 4 * 16 + 16 + 16 * 16 + 16 + 16 * 2 + 2
    assert one["retention"] == chain.report.via[0].retention.value and len(one["retention_ci"]) == 2
    assert (one["updates"], one["stopped_by"]) == (256, chain.report.via[0].stopped_by)
    assert distilled().to_dict()["via"] == []


def test_retention_is_in_the_first_teachers_scale() -> None:
    """Assistants that learn next to nothing: whoever were measured against them would keep all of it."""
    seen = Watched(via=["8"], **HARD)
    assert all(look.teacher.mean == 60 for look in seen.looks)
    for report in (seen.report, *seen.report.via):
        assert report.teacher.return_mean == 60 and report.teacher.algo == "ppo"
        mine, random = report.student.return_mean, report.random.return_mean
        assert report.retention.value == pytest.approx((mine - random) / (60 - random))
    assert seen.report.via[0].student.return_mean < 50
    assert isinstance(seen.report.policy, Policy)
    visited = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) * 0.05
    against = compare_on(visited, seen.report.policy, seen.report.via[0].policy or Balancer())
    assert against.agreement > seen.report.kept.agreement, "closer to who taught it than to the teacher"


def test_no_assistants_no_change() -> None:
    def numbers(report: Report) -> list[dict[str, Any]]:
        said, spent = report.to_dict(), ("seconds", "cpu_seconds", "via")
        return [{k: v for k, v in it.items() if k not in spent} for it in (*said["via"], said)]

    assert numbers(distilled(via=(), **HARD)) == numbers(distilled(**HARD))
    chained = distilled(via=["same"], **HARD)
    assert numbers(chained) == numbers(distilled(via=["same"], **HARD)), "same seed, same numbers"


def test_a_target_ends_each_stage() -> None:
    report = distilled(via=["8"], until_retention=0.5, cycles=9)
    assert [it.stopped_by for it in (*report.via, report)] == ["target", "target"]
    assert report.env_steps < 2 * 2048 * (2**9 - 1)
    assert all(it.history[-1]["retention"] >= 0.5 for it in (*report.via, report))


def test_every_stage_gets_its_share_of_the_time() -> None:
    report = distilled(via=["same", "same"], cycles=1000, steps=512, learning_rate=1e-7, max_seconds=1.5)
    assert report.stopped_by == "time" and [it.stopped_by for it in report.via] == ["time", "time"]
    assert all(it.updates > 1 for it in report.via)
    assert report.updates > sum(it.updates for it in report.via) + 1
    assert report.config["max_seconds"] == 1.5


# Born again


def test_same_is_of_the_students_shape_with_other_first_weights() -> None:
    from policykd.distill.chain import assistants

    student = students.mlp(CARTPOLE, (8, 4), activation="elu", value=True, seed=5)
    one, two = assistants(("same", "same"), Balancer(), student, seed=5)
    assert one.shape == two.shape == student.shape
    weights = [it.torso[0].weight for it in (student, one, two)]
    assert not any(torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])
    again = assistants(("same", "same"), Balancer(), student, seed=5)
    assert all(torch.equal(a.torso[0].weight, b.torso[0].weight) for a, b in zip((one, two), again, strict=True))
    (linear,) = assistants(((),), Balancer(), students.mlp(CARTPOLE, ()))
    assert linear.shape.hidden == () and linear.value_head is None
    (valued,) = assistants(((16,),), Balancer(), student)
    assert valued.value_head is not None


def test_a_chain_of_values() -> None:
    report = distilled(student=students.mlp(CARTPOLE, (4,), value=True), via=["8"])
    assert all(it.kept.value_error is not None and it.kept.value_error < 3 for it in (*report.via, report))


# Losses


def test_a_teacher_with_action_values_hands_on_a_law() -> None:
    """After the first stage there are no Q-values any more: the assistant's law is the one that was made of them."""
    teacher = kd.load_teacher(AGENTS / "cartpole-dqn")
    targets: list[bool] = []
    how = {**FAST, "steps": 4096, "via": [(32, 32), (16,)], "hidden": (16,)}
    report = kd.distill(
        teacher, None, SHORT, on_tick=lambda t: targets.append(t.memory.newest(8).target.q is not None), **how
    )
    assert targets[0] and not targets[-1] and targets == sorted(targets, reverse=True)
    assert report.policy is not None and report.via[-1].policy is not None
    obs = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * 0.05
    assert (compare_on(obs, report.policy, report.via[-1].policy).kl or 0.0) < 0.05
    law = report.policy.label(obs).dist
    assert float(law.entropy().mean()) > 0.02, "not sharpened on the way"


def test_a_loss_of_action_values_is_refused_before_anything_is_learnt() -> None:
    teacher, ticks = kd.load_teacher(AGENTS / "cartpole-dqn"), []
    with pytest.raises(UsageError, match=r"no-q.*\[distill.via\]"):
        distilled(teacher, via=["8"], loss=losses.centred_q, on_tick=ticks.append)
    assert ticks == []
    assert distilled(teacher, via=["8"], loss=losses.forward_kl, **HARD).updates == 8


class Tempered(nn.Module):
    """A loss that learns its own temperature, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.log_t = nn.Parameter(torch.zeros(()))
        self.calls = 0

    def forward(self, student: Prediction, target: Prediction) -> Tensor:
        self.calls += 1
        return losses.forward_kl(student, target) + (self.log_t - 1.0).square()


def test_what_a_loss_has_learnt_stays_in_its_stage() -> None:
    loss = Tempered()
    report = distilled(via=["8"], loss=loss)
    assert loss.calls == report.updates - report.via[0].updates
    assert 0 < float(loss.log_t.detach()) < 1


def test_assistants_learn_from_reward_too() -> None:
    how = {"method": "ppd", "steps": 1024, "imitate": 512, "rollout": 256, "epochs": 1, "minibatch": 128, "looks": 1}
    report = distilled(via=["8"], **{**FAST, **how})
    assert 1024 <= report.env_steps - report.via[0].env_steps < 1024 + 16
    assert report.via[0].method == report.method == "ppd"
    assert isinstance(report.policy, students.Student) and isinstance(report.via[0].policy, students.Student)


# What is refused


@pytest.mark.parametrize(
    ("via", "says", "how"),
    [
        (["2"], "largest to the smallest", {}),
        (["8", "64,64"], "largest to the smallest", {}),
        (["same", "8"], "largest to the smallest", {}),
        (["8x8"], "or 'same'", {}),
        (["0"], "or 'same'", {}),
        ([""], "or 'same'", {}),
        ((64, 64), r"via=\[\(64, 64\)\]", {}),
        (["8"], "dataset", {"method": "dataset", "dataset": "x"}),
        (["8"], "values to compare", {"method": "ppd", "value_gate": True}),
    ],
)
def test_assistants_that_cannot_be_meant(via: Any, says: str, how: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"{says}.*\[distill.via\]"):
        distilled(via=via, **how)


def test_same_needs_a_student_with_a_shape() -> None:
    with pytest.raises(UsageError, match=r"a Balancer.*\[distill.via\]"):
        distilled(student=Balancer(), via="same", **HARD)


def test_sizes_as_people_type_them() -> None:
    how = DistillConfig(), RewardConfig()
    assert parse_via(["256,256", (64, 64), "linear", "same", ()], *how) == ((256, 256), (64, 64), (), "same", ())
    assert parse_via("64,64", *how) == ((64, 64),) and parse_via((), *how) == ()
    assert parse_via([], DistillConfig(method="dataset", dataset="x"), RewardConfig(value_gate=True)) == ()


# In a shell

TINY = ["--hidden", "4", "--steps", "2048", "--cycles", "1", "--rows-per-update", "8", "--batch-size", "64"]
TINY += ["--select-episodes", "20", "--max-episodes", "100", "--workers", "1"]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of short episodes."""
    path = tmp_path_factory.mktemp("envs") / "short.py"
    path.write_text(
        "from policykd.recipe import Recipe\nRECIPE = Recipe('CartPole-v1', env_kwargs={'max_episode_steps': 60})\n"
    )
    return path


@pytest.fixture(scope="module")
def run(verb: Any, short: Path) -> tuple[Path, str, str]:
    words = ["--via", "16,16", "--via", "same", str(AGENTS / "cartpole-ppo"), *TINY, "--env", str(short)]
    folder, out, err = verb("distill", *words)
    return folder, out, err


def test_a_run_with_assistants(run: tuple[Path, str, str]) -> None:
    folder, out, err = run
    report = json.loads((folder / "report.json").read_text())
    assert [it["path"] for it in report["via"]] == [str(folder / "via/1-16x16"), str(folder / "via/2-4")]
    for it in report["via"]:
        student = load_student(it["path"])
        assert student.acting_parameters == it["params"] and student.origin.env_id == "CartPole-v1"
    assert len(report["files"]) == 6 and "via/1-16x16/student.safetensors" in report["files"]
    kept = [f"{it['retention']:.3f}" for it in report["via"]]
    line = next(line for line in out.splitlines() if line.startswith("via "))
    assert line.startswith(f"via 16,16 ({kept[0]}") and f"-> 4 ({kept[1]}" in line
    stages = [line for line in err.splitlines() if line.startswith("via ")]
    assert [line.split(":")[:2] for line in stages] == [["via 1 of 2", " 16,16"], ["via 2 of 2", " 4"]]
    assert all("retention" in line for line in stages)


def test_charts_of_a_chain(run: tuple[Path, str, str]) -> None:
    folder, _, _ = run
    report = json.loads((folder / "report.json").read_text())
    ends = {}
    for series in ("via/1-16x16", "via/2-4", "student"):
        events = EventAccumulator(str(folder / series))
        events.Reload()
        loss, kept = (events.Scalars(tag) for tag in ("train/loss", "eval/retention"))
        ends[series] = (loss[0].step, kept[-1].step)
        final = report if series == "student" else report["via"][int(series[4]) - 1]
        assert events.Scalars("final/retention")[-1].value == pytest.approx(final["retention"])
    firsts, lasts = zip(*ends.values(), strict=True)
    assert all(n * 2048 <= last < n * 2056 for n, last in enumerate(lasts, 1)), "one axis of environment steps"
    assert firsts[1] > lasts[0] and firsts[2] > lasts[1] and lasts[2] == report["env_steps"]
    teacher = EventAccumulator(str(folder / "teacher"))
    teacher.Reload()
    assert teacher.Scalars("eval/retention")[-1].step == lasts[2]
    assert [int(p.name) for p in (folder / "checkpoints").iterdir()] == [lasts[2]], "of the student alone"


def test_a_config_gives_the_assistants_back(run: tuple[Path, str, str], tmp_path: Path, capsys: Any) -> None:
    folder, _, _ = run
    assert json.loads((folder / "config.json").read_text())["via"] == ["16,16", "same"]
    again = ["distill", "--config", str(folder / "config.json"), "--dry-run", "--json", "--out", str(tmp_path / "r")]
    assert main(again) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [(it["hidden"], it["params"]) for it in facts["via"]] == [([16, 16], 386), ([4], 30)]
    assert facts["student"]["hidden"] == [4] and facts["config"]["via"] == ["16,16", "same"]
    assert main([*again, "--via", "8"]) == 0, "flags win"
    assert [it["hidden"] for it in json.loads(capsys.readouterr().out)["via"]] == [[8]]


def test_promote_takes_the_student(run: tuple[Path, str, str], tmp_path: Path, capsys: Any) -> None:
    folder, _, _ = run
    assert main(["promote", str(folder), "cartpole-4", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["card"]["params"] == 30


@pytest.mark.parametrize(
    "words",
    [
        ["--via", "16,16", "8", "AGENT"],
        ["--via", "16,16", "--via", "8", "AGENT"],
        ["AGENT", "--via=16,16", "--hidden", "4", "--via=8"],
        ["--via", "16,16", "AGENT", "--via", "8", "--quiet"],
    ],
)
def test_ways_to_name_two(words: list[str], tmp_path: Path, capsys: Any) -> None:
    words = [str(AGENTS / "cartpole-ppo") if word == "AGENT" else word for word in words]
    assert main(["distill", "--hidden", "4", *words, "--dry-run", "--json", "--out", str(tmp_path / "r")]) == 0
    assert [it["hidden"] for it in json.loads(capsys.readouterr().out)["via"]] == [[16, 16], [8]]


def test_a_dry_run_shows_the_stages(tmp_path: Path, capsys: Any) -> None:
    flags = ["--max-params", "1%", "--via", "64,64", "--via", "same", "--dry-run", "--out", str(tmp_path / "r")]
    assert main(["distill", str(AGENTS / "cartpole-dqn"), *flags]) == 0
    out = capsys.readouterr().out
    assert "via 1    64,64: 4,610 (26.48% of the teacher's)" in out
    assert "via 2    9,9: 155 (0.89% of the teacher's)" in out and "hidden   9,9" in out


@pytest.mark.parametrize("words", [["--via", "2"], ["--via", "8x8"], ["--via", "8", "--via", "64,64"]])
def test_what_a_shell_is_told(words: list[str], tmp_path: Path, capsys: Any) -> None:
    assert main(["distill", str(AGENTS / "cartpole-dqn"), "--hidden", "4", *words, "--out", str(tmp_path / "r")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.endswith("[distill.via]\n")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(("after", "where"), [(0, "via/1-16x16"), (4, "")])
def test_who_has_had_enough_keeps_what_was_learnt(
    after: int, where: str, short: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """Ctrl-C in the first stage, and in the last one."""
    from policykd.cli.verbs import distill

    made, ticks = distill.record_via, 0

    def record_via(run: Any) -> Any:
        on_tick, on_look, on_stage = made(run)

        def impatient(tick: Tick) -> None:
            nonlocal ticks
            on_tick(tick)
            ticks += 1
            if ticks > after:
                raise KeyboardInterrupt

        return impatient, on_look, on_stage

    monkeypatch.setattr(distill, "record_via", record_via)
    folder = tmp_path / "r"
    flags = ["--via", "16,16", "--via", "8", *TINY, "--env", str(short), "--quiet", "--out", str(folder)]
    assert main(["distill", str(AGENTS / "cartpole-dqn"), *flags]) == 130
    place = folder / where if where else folder
    assert f"policykd evaluate {place}" in capsys.readouterr().err
    assert load_student(place).acting_parameters == (386 if where else 30)
    assert (folder / "checkpoints").exists() == (not where)
