"""The command line before anything runs: verbs, flags, help, how errors are said, and what is not imported for it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import MISSING, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import pytest

import policykd
from policykd.cli import VERBS, main
from policykd.cli.arguments import Manner
from policykd.cli.arguments.distill import Arguments as Distill
from policykd.cli.arguments.frontier import Arguments as Frontier
from policykd.cli.arguments.list import What
from policykd.cli.arguments.train import Algorithm
from policykd.cli.flags import flags_of, parse, settings
from policykd.cli.names import LOSSES, loss_of
from policykd.config import DistillConfig, FrontierConfig
from policykd.errors import PolicykdError, UnknownNameError, UsageError

HEAVY = ("torch", "numpy", "gymnasium", "stable_baselines3", "tensorboard", "safetensors", "rich", "typeguard")


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(argv)
    out, err = capsys.readouterr()
    return code, out, err


# --- the dispatcher


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--help"], ["-h"], ["help"]):
        code, out, err = said(capsys, *argv)
        assert (code, err) == (0, "")
        assert all(f"  {verb} " in out for verb in VERBS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version") == (0, f"policykd {policykd.__version__}\n", "")


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_says_a_sentence_for_each_flag(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, verb, "--help")
    assert (code, err) == (0, "")
    assert said(capsys, "help", verb)[1] == out
    flags = flags_of(import_module(f"policykd.cli.arguments.{verb.replace('-', '_')}").Arguments)
    text = " ".join(out.replace("│", " ").split())
    for flag in flags:
        shown = flag.metavar if flag.default is MISSING else flag.option
        assert shown is None or shown in out
        assert flag.sentence, flag.name
        assert " ".join(flag.sentence.replace("``", "`").split()) in text
    assert {"json", "quiet", "debug"} <= {flag.name for flag in flags}


def test_verbs_with_randomness_take_a_seed_and_verbs_that_write_take_out_and_dry_run() -> None:
    modules = {v: import_module(f"policykd.cli.arguments.{v.replace('-', '_')}") for v in VERBS}
    names = {v: {f.name for f in flags_of(module.Arguments)} for v, module in modules.items()}
    seeded = {"train", "distill", "distill-classifier", "frontier", "multitask", "evaluate", "label"}
    assert {verb for verb, known in names.items() if "seed" in known} == seeded
    writers = {"train", "distill", "distill-classifier", "frontier", "multitask", "label", "promote"}
    assert {verb for verb, known in names.items() if {"out", "dry_run"} <= known} == writers


@pytest.mark.parametrize(
    ("argv", "exit_code", "parts"),
    [
        (["distil"], 2, ["verb 'distil'", "did you mean distill", "[name.verb]"]),
        (["--fast"], 2, ["the option --fast", "a verb first", "[cli.verb]"]),
        (["distill"], 2, ["no TEACHER", "expected a trained agent", "policykd distill --help", "[cli.arguments]"]),
        (["promote", "runs/x"], 2, ["no NAME", "[cli.arguments]"]),
        (["distill", "a", "b"], 2, ["b", "[cli.arguments]"]),
        (["distill", "a", "--step", "3"], 2, ["'--step'", "did you mean --steps", "[name.option]"]),
        (["distill", "a", "--steps", "3.5"], 2, ["--steps 3.5", "expected a whole number", "[cli.arguments]"]),
        (["distill", "a", "--steps=many"], 2, ["--steps many", "expected a whole number", "[cli.arguments]"]),
        (["distill", "a", "--steps"], 2, ["--steps", "expected a whole number", "[cli.arguments]"]),
        (["distill", "a", "--max-seconds", "soon"], 2, ["--max-seconds soon", "expected a number", "[cli.arguments]"]),
        (["distill", "a", "--method", "dager"], 2, ["--method dager", "did you mean dagger?", "[cli.arguments]"]),
        (["distill", "a", "--steps", "0"], 2, ["--steps 0", "at least 1", "[config.zero]"]),
        (["distill", "a", "--threads", "0"], 2, ["--threads 0", "[config.zero]"]),
        (["distill", "a", "--hidden", "64,x"], 2, ["'64,x'", "--hidden 64,64", "[student.hidden]"]),
        (["distill", "a", "--hidden", "64", "0"], 2, ["'64,0'", "[student.hidden]"]),
        (["distill", "a", "--max-params", "0%"], 2, ["'0%'", "--max-params 4%", "[student.budget]"]),
        (["distill", "a", "--max-params", "4.5"], 2, ["'4.5'", "[student.budget]"]),
        (["distill", "a", "--loss", "forward_kl"], 2, ["'forward_kl'", "did you mean forward-kl", "[name.loss]"]),
        (["distill", "a", "--config", "no.json"], 2, ["no.json", "No such file", "[cli.config]"]),
        (["frontier"], 2, ["no TEACHER", "policykd frontier --help", "[cli.arguments]"]),
        (["frontier", "a", "--sizes", "4", "big"], 2, ["'big'", "[student.hidden]"]),
        (["frontier", "a", "--sizes", "tree:1"], 2, ["'tree:1'", "2 leaves or more", "[student.leaves]"]),
        (["frontier", "a", "--seeds", "0"], 2, ["--seeds 0", "at least 1", "[config.zero]"]),
        (["frontier", "a", "--target", "2"], 2, ["a target of 2.0", "at most 1", "[frontier.target]"]),
        (["frontier", "a", "--screen", "3"], 2, ["--screen 3", "8 episodes", "[frontier.screen]"]),
        (["frontier", "a", "--method", "dataset"], 2, ["dataset", "[config.dataset]"]),
        (["frontier", "a", "--threads", "0"], 2, ["--threads 0", "[config.zero]"]),
        (["train", "CartPole-v1", "--algo", "pppo"], 2, ["--algo pppo", "did you mean ppo?", "[cli.arguments]"]),
        (["train", "CartPole-v1", "--steps", "0"], 2, ["--steps 0", "[config.zero]"]),
        (["evaluate"], 2, ["no agent", "one path or more", "[cli.arguments]"]),
        (["evaluate", "a", "--episodes", "-1"], 2, ["--episodes -1", "[config.zero]"]),
        (["compare"], 2, ["no run", "[cli.arguments]"]),
        (["label", "a"], 2, ["no --out", "add --out DIR", "[cli.arguments]"]),
        (["list", "loss"], 2, ["loss", "losses", "[cli.arguments]"]),
    ],
)
def test_arguments_that_cannot_be_meant(
    argv: list[str], exit_code: int, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, *argv)
    assert (code, out) == (exit_code, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    for part in parts:
        assert part in err
    if argv[0] in VERBS:
        code, out, err = said(capsys, *argv, "--json")
        assert code == exit_code
        assert json.loads(out)["error"]["code"] == parts[-1].strip("[]")


def test_debug_shows_where_it_happened(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, "distill", "a", "--steps", "0", "--debug")
    assert code == 2
    assert "Traceback" in err and err.endswith("[config.zero]\n")


@pytest.mark.parametrize(
    ("error", "exit_code", "ends"),
    [
        (KeyboardInterrupt(), 130, "interrupted [interrupted]"),
        (KeyboardInterrupt("after 3 steps"), 130, "interrupted: after 3 steps [interrupted]"),
        (OSError(28, "No space left on device", "runs/x"), 1, "runs/x: No space left on device [system]"),
        (ValueError("two\nlines"), 1, "--debug [internal]"),
    ],
)
def test_everything_else_is_one_line_too(
    error: BaseException, exit_code: int, ends: str, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any) -> Any:
        raise error

    monkeypatch.setattr("policykd.cli.verbs.compare.run", fail)
    code, out, err = said(capsys, "compare", "runs")
    assert (code, out) == (exit_code, "")
    assert err.endswith(ends + "\n") and err.count("\n") == 1


def test_a_reader_that_has_had_enough(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -W error -m policykd list losses | true",
        shell=True,
        capture_output=True,
        text=True,
        cwd=Path(policykd.__file__).parent.parent,
    )
    assert done.stderr == ""


# --- what is not imported


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        ["distil"],
        *([verb, "--help"] for verb in VERBS),
        ["distill", "a", "--step", "3"],
        ["distill", "a", "--steps", "0"],
        ["distill", "a", "--hidden", "0"],
        ["distill", "a", "--max-params", "x"],
        ["distill", "a", "--loss", "kl"],
        ["distill", "a", "--until-retention", "high"],
        ["train", "CartPole-v1", "--algo", "pppo"],
        ["frontier", "a", "--sizes", "tree:1"],
        ["frontier", "a", "--target", "2"],
        ["evaluate"],
    ],
)
def test_help_and_argument_errors_import_nothing_heavy(argv: list[str]) -> None:
    # In one process, because what counts is what a fresh one would have to import.
    code = (
        "import sys; from policykd.cli import main; code = main(sys.argv[2:]);"
        "found = [m for m in sys.argv[1].split(',') if m in sys.modules]; sys.exit(f'imported {found}' if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, ",".join(HEAVY), *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_needs_no_tyro() -> None:
    code = "import sys; from policykd.cli import main; main(['--help']); sys.exit('tyro' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_both_ways_in(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("policykd")
    for command in ([sys.executable, "-m", "policykd"], [str(script)]):
        done = subprocess.run([*command, "distill", "nothing", "--steps", "0"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.endswith("[config.zero]\n")


# --- records and flags


def test_every_field_of_the_config_is_a_flag_with_its_default(tmp_path: Path) -> None:
    flags = {flag.name: flag for flag in flags_of(Distill)}
    for f in fields(DistillConfig):
        assert flags[f.name].default == f.default
    parsed = parse(Distill, "distill", ["agent"])
    assert parsed == Distill(teacher="agent")
    assert parsed is not None and parsed.how == DistillConfig()


def test_every_field_of_a_frontiers_config_is_a_flag_too(tmp_path: Path) -> None:
    argv = ["agent", "--sizes", "linear", "tree:8", "16,16", "--seeds", "2", "--target", "0.9", "--steps", "7"]
    parsed = parse(Frontier, "frontier", argv)
    how = FrontierConfig(sizes=("linear", "tree:8", "16,16"), seeds=2, target=0.9, steps=7)
    assert parsed == Frontier(teacher="agent", how=how)
    assert {f.name for f in fields(FrontierConfig)} <= {flag.name for flag in flags_of(Frontier)}
    (tmp_path / "config.json").write_text(json.dumps(settings(Frontier(teacher="agent", how=how))))
    assert parse(Frontier, "frontier", ["--config", str(tmp_path / "config.json")]) == Frontier(
        teacher="agent", how=how, config=tmp_path / "config.json"
    )


def test_flags_become_fields() -> None:
    argv = ["--hidden", "64", "32", "agent", "--explore", "--until-retention", "0.95", "--learning_rate=1e-4"]
    argv += ["--method", "student", "--max-params=4%", "--gym-packages", "a", "b", "--out", "runs/x", "--seed", "3"]
    parsed = parse(Distill, "distill", argv)
    assert parsed == Distill(
        teacher="agent",
        hidden="64,32",
        max_params="4%",
        gym_packages=("a", "b"),
        out=Path("runs/x"),
        how=DistillConfig(method="student", explore=True, until_retention=0.95, learning_rate=1e-4, seed=3),
    )


@pytest.mark.parametrize("typed", [["64", "64"], ["64,64"], ["64,", "64"], ["linear"], ["8"]])
def test_shapes_as_people_type_them(typed: list[str]) -> None:
    if typed == ["64,", "64"]:
        with pytest.raises(UsageError):
            parse(Distill, "distill", ["--hidden", *typed, "agent"])
        return
    parsed = parse(Distill, "distill", ["--hidden", *typed, "agent"])
    assert parsed is not None and parsed.hidden == ",".join(typed) and parsed.teacher == "agent"


def test_settings_can_be_given_back(tmp_path: Path) -> None:
    first = parse(Distill, "distill", ["agent", "--steps", "77", "--max-params", "9", "--gym-packages", "x", "--value"])
    assert first is not None
    (tmp_path / "config.json").write_text(json.dumps(settings(first)))
    given = ["--config", str(tmp_path / "config.json")]
    again = parse(Distill, "distill", given)
    assert again is not None and settings(again) == settings(first)
    over = parse(Distill, "distill", ["other", *given, "--steps", "5", "--no-explore"])
    assert over is not None
    assert settings(over) == {**settings(first), "teacher": "other", "steps": 5}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"stepz": 3}', r"did you mean steps.*\[name"),
        ('{"steps": "many"}', r"steps = 'many'; expected a whole number.*\[cli.config\]"),
        ('{"steps": true}', r"expected a whole number.*\[cli.config\]"),
        ('{"method": "x"}', r"expected teacher, student, dagger, dataset, ppd or kickstart.*\[cli.config\]"),
        ('{"gym_packages": "x"}', r"expected words.*\[cli.config\]"),
        ('{"explore": 1}', r"expected true or false.*\[cli.config\]"),
        ('{"steps": 0}', r"\[config.zero\]"),
        ("[]", r"it holds a list.*\[cli.config\]"),
        ("{", r"\[cli.config\]"),
    ],
)
def test_a_config_file_that_cannot_be_meant(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UsageError, match=says):
        parse(Distill, "distill", ["agent", "--config", str(tmp_path / "c.json")])


@dataclass(frozen=True, kw_only=True)
class Toy(Manner):
    """A toy."""

    one: str
    """First."""
    kind: Literal["a", "b"] = "a"
    """Second."""
    how: DistillConfig = field(default_factory=DistillConfig)


def test_flags_of_a_record() -> None:
    flags = flags_of(Toy)
    assert [flag.name for flag in flags][:3] == ["one", "kind", "dataset"]
    assert [flag.name for flag in flags][-3:] == ["json", "quiet", "debug"]
    names = [flag.name for flag in flags_of(Distill)]
    order = ["teacher", "hidden", "env", "dry_run", "dataset", "method", "json"]
    assert sorted(order, key=names.index) == order, "own, the base's, the inner record's own and base's, the root's"
    assert (flags[0].option, flags[1].option, flags[1].expected) == ("ONE", "--kind", "a or b")


# --- names


def test_every_loss_of_the_table_is_there() -> None:
    for name in LOSSES:
        assert callable(loss_of(name))


def test_a_loss_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_losses.py").write_text("def mine(student, target):\n    return 1\n")
    (tmp_path / "broken_losses.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert loss_of("my_own_losses:mine")(None, None) == 1
    for name, code in (
        ("my_own_losses:main", "name.function"),
        ("broken_losses:x", "loss.import"),
        ("no_such_module_at_all:x", "loss.import"),
    ):
        with pytest.raises(PolicykdError) as caught:
            loss_of(name)
        assert caught.value.code == code
    with pytest.raises(UnknownNameError, match="did you mean mine"):
        loss_of("my_own_losses:mein")


def test_the_light_tables_agree_with_the_rooms() -> None:
    from typing import get_args

    from policykd.cli.verbs.list import _METHODS, _REWARDED
    from policykd.config import METHODS, REWARDED
    from policykd.teachers.train import ALGORITHMS

    assert set(get_args(Algorithm)) == set(ALGORITHMS)
    assert tuple(_METHODS) == METHODS
    assert tuple(_REWARDED) == REWARDED
    assert get_args(What) == ("envs", "losses", "methods", "students", "agents", "runs")
