"""From a frozen record to its flags and back, with tyro; it refuses to import what the record does not."""

from __future__ import annotations

import ast
import difflib
import inspect
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import MISSING, dataclass, fields, is_dataclass, make_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Optional, TypeVar, Union, get_args, get_origin, get_type_hints

from policykd.cli.arguments import Manner
from policykd.errors import UnknownNameError, UsageError

__all__ = ["Flag", "flags_of", "parse", "settings"]

T = TypeVar("T", bound=Manner)

_NOT_SETTINGS = {"json", "quiet", "debug", "dry_run", "out", "config"}
_WORDS = {int: "a whole number", float: "a number", str: "a text", Path: "a path", bool: "true or false"}


@dataclass(frozen=True)
class Flag:
    """One field of a record, or of a record in it.

    Attributes:
        name: the field's, which is the flag's with underscores.
        kind: its type, without None.
        optional: whether None is allowed.
        default: MISSING for a positional argument.
        sentence: what stands under the field.
        inner: the field that holds the inner record, None for the record itself.
        shown: what stands for the value in the help.
        joined: pattern of values that may follow one another as separate words, to become one value; of a tuple, each
            is a value of its own, and the option may be repeated.
    """

    name: str
    kind: Any
    optional: bool
    default: Any
    sentence: str
    inner: str | None = None
    shown: str | None = None
    joined: str | None = None

    @property
    def option(self) -> str:
        """As it is typed."""
        return self.name.upper() if self.default is MISSING else f"--{self.name.replace('_', '-')}"

    @property
    def metavar(self) -> str | None:
        """What stands for the value in the help; None leaves it to tyro."""
        if self.shown is None and self.optional and get_origin(self.kind) is Literal:
            return f"{{{','.join(map(str, get_args(self.kind)))}}}"  # tyro would offer None beside them
        if self.shown is not None or get_origin(self.kind) is Literal:
            return self.shown
        several = "..." if get_origin(self.kind) is tuple else ""
        if self.default is MISSING or several:
            return self.name.upper().removesuffix("S") + several
        return {int: "N", float: "X", str: "TEXT", Path: "PATH"}.get(self.kind)

    @property
    def expected(self) -> str:
        """What its value must be, in words."""
        if get_origin(self.kind) is Literal:
            *first, last = map(str, get_args(self.kind))
            return f"{', '.join(first)} or {last}" if first else last
        return "words" if get_origin(self.kind) is tuple else _WORDS[self.kind]

    def takes(self, value: Any) -> bool:
        """Whether a value of a JSON file fits."""
        if value is None:
            return self.optional
        if get_origin(self.kind) is Literal:
            return value in get_args(self.kind)
        if get_origin(self.kind) is tuple:
            return isinstance(value, list) and all(isinstance(v, str) for v in value)
        number = (int, float) if self.kind is float else self.kind
        return isinstance(value, str if self.kind is Path else number) and isinstance(value, bool) == (
            self.kind is bool
        )


def flags_of(record: type, inner: str | None = None) -> list[Flag]:
    """The flags of a dataclass: positional and own first, its bases', those of inner records, its root's last."""
    hints, sentences = get_type_hints(record), _sentences(record)
    root = len(record.__mro__) - 2
    bases = reversed(list(enumerate(record.__mro__)))
    depth = {name: k for k, base in bases for name in inspect.get_annotations(base)}  # of the nearest that has it
    found: list[tuple[tuple[int, int], Flag]] = []
    for field in fields(record):
        kind = hints[field.name]
        if isinstance(kind, type) and is_dataclass(kind):
            found += [((2, 0), flag) for flag in flags_of(kind, field.name)]
            continue
        parts = get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)  # a Literal or None is the latter
        plain = [part for part in parts if part is not type(None)]
        flag = Flag(
            field.name,
            plain[0],
            len(plain) < len(parts),
            field.default,
            sentences.get(field.name, ""),
            inner,
            field.metadata.get("shown"),
            field.metadata.get("joined"),
        )
        k = depth[field.name]
        found.append(((0, 0) if flag.default is MISSING or k == 0 else (3, 0) if k == root else (1, k), flag))
    return [flag for _, flag in sorted(found, key=lambda pair: pair[0])]


def _sentences(record: type) -> dict[str, str]:
    """What stands under each field in the source, bases included."""
    found: dict[str, str] = {}
    for base in reversed(record.__mro__):
        if not is_dataclass(base):
            continue
        match ast.parse(inspect.getsource(base)).body:
            case [ast.ClassDef(body=body)]:
                for field, below in zip(body, body[1:], strict=False):
                    match field, below:
                        case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(says))):
                            found[name] = says
    return found


def parse(record: type[T], verb: str, argv: Sequence[str]) -> T | None:
    """The record that ``argv`` describes; None when help was asked for, and printed.

    ``--config FILE`` gives defaults that flags overrule, positional arguments among them.

    Raises:
        UsageError: ``cli.arguments``, ``cli.config``; whatever the record itself refuses.
        UnknownNameError: ``name.option``.
    """
    flags = flags_of(record)
    words = list(_join_words(flags, argv))
    help_wanted = "-h" in words or "--help" in words
    given = {} if help_wanted else _from_file(flags, words)
    if not help_wanted:
        _refuse_unknown(flags, words)
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            spoken = _by_tyro(flags, given, f"policykd {verb}", record.__doc__ or "", words)
    except SystemExit as end:
        if end.code in (None, 0):
            return None
        raise _usage_error(flags, words, verb, told.getvalue()) from None
    values = {flag: vars(spoken)[flag.name] for flag in flags}
    outer = {flag.name: value for flag, value in values.items() if flag.inner is None}
    hints = get_type_hints(record)
    for name in {flag.inner for flag in flags if flag.inner is not None}:
        outer[name] = hints[name](**{flag.name: value for flag, value in values.items() if flag.inner == name})
    return record(**outer)


def settings(arguments: Manner) -> dict[str, Any]:
    """The resolved configuration as plain data: what ``config.json`` holds and ``--config`` takes back."""
    found: dict[str, Any] = {}
    for flag in flags_of(type(arguments)):
        if flag.name not in _NOT_SETTINGS:
            place = vars(arguments) if flag.inner is None else vars(vars(arguments)[flag.inner])
            value = place[flag.name]
            found[flag.name] = str(value) if isinstance(value, Path) else list(value) if type(value) is tuple else value
    return found


def _by_tyro(flags: Sequence[Flag], given: Mapping[str, Any], program: str, says: str, words: Sequence[str]) -> Any:
    import tyro

    columns: list[Any] = []
    for flag in flags:
        # tyro judges plain tuples and typing's Optional itself; for tuple[str, ...] and X | None it imports typeguard,
        # which costs as much time as the rest of the help.
        kind = tuple if get_origin(flag.kind) is tuple else flag.kind
        kind = Optional[kind] if flag.optional else kind  # noqa: UP045
        default = given.get(flag.name, flag.default)
        # "(default: None)" says nothing that the sentence does not.
        hint = "" if default is None or default is False or default in ((), MISSING) else None
        markers = [tyro.conf.arg(help=flag.sentence.replace("``", "`"), metavar=flag.metavar, help_behavior_hint=hint)]
        if flag.default is MISSING:
            markers.append(tyro.conf.Positional)
        if flag.kind is bool and flag.inner is None:
            markers.append(tyro.conf.FlagCreatePairsOff)
        columns.append((flag.name, Annotated[(kind, *markers)], default))
    required = [(name, kind) for name, kind, default in columns if default is MISSING]
    optional = [(name, kind, default) for name, kind, default in columns if default is not MISSING]
    made = make_dataclass("Flags", [*required, *optional])
    return tyro.cli(made, prog=program, description=says, args=list(words))


def _join_words(flags: Sequence[Flag], argv: Sequence[str]) -> Iterator[str]:
    """``--hidden 64 64`` as ``--hidden 64,64``, so that a positional argument may follow.

    Of a tuple all values, also those of its repetitions, come last: ``--via 64,64 --via 8 PATH`` as
    ``PATH --via 64,64 8``.
    """
    joined = {flag.option: flag for flag in flags if flag.joined is not None}
    several: dict[str, list[str]] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, value = _option_of(word)
        if name not in joined:
            yield word
            continue
        is_tuple = get_origin(joined[name].kind) is tuple
        parts = [] if value is None else [value]
        if is_tuple and value is None and rest and not rest[0].startswith("--"):
            parts.append(rest.pop(0))  # whatever it is: who reads it says what is wrong with it
        while value is None and rest and re.fullmatch(joined[name].joined or "", rest[0]):
            parts.append(rest.pop(0))
        if is_tuple:
            several.setdefault(name, []).extend(parts)
        else:
            yield word
            yield from [",".join(parts)] if parts and value is None else []
    for name, parts in several.items():
        yield from (name, *parts)


def _option_of(word: str) -> tuple[str, str | None]:
    """``--max_params=4%`` as (``--max-params``, ``4%``)."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-"), value if equals else None


def _from_file(flags: Sequence[Flag], words: Sequence[str]) -> dict[str, Any]:
    if not any(flag.name == "config" for flag in flags):
        return {}
    path: str | None = None
    for i, word in enumerate(words):
        name, value = _option_of(word)
        if name == "--config":
            path = value if value is not None else words[i + 1] if i + 1 < len(words) else None
    if path is None:
        return {}
    try:
        found = json.loads(Path(path).read_bytes())
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
    except (OSError, ValueError, RecursionError) as why:
        reason = why.strerror if isinstance(why, OSError) else why
        raise UsageError(
            "cli.config", f"--config {path}: {reason}", "the config.json of a run", "name another file"
        ) from None
    known = {flag.name: flag for flag in flags if flag.name not in _NOT_SETTINGS}
    for name, value in found.items():
        if name not in known:
            raise UnknownNameError.of(f"entry of {path}", name, known)
        if not known[name].takes(value):
            raise UsageError("cli.config", f"{path}: {name} = {value!r}", known[name].expected, "mend the file")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _refuse_unknown(flags: Sequence[Flag], words: Sequence[str]) -> None:
    known = {flag.option for flag in flags} | {
        f"--no-{flag.option[2:]}" for flag in flags if flag.kind is bool and flag.inner is not None
    }
    for word in words:
        name, _ = _option_of(word)
        if word.startswith("--") and name not in known and not name.startswith("--tyro-"):
            raise UnknownNameError.of("option", name, known)


def _usage_error(flags: Sequence[Flag], words: Sequence[str], verb: str, told: str) -> UsageError:
    """What tyro drew as a box, as one line in our own words where they are known."""
    lines = [line.strip("│╭╮╰╯ ") for line in told.splitlines()]
    # A rule ends what is wrong and begins advice.
    upto = next((i for i, line in enumerate(lines) if i and line and set(line) == {"─"}), len(lines))
    text = " ".join(" ".join(lines[1:upto]).split()) or " ".join(told.split())
    see = f"policykd {verb} --help"
    for flag in sorted(flags, key=lambda flag: -len(flag.option)):
        if flag.default is MISSING and "Missing from" in text and re.search(rf"\b{flag.option}\b", text):
            wanted = flag.sentence[:1].lower() + flag.sentence[1:].rstrip(".")
            return UsageError("cli.arguments", f"no {flag.option}", wanted, see)
        if flag.default is MISSING and f"'{flag.name}'" in text:
            return UsageError("cli.arguments", text.partition(". ")[0], flag.expected, see)
        if flag.default is not MISSING and re.search(rf"{flag.option}(?![\w-])", text):
            at = next((i for i, word in enumerate(words) if _option_of(word)[0] == flag.option), len(words))
            value = _option_of(words[at])[1] if at < len(words) else None
            value = value if value is not None else " ".join(words[at + 1 : at + 2])
            close = difflib.get_close_matches(value, map(str, get_args(flag.kind)), n=1)
            fix = f"did you mean {close[0]}?" if close else see
            return UsageError("cli.arguments", f"{flag.option} {value}".rstrip(), flag.expected, fix)
    return UsageError("cli.arguments", text[:1].lower() + text[1:], "", see)
