"""Rows in memory and on disk: what goes in comes out, bit for bit, or a clear error and nothing half-written."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from toys import Balancer

from policykd import datasets, recipe
from policykd.datasets import Ring
from policykd.datasets.manifest import MANIFEST
from policykd.distributions import (
    Bernoulli,
    Categorical,
    Deterministic,
    DiagGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
    masked,
)
from policykd.errors import CheckpointError, PolicykdError, RunError, SpaceError, UsageError
from policykd.prediction import Batch, EnvWrapper, Obs, Origin, Prediction, Spec
from policykd.rollouts import Collector, make
from policykd.supervised import label

FLAT = spaces.Box(-np.inf, np.inf, (3,), np.float32)
MIXED = spaces.Dict(
    {
        "zebra": spaces.Box(-1, 1, (2, 2), np.float32),
        "a/b": spaces.Discrete(3),
        "image": spaces.Box(0, 255, (4, 4, 3), np.uint8),
    }
)
ARM = spaces.Box(-1, 1, (2,), np.float32)
N = 10


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


CASES: dict[str, tuple[spaces.Space, Distribution]] = {
    "categorical": (spaces.Discrete(4), masked(Categorical(normal(N, 4)), torch.arange(4) != 2)),
    "multi_categorical": (spaces.MultiDiscrete([2, 3]), MultiCategorical(normal(N, 5), (2, 3))),
    "bernoulli": (spaces.MultiBinary(3), Bernoulli(normal(N, 3))),
    "diag_gaussian": (ARM, DiagGaussian(normal(N, 2), normal(N, 2, seed=1))),
    "tanh_gaussian": (ARM, TanhGaussian(normal(N, 2), normal(N, 2, seed=1))),
    "deterministic": (ARM, Deterministic(normal(N, 2))),
    "tanh_deterministic": (ARM, Deterministic(normal(N, 2).tanh())),
}


def case(family: str, space: spaces.Space = FLAT) -> tuple[Spec, Batch]:
    action_space, dist = CASES[family]
    obs: Obs = normal(N, 3, seed=2)
    if space is MIXED:
        g = torch.Generator().manual_seed(0)
        obs = {
            "a/b": torch.randint(0, 3, (N,), generator=g),
            "image": torch.randint(0, 256, (N, 4, 4, 3), generator=g, dtype=torch.uint8),
            "zebra": normal(N, 2, 2),
        }
    target = Prediction(dist, normal(N, seed=3), normal(N, 4, seed=4), {"torso": normal(N, 6)})
    extra = {
        "action": dist.mode(),
        "reward": normal(N, seed=5),
        "done": torch.arange(N) % 4 == 3,
        "episode": torch.arange(N) // 4,
    }
    mask = torch.arange(N) != 9
    return Spec(space, action_space, family), Batch(obs, target, normal(N, seed=6).abs(), mask, extra)  # type: ignore[arg-type]


def tensors(batch: Batch) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def note(t: Tensor) -> Tensor:
        found[str(len(found))] = t
        return t

    named = {f"obs {k}": v for k, v in batch.obs.items()} if isinstance(batch.obs, dict) else {"obs": batch.obs}
    replace(batch, obs=torch.zeros(len(batch)), extra={}).map(note)
    return {**named, **found, **{f"extra {k}": v for k, v in batch.extra.items()}}


def assert_same(a: Batch, b: Batch) -> None:
    x, y = tensors(a), tensors(b)
    assert x.keys() == y.keys() and type(a.target.dist) is type(b.target.dist)
    for name in x:
        assert x[name].dtype == y[name].dtype and torch.equal(x[name], y[name]), name


def joined(parts: list[Batch]) -> Batch:
    columns = [list(tensors(p).values()) for p in parts]
    assert len({len(c) for c in columns}) == 1
    first = parts[0]
    return Batch(
        {k: torch.cat([p.obs[k] for p in parts]) for k in first.obs}
        if isinstance(first.obs, dict)
        else torch.cat([p.obs for p in parts]),
        first.target[:0],
        extra={k: torch.cat([p.extra[k] for p in parts]) for k in first.extra},
    )


# A round trip


@pytest.mark.parametrize("space", [FLAT, MIXED], ids=["box", "dict"])
@pytest.mark.parametrize("family", list(CASES))
def test_what_goes_in_comes_out(family: str, space: spaces.Space, tmp_path: Path) -> None:
    spec, batch = case(family, space)
    origin = Origin(
        "x.zip", "abc", "ppo", "A-v0", {"size": 3}, (EnvWrapper("TimeFeature", {"max_steps": 9}),), 0.9, 2.0
    )
    written = datasets.write(tmp_path / "data", [batch], spec=spec, origin=origin, about={"seed": 3}, features=True)
    found = datasets.read(tmp_path / "data")
    assert found.manifest == written.manifest
    assert found.manifest.spec == spec and found.manifest.origin == origin and found.manifest.about == {"seed": 3}
    assert (found.manifest.rows, found.manifest.steps, found.manifest.episodes) == (10, 9, 2)
    (back,) = found
    assert_same(back, batch)
    if isinstance(batch.target.dist, MultiCategorical):
        assert isinstance(back.target.dist, MultiCategorical) and back.target.dist.nvec == (2, 3)
    if isinstance(back.obs, dict):
        assert list(back.obs) == list(MIXED.spaces), "keys in the order in which a network reads them"
    found.check_student(spec)


def test_what_is_not_there_stays_away(tmp_path: Path) -> None:
    spec, batch = case("categorical")
    bare = Batch(batch.obs, Prediction(batch.target.dist))
    (back,) = datasets.write(tmp_path / "bare", [bare], spec=spec)
    assert_same(back, bare)
    assert (back.mask, back.weight, back.target.value, back.target.q) == (None,) * 4
    (back,) = datasets.write(tmp_path / "plain", [batch], spec=spec)
    assert back.target.features == {}, "features only on request"


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 10, 64])
def test_shards_are_cut_anew(rows: int, compress: bool, tmp_path: Path) -> None:
    spec, batch = case("categorical", MIXED)
    parts = [batch[:3], batch[3:4], batch[4:4], batch[4:10]]
    found = datasets.write(tmp_path / "data", parts, spec=spec, rows_per_shard=rows, compress=compress)
    assert [s.rows for s in found.manifest.shards] == [rows] * (10 // rows) + ([10 % rows] if 10 % rows else [])
    back = joined(list(found))
    assert isinstance(back.obs, dict) and isinstance(batch.obs, dict)
    for key in batch.obs:
        assert torch.equal(back.obs[key], batch.obs[key])
    assert torch.equal(back.extra["reward"], batch.extra["reward"])
    for shard in found.manifest.shards:
        assert (tmp_path / "data" / shard.file).stat().st_size == shard.bytes


def test_rows_can_be_trained_in_place(tmp_path: Path) -> None:
    spec, batch = case("categorical")
    (back,) = datasets.write(tmp_path / "data", [batch], spec=spec)
    assert isinstance(back.obs, Tensor)
    back.obs.add_(1)
    back.extra["reward"].zero_()


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    spec, batch = case("categorical")
    a, b = (datasets.write(tmp_path / name, [batch], spec=spec).manifest for name in "ab")
    assert a == b


def test_an_empty_folder_may_be_there_already(tmp_path: Path) -> None:
    spec, batch = case("categorical")
    (tmp_path / "data").mkdir()
    assert datasets.write(tmp_path / "data", iter([batch]), spec=spec).manifest.rows == 10
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == [MANIFEST, "shard-00000.npz"]


def test_the_files_are_plain_numpy_and_json(tmp_path: Path) -> None:
    """Someone without this package reads them too."""
    spec, batch = case("categorical")
    datasets.write(tmp_path / "data", [batch], spec=spec)
    with np.load(tmp_path / "data" / "shard-00000.npz", allow_pickle=False) as arrays:
        assert set(arrays) >= {"obs", "target/logits", "target/value", "target/q", "mask", "extra/reward"}
        assert np.array_equal(arrays["target/logits"], batch.target.dist.logits.numpy())
    told = json.loads((tmp_path / "data" / MANIFEST).read_text())
    assert told["spec"]["family"] == "categorical" and told["columns"]["obs"] == {"dtype": "float32", "shape": [3]}


# What is refused when writing


def refused(code: str, folder: Path, batches: Any, spec: Spec, **how: Any) -> PolicykdError:
    before = sorted(folder.parent.iterdir())
    with pytest.raises(PolicykdError, match=rf"\[{code}\]") as found:
        datasets.write(folder, batches, spec=spec, **how)
    assert sorted(folder.parent.iterdir()) == before, "nothing half-written"
    return found.value


def test_writing_refuses(tmp_path: Path) -> None:
    spec, batch = case("categorical")
    folder = tmp_path / "data"
    nan = batch.obs.clone()  # type: ignore[union-attr]
    nan[3, 1] = np.nan
    refused("dataset.empty", folder, [], spec)
    refused("dataset.empty", folder, [batch[:0]], spec)
    refused("dataset.nan", folder, [batch, replace(batch, obs=nan)], spec)
    refused("dataset.columns", folder, [batch, replace(batch, weight=None)], spec)
    refused("dataset.columns", folder, [batch, replace(batch, obs=batch.obs.double())], spec)  # type: ignore[union-attr]
    refused("dataset.rows", folder, [replace(batch, extra={"reward": torch.zeros(9)})], spec)
    refused("dataset.rows", folder, [batch[0]], spec)
    refused("dataset.spec", folder, [replace(batch, target=Prediction(Categorical(normal(N, 5))))], spec)
    refused("dataset.spec", folder, [case("diag_gaussian")[1]], spec)
    refused("dataset.spec", folder, [case("multi_categorical")[1]], replace(spec, family="bernoulli"))
    refused("space.observation", folder, [replace(batch, obs=normal(N, 4))], spec)
    refused("space.observation", folder, [case("categorical", MIXED)[1]], spec)
    refused("dataset.about", folder, [batch], spec, about={"when": object()})
    refused("dataset.about", folder, [batch], spec, origin=Origin(env_kwargs={"x": float("nan")}))


def test_nan_may_stand_in_rows_that_do_not_count_and_in_columns_of_the_user(tmp_path: Path) -> None:
    spec, batch = case("categorical")
    obs = batch.obs.clone()  # type: ignore[union-attr]
    obs[9] = np.nan
    extra = {**batch.extra, "note": torch.full((N,), float("nan"))}
    datasets.write(tmp_path / "data", [replace(batch, obs=obs, extra=extra)], spec=spec)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    spec, batch = case("categorical")
    (tmp_path / "keep").write_text("mine")
    with pytest.raises(RunError, match=r"\[dataset.exists\]"):
        datasets.write(tmp_path, [batch], spec=spec)
    with pytest.raises(RunError, match=r"\[dataset.exists\]"):
        datasets.write(tmp_path / "keep", [batch], spec=spec)
    assert (tmp_path / "keep").read_text() == "mine"


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    spec, batch = case("categorical")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"\[dataset.write\]"):
        datasets.write(tmp_path / "file" / "data", [batch], spec=spec)


def test_a_source_that_fails_leaves_nothing(tmp_path: Path) -> None:
    spec, batch = case("categorical")

    def source() -> Any:
        yield batch
        raise FileNotFoundError("the environment's own trouble")

    with pytest.raises(FileNotFoundError, match="own trouble"):
        datasets.write(tmp_path / "data", source(), spec=spec, rows_per_shard=2)
    assert list(tmp_path.iterdir()) == []


# What is refused when reading


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    spec, batch = case("categorical")
    datasets.write(tmp_path / "data", [batch], spec=spec, rows_per_shard=4)
    return tmp_path / "data"


def edited(folder: Path, change: Callable[[Any], Any]) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    change(data)
    (folder / MANIFEST).write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda f: shutil.rmtree(f), "dataset.missing"),
        (lambda f: (f / MANIFEST).unlink(), "dataset.missing"),
        (lambda f: (f / "shard-00001.npz").unlink(), "dataset.missing"),
        (lambda f: (f / MANIFEST).write_text("{"), "dataset.manifest"),
        (lambda f: (f / MANIFEST).write_text("[" * 5000), "dataset.manifest"),
        (lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe"), "dataset.manifest"),
        (lambda f: (f / MANIFEST).write_text('{"kind": "student", "schema": 1}'), "dataset.manifest"),
        (lambda f: edited(f, lambda d: d.update(schema=2)), "dataset.manifest"),
        (lambda f: edited(f, lambda d: d.update(rows=11)), "dataset.manifest"),
        (lambda f: edited(f, lambda d: d.update(shards=[], rows=0)), "dataset.manifest"),
        (lambda f: edited(f, lambda d: d["spec"].update(family="poisson")), "dataset.manifest"),
        (lambda f: edited(f, lambda d: d["spec"].update(action_space=3)), "dataset.manifest"),
        (lambda f: edited(f, lambda d: d["columns"]["obs"].update(dtype="object")), "dataset.manifest"),
        (lambda f: edited(f, lambda d: d["columns"]["obs"].update(shape=[-3])), "dataset.manifest"),
        (lambda f: edited(f, lambda d: d["shards"][0].update(file="../shard-00000.npz")), "dataset.manifest"),
        (lambda f: edited(f, lambda d: d["shards"][0].update(file="/etc/passwd")), "dataset.manifest"),
        (lambda f: (f / "shard-00001.npz").write_bytes(b"short"), "dataset.damaged"),
        (lambda f: edited(f, lambda d: d["columns"]["obs"].update(shape=[4])), "dataset.damaged"),
        (lambda f: edited(f, lambda d: d["columns"]["obs"].update(shape=[1])), "dataset.damaged"),
        (lambda f: edited(f, lambda d: d["columns"].pop("obs")), "dataset.damaged"),
        (lambda f: edited(f, lambda d: d["columns"].update(more={"dtype": "int8", "shape": []})), "dataset.damaged"),
    ],
)
def test_reading_refuses(folder: Path, change: Callable[[Path], Any], code: str) -> None:
    change(folder)
    with pytest.raises(CheckpointError, match=rf"\[{code}\]"):
        list(datasets.read(folder))


def test_a_flipped_bit_is_seen(folder: Path) -> None:
    path = folder / "shard-00001.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = iter(datasets.read(folder))
    assert len(next(found)) == 4, "what is whole is read"
    with pytest.raises(CheckpointError, match=r"sha256.*\[dataset.damaged\]"):
        next(found)


def forged(folder: Path, content: bytes) -> None:
    """A shard replaced together with what the manifest says of it."""
    import hashlib

    (folder / "shard-00000.npz").write_bytes(content)
    told = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edited(folder, lambda d: d["shards"][0].update(told))


def test_no_pickle_is_opened(folder: Path) -> None:
    buffer = io.BytesIO()
    with np.load(folder / "shard-00000.npz") as arrays:
        named = {**arrays, "obs": np.array([{"a": 1}] * 4, object)}
    np.savez(buffer, **named)  # type: ignore[arg-type]
    forged(folder, buffer.getvalue())
    with pytest.raises(CheckpointError, match=r"allow_pickle.*\[dataset.damaged\]"):
        list(datasets.read(folder))


def test_a_small_file_does_not_take_all_memory(folder: Path) -> None:
    buffer = io.BytesIO()
    with np.load(folder / "shard-00000.npz") as arrays:
        named = {**arrays, "obs": np.zeros((2**19, 3), np.float32)}
    np.savez_compressed(buffer, **named)  # type: ignore[arg-type]
    assert len(buffer.getvalue()) < 2**20
    forged(folder, buffer.getvalue())
    with pytest.raises(CheckpointError, match=r"unpacks to.*\[dataset.damaged\]"):
        list(datasets.read(folder))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + b"\0" * 40, b"\x80\x04."])
def test_what_is_no_archive(folder: Path, content: bytes) -> None:
    forged(folder, content)
    with pytest.raises(CheckpointError, match=r"\[dataset.damaged\]"):
        list(datasets.read(folder))


def test_an_archive_with_a_broken_member(folder: Path) -> None:
    buffer = io.BytesIO()
    with np.load(folder / "shard-00000.npz") as arrays, zipfile.ZipFile(buffer, "w") as archive:
        for name in arrays:
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((")
    forged(folder, buffer.getvalue())
    with pytest.raises(CheckpointError, match=r"\[dataset.damaged\]"):
        list(datasets.read(folder))


# Who can learn from it


@pytest.mark.parametrize(
    "change",
    [
        {"family": "bernoulli"},
        {"action_space": spaces.Discrete(5)},
        {"action_space": spaces.Discrete(4, start=1)},
        {"action_space": spaces.MultiDiscrete([4])},
        {"observation_space": spaces.Box(-1, 1, (4,), np.float32)},
        {"observation_space": spaces.Dict({"a": FLAT})},
    ],
)
def test_a_student_that_does_not_fit(folder: Path, change: dict[str, Any]) -> None:
    data = datasets.read(folder)
    with pytest.raises(SpaceError, match=r"\[dataset.spec\]"):
        data.check_student(replace(data.manifest.spec, **change))


def test_a_student_that_fits_though_bounds_differ(folder: Path) -> None:
    data = datasets.read(folder)
    data.check_student(replace(data.manifest.spec, observation_space=spaces.Box(-2, 7, (3,), np.float64)))
    image = Spec(spaces.Box(0, 255, (4, 9, 9), np.uint8), spaces.Discrete(4), "categorical")
    other = replace(image, observation_space=spaces.Box(0, 255, (9, 9, 4), np.uint8))
    replace(data, manifest=replace(data.manifest, spec=image)).check_student(other)


# The memory


def rows(*numbers: int) -> Batch:
    x = torch.tensor(numbers, dtype=torch.float32)
    return Batch(x.unsqueeze(-1), Prediction(Categorical(x.unsqueeze(-1).expand(-1, 2))), extra={"n": x.long()})


def held(ring: Ring) -> list[int]:
    return sorted(int(n) for n in ring.all().extra["n"])


def test_ring_keeps_the_newest() -> None:
    ring = Ring(5, seed=0)
    ring.add(rows(0, 1, 2))
    assert held(ring) == [0, 1, 2] and len(ring) == 3
    ring.add(rows(3, 4, 5, 6))
    assert held(ring) == [2, 3, 4, 5, 6] and len(ring) == 5
    ring.add(rows(*range(7, 20)))
    assert held(ring) == [15, 16, 17, 18, 19]
    ring.add(rows())
    assert held(ring) == [15, 16, 17, 18, 19]


def test_ring_columns_stay_together_and_are_copies() -> None:
    ring, mine = Ring(8, seed=0), rows(1, 2, 3)
    ring.add(mine)
    mine.obs.zero_()  # type: ignore[union-attr]
    drawn = ring.sample(200)
    n = drawn.extra["n"].float()
    assert torch.equal(drawn.obs[:, 0], n) and torch.equal(drawn.target.dist.logits[:, 1], n)  # type: ignore[index]
    counts = torch.bincount(drawn.extra["n"])[1:]
    assert counts.min() > 40, "drawn uniformly"


def test_ring_draws_are_seeded() -> None:
    def drawn(seed: int) -> list[int]:
        ring = Ring(100, seed=seed)
        ring.add(rows(*range(100)))
        return ring.sample(20).extra["n"].tolist()

    assert drawn(0) == drawn(0) != drawn(1)


def test_ring_drops_what_does_not_count() -> None:
    ring = Ring(5, seed=0)
    ring.add(replace(rows(0, 1, 2), mask=torch.tensor([True, False, True])))
    assert held(ring) == [0, 2] and ring.all().mask is None


def test_ring_refuses() -> None:
    with pytest.raises(UsageError, match=r"\[ring.capacity\]"):
        Ring(0, seed=0)
    with pytest.raises(UsageError, match=r"\[ring.empty\]"):
        Ring(1, seed=0).sample(1)


# From an environment, and to Minari and back


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    teacher = Balancer(-10.0)
    envs = make(recipe.load("CartPole-v1"), 4)
    collector = Collector(envs, teacher, seed=0, episodes=True)
    return datasets.write(
        tmp_path_factory.mktemp("cartpole") / "data",
        label(collector, 200),
        spec=teacher.spec,
        origin=teacher.origin,
    )


def test_label_keeps_to_its_budget_and_to_whole_episodes(cartpole: datasets.Dataset) -> None:
    manifest = cartpole.manifest
    assert 200 <= manifest.steps < 204
    (batch,) = cartpole
    assert batch.mask is not None
    final = ~batch.mask
    assert int(final.sum()) in range(manifest.episodes - 3, manifest.episodes + 1), "a last one may still be to come"
    # Not the same bits: a product of other many rows may be summed in another order.
    torch.testing.assert_close(batch.target.dist.logits, Balancer(-10.0).label(batch.obs).dist.logits)  # type: ignore[union-attr]
    for number in batch.extra["episode"].unique():
        mine = batch.extra["episode"] == number
        assert batch.mask[mine][:-1].all() and not batch.extra["done"][mine][:-2].any()


def episodes_of(data: datasets.Dataset) -> list[Batch]:
    (batch,) = data
    return [batch[batch.extra["episode"] == n] for n in batch.extra["episode"].unique()]


@pytest.fixture
def minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    found = pytest.importorskip("minari", reason="Minari comes with the extra `minari`")
    pytest.importorskip("h5py", reason="Minari stores through h5py, which comes with the extra `minari`")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return found


def test_minari_there_and_back(cartpole: datasets.Dataset, minari: Any, tmp_path: Path) -> None:
    from policykd.datasets.minari import from_minari, to_minari

    to_minari(cartpole, "kd/cartpole-v0", author="someone")
    theirs = minari.load_dataset("kd/cartpole-v0")
    assert theirs.env_spec.id == "CartPole-v1" and theirs.recover_environment().spec.id == "CartPole-v1"
    mine = [e for e in episodes_of(cartpole) if int(e.mask.sum()) > (0 if e.extra["done"].any() else 1)]
    assert theirs.total_episodes == len(mine)
    for episode, batch in zip(theirs, mine, strict=True):
        done, steps = bool(batch.extra["done"].any()), int(batch.mask.sum())
        count = steps if done else steps - 1
        assert len(episode) == count and len(episode.observations) == count + 1
        assert np.array_equal(episode.observations[:count], batch.obs[:count].numpy())
        assert np.array_equal(episode.actions, batch.extra["action"][:count].numpy())
        assert np.array_equal(episode.rewards, batch.extra["reward"][:count].numpy())
        assert episode.terminations.tolist() == [False] * (count - 1) + [done]
        assert episode.truncations.tolist() == [False] * (count - 1) + [not done]
        word = Balancer(-10.0).label(torch.from_numpy(episode.observations))
        assert np.allclose(episode.infos["teacher_logits"], word.dist.logits, atol=1e-5)
        assert np.allclose(episode.infos["teacher_value"][:, 0], word.value, atol=1e-5)
    back = from_minari("kd/cartpole-v0", tmp_path / "back")
    assert back.manifest.spec == cartpole.manifest.spec and back.manifest.origin.env_id == "CartPole-v1"
    (whole,) = [joined([replace(b, weight=None, mask=None) for b in back])]
    assert back.manifest.steps == theirs.total_steps == len(whole) - theirs.total_episodes
    again = from_minari(tmp_path / "minari" / "kd" / "cartpole-v0", tmp_path / "again", teacher=Balancer())
    for a, b in zip(back, again, strict=True):
        assert torch.equal(a.obs, b.obs) and torch.allclose(a.target.dist.logits, -b.target.dist.logits, atol=1e-5)
        assert torch.equal(a.mask, b.mask) and torch.equal(a.extra["terminated"], b.extra["terminated"])


@pytest.mark.parametrize("family", list(CASES))
def test_minari_takes_every_family_and_dict_observations(family: str, minari: Any, tmp_path: Path) -> None:
    from policykd.datasets.minari import from_minari, to_minari

    spec, batch = case(family, MIXED if family == "categorical" else FLAT)
    if family == "categorical":
        spec = replace(spec, observation_space=spaces.Dict({k: v for k, v in MIXED.spaces.items() if k != "a/b"}))
        batch = replace(batch, obs={k: v for k, v in batch.obs.items() if k != "a/b"})  # type: ignore[union-attr]
    action = torch.from_numpy(np.asarray(spec.to_env(batch.target.dist.mode())))
    batch = replace(batch, weight=None, mask=None, extra={**batch.extra, "action": action})
    data = datasets.write(tmp_path / "data", [batch], spec=spec, rows_per_shard=3)
    to_minari(data, f"{family}-v3")
    back = from_minari(f"{family}-v3", tmp_path / "back")
    assert back.manifest.spec == spec
    found = list(back)
    (rows_back,) = found
    # Two ended episodes of 4 steps and a repeated final row; of the two rows that are cut off, one step.
    assert rows_back.mask is not None and rows_back.mask.tolist() == [True] * 4 + [False] + [True] * 4 + [
        False,
        True,
        False,
    ]
    expected = batch[torch.tensor([0, 1, 2, 3, 3, 4, 5, 6, 7, 7, 8, 9])]
    mine = replace(rows_back, mask=None, extra={})
    assert_same(mine, replace(expected, target=replace(expected.target, features={}), extra={}))
    assert torch.equal(rows_back.extra["action"][rows_back.mask], action[:9])


def test_minari_refuses(cartpole: datasets.Dataset, folder: Path, minari: Any, tmp_path: Path) -> None:
    from policykd.datasets.minari import from_minari, to_minari

    spec, batch = case("categorical")
    bare = datasets.write(tmp_path / "bare", [replace(batch, extra={})], spec=spec)
    for data, name, code in (
        (bare, "bare-v0", "dataset.episodes"),
        (cartpole, "no version", "dataset.minari-id"),
        (cartpole, "noversion", "dataset.minari-id"),
    ):
        with pytest.raises(UsageError, match=rf"\[{code}\]"):
            to_minari(data, name)
    to_minari(cartpole, "once-v0")
    with pytest.raises(RunError, match=r"\[dataset.exists\]"):
        to_minari(cartpole, "once-v0")
    with pytest.raises(CheckpointError, match=r"\[dataset.minari\]"):
        from_minari("never-v0", tmp_path / "out")
    metadata = tmp_path / "minari" / "once-v0" / "data" / "metadata.json"
    told = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({k: v for k, v in told.items() if k != "observation_space"}))
    with pytest.raises(CheckpointError, match=r"observation_space.*\[dataset.minari\]"):
        from_minari("once-v0", tmp_path / "out")
    metadata.write_text("{")
    with pytest.raises(CheckpointError, match=r"\[dataset.minari\]"):
        from_minari("once-v0", tmp_path / "out")
    metadata.write_text(json.dumps(told))
    (metadata.parent / "main_data.hdf5").write_bytes(b"not hdf5")
    with pytest.raises(CheckpointError, match=r"\[dataset.minari\]"):
        from_minari("once-v0", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_minari_without_labels_needs_a_teacher(minari: Any, tmp_path: Path) -> None:
    from policykd.datasets.minari import from_minari

    buffer = minari.data_collector.EpisodeBuffer(
        observations=np.zeros((4, 4), np.float32),
        actions=np.zeros(3, np.int64),
        rewards=np.ones(3, np.float32),
        terminations=np.array([False, False, True]),
        truncations=np.zeros(3, bool),
    )
    env = recipe.load("CartPole-v1").make()
    with pytest.warns(UserWarning):
        minari.create_dataset_from_buffers(
            "human-v0", [buffer], observation_space=env.observation_space, action_space=env.action_space
        )
    with pytest.raises(UsageError, match=r"\[dataset.unlabelled\]"):
        from_minari("human-v0", tmp_path / "out")
    found = from_minari("human-v0", tmp_path / "out", teacher=Balancer())
    assert found.manifest.steps == 3 and found.manifest.episodes == 1


def test_a_missing_minari_is_named(cartpole: datasets.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from policykd.datasets.minari import to_minari

    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ImportError, match=r"policykd\[minari\].*\[extra.missing\]"):
        to_minari(cartpole, "any-v0")
