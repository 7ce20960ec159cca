"""A memory of stacked frames gives back what a list of rows would, in a quarter of the bytes; flat rows stay small."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from policykd.datasets import Ring, frames, ring
from policykd.datasets.frames import Frames
from policykd.distributions import Categorical, DiagGaussian
from policykd.errors import UsageError
from policykd.prediction import Batch, Obs, Prediction

LAYOUTS = {
    "stack first": ((16, 18), 4, lambda f: np.stack(f)),
    "stack last": ((16, 18), 4, lambda f: np.stack(f, -1)),
    "bytes that fill no word": ((15, 17), 3, lambda f: np.stack(f)),
    "colours side by side, last": ((16, 18, 3), 4, lambda f: np.concatenate(f, -1)),
    "colours side by side, first": ((3, 16, 18), 4, lambda f: np.concatenate(f, 0)),
    "stack of colours": ((16, 18, 3), 4, lambda f: np.stack(f)),
}
"""Shape of a frame, how many are stacked, and how."""


def labelled(obs: Obs, first: int = 0) -> Batch:
    """Rows that are numbered in every column."""
    n = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
    x = torch.arange(first, first + n)
    return Batch(obs, Prediction(Categorical(x[:, None] + torch.zeros(2)), x.float()), extra={"n": x})


def played(layout: str, seed: int, envs: int = 3) -> Iterator[np.ndarray]:
    """Observations of a vector of environments, step by step, with the rows of reset steps left out.

    Episodes are short; half of the environments begin with the first frame repeated, half with black ones. One in ten
    frames is a screen that comes back all the time.
    """
    shape, k, stack = LAYOUTS[layout]
    rng = np.random.default_rng(seed)
    still = rng.integers(0, 256, shape, dtype=np.uint8)
    stacks: list[deque[np.ndarray]] = [deque(maxlen=k) for _ in range(envs)]
    over = [True] * envs
    while True:
        rows = []
        for i, seen in enumerate(stacks):
            if over[i] and rng.random() < 0.5:
                continue
            frame = still if rng.random() < 0.1 else rng.integers(0, 256, shape, dtype=np.uint8)
            if over[i]:
                seen.extend([frame if i % 2 else np.zeros_like(frame)] * k)
            seen.append(frame)
            over[i] = bool(rng.random() < 0.1)
            rows.append(stack(list(seen)))
        if rows:
            yield np.stack(rows)


def chunks(layout: str, sizes: list[int], seed: int = 0) -> Iterator[Tensor]:
    """The same rows in batches of about ``sizes`` steps."""
    steps = played(layout, seed)
    for size in sizes:
        yield torch.from_numpy(np.concatenate([next(steps) for _ in range(size)]))


def plain(monkeypatch: pytest.MonkeyPatch, *args: int, seed: int) -> Ring:
    """A memory that shares nothing."""
    made = Ring(*args, seed=seed)
    add = made.add

    def without(batch: Batch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Frames, "worth", lambda *_: None)
            add(batch)

    made.add = without  # type: ignore[method-assign]
    return made


def shared(memory: Ring) -> Frames:
    (found,) = memory._frames.values()
    return found


def same(a: Batch, b: Batch) -> bool:
    columns = (list(ring._named(x).items()) for x in (a, b))
    return all(k == j and x.dtype == y.dtype and torch.equal(x, y) for (k, x), (j, y) in zip(*columns, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", range(2))
def test_frames_come_back_as_they_were(layout: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    capacity, sizes = 100, [20, 1, 7, 30, 2, 90, 1, 1, 13, 40]
    memory, other = Ring(capacity, seed=seed), plain(monkeypatch, capacity, seed=seed)
    rows = torch.empty(0)
    for obs in chunks(layout, sizes, seed):
        batch = labelled(obs, len(rows))
        rows = torch.cat([rows, obs]) if len(rows) else obs
        memory.add(batch)
        other.add(batch)
        assert len(memory) == min(len(rows), capacity)
        assert same(memory.all(), other.all()) and same(memory.sample(9), other.sample(9))
        assert torch.equal(memory.newest(17).obs, rows[-17:]), "the list of all rows is the authority"  # type: ignore[arg-type]
        places = torch.randperm(len(memory))[:5]
        assert same(memory.take(places), other.take(places))
        held = memory.all()
        assert torch.equal(held.obs, rows[held.extra["n"]])  # type: ignore[arg-type]
        # Each plane once, and none that no row shows.
        store = shared(memory)
        planes = np.moveaxis(rows[-capacity:].numpy(), 1 + store.axis, 1).reshape(-1, store._bytes)
        assert store.used - len(store._free) == len(store._index) == len(np.unique(planes, axis=0))
        assert store.used <= store.most
    assert len(rows) > 3 * capacity


@pytest.mark.parametrize("different", [1, 7])
def test_frames_of_one_hash_are_not_mixed_up(different: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = frames._hashes
    memory = Ring(40, seed=0)
    rows = torch.empty(0)
    for obs in chunks("stack first", [10] * 9):
        memory.add(labelled(obs, len(rows)))
        rows = torch.cat([rows, obs]) if len(rows) else obs
        held = memory.all()
        assert torch.equal(held.obs, rows[held.extra["n"]])  # type: ignore[arg-type]
        assert shared(memory).used <= shared(memory).most
        monkeypatch.setattr(frames, "_hashes", lambda words: hashes(words) % np.uint64(different))


def test_hashes_tell_neighbours_apart() -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (84 * 84,), dtype=np.uint8)
    near = np.stack([frame] * (1 + 7056))
    near[np.arange(1, 7057), np.arange(7056)] ^= 128  # the same but for one bit, anywhere
    moved = np.zeros((7056, 7056), np.uint8)
    moved[np.arange(7056), np.arange(7056)] = 255  # a dot on black, anywhere
    for images in (near, moved):
        assert len(np.unique(frames._hashes(images.view(np.uint64)))) == len(images)


def test_frames_of_one_key_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, other = Ring(50, seed=0), plain(monkeypatch, 50, seed=0)
    for i, image in enumerate(chunks("stack last", [20, 20, 20])):
        obs = {"speed": torch.randn(len(image), 2), "image": image}
        memory.add(labelled(obs, i))
        other.add(labelled(dict(reversed(obs.items())) if i else obs, i))
    assert list(memory._frames) == ["obs/image"] and not other._frames
    assert same(memory.all(), other.all()) and same(memory.sample(99), other.sample(99))
    assert memory.nbytes < 0.5 * other.nbytes


def test_stacks_take_a_quarter() -> None:
    rng = np.random.default_rng(0)
    film = rng.integers(0, 256, (403, 84, 84), dtype=np.uint8)
    stacks = torch.from_numpy(np.lib.stride_tricks.sliding_window_view(film, 4, 0).copy())  # [400, 84, 84, 4]
    for obs in (stacks.contiguous(), stacks.movedim(-1, 1).contiguous()):
        memory = Ring(400, seed=0)
        for part in obs.split(50):
            memory.add(labelled(part))
        labels = 400 * 40
        assert film.nbytes <= memory.nbytes - labels < 1.15 * film.nbytes < 0.3 * obs.numel()


def test_what_shares_no_frames_is_held_plainly() -> None:
    noise = torch.randint(0, 256, (60, 4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    film = torch.from_numpy(np.concatenate(next(zip(*[played("stack first", 0)] * 20, strict=True))))
    small = film[:, :, :4, :4]  # 16 bytes a frame: less than the books about it
    tall = torch.zeros(4, 70, 66, 68, dtype=torch.uint8)
    for obs in (noise, small, tall, film.float(), film[:, 0], film[:, None]):
        memory = Ring(64, seed=0)
        memory.add(labelled(obs))
        assert not memory._frames and torch.equal(memory.newest(60).obs, obs[-60:])  # type: ignore[arg-type]
    memory.add(labelled(obs[:0]))
    assert torch.equal(memory.newest(60).obs, obs[-60:])  # type: ignore[arg-type]


def test_a_memory_of_frames_that_stop_returning_keeps_its_bound() -> None:
    memory = Ring(30, seed=0)
    for obs in chunks("stack first", [10] * 3):
        memory.add(labelled(obs))
    g = torch.Generator().manual_seed(0)
    for _ in range(9):
        noise = torch.randint(0, 256, (23, 4, 16, 18), dtype=torch.uint8, generator=g)
        memory.add(labelled(noise))
        assert torch.equal(memory.newest(23).obs, noise)  # type: ignore[arg-type]
        assert shared(memory).used <= 30 * 4 and len(shared(memory)._pixels) <= 30 * 4


# Rows of numbers


def lander(n: int, *, value: bool = True, q: bool = False) -> Batch:
    """Rows as a Collector gives them for LunarLander."""
    g = torch.Generator().manual_seed(n)
    said = Prediction(Categorical(torch.randn(n, 4, generator=g)), torch.randn(n, generator=g) if value else None)
    said = replace(said, q=torch.randn(n, 4, generator=g)) if q else said
    extra = {"reward": torch.randn(n), "done": torch.arange(n) % 7 == 0, "action": torch.arange(n) % 4}
    return Batch(torch.randn(n, 8, generator=g), said, extra=extra)


def test_a_million_rows_of_lunar_lander_stay_under_200_mb() -> None:
    # 8 + 4 floats, an int64 action, value, reward and q as floats, a bool; a record ends at a multiple of its widest.
    for extra, how, row in (
        (True, {}, 72),
        (True, {"q": True}, 88),
        (False, {}, 52),
        (("done",), {"value": False}, 52),
        (False, {"value": False}, 48),
    ):
        memory = Ring(1_000_000, seed=0, extra=extra)  # type: ignore[arg-type]
        memory.add(lander(512, **how))  # type: ignore[arg-type]
        assert memory.nbytes == 1_000_000 * row < 200e6


def test_extra_columns_are_kept_as_asked() -> None:
    batch = lander(20)
    for extra, kept in (
        (True, set(batch.extra)),
        (False, set()),
        (("action", "done"), {"action", "done"}),
        ((), set()),
    ):
        memory = Ring(50, seed=0, extra=extra)  # type: ignore[arg-type]
        memory.add(batch)
        memory.add(replace(batch, extra={**batch.extra, "more": batch.extra["done"]}) if extra is not True else batch)
        wanted = replace(batch, extra={name: t for name, t in batch.extra.items() if name in kept})
        assert same(memory.newest(20), wanted) and set(memory.sample(3).extra) == kept


def test_a_draw_is_the_same_whatever_else_is_kept() -> None:
    drawn = []
    for extra in (True, False):
        memory = Ring(50, seed=3, extra=extra)
        memory.add(lander(70))
        drawn.append(memory.sample(40).obs)
    assert torch.equal(*drawn)


def test_a_large_memory_grows_as_it_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "_AT_ONCE", 100)
    memory, batch = Ring(1000, seed=0), lander(70)
    for i in range(20):
        memory.add(batch)
        assert 72 * len(memory) <= memory.nbytes <= 1.5 * 72 * 70 * (i + 1) and memory.nbytes <= 72_000
        assert same(memory.take(torch.arange(70)), batch) or i > 13
    assert len(memory) == 1000 and same(memory.newest(70), batch)


def test_all_is_a_view_and_a_draw_is_not() -> None:
    memory = Ring(10, seed=0)
    memory.add(lander(10))
    memory.sample(5).obs.zero_()  # type: ignore[union-attr]
    memory.take(torch.arange(5)).obs.zero_()  # type: ignore[union-attr]
    assert same(memory.all(), lander(10)) or torch.equal(memory.all().obs, lander(10).obs)  # type: ignore[arg-type]
    memory.all().obs[3] = 7.0  # type: ignore[index]
    assert (memory.newest(10).obs[3] == 7.0).all()  # type: ignore[index]


def test_labels_keep_their_types_and_no_gradient() -> None:
    mean = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    batch = Batch(torch.zeros(6, 3, dtype=torch.int16), Prediction(DiagGaussian(mean, mean.exp())), torch.ones(6))
    memory = Ring(9, seed=0)
    memory.add(batch)
    drawn = memory.sample(4)
    assert drawn.target.dist.mean.dtype == torch.float64 and not drawn.target.dist.mean.requires_grad  # type: ignore[union-attr]
    assert isinstance(drawn.obs, Tensor) and drawn.obs.dtype == torch.int16
    assert drawn.weight is not None and drawn.weight.tolist() == [1.0] * 4


def test_a_ring_refuses_rows_of_another_kind() -> None:
    memory = Ring(100, seed=0)
    memory.add(lander(5))
    before = memory.newest(5)
    batch = lander(5)
    for other in (
        replace(batch, extra={}),
        replace(batch, weight=torch.ones(5)),
        replace(batch, obs={"a": batch.obs}),
        replace(batch, obs=torch.zeros(5, 9)),
        replace(batch, target=Prediction(DiagGaussian(torch.zeros(5, 4), torch.zeros(5, 4)))),
        replace(batch, extra={**batch.extra, "done": torch.ones(4)}),
        lander(5, value=False),
        lander(5, q=True),
    ):
        with pytest.raises(UsageError, match=r"\[ring.columns\]"):
            memory.add(other)  # type: ignore[arg-type]
    assert len(memory) == 5 and same(memory.newest(5), before)
    with pytest.raises(UsageError, match=r"label.*\[ring.columns\]"):
        Ring(9, seed=0, extra=("label",)).add(batch)
    for place in (-1, 5):
        with pytest.raises(IndexError):
            memory.take(torch.tensor([place]))
