"""``policykd distill-classifier`` as a person types it: a run folder, a table, charts, and errors of one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from policykd.classifiers import load
from policykd.cli import main


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 8x8 pictures: bright above, bright below."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    x = rng.integers(0, 100, (400, 8, 8)).astype(np.uint8)
    for picture, label in zip(x, y, strict=True):
        picture[4 * label : 4 * label + 2] += 60
    path = tmp_path_factory.mktemp("data") / "halves.npz"
    np.savez(path, x=x, y=y)
    return path


QUICK = ["--epochs", "4", "--batch-size", "32", "--teacher", "cnn:8", "--student", "cnn:2"]


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "one"
    assert main(["distill-classifier", str(data), *QUICK, "--out", str(out), "--quiet"]) == 0
    return out


def test_a_run_holds_three_classifiers_and_their_report(run: Path, data: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    assert report["kind"] == "supervised" and report["data"]["rows"]["test"] == 80
    with np.load(data) as arrays:
        x = torch.as_tensor(arrays["x"]).unsqueeze(1)
    for who in ("teacher", "alone", "student"):
        classifier = load(report[who]["path"])
        assert classifier.acting_parameters == report[who]["params"]
        assert len(classifier.label_all(x).dist.mode()) == 400
    assert report["teacher"]["shape"] == "cnn:8" and report["student"]["shape"] == "cnn:2"


def test_charts_have_a_series_each(run: Path) -> None:
    for who in ("teacher", "alone", "student"):
        events = EventAccumulator(str(run / who))
        events.Reload()
        assert len(events.Scalars("eval/accuracy")) == 4
        assert events.Scalars("test/accuracy")[0].value == pytest.approx(
            json.loads((run / "report.json").read_text())[who]["accuracy"]
        )
    assert "distill/agreement" in events.Tags()["scalars"]
    assert any("comparison" in tag for tag in events.Tags()["tensors"])


def test_the_table_and_json_say_the_same(data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    teacher = str(run / "teacher")
    args = ["distill-classifier", str(data), *QUICK[:4], "--teacher", teacher, "--student", "cnn:2"]
    assert main([*args, "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert main([*args, "--out", str(tmp_path / "b"), "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert "student, labels alone" in said and f"{100 * fields['gain']:+.2f} points" in said
    assert f"{fields['student']['accuracy']:.4f}" in said
    assert fields["teacher"]["source"] == teacher and "epochs" not in fields["teacher"]


def test_the_second_run_asks_nobody(data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    args = ["distill-classifier", str(data), *QUICK[:4], "--teacher", str(run / "teacher"), "--student", "cnn:2"]
    args += ["--cache", str(tmp_path / "cache"), "--json"]
    rates = []
    for name in "ab":
        assert main([*args, "--out", str(tmp_path / name)]) == 0
        rates.append(json.loads(capsys.readouterr().out)["answers"]["hit_rate"])
    assert rates == [0.0, 1.0]


def test_a_dry_run_writes_nothing_and_a_configuration_comes_back(
    data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "none"
    assert main(["distill-classifier", str(data), *QUICK, "--dry-run", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not out.exists() and found["student"]["params"] == 2 * 9 + 2 + 2 * 16 * 2 + 2
    again = ["distill-classifier", str(data), "--config", str(run / "config.json"), "--out", str(tmp_path / "c")]
    assert main([*again, "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    first = json.loads((run / "report.json").read_text())
    assert fields["config"]["epochs"] == 4 and fields["student"]["accuracy"] == first["student"]["accuracy"]


def test_assistants_are_kept_and_shown(data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    args = ["distill-classifier", str(data), *QUICK[:4], "--teacher", str(run / "teacher"), "--student", "cnn:2"]
    assert main([*args, "--via", "cnn:4", "same", "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert "assistant 1" in said and "assistant 2" in said
    report = json.loads((tmp_path / "a/report.json").read_text())
    assert [load(it["path"]).acting_parameters for it in report["via"]] == [it["params"] for it in report["via"]]
    assert json.loads((tmp_path / "a/config.json").read_text())["via"] == ["cnn:4", "same"]


@pytest.mark.parametrize(
    "args",
    [
        ["{data}", "--via", "cnn:4", "--via", "same"],
        ["{data}", "--via", "cnn:4", "same"],
        ["--via", "cnn:4", "--via", "same", "{data}"],
        ["--via", "cnn:4", "same", "{data}"],
        ["--via=cnn:4", "--via", "same", "{data}"],
    ],
)
def test_assistants_are_typed_in_a_list_or_one_by_one(
    args: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    typed = [arg.format(data=data) for arg in args]
    out = tmp_path / "a"
    assert main(["distill-classifier", *typed, *QUICK, "--out", str(out), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"]["via"] == ["cnn:4", "same"] and not out.exists()
    small, student = found["via"]
    assert small["shape"] == "cnn:4" and student == {"shape": "cnn:2", "params": found["student"]["params"]}


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("via", "code"),
    [
        (["cnn:x"], "classifier.shape"),
        (["64,64"], "classifier.shape"),
        (["cnn:4", "--via", "bag:8"], "classifier.inputs"),
        (["cnn:4", "cnn:"], "classifier.shape"),
    ],
)
def test_an_assistant_that_cannot_be_is_refused_before_there_is_a_folder(
    via: list[str], code: str, dry: bool, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    typed = [*QUICK, "--via", *via, str(data), "--out", str(tmp_path / "a"), *(["--dry-run"] if dry else [])]
    assert main(["distill-classifier", *typed]) == 2
    assert f"[{code}]" in capsys.readouterr().err and not (tmp_path / "a").exists()


def test_the_table_has_the_distillation_loss(data: Path, run: Path, capsys: pytest.CaptureFixture) -> None:
    report = json.loads((run / "report.json").read_text())
    args = ["distill-classifier", str(data), "--config", str(run / "config.json"), "--out", str(run.parent / "again")]
    assert main([*args, "--quiet"]) == 0
    said = capsys.readouterr().out
    head, *lines = [line for line in said.splitlines() if "KD loss" in line or "student" in line]
    assert head.split()[-2:] == ["KD", "loss"]
    assert [line.split()[-1] for line in lines] == [f"{report[who]['kd_loss']:.4f}" for who in ("alone", "student")]


def test_a_cache_of_another_teacher_s_answers_is_named(
    data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    args = ["distill-classifier", "--student", "cnn:2", *QUICK[:4], "--cache", str(tmp_path / "cache"), "--quiet"]
    said = []
    with np.load(data) as arrays:
        np.savez(tmp_path / "fewer.npz", x=arrays["x"][:300], y=arrays["y"][:300])
    for i, (what, teacher) in enumerate(
        [
            (data, run / "teacher"),
            (data, run / "alone"),
            (data, run / "teacher"),
            (tmp_path / "fewer.npz", run / "teacher"),
        ]
    ):
        assert main([*args, str(what), "--teacher", str(teacher), "--out", str(tmp_path / str(i))]) == 0
        said.append(capsys.readouterr().out)
    assert ["asked anew" in text for text in said] == [False, True, False, True]
    assert "another teacher's" in said[1] and "this teacher's answers, but to other rows" in said[3]
    assert "100% from the cache" in said[2]


def test_ctrl_c_keeps_who_has_learnt(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import policykd.classify as classify

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(classify, "distil", stop)
    assert main(["distill-classifier", str(data), *QUICK, "--out", str(tmp_path / "a")]) == 130
    said = capsys.readouterr().err
    assert f"trained by now: {tmp_path}/a/teacher, {tmp_path}/a/alone" in said
    assert load(tmp_path / "a/teacher").classes == ("0", "1")


def test_a_classifier_among_runs_is_left_out_of_a_table_of_returns(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "agent").mkdir()
    card = Path(__file__).parent.parent / "agents/lunarlander-ppo/card.json"
    (tmp_path / "agent/card.json").write_text(card.read_text())
    (tmp_path / "one").symlink_to(run)
    assert main(["compare", str(tmp_path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 1
    assert main(["compare", str(run)]) == 1
    assert "[compare.classifier]" in capsys.readouterr().err


def test_a_classifier_is_inspected_and_not_promoted(run: Path, capsys: pytest.CaptureFixture) -> None:
    for path in (run, run / "teacher"):
        assert main(["inspect", str(path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["kind"] == "classifier" and found["classes"] == ["0", "1"]
    assert main(["promote", str(run), "halves"]) == 1
    assert "[promote.kind]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "code", "status"),
    [
        (["fashion-minst"], "name.data", 2),
        (["{data}", "--student", "cnn:x"], "classifier.shape", 2),
        (["{data}", "--teacher", "no/such"], "classifier.shape", 2),
        (["{data}", "--temperature", "inf"], "config.range", 2),
        (["{data}", "--student", "bag:8"], "classifier.inputs", 2),
        (["{data}", "--loss", "attentoin"], "cli", 2),
        (["{data}", "--alpha", "2"], "config.range", 2),
        (["{data}", "--labels", "0"], "config.range", 2),
        (["{data}", "--raters"], "classify.raters", 2),
        (["{data}", "--raters", "--view", "mixup"], "config.raters", 2),
        (["{data}", "--view", "noise"], "classify.view", 2),
        (["{data}", "--threads", "0"], "config.zero", 2),
        (["{data}", "--teacher", "cnn:8", "--student", "cnn:2", "--out", "{run}"], "run.exists", 1),
    ],
)
def test_what_a_person_gets_wrong_is_one_line(
    args: list[str], code: str, status: int, data: Path, run: Path, capsys: pytest.CaptureFixture
) -> None:
    typed = [arg.format(data=data, run=run) for arg in args]
    assert main(["distill-classifier", *typed]) == status
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ") and f"[{code}" in said
