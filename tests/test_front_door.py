"""The front door is light, complete, and says the same in whatever order it is asked."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import policykd

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "stable_baselines3", "gymnasium", "numpy", "matplotlib", "rich", "tyro", "yaml", "tensorboard")


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after ``code``."""
    code += "\nimport json, sys; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stderr == ""
    return set(json.loads(out.stdout.splitlines()[-1]))


def test_import_is_light() -> None:
    assert loaded_after("import policykd").isdisjoint(HEAVY)


def test_acting_needs_no_sb3_nor_a_screen() -> None:
    code = "import policykd as kd; kd.load_teacher, kd.students, kd.losses, kd.Learner, kd.evaluate, kd.distill"
    assert loaded_after(code).isdisjoint({"stable_baselines3", "sb3_contrib", "matplotlib", "rich", "tyro", "pandas"})


def test_names_are_sorted_and_resolve() -> None:
    assert policykd.__all__ == sorted(policykd.__all__)
    assert dir(policykd) == policykd.__all__
    for name in policykd.__all__:
        assert getattr(policykd, name) is not None


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "policykd/__init__.py").read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If))
    seen = {a.name for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert seen == set(policykd.__all__) - {"__version__"}


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'distil'"):
        _ = policykd.distil  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "first",
    [
        "import policykd as kd",
        "import policykd.distill, policykd as kd",
        "from policykd.distill import distill; import policykd as kd",
        "import policykd as kd; kd.distill; import policykd.distill",
        "import importlib; importlib.import_module('policykd.distill'); import policykd as kd",
    ],
)
def test_distill_is_the_function(first: str) -> None:
    code = f"{first}\nimport sys, types; assert isinstance(kd.distill, types.FunctionType), kd.distill"
    code += "\nassert kd.distill is sys.modules['policykd.distill'].distill\nfrom policykd import distill as again"
    code += "\nassert again is kd.distill"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_packages_are_listed_one_by_one() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    on_disk = {
        p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in (ROOT / "policykd").rglob("__init__.py")
    }
    assert set(config["tool"]["setuptools"]["packages"]) == on_disk
    for folder in ("envs", "agents", "runs", "tests"):
        assert list((ROOT / folder).rglob("__init__.py")) == []
