"""The examples of docs/examples, run as they are printed."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from policykd.recipe import quiet

ROOT = Path(__file__).parents[1]
EXAMPLES = {
    "quickstart": r"58 of 4,610 parameters: return 500\.0 .*retention 1\.000",
    "frontier": r"(?s)smallest at 0\.95: linear\n.*if spin <= .*action = 1",
    "own_loop": r"1000 updates, loss \S+, return (4\d\d|500)\.\d",
    "custom_loss": r"return (4\d\d|500)\.\d .*retention (0\.9|1\.)",
    "custom_env": r"\d+ of [\d,]+ parameters: return -\d\.\d .*retention (0\.9|1\.)",
    "deploy_sb3": r"the same action in 100\.0% of 1000 states",
    "online_loop": r"595 updates from 5952 labels in \d+ episodes\nreturn (4\d\d|500)\.\d",
    "remote_teacher": r"asked \d{4}, answered \d{4}, outages [1-9]\d*, updates \d{3}\nreturn ([1-4]\d\d|500)\.\d",
    "drift": r"(?s)the world has changed\n.*4,000 steps after .*\(-?0\.\d\d\).*\( ?(0\.9\d|1\.00)\)",
    "beyond_the_teacher": r"(?s)imitation alone: .*reward too: .*retention [1-9]\.\d.*by perf.*retention [1-9]\.\d",
    "several_teachers": r"(?s)to ppo: 0\.\d\d, to dqn: 0\.\d\d.*58 of [\d,]+ parameters: return (4[5-9]\d|500)\.\d",
    "multitask": r"(?s)pole.*arm.*geometric mean.*\n\d+\.\d",
    "classifier": r"(?s)teacher +6,090 .*, 0\.9\d.*student +666 .*, 0\.9\d.*distilled 0\.[89]\d.*gain 0\.\d",
    "tokens": r"(?s)teacher +2,163 .*, (0\.9[89]|1\.0).*before 348 .*, 0\.[0-4].*after +348 .*, (0\.9[5-9]|1\.0)",
    "detection": r"(?s)teacher +IoU 0\.7.*before IoU 0\.[0-4].*after +IoU 0\.[67]\d+, classes (9\d|100)\.",
    "fusion": r"(?s)expert .*, 0\.[45]\d.*mean .*, 0\.(8|9[0-2])\d.*fused .*, 0\.9[2-9].*distilled 0\.9.*gain 0\.0",
    "several_heads": r"(?s)teacher, even or odd 0\.9[6-9].*which digit 0\.9[5-9].*even or odd 0\.9[5-9]",
    "from_live_sb3": r"58 of [\d,]+ parameters: return \d+\.\d .*retention (0\.[89]|1\.)",
}
"""A line that each prints."""


def test_every_example_is_run() -> None:
    assert set(EXAMPLES) == {path.stem for path in (ROOT / "docs/examples").glob("*.py")}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "agents").symlink_to(ROOT / "agents")
    monkeypatch.chdir(tmp_path)
    with quiet():
        runpy.run_path(str(ROOT / f"docs/examples/{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(EXAMPLES[name], printed), printed
    assert {p.name for p in tmp_path.iterdir()} <= {"agents", "runs"}
