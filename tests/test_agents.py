"""The shelf: every card describes the files beside it, every agent acts, and its numbers are no boast."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policykd import recipe, teachers
from policykd.evaluation import evaluate
from policykd.load import load_teacher
from policykd.run import shelf_page
from policykd.run.folder import file_hash
from policykd.run.shelf import cards

ROOT = Path(__file__).parents[1]
AGENTS = ROOT / "agents"
CARDS = cards(AGENTS)
SOLVED = {"Pendulum-v1": -200.0}  # gymnasium names no threshold
# A world that is written here has no id that Gymnasium knows.
OWN = {"DriftingCartPole-v0": str(ROOT / "envs/drifting_cartpole.py")}
LARGEST = 512 * 1024

every_card = pytest.mark.parametrize(("name", "card"), CARDS.items(), ids=CARDS)


def test_teachers_of_several_algorithms_each_with_a_student() -> None:
    trained = {name: card for name, card in CARDS.items() if card["kind"] == "teacher"}
    assert len(trained) >= 5
    assert {"ppo", "dqn", "sac"} <= {card["algo"] for card in trained.values()}
    taught = {Path(card["teacher"]["source"]).parts[:2] for card in CARDS.values() if card["kind"] == "student"}
    assert taught == {("agents", name) for name in trained}


def test_the_page_is_made_from_the_cards() -> None:
    assert (AGENTS / "README.md").read_text() == shelf_page(AGENTS)


def test_readme_quotes_cards() -> None:
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| \[([\w.-]+)\]\(agents/.*", text, re.MULTILINE)
    assert set(rows) <= set(CARDS)
    for line in text.splitlines():
        if found := re.match(r"\| \[([\w.-]+)\]\(agents/", line):
            card = CARDS[found[1]]
            low, high = card["retention_ci"]
            assert f"{card['retention']:.3f} [{low:.3f}, {high:.3f}]" in line
            assert f"| {card['params']:,} of {card['teacher']['params']:,} |" in line


@every_card
def test_files(name: str, card: dict[str, Any]) -> None:
    files = {p.name: p for p in (AGENTS / name).iterdir()}
    assert set(files) == {"card.json", *card["sha256"]}
    assert {p.suffix for p in files.values()} <= {".json", ".zip", ".safetensors", ".pkl"}
    assert sum(p.stat().st_size for p in files.values()) <= LARGEST
    assert {k: file_hash(files[k]) for k in card["sha256"]} == card["sha256"]
    texts = [p.read_text() for p in files.values() if p.suffix == ".json"]
    assert not [text for text in texts if re.search(r'"/|[ =]/|"[A-Z]:', text)], "a path of somebody's machine"


@every_card
def test_card_describes_the_agent(name: str, card: dict[str, Any]) -> None:
    policy = load_teacher(AGENTS / name)
    assert card["name"] == name
    assert (policy.origin.env_id, policy.origin.algo) == (card["env_id"], card["algo"])
    assert (policy.spec.family, policy.acting_parameters) == (card["family"], card["params"])
    assert str(policy.spec.observation_space) == card["observation_space"]
    verb = "train" if card["kind"] == "teacher" else "distill"
    assert card["command"].startswith(f"policykd {verb} ")
    if card["kind"] == "student":
        teacher = CARDS[Path(card["teacher"]["source"]).parts[1]]
        assert card["teacher"]["params"] == teacher["params"] > card["params"]
        assert card["command"].split()[2] == f"agents/{teacher['name']}"


@every_card
def test_the_numbers(name: str, card: dict[str, Any]) -> None:
    score, home = card["score"], OWN.get(card["env_id"], card["env_id"])
    low, high = score["return_ci"]
    assert low <= score["return_mean"] <= high
    assert score["episodes"] >= 100
    if card["kind"] == "teacher":
        threshold = recipe.load(home).threshold
        assert score["return_mean"] >= (SOLVED[card["env_id"]] if threshold is None else threshold)
    else:
        gap = card["teacher"]["return_mean"] - card["random"]["return_mean"]
        kept = (score["return_mean"] - card["random"]["return_mean"]) / gap
        assert card["retention"] == pytest.approx(kept)
        assert card["retention_ci"][0] > 0.9
    # Other episodes, few of them: within four standard errors, as far as the card tells the spread.
    again = evaluate(load_teacher(AGENTS / name), home, 16, seed=7_000)
    spread = (high - low) / (2 * 1.96) * np.sqrt(score["episodes"])
    assert again.mean == pytest.approx(score["return_mean"], abs=4 * max(spread, 1e-3) / np.sqrt(again.episodes) + 0.5)


@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if card["kind"] == "teacher"])
def test_no_file_would_do_harm_even_if_it_were_unpickled(name: str) -> None:
    found = teachers.inspect(AGENTS / name / "model.zip")
    assert found.problem is None
    assert found.verdict in ("data", "function")
