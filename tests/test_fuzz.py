"""Mutated checkpoints: each ends in a PolicykdError or in a load that acts as the original; no code runs."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_zips import nothing_runs, warmed
from teacher_zips import CASES, dump, sample, vecnormalize

from policykd import teachers
from policykd.errors import PolicykdError

Mutation = Callable[[bytes, np.random.Generator], bytes]


def flip(raw: bytes, rng: np.random.Generator) -> bytes:
    """One to eight bytes changed anywhere."""
    data = np.frombuffer(raw, np.uint8).copy()
    at = rng.integers(0, len(data), rng.integers(1, 9))
    data[at] ^= rng.integers(1, 256, len(at), dtype=np.uint8)
    return data.tobytes()


def flip_directory(raw: bytes, rng: np.random.Generator) -> bytes:
    """Bytes changed in the zip's directory or in a header, which no checksum covers."""
    headers = [0] + [i for i in range(len(raw) - 4) if raw[i : i + 2] == b"PK" and raw[i + 2] < 8]
    data = bytearray(raw)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.choice(headers)) + int(rng.integers(0, 46))
        data[min(at, len(data) - 1)] = int(rng.integers(0, 256))
    return bytes(data)


def cut(raw: bytes, rng: np.random.Generator) -> bytes:
    """The first part of the file."""
    return raw[: rng.integers(0, len(raw))]


def lose(raw: bytes, rng: np.random.Generator) -> bytes:
    """A block missing from the middle."""
    a, b = sorted(rng.integers(0, len(raw), 2))
    return raw[:a] + raw[b:]


def repeat(raw: bytes, rng: np.random.Generator) -> bytes:
    """A block twice."""
    a, b = sorted(rng.integers(0, len(raw), 2))
    return raw[:b] + raw[a:]


def blank(raw: bytes, rng: np.random.Generator) -> bytes:
    """A block of zeros."""
    a = int(rng.integers(0, len(raw)))
    b = min(len(raw), a + int(rng.integers(1, 4096)))
    return raw[:a] + bytes(b - a) + raw[b:]


def members(raw: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(content: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a renamed member may be there twice
        for name, data in content:
            archive.writestr(name, data)
    return buffer.getvalue()


def rename(raw: bytes, rng: np.random.Generator) -> bytes:
    """A member under another name, with valid checksums."""
    content = list(members(raw).items())
    at = int(rng.integers(len(content)))
    new = ["x", "data", "policy.pth", "../data", "Data", "policy.pth ", "a\x00b", "pickle"][rng.integers(8)]
    content[at] = (new, content[at][1])
    return zipped(content)


def drop(raw: bytes, rng: np.random.Generator) -> bytes:
    """A member less."""
    content = list(members(raw).items())
    del content[rng.integers(len(content))]
    return zipped(content)


def swap(raw: bytes, rng: np.random.Generator) -> bytes:
    """Two members that have changed places."""
    content = list(members(raw).items())
    a, b = rng.integers(0, len(content), 2)
    (name_a, data_a), (name_b, data_b) = content[a], content[b]
    content[a], content[b] = (name_a, data_b), (name_b, data_a)
    return zipped(content)


def inside(name: str, mutation: Mutation) -> Mutation:
    """A mutation of one member, with a checksum that fits."""

    def mutate(raw: bytes, rng: np.random.Generator) -> bytes:
        content = members(raw)
        content[name] = mutation(content[name], rng)
        return zipped(list(content.items()))

    mutate.__name__ = f"{mutation.__name__} in {name}"
    return mutate


WHOLE: tuple[Mutation, ...] = (flip, flip_directory, cut, lose, repeat, blank, rename, drop, swap)
INSIDE = tuple(inside("data", m) for m in (flip, cut, lose, repeat, blank)) + tuple(
    inside("policy.pth", m) for m in (flip, flip_directory, cut, lose, repeat, blank)
)


def fuzz(path: Path, folder: Path, mutations: tuple[Mutation, ...], count: int, seed: int) -> Counter[str]:
    """Load ``count`` mutants; returns how often each outcome came up, by code."""
    rng = np.random.default_rng(seed)
    raw, mutant = path.read_bytes(), folder / "mutant.zip"
    teacher = teachers.load(path)
    obs = sample(teacher.spec.observation_space, rng, 20)
    want, _ = teacher.predict(obs, deterministic=True)
    outcomes: Counter[str] = Counter()
    for i in range(count):
        mutation = mutations[i % len(mutations)]
        with np.errstate(all="ignore"):
            mutant.write_bytes(mutation(raw, rng))
        with nothing_runs():
            try:
                loaded = teachers.load(mutant)
            except PolicykdError as error:
                assert "\n" not in str(error) and str(error).endswith(f"[{error.code}]"), str(error)
                outcomes[error.code] += 1
                continue
        have, _ = loaded.predict(obs, deterministic=True)
        np.testing.assert_array_equal(have, want, err_msg=f"mutant {i} ({mutation.__name__}, seed {seed})")
        outcomes["loaded"] += 1
    return outcomes


@pytest.fixture(scope="module", autouse=True)
def warm(agents: Any) -> None:
    warmed(teachers.load, agents("ppo")[1])


def test_a_thousand_mutants_of_a_zip(agents, tmp_path):
    outcomes = fuzz(agents("ppo")[1], tmp_path, WHOLE, 1000, seed=0)
    assert outcomes["zip.damaged"] > 100 and outcomes["zip.truncated"] > 50 and outcomes["sb3.missing-member"] > 20
    assert 0 < outcomes["loaded"] < 500
    # The catch-all is for what no reader foresaw: it must stay rare.
    assert outcomes["file.damaged"] < 100


@pytest.mark.parametrize("name", ["ppo", "sac", "ppo-elu"])
def test_mutants_whose_checksums_fit(agents, tmp_path, name):
    outcomes = fuzz(agents(name)[1], tmp_path, INSIDE, 330, seed=1)
    assert outcomes["loaded"] < 300 and sum(outcomes.values()) == 330


@pytest.mark.parametrize("name", ["vecnormalize.pkl", "config.yml"])
def test_mutants_of_what_stands_beside_a_zip(agents, tmp_path, name):
    """These have no checksums: a mutant may load with other numbers, and may do nothing else but be refused."""
    (tmp_path / "agent.zip").write_bytes(agents("ppo-box")[1].read_bytes())
    vecnormalize(CASES["ppo-box"]).save(str(tmp_path / "vecnormalize.pkl"))
    dump(tmp_path / "config.yml", normalize="dict(norm_obs=True)", env_wrapper=["a.TimeFeatureWrapper"], gamma=0.9)
    raw, rng, refusals = (tmp_path / name).read_bytes(), np.random.default_rng(3), 0
    for i in range(250):
        (tmp_path / name).write_bytes((flip, cut, lose, repeat, blank)[i % 5](raw, rng))
        with nothing_runs():
            try:
                teachers.load(tmp_path / "agent.zip")
            except PolicykdError as error:
                assert "\n" not in str(error)
                refusals += 1
    assert refusals > 100


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ppo", "ppo-box", "ppo-cnn", "ppo-dict", "dqn", "sac-her", "tqc-sde", "crossq", "ars-linear"]
)
def test_many_more_mutants(agents, tmp_path, name):
    fuzz(agents(name)[1], tmp_path, WHOLE + INSIDE, 3000, seed=2)
