"""A frontier's run folder, from a report made by hand: every student is there, the shelf, the picture, the charts."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frontier_by_hand import made, network
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from policykd.cli import main
from policykd.cli.measured import rows_in
from policykd.errors import MissingExtraError, RunError, UsageError
from policykd.evaluation import Interval
from policykd.load import load_student, load_teacher
from policykd.report import FrontierReport
from policykd.run import Run, picture, promote
from policykd.run.sizes import place, sizes_in
from policykd.students import Cohort, Tree

PARAMS = {"linear": 10, "tree:2": 2 + 2 * 2, "16,16": 16 * 4 + 16 + 16 * 16 + 16 + 2 * 16 + 2}
"""By hand: weights and biases of 4 -> 2 and 4 -> 16 -> 16 -> 2; one test (column, threshold) and two leaves of 2."""


CONFIG = {"teacher": "a.zip", "target": 0.95, "seeds": 3, "steps": 4000, "learning_rate": 0.02, "sizes": []}


def finished(folder: Path, report: FrontierReport) -> dict[str, Any]:
    with Run.create(folder, config=CONFIG, command="policykd frontier a.zip") as run:
        return run.finish(report)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    place = tmp_path_factory.mktemp("frontier") / "run"
    finished(place, made())
    return place


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


# --- every student


def test_every_student_is_there_and_is_the_one_of_the_report(folder: Path) -> None:
    report, said = made(), report_of(folder)
    obs = torch.from_numpy(np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32))
    count = 0
    for candidate, it in zip(report.candidates, said["candidates"], strict=True):
        assert it["path"] == next(s["path"] for s in it["seeds"] if s["seed"] == candidate.seed)
        for (_, policy, *_), one in zip(candidate.seeds, it["seeds"], strict=True):
            loaded = load_student(one["path"])
            assert torch.equal(loaded.label(obs).dist.logits, policy.label(obs).dist.logits)  # type: ignore[attr-defined]
            assert loaded.origin.env_id == "CartPole-v1"
            count += 1
        assert (it["params"], load_student(it["path"]).acting_parameters) == (PARAMS[it["name"]],) * 2
    assert count == 6
    assert said["candidates"][0]["path"] == str(folder / "students/tree-2/seed-0")
    assert said["candidates"][2]["path"] == str(folder / "students/16x16/seed-2")


def test_the_chosen_one_is_what_the_run_loads_as(folder: Path) -> None:
    obs = np.random.default_rng(1).normal(size=(200, 4)).astype(np.float32)
    said = report_of(folder)
    assert said["chosen"] == "linear"
    assert load_teacher(folder).acting_parameters == said["student"]["params"] == 10
    wanted = load_student(folder / "students/linear/seed-1").predict(obs, deterministic=True)[0]
    np.testing.assert_array_equal(load_teacher(folder).predict(obs, deterministic=True)[0], wanted)


def test_the_contract(folder: Path) -> None:
    said = report_of(folder)
    assert said["schema"] == 1 and said["kind"] == "frontier"
    assert {"target", "chosen", "candidates", "teacher", "random", "env_steps", "seconds"} <= set(said)
    fields = {"name", "path", "params", "bytes", "retention", "retention_ci", "episodes", "latency_us"}
    assert all(fields <= set(it) for it in said["candidates"])
    assert [it["name"] for it in said["candidates"]] == ["tree:2", "linear", "16,16"]


def test_the_hashes_are_those_of_all_files(folder: Path) -> None:
    import hashlib

    files = report_of(folder)["files"]
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("student.*")}
    assert set(files) == on_disk and len(files) == 2 * 7
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == said for name, said in files.items())


def test_a_tree_may_be_the_chosen_one(tmp_path: Path) -> None:
    finished(tmp_path / "r", made("tree:2", tree=Interval(0.99, 0.97, 1.0)))
    loaded = load_student(tmp_path / "r")
    assert isinstance(loaded, Tree) and loaded.leaves == 2
    card = promote(tmp_path / "r", "cartpole-tree", tmp_path / "agents")
    assert (card["algo"], card["kind"], card["params"]) == ("tree", "student", PARAMS["tree:2"])
    assert isinstance(load_teacher(tmp_path / "agents/cartpole-tree"), Tree)
    with pytest.raises(UsageError, match=r"tree with 2 leaves.*\[student.sb3-tree\]"):
        students_to_sb3(loaded, tmp_path / "zip")
    assert not (tmp_path / "zip.zip").exists()


def students_to_sb3(student: Any, path: Path) -> Path:
    from policykd.students.sb3 import to_sb3

    return to_sb3(student, path)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ("16,16", "students/16x16"),
        ("linear", "students/linear"),
        ("tree:8", "students/tree-8"),
        ("../x", "students/..-x"),
    ],
)
def test_sizes_are_file_names(size: str, wanted: str) -> None:
    assert place(size) == wanted
    assert place(size, 3) == f"{wanted}/seed-3"


def test_a_stopped_frontier_keeps_everybody(tmp_path: Path) -> None:
    cohort = Cohort([network((), 0), network((), 1), network((8, 8), 0)])
    assert sizes_in(cohort) == [("linear", 2), ("8,8", 1)]
    everybody = [("linear", 0, cohort.member(0)), ("linear", 1, cohort.member(1)), ("8,8", 0, cohort.member(2))]
    with Run.create(tmp_path / "r", config={}, command="") as run:
        assert run.save_unmeasured(everybody) == tmp_path / "r/students"
    found = {p.parent.relative_to(tmp_path / "r").as_posix() for p in tmp_path.rglob("student.json")}
    assert found == {"students/linear/so-far-0", "students/linear/so-far-1", "students/8x8/so-far-0"}
    one = load_student(tmp_path / "r/students/linear/so-far-1")
    assert torch.equal(one.action_head.weight, cohort.member(1).action_head.weight)  # type: ignore[union-attr]


# --- the shelf


def test_promote_takes_the_chosen_one_or_the_size_that_is_named(folder: Path, tmp_path: Path) -> None:
    card = promote(folder, "a", tmp_path)
    assert (card["params"], card["retention"], card["agreement"]) == (10, 0.98, 0.9)
    assert card["command"] == "policykd frontier a.zip"
    card = promote(folder, "b", tmp_path, size="16,16")
    it = report_of(folder)["candidates"][2]
    assert (card["params"], card["retention"], card["agreement"]) == (PARAMS["16,16"], 1.0, None)
    assert card["score"] == {k: it[k] for k in ("return_mean", "return_ci", "episodes")}
    assert load_student(tmp_path / "b").acting_parameters == PARAMS["16,16"]
    with pytest.raises(UsageError, match=r"'32,32' is not known.*\[name.size\]"):
        promote(folder, "c", tmp_path, size="32,32")


def test_a_frontier_that_chose_nobody_is_not_promoted_unless_a_size_is_named(tmp_path: Path, capsys: Any) -> None:
    low = Interval(0.9, 0.85, 0.97)
    finished(tmp_path / "r", made(None, linear=low, wide=replace(low, low=0.86)))
    with pytest.raises(RunError, match=r"reached the target of 0.95.*--size 16,16 \[promote.none\]"):
        promote(tmp_path / "r", "a", tmp_path / "agents")
    assert not (tmp_path / "agents").exists()
    promoted = ["promote", str(tmp_path / "r"), "a", "--out", str(tmp_path / "agents"), "--size", "16,16", "--json"]
    assert main(promoted) == 0
    assert json.loads(capsys.readouterr().out)["card"]["retention"] == 0.9
    assert load_teacher(tmp_path / "r").acting_parameters == PARAMS["16,16"], "the best is what the run loads as"


# --- compare, list and inspect


def test_compare_shows_every_size_and_list_the_chosen_one(folder: Path, capsys: Any) -> None:
    rows = list(rows_in(folder, every=True))
    assert [(r["size"], r["chosen"], r["params"]) for r in rows] == [
        ("tree:2", False, 6),
        ("linear", True, 10),
        ("16,16", False, 386),
    ]
    assert all(load_student(row["path"]).acting_parameters == row["params"] for row in rows)
    assert [row["path"] for row in rows_in(folder)] == [str(folder)]
    assert main(["compare", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "linear/seed-1 *" in out and "tree student" in out and "smallest of its frontier" in out
    assert main(["list", "runs", "--folder", str(folder.parent)]) == 0
    assert capsys.readouterr().out.count("CartPole-v1") == 1


def test_a_moved_run_is_found_where_it_lies(folder: Path, tmp_path: Path) -> None:
    import shutil

    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    assert [row["path"] for row in rows_in(moved, every=True)][1] == str(moved / "students/linear/seed-1")


def test_inspect_a_frontier_and_a_tree(folder: Path, capsys: Any) -> None:
    assert main(["inspect", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["hidden"]) == ("student", [])
    assert [row["size"] for row in found["candidates"]] == ["tree:2", "linear", "16,16"]
    assert main(["inspect", str(folder)]) == 0
    assert "linear *" in capsys.readouterr().out
    tree = folder / "students/tree-2/seed-0"
    assert main(["inspect", str(tree), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["leaves"], found["depth"], found["inner_nodes"]) == ("tree", 2, 1, 1)
    assert main(["inspect", str(tree)]) == 0
    out = capsys.readouterr().out
    assert "if obs[2] <= 0.0:\n    action = 0\nelse:\n    action = 1" in out and "leaves" in out


# --- the picture


def pixels(file: Path) -> np.ndarray:
    """RGBA bytes ``[height, width, 4]``."""
    from matplotlib.image import imread

    return (255 * imread(file)).round().astype(np.int64)


def near(image: np.ndarray, colour: str) -> int:
    """How many pixels have this colour."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(image[..., :3] - wanted).max(-1) <= 2).sum())


def test_the_picture_shows_networks_a_tree_and_the_chosen_one(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    image = pixels(folder / "frontier.png")
    assert image.shape == (660, 1500, 4)
    for colour in ("#0072B2", "#D55E00", "#009E73"):
        assert near(image[:, :750], colour) > 100 and near(image[:, 750:], colour) > 100, colour
    assert 0.85 < (image[..., :3] == 255).all(-1).mean() < 0.99


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    code = (
        "import sys, json; from policykd.run import picture; assert 'matplotlib' not in sys.modules;"
        "assert picture.draw(json.loads(sys.argv[1]))[:4] == b'\\x89PNG'; import matplotlib;"
        "assert 'matplotlib.pyplot' not in sys.modules;"
        "assert dict(matplotlib.rcParams) == dict(matplotlib.rc_params())"
    )
    pytest.importorskip("matplotlib")
    said = json.dumps(made().to_dict())
    subprocess.run([sys.executable, "-c", code, said], check=True)


@pytest.mark.parametrize(
    "report",
    [
        made(None),
        made(tree=Interval(-3.0, -4.0, -2.5)),
        made(tree=Interval(None, reason="no"), linear=Interval(None, reason="no"), wide=Interval(None, reason="no")),
        made(wide=Interval(1.4, 1.2, 1.6), linear=Interval(0.98)),
    ],
)
def test_whatever_was_found_can_be_drawn(report: FrontierReport) -> None:
    pytest.importorskip("matplotlib")
    said = report.to_dict()
    assert len(picture.draw(said)) > 10_000
    assert len(picture.draw({**said, "teacher": {"return_mean": 1.0}})) > 10_000
    no_time = [{**it, "latency_us": None} for it in said["candidates"]]
    assert len(picture.draw({**said, "candidates": no_time})) > 10_000


def test_without_matplotlib_there_is_no_picture_and_no_error(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'policykd\[plots\]'"):
        picture.draw(made().to_dict())
    finished(tmp_path / "r", made())
    assert not (tmp_path / "r/frontier.png").exists()
    assert (tmp_path / "r/report.json").exists()


# --- TensorBoard


def events(folder: Path, series: str) -> EventAccumulator:
    return EventAccumulator(str(folder / series), size_guidance={"scalars": 0, "images": 0}).Reload()


def points(folder: Path, series: str, tag: str) -> list[tuple[int, float]]:
    return [(e.step, e.value) for e in events(folder, series).Scalars(tag)]


def test_the_curve_over_parameters(folder: Path) -> None:
    assert points(folder, "frontier", "frontier/retention") == [(10, pytest.approx(0.98)), (386, 1.0)]
    assert points(folder, "frontier", "frontier/interval/low") == [
        (10, pytest.approx(0.96)),
        (386, pytest.approx(0.99)),
    ]
    assert points(folder, "frontier-trees", "frontier/retention") == [(6, pytest.approx(0.4))]
    for series, kept in (("teacher", 1.0), ("random", 0.0), ("target", pytest.approx(0.95))):
        assert points(folder, series, "frontier/retention") == [(6, kept), (4610, kept)]


def test_table_picture_hparams_and_layout(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    seen = events(folder, "frontier")
    text = seen.Tensors("frontier/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| **linear** | 10 | 40 | 0.980 [0.960, 0.990] | 100 | 40 |" in text
    image = seen.Images("frontier")[0]
    assert image.encoded_image_string == (folder / "frontier.png").read_bytes()
    assert (image.width, image.height) == (1500, 660)
    plugin = seen.SummaryMetadata("_hparams_/session_start_info").plugin_data
    asked = HParamsPluginData.FromString(plugin.content).session_start_info.hparams
    assert asked["chosen"].string_value == "linear" and asked["sizes"].string_value == "tree:2 linear 16,16"
    assert points(folder, "frontier", "final/params") == [(4000, 10.0)]
    layout = Layout.FromString(seen.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    assert layout.category[0].title.startswith("frontier")
    assert list(layout.category[0].chart[0].multiline.tag) == ["frontier/retention"]
    (margin,) = [chart.margin for group in layout.category for chart in group.chart if chart.HasField("margin")]
    band = margin.series[0]
    assert {band.value, band.lower, band.upper} <= set(seen.Tags()["scalars"])
