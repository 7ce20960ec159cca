"""What it would mean to import a name that a pickle asks for; it imports none of them."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias, get_args

from policykd.checkpoints.pickles import Call, Global, Pickle, short

__all__ = ["VERDICTS", "Verdict", "call_of", "verdict_of"]

Verdict: TypeAlias = Literal["dangerous", "unknown", "function", "data"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

# Values: arrays, random generators, spaces, containers, and the records that SB3 keeps its settings in.
_DATA = re.compile(
    r"""
      numpy\.(_?core\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)|dtype|ndarray|bool_?|u?int\d+|float\d+)
    | numpy\.random\._(pickle\.\w+|pcg64\.\w+|mt19937\.\w+|philox\.\w+|sfc64\.\w+)|numpy\.random\.bit_generator\.\w+
    | (gym|gymnasium)\.spaces\.\w+\.\w+
    | collections\.(OrderedDict|deque|defaultdict)|datetime\.\w+|pathlib\.\w+|_codecs\.encode|copyreg\._reconstructor
    | builtins\.(bool|bytearray|bytes|complex|dict|float|frozenset|int|list|object|range|set|slice|str|tuple)
    | torch\.(Size|device|\w+Storage|float(16|32|64)|int(8|16|32|64)|bool|_utils\._rebuild_(tensor_v2|parameter))
    | torch\.storage\.\w+Storage
    | stable_baselines3\.common\.(type_aliases|noise|running_mean_std|vec_env\.vec_normalize|utils)\.[A-Z]\w+
    | stable_baselines3\.her\.goal_selection_strategy\.\w+
    """,
    re.VERBOSE,
)
# Classes that files of SB3 mention, and that would run their constructors if a file called them.
_CLASSES = re.compile(r"(stable_baselines3|sb3_contrib)\.[\w.]+|torch\.(nn|optim)\.[\w.]+\.[A-Z]\w+")
# cloudpickle's way of carrying a function by value: nearly every file of SB3 has one (a schedule).
_FUNCTIONS = re.compile(
    r"cloudpickle\.[\w.]+|types\.\w+|functools\.partial|builtins\.type|torch\.storage\._load_from_bytes"
)
_DANGEROUS = re.compile(
    r"""
      (os|posix|nt|subprocess|sys|shutil|socket|pty|runpy|importlib|ctypes|code|codeop|pickle|_pickle|marshal|webbrowser
      |urllib|http|ftplib|smtplib|multiprocessing|asyncio|pip|timeit|operator|pdb|bdb|cProfile|profile|trace|commands
      |torch\.hub|requests|ast|inspect|linecache|tempfile|io|codecs|zipimport|imp|signal|threading|_thread)\..*
    | builtins\.(eval|exec|execfile|compile|open|__import__|breakpoint|input|setattr|delattr|globals|locals|vars)
    | (torch|numpy)\.load|(gym|gymnasium)\.make|numpy\.testing\..*|.*\.(runstring|system|popen|exec_command)
    """,
    re.VERBOSE,
)


def verdict_of(pickle: Pickle, name: str) -> Verdict:
    """How far one name in a pickle is from plain data.

    Returns:
        ``data`` for values and for classes that are only mentioned, ``function`` for code that cloudpickle carries by
        value, ``unknown`` for names outside SB3's world and for SB3's own classes where the file calls them,
        ``dangerous`` for names that run commands, open files or import modules.
    """
    if _DANGEROUS.fullmatch(name):
        return "dangerous"
    if _DATA.fullmatch(name):
        return "data"
    if _FUNCTIONS.fullmatch(name):
        return "function"
    called = any(isinstance(call.func, Global) and str(call.func) == name and call.args for call in pickle.calls)
    return "data" if _CLASSES.fullmatch(name) and not called else "unknown"


def call_of(pickle: Pickle, name: str) -> str:
    """The first call of a name that unpickling would make, shortened; empty where it is only mentioned."""
    for call in pickle.calls:
        if isinstance(call.func, Global) and str(call.func) == name:
            args = call.args if isinstance(call.args, tuple) else (call.args,)
            shown = ("..." if isinstance(a, Call | list | tuple | dict) else short(a) for a in args)
            return f"{name}({', '.join(shown)})"[:200]
    return ""
