"""Pickles as inert records: what a pickle asks for, written down; nothing is ever imported, called or executed.

A real unpickler, with an allow-list or without, calls the classes that a file names with the arguments that the file
chooses. This one has no such step: a global is a name, a call is a record of it, and whoever needs an array or a space
decodes its record by hand (arrays.py, spaces.py).
"""

from __future__ import annotations

import io
import pickletools
import reprlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from policykd.errors import CheckpointError

__all__ = ["Call", "Global", "Persistent", "Pickle", "read", "read_all", "short"]

# Real agents need a few thousand steps, and a step may cost some hundred bytes of memory.
MAX_STEPS = 300_000
_MARK = object()


@dataclass(frozen=True)
class Global:
    """A name that the pickle would have imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Call:
    """A call that the pickle would have made, and what it would have done to the result.

    Attributes:
        func: a Global, or whatever else the pickle wanted to call.
        args, kwargs: the arguments.
        state: what ``__setstate__`` would have received; None where there was none.
        pairs: items that would have been set (an OrderedDict's content).
        elements: items that would have been appended or added (a deque's, a set's).
    """

    func: Any
    args: Any = ()
    kwargs: Any = None
    state: Any = None
    pairs: list[tuple[Any, Any]] = field(default_factory=list)
    elements: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        # Records may contain themselves: say only what is called.
        return f"<call of {self.name}>"

    @property
    def name(self) -> str:
        """``module.name`` of what would have been called, or what kind of thing it is."""
        return str(self.func) if isinstance(self.func, Global) else f"a {type(self.func).__name__}"


@dataclass(frozen=True, eq=False)
class Persistent:
    """An object that lives outside the pickle (a tensor's storage), by its key."""

    key: Any


@dataclass(frozen=True)
class Pickle:
    """One pickle, read.

    Attributes:
        value: the object: plain Python values, and records where it was anything else.
        names: how often each global is named.
        calls: every call it would have made, in order.
    """

    value: Any
    names: Counter[str]
    calls: tuple[Call, ...]


def short(value: Any) -> str:
    """A value out of a file for an error message: a few elements of it, a hundred characters."""
    return reprlib.repr(value)[:100]


def _broken(what: str) -> CheckpointError:
    return CheckpointError(
        "pickle.broken", f"a damaged pickle: {what}", "a pickle as Python writes it", "nothing was run"
    )


class _Machine:
    """The stack machine that a pickle is a program for, with inert objects (pickletools documents the instructions)."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.names: Counter[str] = Counter()
        self.calls: list[Call] = []

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise _broken("it takes from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise _broken("it looks at an empty stack")
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while self.stack:
            item = self.stack.pop()
            if item is _MARK:
                return items[::-1]
            items.append(item)
        raise _broken("a mark is missing")

    def named(self, module: Any, name: Any) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise _broken(f"a global named by {type(module).__name__} and {type(name).__name__}")
        found = Global(module, name)
        self.names[str(found)] += 1
        return found

    def called(self, func: Any, args: Any, kwargs: Any = None) -> Call:
        call = Call(func, args, kwargs)
        self.calls.append(call)
        return call

    def set_items(self, flat: list[Any]) -> None:
        target = self.top()
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        if isinstance(target, dict):
            target.update(pairs)
        elif isinstance(target, Call):
            target.pairs.extend(pairs)
        else:
            raise _broken(f"it sets items of a {type(target).__name__}")

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, set):
            target.update(items)
        elif isinstance(target, list):
            target.extend(items)
        elif isinstance(target, Call):
            target.elements.extend(items)
        else:
            raise _broken(f"it adds elements to a {type(target).__name__}")

    def build(self, state: Any) -> None:
        target = self.top()
        if not isinstance(target, Call):
            # cloudpickle gives states to classes and functions that it makes: keep both, apply nothing.
            self.stack[-1] = target = Call(target)
        target.state = state if target.state is None else (target.state, state)

    def step(self, opcode: str, arg: Any) -> None:
        push = self.stack.append
        match opcode:
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.top()
            case "BINGET" | "LONG_BINGET" | "GET":
                push(self.memo[arg])
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[arg] = self.top()
            case "MARK":
                push(_MARK)
            case "TUPLE":
                push(tuple(self.pop_to_mark()))
            case "EMPTY_TUPLE":
                push(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self.pop() for _ in range(int(opcode[-1]))]
                push(tuple(items[::-1]))
            case "NONE":
                push(None)
            case "NEWTRUE" | "NEWFALSE":
                push(opcode == "NEWTRUE")
            case "EMPTY_DICT":
                push({})
            case "EMPTY_LIST":
                push([])
            case "EMPTY_SET":
                push(set())
            case "LIST":
                push(self.pop_to_mark())
            case "FROZENSET":
                push(frozenset(self.pop_to_mark()))
            case "DICT":
                flat = self.pop_to_mark()
                push({})
                self.set_items(flat)
            case "SETITEM":
                value, key = self.pop(), self.pop()
                self.set_items([key, value])
            case "SETITEMS":
                self.set_items(self.pop_to_mark())
            case "APPEND":
                self.extend([self.pop()])
            case "APPENDS" | "ADDITEMS":
                self.extend(self.pop_to_mark())
            case "STACK_GLOBAL":
                name, module = self.pop(), self.pop()
                push(self.named(module, name))
            case "GLOBAL":
                push(self.named(*arg.split(" ", 1)))
            case "REDUCE" | "NEWOBJ":
                args, func = self.pop(), self.pop()
                push(self.called(func, args))
            case "NEWOBJ_EX":
                kwargs, args, func = self.pop(), self.pop(), self.pop()
                push(self.called(func, args, kwargs))
            case "INST":
                args = tuple(self.pop_to_mark())
                push(self.called(self.named(*arg.split(" ", 1)), args))
            case "OBJ":
                func, *rest = self.pop_to_mark()
                push(self.called(func, tuple(rest)))
            case "BUILD":
                self.build(self.pop())
            case "EXT1" | "EXT2" | "EXT4":
                push(self.named("copyreg", f"extension_{arg}"))
            case "PERSID":
                push(Persistent(arg))
            case "BINPERSID":
                push(Persistent(self.pop()))
            case "POP":
                self.stack.pop()
            case "POP_MARK":
                self.pop_to_mark()
            case "DUP":
                push(self.top())
            case "BYTEARRAY8":
                push(bytes(arg))
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NEXT_BUFFER" | "READONLY_BUFFER":
                raise _broken("it refers to buffers outside the file")
            case _:  # every other instruction pushes its own argument: a number, a text, bytes
                push(arg)


def _read_one(stream: io.BytesIO) -> Pickle:
    machine = _Machine()
    try:
        for count, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
            if count >= MAX_STEPS:
                raise CheckpointError(
                    "pickle.too-long", f"a pickle of more than {MAX_STEPS} steps", "a few thousand", "nothing was run"
                )
            machine.step(opcode.name, arg)
        return Pickle(machine.pop(), machine.names, tuple(machine.calls))
    except (ValueError, TypeError, LookupError, OverflowError, MemoryError, RecursionError) as error:
        raise _broken(f"{type(error).__name__}: {error}"[:200]) from error


def read(data: bytes) -> Pickle:
    """The content of a pickle, without running it.

    Raises:
        CheckpointError: ``pickle.broken``, ``pickle.too-long``.
    """
    return _read_one(io.BytesIO(data))


def read_all(data: bytes, count: int) -> list[Pickle]:
    """The first ``count`` pickles of several that stand one behind the other (torch's format before 1.6)."""
    stream = io.BytesIO(data)
    return [_read_one(stream) for _ in range(count)]
