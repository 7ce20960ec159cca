"""Images that are stacks of frames, each frame held once; it never guesses: what comes out is what went in."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["Frames"]

_MOST = 64  # planes in a stack: a longer axis is height or width
_SAMPLE = 1024  # rows of a first batch that are looked at
_WORTH = 0.75  # share of the plain bytes below which a stack is taken apart
_UPKEEP = 160  # bytes for each frame beside its pixels: reference count, hash, its entry in the index
_CHUNK = 16  # frames hashed or compared at a time: what fits a core's cache

# Weights of a multiply-add hash; any odd numbers would do, a hash only proposes what a comparison then decides.
_WEIGHTS = np.random.default_rng(0x5EED).integers(0, 2**63, 4096, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def _hashes(words: np.ndarray) -> np.ndarray:
    """A number for each row of ``words`` (``[n, w]`` uint64): ``[n]`` uint64."""
    weights = np.resize(_WEIGHTS, words.shape[1]) + np.uint64(2) * np.arange(words.shape[1], dtype=np.uint64)
    found = np.empty(len(words), np.uint64)
    for i in range(0, len(words), _CHUNK):
        part = words[i : i + _CHUNK]
        # A product carries differences upwards only: the high half is folded into the low half first.
        found[i : i + _CHUNK] = (part ^ (part >> np.uint64(32))) @ weights
    return found


class Frames:
    """Planes of stacked images, found again by their content and forgotten with the last row that shows them.

    An observation that stacks the last k frames shares k - 1 of them with the one before. Planes are compared, not
    assumed: neither the stride between the rows of one environment nor the ends of episodes need to be known. A stack
    of c-channel frames is c times as many planes, each of them held once just the same.

    Args:
        shape: of one image, bytes.
        axis: of the stack, in that shape.
        most: planes that will ever be referred to at once.
    """

    def __init__(self, shape: tuple[int, ...], axis: int, most: int) -> None:
        self.axis, self.stack, self.most = axis, shape[axis], most
        self._plane = shape[:axis] + shape[axis + 1 :]
        self._bytes = math.prod(self._plane)
        self._words = -(-self._bytes // 8)
        self._pixels = np.empty((0, self._words), np.uint64)
        self._users = np.empty(0, np.int32)
        self._hash = np.empty(0, np.uint64)
        self._index: dict[int, int] = {}
        self._free: list[int] = []
        self.used = 0

    @classmethod
    def worth(cls, images: np.ndarray, most_rows: int) -> Frames | None:
        """Frames for a memory of ``most_rows`` images like these (``[n, ...]``), or None where it would not pay.

        It pays for bytes of three axes or more whose first or last axis stacks planes that return in other rows.
        """
        shape = images.shape[1:]
        if images.dtype != np.uint8 or len(shape) < 3 or not images.size:
            return None
        found: list[tuple[float, int]] = []
        for axis in (0, len(shape) - 1):
            k = shape[axis]
            if 2 <= k <= _MOST and k < max(shape):
                tried = cls(shape, axis, most_rows * k)
                distinct = len(np.unique(_hashes(tried._planes(images[:_SAMPLE]))))
                rows, size = min(len(images), _SAMPLE), math.prod(shape)
                found.append(((distinct * (8 * tried._words + _UPKEEP) + 4 * k * rows) / (rows * size), axis))
        if not found or min(found)[0] > _WORTH:
            return None
        axis = min(found)[1]
        return cls(shape, axis, most_rows * shape[axis])

    @property
    def nbytes(self) -> int:
        """Bytes that are held: pixels (room for more included), counts, hashes and an estimate of the index."""
        return self._pixels.nbytes + self._users.nbytes + self._hash.nbytes + 140 * len(self._index)

    def put(self, images: np.ndarray) -> np.ndarray:
        """Hold ``images`` (``[n, *shape]``); the numbers of their planes, ``[n, stack]`` int32."""
        planes = self._planes(images)
        hashes = _hashes(planes)
        unique, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        known = np.fromiter((self._index.get(h, -1) for h in unique.tolist()), np.int32, len(unique))
        fresh = np.flatnonzero(known < 0)
        known[fresh] = self._store(planes[first[fresh]], unique[fresh])
        self._index.update(zip(unique[fresh].tolist(), known[fresh].tolist(), strict=True))
        numbers = known[inverse]
        # Two frames may have one hash: the second is held by itself, and never found again.
        odd = np.flatnonzero(~self._same(planes, numbers))
        if len(odd):
            numbers[odd] = self._store(planes[odd], hashes[odd])
        np.add.at(self._users, numbers, 1)
        return numbers.reshape(len(images), self.stack)

    def get(self, numbers: np.ndarray) -> np.ndarray:
        """The images (``[n, *shape]``) of ``put``'s numbers; a copy, whose stacked axis may be the slow one."""
        n = len(numbers)
        planes = self._pixels.take(numbers.reshape(-1), axis=0).view(np.uint8)[:, : self._bytes]
        return np.moveaxis(planes.reshape(n, self.stack, *self._plane), 1, 1 + self.axis)

    def drop(self, numbers: np.ndarray) -> None:
        """Rows that showed these planes are gone; planes that nobody shows any more make room."""
        gone = numbers.reshape(-1)
        np.subtract.at(self._users, gone, 1)
        gone = np.unique(gone)
        free = gone[self._users[gone] == 0].tolist()
        for number, h in zip(free, self._hash[free].tolist(), strict=True):
            if self._index.get(h) == number:
                del self._index[h]
        self._free += free

    def _planes(self, images: np.ndarray) -> np.ndarray:
        """``[n * stack, words]`` uint64, the last word filled up with zeros."""
        planes = np.moveaxis(images, 1 + self.axis, 1).reshape(-1, self._bytes)
        if self._bytes % 8:
            planes = np.pad(planes, ((0, 0), (0, 8 * self._words - self._bytes)))
        return np.ascontiguousarray(planes).view(np.uint64)

    def _same(self, planes: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        same = np.empty(len(planes), bool)
        for i in range(0, len(planes), _CHUNK):
            part = slice(i, i + _CHUNK)
            same[part] = (self._pixels[numbers[part]] == planes[part]).all(1)
        return same

    def _store(self, planes: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        reused = [self._free.pop() for _ in range(min(len(self._free), len(planes)))]
        numbers = np.array([*reused, *range(self.used, self.used + len(planes) - len(reused))], np.int32)
        self.used += len(planes) - len(reused)
        if self.used > len(self._pixels):
            # A little more than is needed: few moves, little idle room. No view of these arrays ever leaves this
            # class, so that they may be resized where they lie, most often without a copy.
            room = min(self.used + self.used // 16, max(self.most, self.used))
            self._pixels.resize((room, self._words), refcheck=False)
            self._users.resize(room, refcheck=False)
            self._hash.resize(room, refcheck=False)
        self._pixels[numbers], self._hash[numbers], self._users[numbers] = planes, hashes, 0
        return numbers
