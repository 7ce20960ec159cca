"""The command line: finds the verb, parses its flags, runs it, says what went wrong; it refuses to import early.

Each verb is two modules: ``arguments/<verb>.py`` is what can be typed (light), ``verbs/<verb>.py`` what is done then.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module

from policykd import __version__
from policykd.errors import PolicykdError, UnknownNameError, UsageError

__all__ = ["VERBS", "main"]

VERBS = {
    "train": "train a teacher with Stable-Baselines3 on a recipe of envs/",
    "distill": "teach a small student what a trained agent does, and measure what it kept",
    "frontier": "find the smallest student that can be trusted, every size taught at once",
    "multitask": "teach one student what several trained agents do, and measure every task",
    "distill-classifier": "teach a small classifier of images or texts what a large one says",
    "evaluate": "play agents and students on the same episodes",
    "compare": "one table over runs and agents, from what was measured",
    "inspect": "what is in a checkpoint, and what code it carries, without running it",
    "label": "write a dataset of a teacher's answers",
    "promote": "put the agent of a run on the shelf, with a card",
    "doctor": "what is installed here, and what is missing: paste it into an issue",
    "list": "environments, losses, methods, students, agents or runs",
}

_HELP = """\
policykd turns a trained Stable-Baselines3 agent into a small student that still earns its return, and proves it.

usage: policykd VERB ...

{verbs}

policykd VERB --help explains a verb. Every verb takes --json, --quiet and --debug.
Start with: policykd distill AGENT.zip
"""

_INTERRUPTED = 130  # what a shell reports for a process that Ctrl-C ended
_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: without the program's name; None takes the process's.

    Returns:
        Exit code: 0, 2 for an argument that cannot be meant, 1 for another failure, 130 for Ctrl-C.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(argv)
    except PolicykdError as error:
        return _fail(argv, str(error), error.exit_code, error)
    except KeyboardInterrupt as error:
        return _fail(argv, f"interrupted{f': {error}' if str(error) else ''} [interrupted]", _INTERRUPTED, error)
    except BrokenPipeError:
        # Whoever read our output has enough; without this, Python complains once more while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except OSError as error:
        return _fail(argv, f"{error.filename or 'the system'}: {error.strerror or error} [system]", 1, error)
    except Exception as error:
        said = f"{type(error).__name__}: {error}; expected nothing like it -> report it with the output of --debug"
        return _fail(argv, f"{said} [internal]", 1, error)


def _dispatch(argv: list[str]) -> int:
    began = time.perf_counter()
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    if not argv or argv[0] in ("-h", "--help"):
        print(_HELP.format(verbs="\n".join(f"  {name:<19}{says}" for name, says in VERBS.items())), end="")
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"policykd {__version__}")
        return 0
    verb, rest = argv[0], argv[1:]
    if verb.startswith("-"):
        raise UsageError("cli.verb", f"the option {verb}", "a verb first", f"type one of {', '.join(VERBS)}")
    if verb not in VERBS:
        raise UnknownNameError.of("verb", verb, VERBS)

    from policykd.cli.flags import parse

    module = verb.replace("-", "_")
    arguments = parse(import_module(f"policykd.cli.arguments.{module}").Arguments, verb, rest)
    if arguments is None:
        return 0

    from policykd.cli.screen import Screen

    screen = Screen(arguments, command=f"policykd {_shell(argv)}", began=began)
    if not arguments.json:
        import_module(f"policykd.cli.verbs.{module}").run(arguments, screen)
        return 0
    # Environments and users' losses may print: stdout holds the object alone.
    with redirect_stdout(sys.stderr):
        found = import_module(f"policykd.cli.verbs.{module}").run(arguments, screen)
    print(json.dumps(found, indent=1, allow_nan=False, default=str))
    return 0


def _shell(argv: Sequence[str]) -> str:
    from shlex import join

    return join(argv)


def _fail(argv: Sequence[str], text: str, exit_code: int, error: BaseException) -> int:
    if "--debug" in argv:
        import traceback

        traceback.print_exception(error)
    text = " ".join(text.split())
    print(f"error: {text}" if exit_code != _INTERRUPTED else text, file=sys.stderr)
    if "--json" in argv:
        code = error.code if isinstance(error, PolicykdError) else text.rpartition("[")[2].rstrip("]")
        print(json.dumps({"error": {"code": code, "message": text, "exit_code": exit_code}}, indent=1))
    return exit_code
