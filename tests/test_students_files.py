"""Students on disk: what is saved comes back to the last bit, and what is damaged is named."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from policykd import students
from policykd.errors import CheckpointError, RunError, SpaceError
from policykd.prediction import FAMILIES, EnvWrapper, Origin, Prediction, Spec, obs_tensor
from policykd.spaces_json import space_from_json, space_to_json
from policykd.students import Shape, Student

BOX = spaces.Box(np.float32([-1, -np.inf, -3]), np.float32([1, np.inf, 0.1]))
IMAGE = spaces.Box(0, 255, (10, 12, 1), np.uint8)
OBSERVATIONS: dict[str, spaces.Space] = {
    "box": BOX,
    "image": IMAGE,
    "dict": spaces.Dict(OrderedDict(z=BOX, a=spaces.Discrete(3, start=-1), see=IMAGE)),
}
ACTIONS: dict[str, spaces.Space] = {
    "categorical": spaces.Discrete(4),
    "multi_categorical": spaces.MultiDiscrete([3, 2]),
    "bernoulli": spaces.MultiBinary(3),
}
BOX_ACTION = spaces.Box(np.float32([-2, 0]), np.float32([2, 0.1]))


def make(family: str, observation: str = "box") -> tuple[Student, Any]:
    """A student with weights that no seed gives, and observations."""
    spec = Spec(OBSERVATIONS[observation], ACTIONS.get(family, BOX_ACTION), family)  # type: ignore[arg-type]
    student = students.build(spec, (8,), value=True, seed=5)
    spec.observation_space.seed(0)
    drawn = [spec.observation_space.sample() for _ in range(16)]
    raw = {k: np.stack([d[k] for d in drawn]) for k in drawn[0]} if isinstance(drawn[0], dict) else np.stack(drawn)
    obs = obs_tensor(raw)
    students.fit_normaliser(student, obs)
    students.fit_value_units(student, torch.tensor([-7.0, 30.0]))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.5, generator=generator))
    return student, obs


def words(said: Prediction) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    said.map(lambda t: (found.append(t), t)[1])
    return found


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_comes_back_to_the_last_bit(family: str, observation: str, tmp_path: Path) -> None:
    student, obs = make(family, observation)
    student.origin = Origin(
        algo="mlp",
        env_id="X-v1",
        env_kwargs={"g": [9.81, True]},
        wrappers=(EnvWrapper("TimeFeature", {"max_steps": 9}),),
        gamma=0.9,
    )
    path = students.save(student, tmp_path / "deep" / "folder")
    assert path == tmp_path / "deep" / "folder" / "student.safetensors"
    assert sorted(p.name for p in path.parent.iterdir()) == ["student.json", "student.safetensors"]
    for found in (students.load(path.parent), students.load(path)):
        assert found.spec == student.spec and found.shape == student.shape and found.origin == student.origin
        assert found.spec.observation_space.dtype == student.spec.observation_space.dtype
        for mine, theirs in zip(words(found(obs)), words(student(obs)), strict=True):
            assert torch.equal(mine, theirs)
        assert list(found.state_dict()) == list(student.state_dict())
    # It goes on learning, in memory of its own.
    torch.stack([t.float().sum() for t in words(found(obs))]).sum().backward()
    torch.optim.SGD(found.parameters(), 0.1).step()
    again = students.load(path)
    for mine, theirs in zip(words(again(obs)), words(student(obs)), strict=True):
        assert torch.equal(mine, theirs)


def test_saving_again_replaces_both_files_and_leaves_nothing_else(tmp_path: Path) -> None:
    first, obs = make("categorical")
    second, _ = make("categorical")
    with torch.no_grad():
        second.action_head.bias.add_(1.0)
    students.save(first, tmp_path)
    students.save(second, tmp_path)
    students.save(first, tmp_path, name="other")
    assert torch.equal(students.load(tmp_path)(obs).dist.logits, second(obs).dist.logits)
    assert torch.equal(students.load(tmp_path / "other.safetensors")(obs).dist.logits, first(obs).dist.logits)
    assert len(list(tmp_path.iterdir())) == 4


def test_weights_that_are_views_of_one_vector_are_saved(tmp_path: Path) -> None:
    """As a Learner keeps them."""
    student, obs = make("tanh_gaussian")
    said = student.label(obs)
    flat = torch.cat([p.detach().reshape(-1) for p in student.parameters()])
    for p, part in zip(student.parameters(), flat.split([p.numel() for p in student.parameters()]), strict=True):
        p.data = part.view_as(p)
    path = students.save(student, tmp_path)
    assert path.stat().st_size < 4 * flat.numel() + 2000
    for mine, theirs in zip(words(students.load(path).label(obs)), words(said), strict=True):
        assert torch.equal(mine, theirs)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"student\.write"):
        students.save(make("categorical")[0], tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_weights_hold_no_pickle_and_the_description_is_strict_json(tmp_path: Path) -> None:
    student, _ = make("diag_gaussian")
    path = students.save(student, tmp_path)
    assert set(load_file(path)) == set(student.state_dict())

    def refuse(word: str) -> None:
        raise AssertionError(word)

    card = json.loads((tmp_path / "student.json").read_text(), parse_constant=refuse)  # NaN, Infinity are not JSON
    assert card["params"] == student.acting_parameters and card["shape"]["hidden"] == [8]
    assert card["spec"]["observation_space"]["low"] == [-1.0, "-inf", -3.0]


# --- damage -----------------------------------------------------------------------------------------------------------


def edit(path: Path, **changes: Any) -> None:
    card = json.loads(path.read_text())
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        place = card
        for key in parents:
            place = place[key]
        place[last] = value
    path.write_text(json.dumps(card))


def test_missing_halves(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"student\.missing"):
        students.load(tmp_path)
    path = students.save(make("categorical")[0], tmp_path)
    (tmp_path / "student.json").unlink()
    with pytest.raises(CheckpointError, match=r"student\.missing"):
        students.load(path)


@pytest.mark.parametrize("cut", [0, 1, 7, 100, -1])
def test_cut_or_changed_weights(cut: int, tmp_path: Path) -> None:
    path = students.save(make("categorical")[0], tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:cut])
    with pytest.raises(CheckpointError, match=r"student\.mismatch"):
        students.load(path)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"student\.mismatch"):
        students.load(path)


def test_weights_of_another_student(tmp_path: Path) -> None:
    students.save(make("categorical")[0], tmp_path / "a")
    path = students.save(make("tanh_gaussian")[0], tmp_path / "b")
    path.write_bytes((tmp_path / "a" / "student.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"student\.mismatch.*|sha256"):
        students.load(path)


def test_weights_that_do_not_fit_although_the_hash_does(tmp_path: Path) -> None:
    student, _ = make("diag_gaussian")
    path = students.save(student, tmp_path)
    good = load_file(path)

    def rewrite(**changes: torch.Tensor | None) -> None:
        tensors = {**good, **{k.replace("__", "."): v for k, v in changes.items()}}
        save_file({k: v for k, v in tensors.items() if v is not None}, path)
        edit(tmp_path / "student.json", weights__sha256=hashlib.sha256(path.read_bytes()).hexdigest())

    rewrite()
    students.load(path)
    rewrite(log_std=None)
    with pytest.raises(CheckpointError, match=r"log_std is missing.*student\.mismatch"):
        students.load(path)
    rewrite(action_head__weight=torch.zeros(3, 8))
    with pytest.raises(CheckpointError, match=r"action_head\.weight.*student\.mismatch"):
        students.load(path)
    rewrite(extra=torch.zeros(1))
    with pytest.raises(CheckpointError, match=r"extra.*no such tensor.*student\.mismatch"):
        students.load(path)
    rewrite(action_head__bias=torch.full((2,), math.nan))
    with pytest.raises(CheckpointError, match=r"weights\.not-finite"):
        students.load(path)
    rewrite(action_head__bias=torch.zeros(2, dtype=torch.float16))
    with pytest.raises(CheckpointError, match=r"float16.*student\.mismatch"):
        students.load(path)
    for wrong in (torch.ones(4).double(), torch.ones(1, 3).double(), -torch.ones(3).double(), torch.ones(3)):
        rewrite(normaliser__var=wrong)
        with pytest.raises(CheckpointError, match=r"student\.mismatch"):
            students.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"kind": "teacher"},
        {"spec__family": "gaussian"},
        {"spec__family": "categorical"},
        {"spec__action_space": None},
        {"spec__observation_space__shape": [10**9]},
        {"spec__observation_space__shape": [-3]},
        {"spec__observation_space__dtype": "object"},
        {"spec__observation_space__low": "x"},
        {"spec__observation_space__type": "Graph"},
        {"shape__hidden": [16]},
        {"shape__hidden": [10**12]},
        {"shape__hidden": [8] * 5000},
        {"shape__hidden": "8"},
        {"shape__hidden": [True]},
        {"shape__activation": "os.system"},
        {"shape__surprise": 1},
        {"shape__value": False},
        {"shape__channels": [4]},
        {"origin__wrappers": [3]},
        {"weights": []},
    ],
)
def test_descriptions_that_lie(changes: dict[str, Any], tmp_path: Path) -> None:
    path = students.save(make("tanh_gaussian")[0], tmp_path)
    edit(tmp_path / "student.json", **changes)
    if changes == {"shape__channels": [4]}:  # there is no image that it could matter for
        students.load(path)
        return
    with pytest.raises(CheckpointError) as caught:
        students.load(path)
    assert caught.value.code in ("student.json", "student.mismatch") and len(str(caught.value)) < 600


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "\x00", '{"schema": 1}', "[" * 100_000])
def test_descriptions_that_are_none(text: str, tmp_path: Path) -> None:
    path = students.save(make("categorical")[0], tmp_path)
    (tmp_path / "student.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"student\.json"):
        students.load(path)


def test_mutations_end_in_a_clear_error_or_in_the_same_student(tmp_path: Path) -> None:
    student, obs = make("categorical", "dict")
    path = students.save(student, tmp_path)
    files = {p: p.read_bytes() for p in (path, path.with_suffix(".json"))}
    draws = random.Random(0)
    outcomes = set()
    for _ in range(200):
        for file, content in files.items():
            file.write_bytes(content)
        file = draws.choice(list(files))
        content = bytearray(files[file])
        at = draws.randrange(len(content))
        if draws.random() < 0.5:
            content[at] = draws.randrange(256)
        else:
            del content[at : at + draws.randrange(1, 20)]
        file.write_bytes(content)
        try:
            found = students.load(path)
        except CheckpointError as error:
            outcomes.add(error.code)
        else:  # what has changed is not the network: a gamma, a name, a space in the text
            outcomes.add("loaded")
            assert torch.equal(found(obs).dist.logits, student(obs).dist.logits)
    assert {"student.json", "student.mismatch", "loaded"} <= outcomes


# --- spaces as JSON ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space",
    [
        *OBSERVATIONS.values(),
        *ACTIONS.values(),
        BOX_ACTION,
        spaces.Box(-1, 1, (), np.float64),
        spaces.Box(np.float64([0.1, -1e300]), np.float64([1 / 3, 5e-324]), dtype=np.float64),
        spaces.Box(-(2**62) - 1, 2**62 + 1, (2, 2), np.int64),
        spaces.Box(0, 1, (2,), np.bool_),
        spaces.Box(0, 255, (3, 84, 84), np.uint8),
        spaces.Discrete(5, start=-2, dtype=np.int32),
        spaces.MultiDiscrete([[3, 2], [4, 5]], dtype=np.int32, start=[[0, 1], [2, -3]]),
        spaces.MultiBinary([2, 3]),
    ],
)
def test_spaces_round_trip(space: spaces.Space) -> None:
    text = json.dumps(space_to_json(space), allow_nan=False)
    found = space_from_json(json.loads(text))
    assert found == space and found.dtype == space.dtype and len(text) < 2000
    if isinstance(space, spaces.Dict):
        assert list(found.spaces) == list(space.spaces)  # type: ignore[attr-defined]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=5))
def test_every_float_comes_back(bounds: list[float]) -> None:
    low = np.float32(bounds)
    space = spaces.Box(low, np.full_like(low, np.inf), dtype=np.float32)
    found = space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False)))
    assert isinstance(found, spaces.Box) and found.low.tobytes() == space.low.tobytes()


def test_spaces_without_a_description() -> None:
    for space in (spaces.Text(3), spaces.Tuple((BOX,)), spaces.Dict(a=spaces.Text(3))):
        with pytest.raises(SpaceError, match=r"space\.json"):
            space_to_json(space)


def test_the_shape_says_what_it_takes() -> None:
    assert Shape([4, 4]).hidden == (4, 4)  # type: ignore[arg-type]
