"""A class or function of a notebook as a script that runs by itself: its source, and that of what it needs.

What runs is decided by the object. A class is made without arguments; live its `run()` is called (and `teardown()` when
it ends), in a backtest its `backtest(**args)`, whose result is the report. A function is called without arguments live,
and with the backtest's arguments in a backtest.

Names that the source takes from around it are carried along: modules as imports, other classes and functions of the
same notebook as their source, numbers, texts and lists of them as they are. What cannot be carried is refused by name.
"""

import ast
import builtins
import dataclasses
import inspect
import linecache
import math
import os
import symtable
import sys
import textwrap
from collections.abc import Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

from engine.errors import Invalid

__all__ = ["script_of"]

OURS: Final = frozenset({"blankly_external"})
"""What every model may import on the server, beside Python's own modules."""

_KNOWN: Final = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__", "__class__", "__builtins__"}
_LONGEST: Final = 2**20
_MADE: Final = frozenset({"<string>", dataclasses.__file__})
"""Where methods come from that a decorator such as `dataclass` made."""


def script_of(thing: Any, *, packages: bool = True, live: bool = True) -> tuple[str, str]:
    """A name for the model, and its script. With `packages`, what is not Python's own is refused, as nobody said what
    to install; with `live`, so is what cannot run live. Raises `Invalid` (field "model")."""
    if not isinstance(thing, type | FunctionType):
        raise _refused(f"{_what(thing)} is neither a path nor a class nor a function",
                       "deploy its class, or write the model into a .py file and deploy that")
    name = thing.__name__
    if name == "<lambda>":
        raise _refused("a lambda has no name to run by", "write a function with def")
    source = _Source(thing, packages)
    source.add(thing)
    return name, source.text() + (_class_end(thing, live) if isinstance(thing, type) else _function_end(thing, live))


def _class_end(kind: type, live: bool) -> str:
    runs, backtests = (callable(getattr(kind, name, None)) for name in ("run", "backtest"))
    if not runs and not backtests:
        raise _refused(f"{kind.__name__} has neither run() nor backtest()",
                       "give it run(self) to run live, or backtest(self, **args) that returns the result")
    if live and not runs:
        raise _refused(f"{kind.__name__} has no run(), so it cannot run live",
                       "deploy it with run=False and backtest it, or give it run(self)")
    _without_arguments(kind, kind.__name__)
    name = kind.__name__
    return (f'\nif __name__ == "__main__":\n    import os\n\n    _model = {name}()\n'
            '    if os.environ.get("BACKTESTING"):\n        from blankly_external import Reporter\n\n'
            "        Reporter.export_strategy(_model)\n    else:\n        try:\n            _model.run()\n"
            '        finally:\n            getattr(_model, "teardown", lambda: None)()\n')


def _function_end(function: FunctionType, live: bool) -> str:
    if inspect.iscoroutinefunction(function):
        raise _refused(f"{function.__name__} is a coroutine", "write a function that calls asyncio.run")
    if live:
        _without_arguments(function, function.__name__)
    return ('\nif __name__ == "__main__":\n    import os\n\n    if os.environ.get("BACKTESTING"):\n'
            "        from types import SimpleNamespace\n\n        from blankly_external import Reporter\n\n"
            f"        Reporter.export_strategy(SimpleNamespace(backtest={function.__name__}))\n"
            f"    else:\n        {function.__name__}()\n")


def _without_arguments(thing: Any, name: str) -> None:
    try:
        inspect.signature(thing).bind()
    except (TypeError, ValueError) as error:
        raise _refused(f"{name} cannot be called without arguments ({error})",
                       "give its parameters defaults; only a backtest has arguments") from None


class _Source:
    """The source of objects and of what they need, in an order in which it can run."""

    def __init__(self, thing: Any, packages: bool) -> None:
        self._home = thing.__module__
        self._packages = packages
        self._imports: dict[str, None] = {}
        self._parts: list[str] = []
        self._done: dict[str, Any] = {}

    def text(self) -> str:
        text = "\n".join([*sorted(self._imports), *(["", ""] if self._imports else []), "\n\n".join(self._parts)])
        if len(text) > _LONGEST:
            raise _refused("what it needs is too large for a script", "deploy a folder with the data in files")
        return text

    def add(self, thing: type | FunctionType) -> None:
        """A class or function after all it needs."""
        self._done[thing.__name__] = thing
        source = _source_of(thing)
        around = _around(thing)
        for imported in _imported(source):
            self._allowed(imported, thing.__name__)
        for name in _needed(source):
            if name == thing.__name__ or (name in _KNOWN and name not in around):
                continue
            if name not in around:
                raise _refused(f"{thing.__name__} uses {name!r}, which is not defined", f"define {name} first")
            self._carry(name, around[name], thing.__name__)
        self._parts.append(source)

    def _carry(self, name: str, value: Any, user: str) -> None:
        if name in self._done:
            if self._done[name] is not value:
                raise _refused(f"{name!r} means two things in what {user} needs", "rename one of them")
            return
        if isinstance(value, ModuleType):
            self._done[name] = value
            self._allowed(value.__name__, user)
            self._imports[f"import {value.__name__}" + ("" if value.__name__ == name else f" as {name}")] = None
        elif isinstance(value, type | FunctionType) and value.__module__ == self._home:
            if value.__name__ != name:
                raise _refused(f"{user} uses {name!r}, another name of {value.__name__}", "use its own name")
            self.add(value)
        elif (where := getattr(value, "__module__", None)) and _found(where, getattr(value, "__name__", "")) is value:
            self._done[name] = value
            self._allowed(where, user)
            own = value.__name__
            self._imports[f"from {where} import {own}" + ("" if own == name else f" as {name}")] = None
        else:
            self._done[name] = value
            self._parts.append(f"{name} = {_literal(name, value, user)}")

    def _allowed(self, module: str, user: str) -> None:
        root = module.partition(".")[0]
        if root in sys.stdlib_module_names or root in OURS:
            return
        places = (getattr(sys.modules.get(name), "__file__", None) for name in (module, root))
        file = next(filter(None, places), "")
        if file and "-packages" not in file:
            raise _refused(f"{user} needs the module {root!r} of your own",
                           "put both into a folder with a bot.py and deploy the folder")
        if self._packages:
            raise _refused(f"{user} needs the package {root!r}, which must be installed for it",
                           f'name what to install: requirements=["{root}"]')


def _literal(name: str, value: Any, user: str) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    try:
        text = repr(value)
        if type(value) in (int, float, str, bytes, bool, type(None), list, tuple, dict, set) and (
                ast.literal_eval(text) == value):
            return text
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        pass
    raise _refused(f"{user} uses {name!r}, {_what(value)}, which cannot be put into a script",
                   f"make {name} inside, or deploy a folder with the data in a file")


def _source_of(thing: type | FunctionType) -> str:
    """The source of its definition, also where it was typed into a notebook's cell."""
    try:
        codes = _codes(thing)
        for code in codes:
            if found := _definition(thing, code.co_filename, code.co_firstlineno):
                return found
        if not codes:  # without methods of its own, only its name says which cell it is from
            for file in [file for file in reversed(tuple(linecache.cache)) if not os.path.isfile(file)]:
                if found := _definition(thing, file, None):
                    return found
        return textwrap.dedent(inspect.getsource(thing)).rstrip() + "\n"
    except (OSError, TypeError, SyntaxError):
        raise _refused(f"the source of {thing.__name__} cannot be had",
                       "define it in a notebook's cell or in a file, or deploy the .py file itself") from None


def _codes(thing: type | FunctionType) -> list[CodeType]:
    """The code that was written with a definition: a function's own, or that of a class's methods."""
    if isinstance(thing, FunctionType):
        return [inspect.unwrap(thing).__code__]
    methods = [getattr(each, "fget", None) or getattr(each, "__func__", each) for each in vars(thing).values()]
    return [each.__code__ for each in methods if isinstance(each, FunctionType)
            and each.__qualname__.startswith(f"{thing.__qualname__}.") and each.__code__.co_filename not in _MADE]


def _definition(thing: Any, file: str, line: int | None) -> str:
    """The text of a definition by the name of `thing` that spans `line`; "" when there is none."""
    lines = linecache.getlines(file)
    for node in ast.walk(ast.parse("".join(lines))) if lines else ():
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == thing.__name__:
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            if line is None or first <= line <= (node.end_lineno or node.lineno):
                return textwrap.dedent("".join(lines[first - 1 : node.end_lineno])).rstrip() + "\n"
    return ""


def _needed(source: str) -> list[str]:
    """The names that a source takes from around it, in order of the alphabet."""
    found: set[str] = set()

    def look(table: symtable.SymbolTable, top: bool) -> None:
        for symbol in table.get_symbols():
            outside = not symbol.is_assigned() and not symbol.is_imported() if top else symbol.is_global()
            if symbol.is_referenced() and outside:
                found.add(symbol.get_name())
        for child in table.get_children():
            look(child, False)

    look(symtable.symtable(source, "model", "exec"), True)
    return sorted(found)


def _imported(source: str) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found


def _around(thing: type | FunctionType) -> Mapping[str, Any]:
    """What names mean where it was defined."""
    if isinstance(thing, FunctionType):
        function = inspect.unwrap(thing)
        return {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
    found: dict[str, Any] = dict(vars(sys.modules[thing.__module__])) if thing.__module__ in sys.modules else {}
    for each in vars(thing).values():
        function = getattr(each, "__func__", each)
        if isinstance(function, FunctionType):
            found |= function.__globals__ | dict(inspect.getclosurevars(function).nonlocals)
    return found


def _found(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, None) if name else None


def _what(value: Any) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"


def _refused(message: str, remedy: str) -> Invalid:
    return Invalid(message, field="model", remedy=remedy)
