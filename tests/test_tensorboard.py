"""TensorBoard, by reading the event files back: SB3's tags and ours, lines to compare with, hparams, the layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cartpole_agent import write_balancer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from policykd.cli import main
from policykd.run import Run

STEPS = 2_100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command line that looks at its student several times."""
    place = tmp_path_factory.mktemp("tensorboard")
    agent = write_balancer(place, sharpness=3.0)
    # Few updates, so that the first of two cycles ends short of the teacher; few environments, so that episodes end.
    flags = ["--hidden", "6", "--value", "--steps", str(STEPS), "--cycles", "2", "--rows-per-update", "48"]
    flags += ["--batch-size", "64", "--num-envs", "6", "--quiet"]
    assert main(["distill", str(agent), *flags, "--out", str(place / "run")]) == 0
    return place / "run"


def events(folder: Path, series: str) -> EventAccumulator:
    return EventAccumulator(str(folder / series), size_guidance={"scalars": 0}).Reload()


def points(folder: Path, series: str, tag: str) -> list[tuple[int, float]]:
    return [(e.step, e.value) for e in events(folder, series).Scalars(tag)]


def test_the_tags(folder: Path) -> None:
    tags = set(events(folder, "student").Tags()["scalars"])
    sb3s = {"rollout/ep_rew_mean", "rollout/ep_len_mean", "eval/mean_reward", "eval/mean_ep_length", "time/fps"}
    ours = {"distill/kl", "distill/agreement", "distill/value_error", "distill/weight/policy", "eval/retention"}
    assert sb3s | ours | {"train/loss", "train/learning_rate"} <= tags
    assert {"distill/weight/value", "distill/loss/policy", "distill/loss/value"} <= tags


def test_the_x_axis_is_environment_steps(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    steps = [step for step, _ in points(folder, "student", "train/loss")]
    assert steps == sorted(set(steps))
    assert 2 * STEPS < steps[-1] <= report["env_steps"]
    looks = points(folder, "student", "eval/mean_reward")
    assert [step for step, _ in looks] == [look["env_steps"] for look in report["history"]]
    assert [value for _, value in looks] == pytest.approx([look["return_mean"] for look in report["history"]])
    assert len(looks) == 2


@pytest.mark.parametrize(("series", "kept"), [("teacher", 1.0), ("random", 0.0)])
@pytest.mark.parametrize("tag", ["eval/mean_reward", "rollout/ep_rew_mean", "eval/retention"])
def test_lines_to_compare_with(folder: Path, series: str, kept: float, tag: str) -> None:
    line = points(folder, series, tag)
    assert line[0][0] == 0
    assert line[-1][0] == max(step for step, _ in points(folder, "student", "eval/mean_reward"))
    assert len({value for _, value in line}) == 1
    if tag == "eval/retention":
        assert line[0][1] == kept
    elif series == "teacher":
        assert line[0][1] == 500.0
    else:
        assert 15 < line[0][1] < 35


def test_agreement_and_learning_rate_move_as_they_should(folder: Path) -> None:
    agreement = [value for _, value in points(folder, "student", "distill/agreement")]
    assert 0 <= min(agreement) <= max(agreement) <= 1
    assert agreement[-1] > 0.6
    rates = [value for _, value in points(folder, "student", "train/learning_rate")]
    assert max(rates) > 10 * rates[-1]
    assert all(fps > 0 for _, fps in points(folder, "student", "time/fps"))


def test_hparams_hold_the_final_numbers(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    plugin = events(folder, "student").SummaryMetadata("_hparams_/session_start_info").plugin_data
    asked = HParamsPluginData.FromString(plugin.content).session_start_info.hparams
    assert {"hidden", "learning_rate", "method", "seed", "steps", "env_id"} <= set(asked)
    assert asked["hidden"].string_value == "6"
    assert not {"memory", "gae_lambda"} & set(asked), "a default says nothing about this run"
    names = ("retention", "params", "bytes", "return")
    finals = {name: points(folder, "student", f"final/{name}")[-1][1] for name in names}
    student = report["student"]
    wanted = {"retention": report["retention"], "params": student["params"], "bytes": student["bytes"]}
    assert finals == pytest.approx({**wanted, "return": student["return_mean"]}, rel=1e-6)


def test_the_layout_opens_on_the_comparison(folder: Path) -> None:
    seen = events(folder, "student")
    layout = Layout.FromString(seen.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    assert layout.category[0].title.startswith("comparison")
    assert list(layout.category[0].chart[0].multiline.tag) == ["eval/mean_reward"]
    shown = {tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag}
    assert shown <= set(seen.Tags()["scalars"])


def test_the_comparison_as_a_text(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    text = events(folder, "student").Tensors("comparison/text_summary")[0].tensor_proto.string_val[0].decode()
    assert f"| teacher | {report['teacher']['return_mean']:.2f} |" in text
    assert f"| student | {report['student']['return_mean']:.2f} |" in text
    assert f"retention {report['retention']:.3f}" in text


def test_nothing_of_tensorboard_is_imported_before_a_point_is_drawn(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from policykd.run import Run; run = Run.create(sys.argv[1], config={}, command='');"
        "assert not [m for m in sys.modules if m.startswith('tensorboard')];"
        "run.scalars(0, {'train/loss': 1.0}); run.close(); assert 'tensorboard' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=True)


def test_missing_numbers_are_left_out(tmp_path: Path) -> None:
    values: dict[str, Any] = {"a": None, "b": float("nan"), "c": 2.0}
    with Run.create(tmp_path / "a", config={}, command="") as run:
        run.scalars(5, values)
        run.reference(5, {"c": 3.0}, "teacher")
        run.reference(9, {"c": 3.0}, "teacher")
    assert events(tmp_path / "a", "student").Tags()["scalars"] == ["c"]
    assert points(tmp_path / "a", "teacher", "c") == [(0, 3.0), (5, 3.0), (9, 3.0)]
