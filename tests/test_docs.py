"""Documents: their code is that of the examples, their links lead somewhere, their papers are all of the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policykd.cli.names import LOSSES

ROOT = Path(__file__).parents[1]


def fenced(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


DOCUMENTS = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if fenced(path)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_code_in_documents_is_that_of_the_examples(path: Path) -> None:
    known = [example.read_text() for example in (ROOT / "docs/examples").glob("*.py")]
    for block in fenced(path):
        for paragraph in re.split(r"\n\n+", block.strip()):
            assert any(paragraph in text for text in known), f"in no example:\n{paragraph}"


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("*/*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_paper_that_the_code_names_has_its_entry() -> None:
    number = re.compile(r"\b\d{4}\.\d{4,5}\b")
    named = {m for path in (ROOT / "policykd").rglob("*.py") for m in number.findall(path.read_text())}
    entries = set(re.findall(r"arxiv\.org/abs/([\d.]+)", (ROOT / "docs/papers.md").read_text()))
    assert {"1503.02531", "1011.0686"} <= named
    assert named - entries == set()


def test_every_loss_has_its_row() -> None:
    text = (ROOT / "docs/losses.md").read_text()
    rows = set(re.findall(r"`(\w+)", "".join(re.findall(r"^\|([^|]*)\|", text, re.MULTILINE))))
    assert set(LOSSES.values()) <= rows
