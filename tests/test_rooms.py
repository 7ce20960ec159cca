"""The stairs of policykd/: a room imports only rooms on lines below it, also inside functions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "policykd"

# Highest first. Rooms on one line never import each other; a room (file or folder) may import its own files.
STAIRS = [
    ["__main__"],
    ["cli"],
    ["classify", "distill", "frontier", "multitask"],
    ["race"],
    ["run", "selection"],
    ["news", "report"],
    ["compress"],
    ["export"],
    ["reinforced", "council"],
    ["supervised", "online"],
    ["evaluation", "home"],
    ["learner", "rollouts"],
    ["reduction", "shortcut"],
    ["straight"],
    ["load"],
    ["classifiers", "losses", "teachers", "students", "datasets", "recipe"],
    ["checkpoints", "networks", "optimizer", "spaces_json", "taps", "wrappers"],
    ["policy"],
    ["prediction"],
    ["distributions"],
    ["intervals"],
    ["class_config", "clock", "config", "disk", "env_ids", "fused"],
    ["sizes"],
    ["errors"],
]
LINE = {room: line for line, rooms in enumerate(STAIRS) for room in rooms}

# Heavy packages and the only files, or rooms, that may import them.
HOMES = {
    "stable_baselines3": {"teachers/sb3.py", "teachers/train.py", "students/sb3.py"},
    "sb3_contrib": {"teachers/sb3.py", "teachers/train.py", "students/sb3.py"},
    "tyro": {"cli/"},
    "rich": {"cli/"},
    "onnx": {"export/"},
    "onnxruntime": {"export/"},
    "ray": {"rollouts/distributed.py"},
    "mujoco": {"recipe.py"},
    "minari": {"datasets/minari.py"},
    "h5py": {"datasets/minari.py"},
    "sklearn": {"students/tree.py", "datasets/images.py"},
    "mlxtend": {"datasets/images.py"},
    "transformers": {"classifiers/minilm.py"},
    "matplotlib": {"run/picture.py"},
    "tensorboard": {"run.py", "run/"},
    "torch.utils.tensorboard": {"run.py", "run/"},
}


def imports(source: str, package: str) -> list[str]:
    """Every module named by an import anywhere in ``source`` (dotted), those of ``if TYPE_CHECKING:`` included."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            # ``from policykd import losses`` names a room, ``from policykd.losses import kl`` is in it already.
            found += [f"{base}.{alias.name}" for alias in node.names] if base == "policykd" else [base]
    return found


def room_of(module: str) -> str | None:
    """The room of a policykd module, None for other packages and for the front door."""
    parts = module.split(".")
    return parts[1] if parts[0] == "policykd" and len(parts) > 1 and parts[1] not in ("__version__", "*") else None


def faults(path: str, source: str) -> list[str]:
    """What is wrong with the imports of one file, given by its path inside policykd/."""
    room = path.split("/")[0].removesuffix(".py")
    if room == "__init__":
        return []
    if room not in LINE:
        return [f"{path}: no stair for {room!r}; add it to STAIRS"]
    found = []
    for module in imports(source, ".".join(["policykd", *path.split("/")[:-1]])):
        target = room_of(module)
        if module == "policykd":
            found.append(f"{path} imports the front door")
        if target is not None and target not in LINE:
            found.append(f"{path} imports {module}, which has no stair")
        elif target is not None and target != room and LINE[target] <= LINE[room]:
            found.append(f"{path} imports {module}, which is not below it")
        for package, homes in HOMES.items():
            if (module + ".").startswith(package + ".") and not any(path.startswith(home) for home in homes):
                found.append(f"{path} imports {module}, which lives in {sorted(homes)}")
    return found


def test_every_import_goes_down_the_stairs() -> None:
    files = {p.relative_to(PACKAGE).as_posix(): p.read_text() for p in PACKAGE.rglob("*.py")}
    assert "recipe.py" in files
    assert [fault for path, source in sorted(files.items()) for fault in faults(path, source)] == []


@pytest.mark.parametrize(
    ("path", "source", "says"),
    [
        ("supervised.py", "from policykd.online import x", "not below"),
        ("losses/policy.py", "def f():\n    from policykd.learner import Learner", "not below"),
        ("losses/policy.py", "from policykd import students", "not below"),
        ("losses/policy.py", "from ..teachers import sb3", "not below"),
        ("evaluation.py", "import policykd.distill", "not below"),
        ("load.py", "import policykd", "front door"),
        ("load.py", "from stable_baselines3 import PPO", "lives in"),
        ("teachers/read.py", "import stable_baselines3.common.base_class as b", "lives in"),
        ("run.py", "def f():\n    import rich.table", "lives in"),
        ("utils.py", "", "no stair"),
        ("load.py", "from policykd.utils import x", "no stair"),
    ],
)
def test_the_test_sees_a_fault(path: str, source: str, says: str) -> None:
    assert [says in fault for fault in faults(path, source)] == [True]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("losses/policy.py", "from policykd.distributions import kl"),
        ("losses/policy.py", "from policykd.losses.value import mse"),
        ("losses/policy.py", "from . import value"),
        ("cli/__init__.py", "import tyro\nfrom policykd import __version__"),
        ("teachers/train.py", "import stable_baselines3"),
    ],
)
def test_the_test_allows(path: str, source: str) -> None:
    assert faults(path, source) == []
